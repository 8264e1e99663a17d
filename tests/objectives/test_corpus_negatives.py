"""Every document as a negative, block by block: the same numbers as all at once, in memory that does not grow."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.data import batching
from lodesmith.encoders.projected import ProjectionLayer
from lodesmith.losses.infonce import infonce
from lodesmith.objectives import _corpus, _folded
from lodesmith.objectives._log_sums import LogSum
from lodesmith.objectives.contrast import Contrast

DOCUMENTS, WIDTH, ROWS = 700, 12, 9
KNOWN = np.array([[0, 3], [0, 650], [1, 7], [1, 1], [5, 699], [2, 69]])
COPIES = {8: 4, 90: 4, 600: 5}
"""Documents with the text of an earlier one."""
KINDS = ("linear", "residual_linear", "mlp", "identity", "plain")


class Memory:
    """A corpus in memory, of any precision, that counts how many of its blocks are alive."""

    def __init__(self, rows: torch.Tensor, ids: torch.Tensor) -> None:
        self.rows, self.ids, self.most = rows, ids, 0
        self.alive: list[weakref.ref[torch.Tensor]] = []

    @property
    def dimension(self) -> int:
        return self.rows.shape[1]

    def block(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        block = self.rows[start:stop].clone()
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(block)]
        self.most = max(self.most, len(self.alive))
        return block


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_corpus, "CPU_VALUES", WIDTH * 80)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder(kind: Any, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    if kind == "identity":
        return nn.Identity()
    if kind == "plain":
        return nn.Linear(WIDTH, 7, bias=False).double()
    made = ProjectionLayer(WIDTH, WIDTH if kind == "residual_linear" else 8, dropout=dropout, kind=kind).double()
    for parameter in made.parameters():  # a residual begins at zero, where not all would show
        nn.init.normal_(parameter, std=0.3)
    return made


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    documents = rows(DOCUMENTS, WIDTH, seed=1) + 0.5
    for copy, first in COPIES.items():
        documents[copy] = documents[first]
    distinct = torch.tensor([row for row in range(DOCUMENTS) if row not in COPIES])
    own = torch.tensor([3, 7, 69, 4, 4, 699, 5, 21, 22])
    return {
        "queries": rows(ROWS, WIDTH, seed=2).to(dtype).requires_grad_(),
        "documents": documents[own].to(dtype).requires_grad_(),
        "query_ids": torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 7]),
        "document_ids": own,
        "corpus": Memory(documents[distinct].to(dtype), distinct),
    }


def at_once(
    given: dict[str, Any], encode: nn.Module, metric: Any, temperature: float, known: Any = KNOWN
) -> torch.Tensor:
    """All documents in one matrix of scores; what is no negative is written out by hand."""
    corpus = given["corpus"]
    candidates = torch.cat([encode(given["documents"]), encode(corpus.rows)])
    scores = registry.find("similarity", metric)(encode(given["queries"]), candidates)
    struck = {(q, d) for q, d in known.tolist()} | {(7, 21), (7, 22)}
    mask = torch.ones(ROWS, len(candidates), dtype=torch.bool)
    for row, (query, own) in enumerate(zip(given["query_ids"].tolist(), given["document_ids"].tolist(), strict=True)):
        for place, document in enumerate(corpus.ids.tolist()):
            mask[row, ROWS + place] = document == own or (query, document) in struck
    return infonce(scores, torch.arange(ROWS), mask, temperature)


def gradients(loss: torch.Tensor, given: dict[str, Any], encode: nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [given["queries"], given["documents"], *encode.parameters()]))


def apart(ours: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    """The largest difference, as a share of the largest gradient."""
    scale = max(float(b.abs().max()) for b in plain)
    return max(float((a - b).abs().max()) for a, b in zip(ours, plain, strict=True)) / scale


def contrast(encode: nn.Module, **settings: Any) -> Contrast:
    settings = {"negatives": "corpus", "known": KNOWN, **settings}
    return Contrast(encode, **settings)


@pytest.mark.parametrize("kept", [0, ROWS * 170, 1 << 24])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradients_are_those_of_all_at_once(
    kind: str, metric: Any, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_folded, "KEPT", kept)
    given, encode = batch(), encoder(kind)
    objective = contrast(encode, similarity=metric, temperature=0.4)
    found = objective(given)["infonce"]
    expected = at_once(given, encode, metric, 0.4)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    ours, plain = gradients(found, given, encode), gradients(expected, given, encode)
    assert apart(ours, plain) <= 1e-10
    assert objective.chance["infonce"] == pytest.approx(math.log(DOCUMENTS - len(COPIES)))
    assert objective.evidence.keys() == {"spread", "rank", "tied"}


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", ["residual_linear", "mlp"])
def test_single_precision_loses_nothing_by_the_blocks(kind: str, metric: Any) -> None:
    exact, given = batch(), batch(torch.float32)
    wide, encode = encoder(kind), encoder(kind).float()
    found = gradients(contrast(encode, similarity=metric, temperature=0.4)(given)["infonce"], given, encode)
    whole = gradients(at_once(given, encode, metric, 0.4), given, encode)
    true = gradients(at_once(exact, wide, metric, 0.4), exact, wide)
    assert apart(found, true) <= 3 * max(apart(whole, true), 1e-7)


def test_dropout_is_the_same_in_both_passes() -> None:
    given, encode = batch(), encoder("mlp", dropout=0.5)
    corpus, size = given["corpus"], 80
    torch.manual_seed(11)
    found = contrast(encode, temperature=0.4, known=None)({**given})["infonce"]
    state = torch.get_rng_state()
    ours = gradients(found, given, encode)
    assert torch.equal(torch.get_rng_state(), state), "backward draws nothing of its own"
    torch.manual_seed(11)
    queries, documents = encode(torch.cat([given["queries"], given["documents"]])).split(ROWS)
    blocks = [encode(corpus.rows[start : start + size]) for start in range(0, len(corpus.rows), size)]

    class Drawn(nn.Module):
        def forward(self, part: torch.Tensor) -> torch.Tensor:
            return (
                queries if part is given["queries"] else documents if part is given["documents"] else torch.cat(blocks)
            )

    expected = at_once(given, Drawn(), "cosine", 0.4, known=KNOWN[:0])
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    assert apart(ours, gradients(expected, given, encode)) <= 1e-10


@pytest.mark.parametrize("kind", ["residual_linear", "mlp"])
def test_no_more_than_a_block_is_held_at_a_time(kind: str) -> None:
    given, encode = batch(), encoder(kind)
    gc.collect()
    loss = contrast(encode)(given)["infonce"]
    loss.backward()
    assert given["corpus"].most <= 2, "the one in hand, and the one that takes its place"


def test_separate_towers_take_the_documents_through_their_own() -> None:
    given, query, document = batch(), encoder("linear"), nn.Linear(WIDTH, 8).double()
    found = Contrast(query, document, negatives="corpus", known=KNOWN, temperature=1.0)(given)["infonce"]
    corpus = given["corpus"]
    scores = registry.find("similarity", "cosine")(query(given["queries"]), document(corpus.rows))
    mine = torch.searchsorted(corpus.ids, given["document_ids"])
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, asked in enumerate(given["query_ids"].tolist()):
        others = [d for q, d in [*KNOWN.tolist(), (7, 21), (7, 22)] if q == asked]
        mask[row, torch.searchsorted(corpus.ids, torch.tensor(others, dtype=torch.int64))] = True
    assert found.item() == pytest.approx(infonce(scores, mine, mask).item(), rel=1e-10)


def test_a_query_with_every_document_known_costs_nothing() -> None:
    given = batch()
    known = np.stack([np.zeros(DOCUMENTS, np.int64), np.arange(DOCUMENTS)], 1)
    for encode in (encoder("linear"), encoder("mlp")):
        first = {name: part[:1] for name, part in given.items() if name != "corpus"} | {"corpus": given["corpus"]}
        loss = contrast(encode, known=known)(first)["infonce"]
        assert loss.item() == 0
        assert all(not part.any() for part in torch.autograd.grad(loss, list(encode.parameters())))


def test_a_vector_without_length_counts_as_cosine_0() -> None:
    given, layer = batch(), nn.Linear(WIDTH, 5, bias=False).double()
    given["corpus"].rows[40] = 0
    found = contrast(layer, temperature=0.4)(given)["infonce"]
    expected = at_once(given, layer, "cosine", 0.4)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    assert apart(gradients(found, given, layer), gradients(expected, given, layer)) <= 1e-10


def test_mined_negatives_and_a_pool_count_once() -> None:
    given, encode = batch(), encoder("linear")
    more = {"negatives": rows(ROWS, 2, WIDTH), "negative_ids": torch.full((ROWS, 2), 30)}
    more |= {"pool": rows(3, WIDTH), "pool_ids": torch.tensor([1, 2, 9])}
    objective = contrast(encode)
    assert objective({**given, **more})["infonce"].item() == objective(given)["infonce"].item()


def test_stored_vectors_come_the_same_from_memory_and_from_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = rows(300, WIDTH).float().numpy()
    np.save(tmp_path / "v.npy", values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    pairs = np.stack([np.arange(40), np.arange(40)], 1)
    distinct = np.setdiff1d(np.arange(300), [250, 251])
    found: dict[bool, list[float]] = {}
    rows_of = batching.Rows
    for resident in (1 << 30, 0):
        monkeypatch.setattr(batching, "Rows", partial(rows_of, resident=resident))
        for chosen in (None, distinct):
            batches = batching.PairBatches(pairs, values, mapped, batch_size=8, corpus=True, distinct=chosen)
            (first, *_) = batches
            loss = Contrast(encoder("linear").float(), negatives="corpus")(first)["infonce"]
            found.setdefault(chosen is None, []).append(loss.item())
    assert found[True][0] == found[True][1]
    assert found[False][0] == found[False][1] != found[True][0]


def test_what_cannot_be_is_refused() -> None:
    without = batch()
    del without["corpus"]
    with pytest.raises(InputError, match="corpus of stored vectors"):
        contrast(encoder("linear"))(without)
    with pytest.raises(ConfigError, match="needs negatives: batch"):
        contrast(encoder("linear"), symmetric=True)
    with pytest.raises(ConfigError, match="'copus'"):
        Contrast(nn.Identity(), negatives="copus")  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [-300.0, 0.0, 300.0])
def test_log_sums_keep_their_digits_at_any_level(at: float) -> None:
    scores = torch.tensor([[at, at - 1, -torch.inf, at + 2]])
    found = LogSum.empty(scores).add(scores[:, :2]).add(scores[:, 2:])
    torch.testing.assert_close(found.value, scores.logsumexp(1))

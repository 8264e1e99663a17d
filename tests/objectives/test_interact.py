"""Contrast under late interaction."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lodesmith.core.errors import ConfigError
from lodesmith.encoders.tokens import LateInteractionEncoder, PackedTokens
from lodesmith.objectives._cached import cached
from lodesmith.objectives._candidates import _gather
from lodesmith.objectives._ranks import Ranks
from lodesmith.objectives.interact import Interact
from lodesmith.similarity.maxsim import maxsim

WIDTH = 6


def value(loss: torch.Tensor) -> float:
    return loss.detach().item()


class Tokens(nn.Module):
    """Packed ids → packed unit vectors of the ids."""

    def __init__(self, count: int = 40) -> None:
        super().__init__()
        self.table = nn.Embedding(count, WIDTH)

    def forward(self, packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = nn.functional.normalize(self.table(packed["ids"]), dim=-1)
        return {"values": values, "offsets": packed["offsets"]}


def packed(*texts: list[int]) -> dict[str, torch.Tensor]:
    bounds = np.cumsum([0, *map(len, texts)])
    return {"ids": torch.tensor([i for text in texts for i in text]), "offsets": torch.from_numpy(bounds)}


QUERIES = ([1, 2], [3], [4, 5, 6])
DOCUMENTS = ([1, 7, 8, 9], [3, 10], [11, 5])
NEGATIVES = ([2, 20], [30, 31, 32, 33])


def batch(**more: Any) -> dict[str, Any]:
    ids = {"query_ids": torch.arange(3), "document_ids": torch.arange(3)}
    return {"queries": packed(*QUERIES), "documents": packed(*DOCUMENTS), **ids, **more}


@pytest.fixture
def encoder() -> Tokens:
    torch.manual_seed(0)
    return Tokens()


def by_hand(encoder: Tokens, documents: tuple[list[int], ...], each_token: bool = True) -> torch.Tensor:
    rows = [encoder(packed(text))["values"] for text in documents]
    asked = [encoder(packed(text))["values"] for text in QUERIES]
    return torch.stack(
        [torch.stack([(q @ d.T).max(1)[0].sum() / (len(q) if each_token else 1) for d in rows]) for q in asked]
    )


@pytest.mark.parametrize("each_token", [True, False])
def test_infonce_of_maxsim_in_the_batch(encoder: Tokens, each_token: bool) -> None:
    found = Interact(encoder, temperature=0.3, each_token=each_token)(batch())
    scores = by_hand(encoder, DOCUMENTS, each_token)
    wanted = nn.functional.cross_entropy(scores / 0.3, torch.arange(3))
    assert found.keys() == {"infonce"}
    assert value(found["infonce"]) == pytest.approx(value(wanted), rel=1e-5)


def test_mined_negatives_are_candidates_of_all_rows_or_of_their_own(encoder: Tokens) -> None:
    mined = {"negatives": packed(*NEGATIVES), "negative_ids": torch.tensor([[20], [-1], [21]])}
    scores = by_hand(encoder, (*DOCUMENTS, *NEGATIVES))
    every = Interact(encoder, temperature=0.3)(batch(**mined))["infonce"]
    assert value(every) == pytest.approx(value(nn.functional.cross_entropy(scores / 0.3, torch.arange(3))), rel=1e-5)
    objective = Interact(encoder, temperature=0.3, negatives="own")
    assert objective.needs_mined
    own = objective(batch(**mined))["infonce"]
    pairs = torch.stack([scores[0, [0, 3]], scores[2, [2, 4]]]) / 0.3
    wanted = nn.functional.cross_entropy(pairs, torch.zeros(2, dtype=torch.int64), reduction="sum") / 3
    assert value(own) == pytest.approx(value(wanted), rel=1e-5)


def test_pairwise_and_hinge_take_the_hardest(encoder: Tokens) -> None:
    objective = Interact(encoder, temperature=0.5, infonce=None, pairwise=2.0, hinge={"weight": 0.5, "margin": 0.4})
    found = objective(batch())
    scores = by_hand(encoder, DOCUMENTS)
    positives = scores.diag()
    hardest = scores.masked_fill(torch.eye(3, dtype=torch.bool), -9).max(1)[0]
    soft = nn.functional.softplus((hardest - positives) / 0.5).mean()
    hinge = (0.4 - positives + hardest).clamp(min=0).mean()
    assert objective.weights == {"pairwise": 2.0, "hinge": 0.5}
    assert value(found["pairwise"]) == pytest.approx(value(soft), rel=1e-5)
    assert value(found["hinge"]) == pytest.approx(value(hinge), rel=1e-5)
    assert objective.chance == {"pairwise": pytest.approx(math.log(2))}


def test_a_known_positive_is_no_negative(encoder: Tokens) -> None:
    known = np.array([[0, 0], [0, 1], [1, 1], [2, 2]])
    found = Interact(encoder, temperature=0.3, known=known)(batch())["infonce"]
    scores = by_hand(encoder, DOCUMENTS) / 0.3
    scores[0, 1] = -math.inf
    assert value(found) == pytest.approx(value(nn.functional.cross_entropy(scores, torch.arange(3))), rel=1e-5)


def test_a_few_texts_at_a_time_give_the_same_gradients(encoder: Tokens) -> None:
    gradients = []
    for chunk in (None, 1, 2):
        objective = Interact(**cached({"encoder": encoder}, chunk), temperature=0.3)  # type: ignore[arg-type]
        encoder.zero_grad()
        objective(batch())["infonce"].backward()
        assert encoder.table.weight.grad is not None
        gradients.append(encoder.table.weight.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-6)


def test_weights_change_while_it_trains_and_not_in_a_validation(encoder: Tokens) -> None:
    objective = Interact(encoder, pairwise={"weight": 1.0, "begin": 0.0, "steps": 2})
    seen = []
    for _ in range(3):
        objective(batch())
        seen.append(objective.weights["pairwise"])
    assert seen == [0.0, 0.5, 1.0]
    objective.eval()
    objective(batch())
    assert int(objective.step) == 3
    again = Interact(encoder, pairwise={"weight": 1.0, "begin": 0.0, "steps": 2})
    again.load_state_dict(objective.state_dict())
    again.train()(batch())
    assert again.weights["pairwise"] == 1.0


ASKED = ["cat", "the dog fears thunder", "owl music"]
FOUND = ["the cat eats apples in the barn", "a dog", "the owl likes music of the moon and rivers"]


@pytest.mark.parametrize("each_token", [True, False])
def test_on_the_same_weights_it_is_the_loss_of_sentence_transformers(
    tiny_model: Path, tmp_path: Path, each_token: bool
) -> None:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    ours = LateInteractionEncoder(tiny_model, dimension=8, expansion=9)
    theirs = MultiVectorEncoder(str(ours.save(tmp_path / "late")), device="cpu")
    texts = {"queries": ours.reader.read(ASKED, "query").ids, "documents": ours.reader.read(FOUND, "document").ids}
    objective = Interact(
        PackedTokens(ours, "query"), PackedTokens(ours, "document"), temperature=0.2, each_token=each_token
    )
    own = objective({name: packed(*(ids.tolist() for ids in part)) for name, part in texts.items()})["infonce"]
    scoring = partial(colbert_scores, length_normalize=each_token)
    loss = MultiVectorMultipleNegativesRankingLoss(theirs, scale=5.0, similarity_fct=scoring)
    theirs.eval()
    other = loss([theirs.preprocess(ASKED, task="query"), theirs.preprocess(FOUND, task="document")])
    assert value(own) == pytest.approx(value(other), rel=1e-5)
    own.backward()
    other.backward()
    pairs = [(ours.model[1].linear.weight.grad, theirs[1].linear.weight.grad)]
    pairs += [
        (
            ours.model[0].auto_model.encoder.layer[0].output.dense.weight.grad,
            theirs[0].auto_model.encoder.layer[0].output.dense.weight.grad,
        )
    ]
    for mine, their in pairs:
        assert mine is not None
        assert torch.allclose(mine, their, atol=1e-5 * float(their.abs().max()))


def test_ranks_gather_items_of_several_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"values": torch.arange(6.0).view(3, 2), "offsets": torch.tensor([0, 1, 3])}
    other = {"values": torch.full((4, 2), 9.0), "offsets": torch.tensor([0, 4])}

    def gather(self: Ranks, rows: torch.Tensor, kind: int = 0) -> torch.Tensor:
        assert sum(self.counts[kind]) in (3, 7)
        return torch.cat([rows, other["offsets"].diff() if rows.ndim == 1 else other["values"]])

    monkeypatch.setattr(Ranks, "gather", gather)
    found = _gather(Ranks(((2, 1),)), mine)
    assert found["offsets"].tolist() == [0, 1, 3, 7]
    assert torch.equal(found["values"], torch.cat([mine["values"], other["values"]]))


def test_settings_that_do_not_fit_are_refused(encoder: Tokens) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Interact(encoder, temperature=0)
    with pytest.raises(ConfigError, match="no term"):
        Interact(encoder, infonce=None)
    with pytest.raises(ConfigError, match="negatives"):
        Interact(encoder, negatives="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hinge"):
        Interact(encoder, hinge={"weight": 1, "margin": -1})
    with pytest.raises(TypeError, match="unexpected"):
        Interact(encoder, kl=1.0)  # type: ignore[call-arg]


def test_similarity_of_one_vector_a_text_is_the_inner_product() -> None:
    rows = torch.randn(3, 4), torch.randn(5, 4)
    assert torch.allclose(maxsim(*rows), rows[0] @ rows[1].T, atol=1e-6)

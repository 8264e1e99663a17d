"""Which documents to read, learned from answers: the terms against the formulas, and what they teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meeting import compare
from memory_towers import (
    ANSWERS,
    DOCUMENTS,
    QUESTIONS,
    ModelTower,
    TableTower,
    choosing,
)
from test_compress import adapters, answered, memory_of, trained
from torch import Tensor, nn
from toy_towers import pack

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.objectives.end_to_end import EndToEnd, _chosen
from lodesmith.training.engine import size

TEMPERATURE = 0.3


@pytest.fixture(scope="module")
def tower() -> ModelTower:
    return ModelTower()


@pytest.fixture(scope="module")
def memory(tower: ModelTower) -> Tensor:
    with torch.no_grad():
        return tower.compress(pack(DOCUMENTS)).memory


def slowly(tower: ModelTower, batch: dict[str, Any], slots: int) -> tuple[Tensor, Tensor]:
    """Loss and supervised loss by the formulas, question after question, slot after slot."""
    losses, apart = [], []
    for row, ids in enumerate(QUESTIONS):
        asked = memory_of(tower, ids, "query_reasoner")[0].flatten()
        there = [number for number in batch["candidates"][row].tolist() if number >= 0]
        found = [batch["memory"][number] for number in there]
        scores = torch.stack([torch.cosine_similarity(asked, own.flatten(), dim=0) for own in found]) / TEMPERATURE
        taken: list[int] = []
        read = []
        for _ in range(slots):
            left = [at for at in range(len(there)) if at not in taken]
            soft = scores[left].softmax(0)
            best = left[int(soft.argmax())]
            mixed = sum(share * found[at] for share, at in zip(soft, left, strict=True))
            read.append(found[best] + mixed - mixed.detach())  # type: ignore[union-attr]
            taken.append(best)
        losses += answered(tower, read, ids, ANSWERS[row])
        gold = [at for at, number in enumerate(batch["candidates"][row].tolist()) if batch["relevant"][row, at]]
        if gold:
            apart.append(-scores.softmax(0)[gold].sum().log())
    return torch.stack(losses).mean(), torch.stack(apart).mean()


def test_terms_and_gradients_are_those_of_the_formulas(tower: ModelTower, memory: Tensor) -> None:
    objective = EndToEnd(tower, retrieval=0.5, documents=2, candidates=4, temperature=TEMPERATURE)
    batch = choosing(memory)
    terms = objective(batch)
    assert terms.keys() == {"answer", "retrieval"}
    assert objective.weights == {"answer": 1.0, "retrieval": 0.5}
    for name, expected in zip(("answer", "retrieval"), slowly(tower, batch, 2), strict=True):
        torch.testing.assert_close(terms[name], expected, rtol=1e-4, atol=1e-5)
        parameters = [p for n, p in tower.named_parameters() if "lora" in n and "query_reasoner" in n]
        found = torch.autograd.grad(terms[name], parameters, retain_graph=True)
        wanted = torch.autograd.grad(expected, parameters, retain_graph=True)
        assert sum(float(one.abs().sum()) for one in wanted) > 0
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)


def test_the_gradient_reaches_query_reasoner_and_generator_and_no_compressor(tower: ModelTower, memory: Tensor) -> None:
    names = trained(EndToEnd(tower, documents=2, candidates=4), choosing(memory))
    assert adapters({name.removeprefix("encoder.") for name in names}) == {"query_reasoner", "decoder"}


def test_the_compressor_trains_where_the_batch_holds_documents(tower: ModelTower) -> None:
    batch = choosing(torch.empty(0), documents=pack(DOCUMENTS))
    del batch["memory"]
    objective = EndToEnd(tower, documents=2, candidates=4, mse=0.1, retrieval=0.1)
    names = trained(objective, batch)
    assert objective(batch).keys() == {"answer", "retrieval", "mse"}
    assert adapters({name.removeprefix("encoder.") for name in names}) == {"encoder", "query_reasoner", "decoder"}


def test_a_slot_reads_exactly_what_it_chose() -> None:
    torch.manual_seed(1)
    memory = torch.randn(6, 3, 5, requires_grad=True)
    candidates = torch.tensor([[5, 0, 2, -1], [1, 3, 0, 4]])
    chosen = torch.tensor([[2, 0], [3, 1]])
    hard = nn.functional.one_hot(chosen, 4).float().requires_grad_()
    read = _chosen(memory, candidates, hard, chosen)
    assert torch.equal(read, memory[torch.tensor([[2, 5], [4, 3]])])
    given = torch.randn_like(read)
    weights, rows = torch.autograd.grad(read, [hard, memory], given)
    mixed = torch.einsum("qkm,qmtd->qktd", hard, memory[candidates.clamp(min=0)])
    expected = torch.autograd.grad(mixed, [hard, memory], given)
    real = (candidates >= 0)[:, None, :].expand_as(weights)
    torch.testing.assert_close(weights[real], expected[0][real])
    torch.testing.assert_close(rows, expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_scores_are_float32_and_reads_exact(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    tower = TableTower()
    stored = torch.randn(5, 3, 16).to(dtype)
    objective = EndToEnd(tower, documents=2, candidates=4)
    seen: list[Tensor] = []
    answering = tower._losses

    def noted(memory: Any, *rest: Any) -> Tensor:
        seen.extend(memory)
        return answering(memory, *rest)

    tower._losses = noted  # type: ignore[method-assign]
    batch = choosing(stored)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(batch)["answer"].backward()
        scores = objective.scores(batch, stored.float())
    assert scores.dtype == torch.float32
    rows = torch.cat(seen)
    assert rows.dtype == torch.float32
    assert all((rows[at] == stored.float()).flatten(1).all(1).any() for at in range(len(rows)))


@pytest.mark.parametrize("temperature", [0.02, 1e-4])
def test_gradients_are_finite_where_a_candidate_is_far_ahead(temperature: float) -> None:
    torch.manual_seed(0)
    tower = TableTower()
    with torch.no_grad():
        stored = tower.compress(pack([QUESTIONS[0], *DOCUMENTS[1:]])).memory
    terms = EndToEnd(tower, documents=3, candidates=4, temperature=temperature, retrieval=1.0)(choosing(stored))
    (terms["answer"] + terms["retrieval"]).backward()
    for parameter in tower.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_more_slots_than_candidates_are_refused(memory: Tensor) -> None:
    with pytest.raises(InputError, match="row 1 has 3 candidates, fewer than k = 4"):
        EndToEnd(TableTower(), documents=4, candidates=4)(choosing(memory))


def test_the_control_needs_no_generator(memory: Tensor) -> None:
    tower = TableTower()
    control = EndToEnd(tower, answer=0.0, retrieval=1.0, documents=4, candidates=4)
    terms = control(choosing(memory))
    assert terms.keys() == {"retrieval"}
    assert tower.calls == ["compress query_reasoner"]
    control.begin()
    assert tower.calls[-1] == "begin"


def test_several_relevant_candidates_and_none(memory: Tensor) -> None:
    torch.manual_seed(0)
    objective = EndToEnd(TableTower(), answer=0.0, retrieval=1.0, candidates=5, temperature=TEMPERATURE)
    batch = choosing(memory)
    scores = (objective.scores(batch, memory) / TEMPERATURE).detach()
    first = -scores[0].log_softmax(0)[0]
    shares = scores[1, :3].softmax(0)
    second = -(shares[0] + shares[2]).log()
    torch.testing.assert_close(objective(batch)["retrieval"].detach(), (first + second) / 2)
    batch["relevant"][1, 3] = True  # where there is no candidate
    torch.testing.assert_close(objective(batch)["retrieval"].detach(), (first + second) / 2)
    best = scores.masked_fill(batch["candidates"] < 0, -torch.inf).argmax(1)
    hits = [float(best[0] == 0), float(best[1] in (0, 2))]
    assert float(objective.evidence["recall@1"]) == pytest.approx(sum(hits) / 2)
    batch["relevant"] = torch.zeros(3, 4, dtype=torch.bool)
    objective(batch)["retrieval"].backward()
    assert float(objective(batch)["retrieval"].detach()) == 0
    assert objective.evidence == {}
    del batch["relevant"]
    with pytest.raises(InputError, match="does not say which candidates are relevant"):
        objective(batch)
    assert EndToEnd(TableTower(), documents=2, candidates=4)(batch).keys() == {"answer"}


class Asking(TableTower):
    """Only its query reasoner trains: a table of its own; memory tells words, as they are in the frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.asking = nn.Embedding(*self.table.weight.shape)

    def compress(self, packed: Any, adapter: str = "encoder") -> Any:
        if adapter == "encoder":
            return super().compress(packed)
        kept, self.table = self.table, self.asking
        try:
            return super().compress(packed)
        finally:
            self.table = kept


@pytest.mark.parametrize("labels", [False, True])
def test_the_candidate_that_holds_the_answer_rises_with_and_without_labels(labels: bool) -> None:
    torch.manual_seed(0)
    tower = Asking()
    with torch.no_grad():
        tower.turns.copy_(torch.eye(16).expand(3, 16, 16))
        stored = tower.compress(pack([[5], [9], [31], [17], [18]])).memory * 3
    answers = pack([[5], [9], [31]])
    candidates = torch.tensor([[3, 0, 1, 4], [4, 3, 2, 1], [2, 3, 4, 0]])
    gold = torch.tensor([1, 3, 0])
    batch = {"memory": stored, "candidates": candidates, "asked": pack(QUESTIONS), "questions": pack([[20]] * 3)}
    batch |= {"answers": answers, "examples": 3}
    if labels:
        batch["relevant"] = nn.functional.one_hot(gold, 4).bool()
    weights = {"answer": 0.0, "retrieval": 1.0} if labels else {}
    objective = EndToEnd(tower, documents=1, candidates=4, temperature=0.2, **weights)

    def scores() -> Tensor:
        return objective.scores(batch, stored).detach()

    before = scores().gather(1, gold[:, None])
    steps = torch.optim.Adam([tower.asking.weight], lr=0.05)
    for _ in range(150):
        steps.zero_grad()
        next(iter(objective(batch).values())).backward()
        steps.step()
    after = scores()
    assert (after.gather(1, gold[:, None]) > before).all()
    assert torch.equal(after.argmax(1), gold)


def share(rows: list[int], memory: Tensor) -> dict[str, Any]:
    """Some of the questions."""
    whole = choosing(memory)
    parts = {"asked": QUESTIONS, "questions": QUESTIONS, "answers": ANSWERS}
    found: dict[str, Any] = {name: pack([texts[row] for row in rows]) for name, texts in parts.items()}
    return {**found, "memory": memory, "candidates": whole["candidates"][rows], "relevant": whole["relevant"][rows]}


def test_two_ranks_with_unequal_answers_are_one_process(monkeypatch: pytest.MonkeyPatch, memory: Tensor) -> None:
    torch.manual_seed(0)
    shares = [share([0, 2], memory), share([1], memory)]
    made = {"documents": 2, "candidates": 4, "temperature": 0.5, "retrieval": 1.0}
    compare(monkeypatch, TableTower(), share([0, 1, 2], memory), shares, lambda tower: EndToEnd(tower, **made))


def test_the_size_of_a_batch_is_that_of_its_questions(memory: Tensor) -> None:
    assert size(choosing(memory)) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"answer": 0.0}, "no term"),
        ({"answer": 0.0, "mse": 1.0}, "no term"),
        ({"retrieval": -0.5}, "weight of retrieval"),
        ({"temperature": 0.0}, "temperature"),
        ({"documents": 0}, "0 documents cannot be chosen"),
        ({"documents": 6, "candidates": 5}, "6 documents cannot be chosen among 5"),
        ({"document_encoder": nn.Identity()}, "leave document_encoder out"),
        ({"kinds": []}, "kinds is empty"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EndToEnd(nn.Identity(), **settings)

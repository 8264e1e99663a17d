"""MaxSim for training: scores and gradients against the dense reference, and their memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.core.registry import find
from lodesmith.similarity import _maxsim_gradient
from lodesmith.similarity.maxsim import Ragged, maxsim


def tokens(counts: list[int], seed: int, dtype: torch.dtype = torch.float64, d: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, d, dtype=dtype, generator=generator) for count in counts]


def dense(queries: list[torch.Tensor], documents: list[torch.Tensor]) -> torch.Tensor:
    """The definition, one pair after another."""
    rows = [torch.stack([(q @ d.T).max(dim=1).values.sum() for d in documents]) for q in queries]
    return torch.stack(rows)


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    told=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    budget=st.sampled_from([1, 20, 1 << 20]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_scores_and_gradients_are_the_dense_ones_under_any_budget(
    asked: list[int], told: list[int], budget: int, dtype: torch.dtype
) -> None:
    leaves = [x.requires_grad_() for x in tokens(asked, 1, dtype) + tokens(told, 2, dtype)]
    q, d = leaves[: len(asked)], leaves[len(asked) :]
    weights = torch.randn(len(q), len(d), dtype=dtype, generator=torch.Generator().manual_seed(3))
    scores, expected = maxsim(Ragged.of(q), Ragged.of(d), budget=budget), dense(q, d)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-12)
    found = torch.autograd.grad((scores * weights).sum(), leaves)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=2e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradcheck(normalize: bool) -> None:
    q, d = (torch.cat(tokens(counts, seed)).requires_grad_() for counts, seed in (([2, 3], 1), ([4, 1, 2], 2)))
    first, second = torch.tensor([0, 2, 5]), torch.tensor([0, 4, 5, 7])
    assert torch.autograd.gradcheck(
        lambda a, b: maxsim(Ragged(a, first), Ragged(b, second), normalize=normalize), (q, d)
    )


def test_of_equal_tokens_the_first_gets_the_gradient() -> None:
    document = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    maxsim(torch.tensor([[[1.0, 0.0]]]), Ragged.of([document])).sum().backward()
    assert document.grad is not None
    assert document.grad.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_a_score_does_not_depend_on_the_batch_where_all_similarities_are_negative() -> None:
    query, short, long = torch.ones(1, 2, 4), -torch.rand(1, 4) - 0.1, -torch.rand(30, 4) - 0.1
    together = maxsim(query, Ragged.of([short, long]))
    assert together.max() < 0
    torch.testing.assert_close(together[:, :1], maxsim(query, Ragged.of([short])))
    torch.testing.assert_close(together[:, 1:], maxsim(query, Ragged.of([long])))


def test_division_by_the_querys_tokens_spares_an_empty_one() -> None:
    q, d = tokens([4, 0], 1), tokens([3, 2], 2)
    plain, mean = maxsim(Ragged.of(q), Ragged.of(d)), maxsim(Ragged.of(q), Ragged.of(d), normalize=True)
    torch.testing.assert_close(mean[0], plain[0] / 4)
    assert mean[1].tolist() == [0, 0]


def test_half_precision_is_widened() -> None:
    q, d = (torch.cat(tokens([3], seed, torch.float32)).bfloat16().requires_grad_() for seed in (1, 2))
    scores = maxsim(q[None], d[None])
    assert scores.dtype == torch.float32
    scores.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16


def test_memory_holds_one_winner_a_query_token_and_document(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[torch.Tensor] = []
    q = torch.cat(tokens([10] * 4, 1, torch.float32)).requires_grad_()
    d = torch.cat(tokens([50] * 8, 2, torch.float32)).requires_grad_()
    largest = 0
    original = torch.Tensor.__matmul__

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        found = original(a, b)
        largest = max(largest, found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        maxsim(q.view(4, 10, -1), d.view(8, 50, -1), budget=500)
    assert 0 < largest <= 500
    extra = [x for x in saved if x.dtype == torch.int32]
    assert [x.numel() for x in extra] == [40 * 8]
    assert sum(x.numel() for x in saved if x.dtype != torch.int32) == q.numel() + d.numel()


def test_without_gradients_no_winner_is_looked_for() -> None:
    q, d = torch.cat(tokens([3], 1)), torch.cat(tokens([4], 2))
    layout = _maxsim_gradient.Layout(torch.tensor([0, 3]), [0, 4], 100)
    with_gradient = _maxsim_gradient.MaxSim.apply(q.clone().requires_grad_(), d, layout)
    torch.testing.assert_close(_maxsim_gradient.MaxSim.apply(q, d, layout), with_gradient.detach())
    assert with_gradient.requires_grad


def test_empty_batches_stay_in_the_graph() -> None:
    q = torch.randn(2, 3, 4, requires_grad=True)
    scores = maxsim(q, Ragged(torch.zeros(0, 4), torch.tensor([0])))
    assert scores.shape == (2, 0)
    scores.sum().backward()
    assert q.grad is not None
    assert q.grad.abs().sum() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="rise from 0 to 3"):
        Ragged(torch.zeros(3, 2), torch.tensor([0, 2]))
    with pytest.raises(InputError, match=r"values must be \[total, d\]"):
        Ragged(torch.zeros(3), torch.tensor([0, 3]))
    with pytest.raises(InputError, match="document 1 of the batch has no token"):
        maxsim(torch.zeros(1, 2), Ragged.of([torch.zeros(1, 2), torch.zeros(0, 2)]))
    with pytest.raises(InputError, match="2 dimensions cannot be compared with documents of 3"):
        maxsim(torch.zeros(1, 2), torch.zeros(1, 3))


def test_the_registry_finds_it() -> None:
    assert find("similarity", "maxsim") is maxsim

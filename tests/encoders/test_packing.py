"""Batches without padding: every token is there once, and none sees another sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.encoders._packing import ATTENTION, batches, pack, packed_attention, register

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 120))
def test_batches_hold_every_item_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    cut = list(batches(lengths, budget))
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(lengths)))
    for batch in cut:
        sizes = [lengths[at] for at in batch]
        assert sum(sizes) <= budget or len(batch) == 1
        assert sizes == sorted(sizes)


@given(LENGTHS, st.integers(1, 120))
def test_padded_batches_count_the_padding(lengths: list[int], budget: int) -> None:
    cut = list(batches(lengths, budget, padded=True))
    assert sum(len(batch) for batch in cut) == len(lengths)
    for batch in cut:
        assert len(batch) * max(lengths[at] for at in batch) <= budget or len(batch) == 1


def test_batches_are_full() -> None:
    assert [len(batch) for batch in batches([10] * 9, 40)] == [4, 4, 1]


def test_nothing_makes_no_batch() -> None:
    assert list(batches([], 10)) == []


def test_positions_restart_and_bounds_close_each_sequence() -> None:
    features = pack([np.array([5, 6], np.int32), np.array([7, 8, 9], np.int32)], first_position=2)
    assert features["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert features["position_ids"].tolist() == [[2, 3, 2, 3, 4]]
    assert features["cu_seq_lens_q"].tolist() == [0, 2, 5]


def _states(heads: int, tokens: int) -> torch.Tensor:
    return torch.randn(1, tokens, heads, 8).transpose(1, 2)  # the layout that models hand over


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], causal: bool, window: int | None
) -> torch.Tensor:
    """Softmax attention written out for each sequence."""
    done, start = [], 0
    repeat = q.shape[1] // k.shape[1]
    for length in lengths:
        cut = slice(start, start + length)
        keys, values = (x[0, :, cut].repeat_interleave(repeat, 0) for x in (k, v))
        scores = q[0, :, cut] @ keys.transpose(1, 2) / 8**0.5
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        if causal:
            scores = scores.masked_fill(distance < 0, -torch.inf)
        if window is not None:
            scores = scores.masked_fill(distance.abs() >= window, -torch.inf)
        done.append((scores.softmax(-1) @ values).transpose(0, 1))
        start += length
    return torch.cat(done)[None]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_is_that_of_each_sequence_alone(causal: bool, window: int | None, groups: int) -> None:
    torch.manual_seed(0)
    lengths = [1, 1, 4, 4, 4, 7, 2]
    q, k, v = _states(4, sum(lengths)), _states(4 // groups, sum(lengths)), _states(4 // groups, sum(lengths))
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    module = torch.nn.Identity()
    found, weights = packed_attention(
        module, q, k, v, is_causal=causal, sliding_window=window, cu_seq_lens_q=bounds, scaling=8**-0.5
    )
    assert weights is None
    torch.testing.assert_close(found, _one_by_one(q, k, v, lengths, causal, window), atol=1e-6, rtol=1e-5)


def test_the_layer_says_whether_it_is_causal() -> None:
    torch.manual_seed(0)
    q, k, v = (_states(2, 5) for _ in range(3))
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    module = torch.nn.Identity()
    module.is_causal = True  # type: ignore[assignment]
    implied, _ = packed_attention(module, q, k, v, cu_seq_lens_q=bounds)
    said, _ = packed_attention(torch.nn.Identity(), q, k, v, is_causal=True, cu_seq_lens_q=bounds)
    assert torch.equal(implied, said)


def test_gradients_pass() -> None:
    q, k, v = (_states(2, 6).requires_grad_() for _ in range(3))
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, cu_seq_lens_q=torch.tensor([0, 2, 6], dtype=torch.int32))
    out.sum().backward()
    assert all(x.grad is not None and bool(torch.isfinite(x.grad).all()) for x in (q, k, v))


@pytest.mark.parametrize("extra", [{"softcap": 50.0}, {"position_bias": torch.zeros(1)}, {"s_aux": torch.zeros(1)}])
def test_what_it_does_not_compute_is_refused(extra: dict[str, object]) -> None:
    q, k, v = (_states(2, 3) for _ in range(3))
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Identity(), q, k, v, cu_seq_lens_q=bounds, **extra)  # type: ignore[arg-type]


def test_without_bounds_or_with_a_mask_it_refuses() -> None:
    q, k, v = (_states(2, 3) for _ in range(3))
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Identity(), q, k, v)
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Identity(), q, k, v, torch.zeros(3, 3), cu_seq_lens_q=bounds)


def test_transformers_finds_it_by_name() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    register()
    register()
    assert ALL_ATTENTION_FUNCTIONS[ATTENTION] is packed_attention

"""Batches without padding: texts of many lengths in one flat row, each attending to itself alone.

The model is not rewritten. transformers lets a function be registered as attention implementation; ours gets the flat
batch and the bounds of its sequences, which models hand down to it as `cu_seq_lens_q`, and runs one scaled dot product
for each run of sequences of equal length. Position ids restart at every sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lodesmith.encoders._packed_training import dropped_attention

__all__ = ["ATTENTION", "batches", "pack", "packed_attention", "register"]

ATTENTION = "lodesmith_packed"
"""The name under which transformers knows `packed_attention`."""

_UNKNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention in ways that `packed_attention` does not compute."""


def register() -> None:
    """Make the packed attention known to transformers. Masks are not built: the bounds say what may attend to what."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def batches(lengths: Sequence[int] | NDArray[np.integer], budget: int, *, padded: bool = False) -> Iterator[Any]:
    """Cut items into batches by length, shortest first, each of at most `budget` tokens but at least one item.

    Args:
        lengths: tokens of each item.
        budget: tokens a batch.
        padded: count each item as long as the longest of its batch.

    Yields:
        Positions of the items of one batch, int64.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(lengths, kind="stable")
    start, total = 0, 0
    for end, position in enumerate(order):
        length = int(lengths[position])
        total = length * (end - start + 1) if padded else total + length
        if total > budget and end > start:
            yield order[start:end]
            start, total = end, length
    if start < len(order):
        yield order[start:]


def pack(sequences: Sequence[NDArray[np.int32]], *, first_position: int = 0) -> dict[str, Any]:
    """Token ids of several sequences → the features of one flat batch, [1, tokens].

    Args:
        sequences: token ids with their special tokens, none empty.
        first_position: the position id of a sequence's first token (RoBERTa and its kin count from padding_idx + 1).
    """
    bounds = np.concatenate([[0], np.cumsum([len(ids) for ids in sequences])])
    positions = np.concatenate([np.arange(len(ids)) for ids in sequences]) + first_position
    return {
        "input_ids": torch.from_numpy(np.concatenate(sequences).astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": torch.from_numpy(bounds.astype(np.int32)),
        "modality": "text",
    }


def packed_attention(  # noqa: PLR0913, PLR0917 - the signature is that of transformers' attention functions
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a flat batch; no token sees another sequence.

    Args:
        module: the attention layer; its `is_causal` counts where the argument is None.
        query: [1, heads, tokens, head dimension]; key and value may have fewer heads (grouped queries).
        key: see query.
        value: see query.
        attention_mask: must be None.
        scaling: factor of the scores; None for 1 / √(head dimension).
        dropout: probability, while training.
        is_causal: whether a token sees those after it.
        sliding_window: tokens at least so far apart do not see each other.
        cu_seq_lens_q: bounds of the sequences, int32 [n + 1].
        cu_seq_lens_k: the same of the tokens that are attended to, where they are fewer: the first ones of a sequence.
        others: anything else that the model says; what would change the result is refused.

    Returns:
        [1, tokens, heads, head dimension], and None for the attention weights.

    Raises:
        NotImplementedError: the model needs something that this function does not compute.
    """
    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if cu_seq_lens_q is None or attention_mask is not None or unknown:
        raise NotImplementedError(f"packed attention without bounds, with a mask, or with {unknown}")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": key.shape[1] != query.shape[1]}
    query, key = query.to(value.dtype), key.to(value.dtype)
    seen = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    if not torch.equal(seen, cu_seq_lens_q):
        if causal or sliding_window is not None:
            raise NotImplementedError("packed attention to a part of the tokens, with an order or a window")
        return _to_the_first(query, key, value, (cu_seq_lens_q, seen), options), None
    runs = list(_runs(cu_seq_lens_q))
    longest = max((length for _, _, length in runs), default=0)
    bound = causal or options["enable_gqa"] or (sliding_window is not None and longest > sliding_window)
    if dropout > 0 and not bound and _trains_on_cpu(value):
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        return dropped_attention((q, k, v), runs, scaling or query.shape[-1] ** -0.5, dropout)[None], None
    # All at once: a gradient of each slice by itself would fill a table of all tokens.
    sizes = [count * length for _, count, length in runs]
    parts = zip(*(torch.split(states, sizes, 2) for states in (query, key, value)), strict=True)
    done = []
    for (_, count, length), part in zip(runs, parts, strict=True):
        q, k, v = (_cut(states, count, length) for states in part)
        mask = _window(length, sliding_window, causal, q.device)
        out = scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None and length > 1, **options)
        done.append(out.transpose(1, 2).reshape(count * length, out.shape[1], out.shape[3]))
    return torch.cat(done)[None], None


def _to_the_first(
    query: Tensor, key: Tensor, value: Tensor, bounds: tuple[Tensor, Tensor], options: dict[str, Any]
) -> Tensor:
    """Attention of each sequence to its first tokens alone, one sequence at a time: [1, tokens, heads, d]."""
    done = []
    starts, seen = bounds[0].tolist(), bounds[1].diff().tolist()
    for start, end, count in zip(starts, starts[1:], seen, strict=False):
        keys = slice(start, start + count)
        out = scaled_dot_product_attention(query[:, :, start:end], key[:, :, keys], value[:, :, keys], **options)
        done.append(out.transpose(1, 2))
    return torch.cat(done, 1)


def _runs(bounds: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first token, sequences, length) of each run of neighbours of equal length."""
    start = 0
    for length, run in groupby(bounds.diff().tolist()):
        count = sum(1 for _ in run)
        yield start, count, length
        start += count * length


def _trains_on_cpu(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype == torch.float32 and torch.is_grad_enabled()


def _cut(states: Tensor, count: int, length: int) -> Tensor:
    """[1, heads, count · length, d] → [count, heads, length, d], without a copy."""
    heads, _, width = states.shape[1:]
    return states[0].view(heads, count, length, width).transpose(0, 1)


def _window(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    if window is None or length <= window:
        return None
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near

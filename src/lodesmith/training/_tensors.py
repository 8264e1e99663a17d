"""The tensors of objectives and of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lodesmith.core.errors import ConfigError


def named_tensors(objectives: Sequence[nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by name, those that stages or layers share only once. Some modules make tensors for their state alone
    (bitsandbytes' `weight_format`): all are held until the end, so that no new one is taken for one before it."""
    states = [objective.state_dict(keep_vars=True) for objective in objectives]
    seen: set[int] = set()
    for number, (objective, state) in enumerate(zip(objectives, states, strict=True)):
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor):
                raise ConfigError(f"{type(objective).__name__} keeps {name!r} in its state, which is no tensor")
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{number}.{name}", tensor


def move(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device. A batch is a tensor, or a mapping or sequence of batches; anything
    else in it stays as it is."""
    if isinstance(batch, torch.Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: move(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        return type(batch)(move(value, device) for value in batch)
    return batch


def size(batch: Any) -> int:
    """How many examples a batch holds: what it says itself under `examples`, or the length of its first tensor."""
    if isinstance(batch, Mapping) and isinstance(told := batch.get("examples"), int):
        return told
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    for value in values:
        if found := size(value):
            return found
    return 0

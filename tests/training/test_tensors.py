"""Which tensors a training keeps: each once, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lodesmith.training._tensors import named_tensors


class Telling(nn.Linear):
    """Has a tensor in its state that is made each time it is asked for, as bitsandbytes' layers of 8 bits have."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}format"] = torch.tensor(0, dtype=torch.uint8)


def test_what_stages_share_is_named_once_and_what_is_made_for_a_state_each_time() -> None:
    shared = nn.Sequential(*(Telling(2, 2) for _ in range(8)))
    stages = [nn.Sequential(shared), nn.Sequential(shared, Telling(2, 2)), nn.Sequential(shared)]
    expected = [f"0.0.{layer}.{name}" for layer in range(8) for name in ("weight", "bias", "format")]
    expected += [*(f"1.0.{layer}.format" for layer in range(8)), "1.1.weight", "1.1.bias", "1.1.format"]
    expected += [f"2.0.{layer}.format" for layer in range(8)]
    for _ in range(5):
        assert [name for name, _ in named_tensors(stages)] == expected

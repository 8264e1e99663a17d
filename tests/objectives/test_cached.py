"""Gradient caching: the gradients of a batch at once, names as without it, and memory that a batch does not fill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from toy_towers import Bag, pack, words

from lodesmith.encoders.projected import ProjectionLayer
from lodesmith.objectives._cached import Cached, cached
from lodesmith.objectives._folded import affine
from lodesmith.objectives._parts import join, split
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.triplet import Triplet


class Dropping(nn.Module):
    """A bag with dropout on its way."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.bag, self.dropout, self.layer = Bag(), nn.Dropout(share), nn.Linear(6, 4)
        self.largest = 0

    def forward(self, packed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.largest = max(self.largest, len(packed["offsets"]) - 1)
        found: torch.Tensor = self.layer(self.dropout(torch.tanh(self.bag(packed))))
        return found


class Kept(nn.Module):
    """The same chunks in the same order, with everything kept."""

    def __init__(self, encoder: nn.Module, chunk: int) -> None:
        super().__init__()
        self.encoder, self.chunk = encoder, chunk

    def forward(self, packed: Any) -> Any:
        items = len(packed["offsets"]) - 1
        sizes = [min(self.chunk, items - start) for start in range(0, items, self.chunk)]
        return join([self.encoder(piece) for piece in split(packed, sizes)])


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[3, -1], [-1, -1], *[[5, 6]] * 18])
    made: dict[str, Any] = {name: pack(words(20, generator)) for name in ("queries", "documents")}
    made |= {"negatives": pack(words(int((ids >= 0).sum()), generator)), "negative_ids": ids}
    return made | {"query_ids": torch.arange(20), "document_ids": torch.arange(20) + 30}


def gradients(make: Callable[[nn.Module], nn.Module], encoder: nn.Module) -> dict[str, torch.Tensor]:
    objective: Any = make(encoder).train()
    torch.manual_seed(7)
    terms = objective(batch())
    sum(objective.weights[name] * value for name, value in terms.items()).backward()
    return {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}


def worst(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest gradient of its parameter."""
    pairs = zip(a.values(), b.values(), strict=True)
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-12)) for x, y in pairs)


OBJECTIVES = {"contrast": Contrast, "triplet": lambda tower: Triplet(tower, negatives="batch_all", margin=0.5)}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_gradients_are_those_of_the_batch_at_once(name: str, chunk: int) -> None:
    encoder = Dropping(0.0)
    expected = gradients(OBJECTIVES[name], encoder)
    encoder.zero_grad()
    encoder.largest = 0
    found = gradients(OBJECTIVES[name], Cached(encoder, chunk))
    assert found.keys() == expected.keys()
    assert worst(found, expected) < 1e-6
    assert encoder.largest <= chunk


@pytest.mark.parametrize("name", OBJECTIVES)
def test_dropout_is_replayed(name: str) -> None:
    encoder = Dropping(0.4)
    expected = gradients(OBJECTIVES[name], Kept(encoder, 7))
    encoder.zero_grad()
    found = gradients(OBJECTIVES[name], Cached(encoder, 7))
    assert worst(found, expected) < 1e-6
    after = torch.rand(3)
    encoder.zero_grad()
    gradients(OBJECTIVES[name], Kept(encoder, 7))
    assert torch.equal(after, torch.rand(3))  # the second pass leaves the generator where the first left it
    encoder.zero_grad()
    torch.manual_seed(8)
    other = Cached(encoder, 7).train()
    other(batch()["queries"]).sum().backward()
    assert worst({"x": encoder.layer.weight.grad}, {"x": expected["encoder.encoder.layer.weight"]}) > 1e-3


def test_rows_and_padded_texts_are_cut_too() -> None:
    rows, layer = torch.randn(9, 3), nn.Linear(3, 2)
    assert torch.equal(Cached(layer, 4)(rows), torch.cat([layer(part) for part in rows.split(4)]))
    padded = {"input_ids": torch.arange(18).view(9, 2), "attention_mask": torch.ones(9, 2)}
    seen: list[int] = []

    class Padded(nn.Module):
        def forward(self, part: Mapping[str, torch.Tensor]) -> torch.Tensor:
            seen.append(len(part["input_ids"]))
            return part["input_ids"].float() * part["attention_mask"]

    assert torch.equal(Cached(Padded(), 4)(padded), padded["input_ids"].float())
    assert seen == [4, 4, 1]


def test_names_modes_and_states_are_the_encoder_s_own() -> None:
    encoder = Dropping(0.5)
    wrapped = Cached(encoder, 2)
    assert [n for n, _ in wrapped.named_parameters()] == [n for n, _ in encoder.named_parameters()]
    assert list(wrapped.state_dict()) == list(encoder.state_dict())
    wrapped.eval()
    assert not encoder.training
    assert not encoder.dropout.training
    wrapped.train()
    assert encoder.training
    assert encoder.dropout.training
    wrapped.double()
    assert encoder.layer.weight.dtype == torch.float64


def test_without_gradients_there_is_nothing_to_cut() -> None:
    encoder = Dropping(0.0)
    with torch.no_grad():
        Cached(encoder, 2)(batch()["queries"])
    assert encoder.largest == 20


def test_only_encoders_are_cached() -> None:
    tower, predictor = Bag(), nn.Linear(2, 2)
    modules = {"encoder": tower, "document_encoder": None, "predictor": predictor}
    assert cached(modules, None) == modules
    made = cached(modules, 8)
    assert isinstance(made["encoder"], Cached)
    assert made["document_encoder"] is None
    assert made["predictor"] is predictor


def test_bfloat16_is_computed_again_in_bfloat16() -> None:
    encoder = Dropping(0.3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(Contrast, Kept(encoder, 6))
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(Contrast, Cached(encoder, 6))
    assert worst(found, expected) < 1e-6


def test_a_linear_encoder_stays_known_as_one() -> None:
    """All documents as negatives are then scored without taking them through it."""
    plain, dropping = nn.Linear(5, 3), Dropping(0.0)
    found = affine(Cached(plain, 2))
    assert found is not None
    assert torch.equal(found[0], plain.weight)
    residual = ProjectionLayer(4, 4, kind="residual_linear")
    inner, outer = affine(residual), affine(Cached(residual, 2))
    assert inner is not None
    assert outer is not None
    assert all(map(torch.equal, inner, outer))
    assert affine(Cached(dropping, 2)) is None
    assert affine(Cached(ProjectionLayer(4, 4, kind="mlp"), 2)) is None


_PEAK = """
import sys
import torch
from torch import nn
from lodesmith.core.memory import return_freed
from lodesmith.objectives._cached import Cached
from lodesmith.objectives.contrast import Contrast

torch.set_num_threads(1)
return_freed()  # as a training in chunks does
n, chunk = int(sys.argv[1]), int(sys.argv[2])
layers = [part for _ in range(40) for part in (nn.Linear(256, 256), nn.GELU(), nn.Dropout(0.1))]
encoder = nn.Sequential(*layers)
objective = Contrast(Cached(encoder, chunk) if chunk else encoder).train()
rows = torch.randn(2, n, 256)
def resident(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) / 1024
objective({"queries": rows[0, :8], "documents": rows[1, :8]})["infonce"].backward()
before = resident("VmRSS")
objective({"queries": rows[0], "documents": rows[1]})["infonce"].backward()
print(resident("VmHWM") - before)
"""


def _extra(n: int, chunk: int) -> float:
    """MiB of a step beyond a small one, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(n), str(chunk)], capture_output=True, text=True, check=True, timeout=100
    )
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_while_the_batch_grows() -> None:
    small, large, whole = _extra(64, 64), _extra(1024, 64), _extra(1024, 0)
    assert whole > 150  # 2,048 rows × 256 × 4 bytes × 3 tensors × 40 layers
    assert large - small < 30  # the scores, 1,024 × 1,024, and their gradient: 8 MiB; the inputs; what malloc keeps

"""Covariance matching, uniformity and orthogonality against their definitions and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.registry import find
from lodesmith.losses import uniformity as uniformity_module
from lodesmith.losses.covariance import covariance
from lodesmith.losses.gor import gor
from lodesmith.losses.uniformity import uniformity

LOSSES: list[Callable[..., torch.Tensor]] = [covariance, uniformity, gor]


def sample(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: covariance(x, variance=0.5, mean_weight=2.0),
        lambda x: uniformity(x, scale=1.5),
        lambda x: uniformity(x, unit=False),
        lambda x: gor(x, step=4, rounds=3),
    ],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    vectors = (sample(7, 4) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(loss, (vectors,))


def test_covariance_is_its_definition() -> None:
    vectors = sample(60, 5) * 1.7 + 0.4
    rows = vectors.numpy()
    moments = np.cov(rows.T, bias=True) - 0.8 * np.eye(5)
    expected = ((moments**2).sum() + 3 * (rows.mean(0) ** 2).sum()) / 5
    assert covariance(vectors, variance=0.8, mean_weight=3.0).item() == pytest.approx(expected, rel=1e-12)


def test_covariance_of_gaussian_vectors_is_near_its_floor() -> None:
    values = [covariance(2 * sample(400, 30, seed), variance=4.0).item() for seed in range(20)]
    assert np.mean(values) == pytest.approx(16 * 31 / 400 + 4 / 400, rel=0.1)


def test_uniformity_is_its_definition() -> None:
    vectors = sample(30, 6)
    for unit in (True, False):
        rows = normalize(vectors, dim=1) if unit else vectors
        terms = [math.exp(-2 * (rows[i] - rows[j]).square().sum()) for i in range(30) for j in range(30) if i != j]
        assert uniformity(vectors, unit=unit).item() == pytest.approx(math.log(np.mean(terms)), rel=1e-12)


def test_uniformity_from_equal_to_even() -> None:
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(sample(500, 2000)).item() == pytest.approx(-4, abs=0.01)
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    assert uniformity(opposite, scale=3).item() == pytest.approx(-12, rel=1e-6)


def test_uniformity_in_blocks_and_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = sample(50, 8).requires_grad_()
    (whole,) = torch.autograd.grad(uniformity(vectors), vectors)
    monkeypatch.setattr(uniformity_module, "_BLOCK", 150)
    parted = uniformity(vectors)
    assert torch.allclose(torch.autograd.grad(parted, vectors)[0], whole, rtol=1e-10)
    # Every single term is 0 in float32 here: only the logarithm of their sum can be held.
    far = (30 * sample(50, 400)).float().requires_grad_()
    loss = uniformity(far, unit=False)
    loss.backward()
    assert -1e7 < loss.item() < -1e5
    assert far.grad is not None
    assert far.grad.abs().max() > 0


def test_gor_is_its_definition_on_pairs_of_different_rows() -> None:
    two = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]])
    assert gor(two).item() == pytest.approx(0.6**2 + 0.6**2 - 1 / 3, rel=1e-6)  # the only pair, whatever is drawn
    equal = torch.ones(4, 2)
    assert gor(equal).item() == pytest.approx(1 + 1 - 0.5, rel=1e-6)
    assert gor(torch.eye(6)).item() == 0.0


def test_gor_of_even_vectors_is_near_zero_and_pairs_follow_the_step() -> None:
    vectors = sample(2000, 50)
    assert gor(vectors).item() < 0.01
    lengths = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    assert gor(vectors * lengths).item() == pytest.approx(gor(vectors).item(), rel=1e-9)
    few = sample(10, 3)
    assert gor(few, step=1).item() == gor(few, step=1).item()
    assert len({gor(few, seed=s, step=t).item() for s, t in ((0, 0), (0, 1), (1, 0))}) == 3


@pytest.mark.parametrize("loss", LOSSES)
def test_edges(loss: Callable[..., torch.Tensor]) -> None:
    for count in (0, 1):
        few = torch.zeros(count, 3, requires_grad=True)
        value = loss(few)
        value.backward()
        assert math.isfinite(value.item())
    half = sample(32, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half)
        found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(half.detach().float()).item(), rel=1e-6)
    for wrong in (torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(InputError, match="floating point"):
            loss(wrong)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("covariance", {"variance": 0.0}),
        ("covariance", {"mean_weight": -1.0}),
        ("uniformity", {"scale": 0.0}),
        ("gor", {"rounds": 0}),
        ("gor", {"step": -1}),
    ],
)
def test_settings_out_of_range_are_refused_and_files_are_components(name: str, settings: dict) -> None:
    with pytest.raises(ConfigError):
        find("losses", name)(torch.zeros(3, 2), **settings)

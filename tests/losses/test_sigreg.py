"""SIGReg against its definition in float64, finite differences, and what is known of its value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.gaussianity import knots_of, unit_directions
from lodesmith.losses import sigreg as module
from lodesmith.losses.sigreg import sigreg


def definition(
    vectors: torch.Tensor, directions: int, seed: int, step: int, knots: int = 17, reach: float = 3.0
) -> torch.Tensor:
    """The integral written out, knot by knot, both signs of t."""
    axes = torch.from_numpy(unit_directions(vectors.shape[1], directions, seed, step))
    projected = vectors.double() @ axes
    times = torch.linspace(-reach, reach, 2 * knots - 1, dtype=torch.float64)
    values = []
    for t in times:
        wave = torch.exp(1j * t * projected).mean(0)
        normal = torch.exp(-t * t / 2)
        values.append((wave - normal).abs().square() * normal)
    return len(vectors) * torch.trapezoid(torch.stack(values), times, dim=0).mean()


def sample(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "d", "count"), [(300, 20, 31), (1, 5, 3), (7, 1, 2), (2048, 64, 40)])
@pytest.mark.parametrize("spoil", [lambda x: x, lambda x: 3 * x + 1, lambda x: normalize(x, dim=1)])
def test_it_is_the_definition(n: int, d: int, count: int, spoil: object) -> None:
    vectors = spoil(sample(n, d))  # type: ignore[operator]
    expected = definition(vectors, count, 5, 9).item()
    assert sigreg(vectors, directions=count, seed=5, step=9).item() == pytest.approx(expected, rel=1e-5)
    assert sigreg(vectors.double(), directions=count, seed=5, step=9).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("knots", "reach"), [(2, 1.0), (3, 3.0), (6, 2.0), (17, 3.0), (18, 4.0), (40, 5.0)])
def test_any_number_of_knots(knots: int, reach: float) -> None:
    vectors = (sample(50, 4) * 2).double().requires_grad_()
    found = sigreg(vectors, directions=8, knots=knots, reach=reach)
    expected = definition(vectors, 8, 0, 0, knots, reach)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, vectors)
    assert torch.allclose(gradient, torch.autograd.grad(expected, vectors)[0], rtol=1e-10, atol=1e-13)


def test_its_gradient_is_that_of_finite_differences() -> None:
    vectors = sample(6, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: 2 * sigreg(x, directions=11, step=3), (vectors,))


def test_its_gradient_in_float32() -> None:
    vectors = (sample(500, 32) + 0.2).requires_grad_()
    sigreg(vectors, directions=70).backward()
    exact = vectors.detach().double().requires_grad_()
    definition(exact, 70, 0, 0).backward()
    assert vectors.grad is not None
    assert ((vectors.grad - exact.grad).norm() / exact.grad.norm()).item() < 1e-5


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = sample(100, 8).double().requires_grad_()
    whole = sigreg(vectors, directions=37)
    (gradient,) = torch.autograd.grad(whole, vectors)
    monkeypatch.setattr(module, "_CPU_BLOCK", 100)
    monkeypatch.setattr(module, "_NARROW", 5)
    parted = sigreg(vectors, directions=37)
    assert parted.item() == pytest.approx(whole.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(parted, vectors)[0], gradient, rtol=1e-10)


def test_the_floor_of_gaussian_vectors() -> None:
    assert knots_of(2001, 3.0).floor == pytest.approx(1.0527, abs=1e-4)
    assert knots_of().floor == pytest.approx(1.0525, abs=1e-4)
    draws = np.array([sigreg(sample(2048, 64, seed), step=seed).item() for seed in range(16)])
    assert draws.mean() == pytest.approx(knots_of().floor, abs=4 * 0.11 / math.sqrt(16))
    assert 0.05 < draws.std() < 0.2


def test_the_floor_does_not_depend_on_the_number_of_vectors() -> None:
    draws = [sigreg(sample(20, 50, seed), directions=64, step=seed).item() for seed in range(200)]
    assert np.mean(draws) == pytest.approx(knots_of().floor, abs=4 * np.std(draws) / math.sqrt(len(draws)))


def test_vectors_of_length_one_are_far_from_gaussian_until_they_are_scaled() -> None:
    unit = normalize(sample(2048, 64), dim=1)
    assert sigreg(unit).item() == pytest.approx(776, rel=0.02)
    scaled = [sigreg(normalize(sample(2048, 64, seed), dim=1) * 8, step=seed).item() for seed in range(16)]
    assert np.mean(scaled) == pytest.approx(1.14, abs=0.14)


def test_off_the_null_it_grows_with_the_number_of_vectors() -> None:
    few, many = (sigreg(2 * sample(n, 16)).item() / n for n in (1000, 4000))
    assert 4000 * many > 3 * 1000 * few
    assert few == pytest.approx(many, rel=0.1)


def test_directions_follow_seed_and_step_alone() -> None:
    vectors = 2 * sample(64, 8)
    torch.manual_seed(1)
    first = sigreg(vectors, seed=1, step=2)
    torch.manual_seed(2)
    assert torch.equal(first, sigreg(vectors, seed=1, step=2))
    assert len({first.item(), *(sigreg(vectors, seed=s, step=t).item() for s, t in ((1, 3), (2, 2), (2, 1)))}) == 4
    axes = unit_directions(50, 2000, 0, 0)
    assert np.allclose(np.linalg.norm(axes, axis=0), 1, atol=1e-12)
    assert np.abs(axes @ axes.T / 2000 - np.eye(50) / 50).max() < 0.01


def test_it_pulls_towards_the_gaussian() -> None:
    vectors = (0.3 * sample(256, 6) + 1).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=0.1)
    for step in range(60):
        optimizer.zero_grad()
        loss = sigreg(vectors, directions=32, step=step)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.5
    assert torch.cov(vectors.detach().T).diagonal().mean().item() == pytest.approx(1, abs=0.15)
    assert vectors.detach().mean(0).abs().max().item() < 0.15


def test_half_precision_is_computed_in_float32_and_autocast_does_not_reach_it() -> None:
    vectors = sample(64, 8).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = sigreg(vectors)
        found.backward()
        exact = sigreg(sample(64, 8))
    assert found.dtype == torch.float32
    assert found.item() == sigreg(vectors.detach().float()).item()
    assert exact.item() == sigreg(sample(64, 8)).item()
    assert vectors.grad is not None
    assert vectors.grad.dtype == torch.bfloat16


def test_no_vectors_and_no_gradient() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = sigreg(empty)
    loss.backward()
    assert loss.item() == 0.0
    with torch.no_grad():
        assert not sigreg(sample(5, 3).requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("vectors", "settings", "kind", "message"),
    [
        (torch.zeros(3), {}, InputError, "must be floating point"),
        (torch.zeros(3, 0), {}, InputError, "must be floating point"),
        (torch.zeros(3, 2, dtype=torch.int64), {}, InputError, "not torch.int64"),
        (torch.zeros(3, 2), {"directions": 0}, ConfigError, "0 directions"),
        (torch.zeros(3, 2), {"directions": 16385}, ConfigError, "16385, not a number up to 16384"),
        (torch.zeros(3, 2), {"directions": True}, ConfigError, "directions is True"),
        (torch.zeros(3, 2), {"knots": 10**12}, ConfigError, "not a number up to 4096"),
        (torch.zeros(3, 2), {"seed": -1}, ConfigError, "seed -1"),
        (torch.zeros(3, 2), {"knots": 1}, ConfigError, "1 knots"),
        (torch.zeros(3, 2), {"reach": 0.0}, ConfigError, "no trapezoid"),
    ],
)
def test_what_does_not_fit_is_refused(vectors: torch.Tensor, settings: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        sigreg(vectors, **settings)

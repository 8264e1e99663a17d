"""Each measure of a geometry against its definition, written out, and on vectors whose figures are known."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.evaluation import _isotropy
from lodesmith.evaluation._hubs import hubness, occurrences
from lodesmith.evaluation._isotropy import alignment, mean_cosine, random_pairs, sigreg, spectrum, uniformity, unit_rows
from lodesmith.evaluation.geometry import measure
from lodesmith.losses.sigreg import sigreg as loss
from lodesmith.losses.uniformity import uniformity as uniformity_loss

Rows = NDArray[np.float64]


def gaussian(n: int, d: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((n, d))


def isoscore_by_the_paper(rows: Rows) -> float:
    """Algorithm 1 of arXiv 2108.07344, step by step, over the full covariance."""
    d = rows.shape[1]
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    normalised = math.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    used = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    return float((d * used - 1) / (d - 1))


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize(("n", "d"), [(700, 12), (3, 40)])
def test_sigreg_is_that_of_the_loss(n: int, d: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gaussian(n, d) + 0.1
    expected = loss(torch.from_numpy(scale * rows), directions=33, seed=4, step=6).item()
    monkeypatch.setattr(_isotropy, "_VALUES", 33 * 16 * 7)
    assert sigreg(rows, directions=33, seed=4, step=6, scale=scale) == pytest.approx(expected, rel=1e-10)
    single = loss(torch.from_numpy((scale * rows).astype(np.float32)), directions=33, seed=4, step=6).item()
    assert single == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_uniformity_and_alignment_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = unit_rows(gaussian(90, 7))
    monkeypatch.setattr(_isotropy, "_VALUES", 1000)
    assert uniformity(unit) == pytest.approx(uniformity_loss(torch.from_numpy(unit).double()).item(), rel=1e-5)
    first, second = np.float32([[1, 0], [0, 1]]), np.float32([[1, 0], [1, 0]])
    assert alignment(first, second) == pytest.approx(1.0)


def test_unit_rows_of_any_size() -> None:
    rows = np.float32([[3e30, 4e30], [3e-30, -4e-30], [0, 0]])
    assert unit_rows(rows) == pytest.approx(np.float32([[0.6, 0.8], [0.6, -0.8], [0, 0]]))
    assert rows[2, 0] == 0
    assert rows[0, 0] == np.float32(3e30)


def test_mean_cosine_is_exact_and_knows_its_error() -> None:
    rows = gaussian(40, 5) + 0.5
    unit = unit_rows(rows)
    all_pairs = [float(unit[i] @ unit[j]) for i in range(40) for j in range(40) if i != j]
    assert mean_cosine(unit)[0] == pytest.approx(np.mean(all_pairs), rel=1e-5)
    draws = np.array([mean_cosine(unit_rows(gaussian(200, 8, seed) + 0.4)) for seed in range(150)])
    assert draws[:, 1].mean() == pytest.approx(draws[:, 0].std(), rel=0.2)


@pytest.mark.parametrize("shape", [(400, 6), (9, 30)])
def test_spectrum_is_that_of_the_singular_values(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gaussian(*shape) * np.linspace(1, 3, shape[1]) + 2
    monkeypatch.setattr(_isotropy, "_VALUES", 100)
    found = spectrum(rows)
    _, singular, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    singular = singular[: min(shape[0] - 1, shape[1])]
    shares = singular / singular.sum()
    assert found.singular[: len(shares)] == pytest.approx(shares, rel=1e-6)
    assert found.singular[len(shares) :] == pytest.approx(0, abs=1e-6)
    assert found.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert found.explained(2) == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-9)
    assert np.abs(axes[:2] @ found.axes) == pytest.approx(np.eye(2), abs=1e-6)
    assert (found.axes[np.abs(found.axes).argmax(0), [0, 1]] > 0).all()
    assert found.isoscore == pytest.approx(isoscore_by_the_paper(rows), rel=1e-9)
    assert found.mean_share == pytest.approx((rows.mean(0) ** 2).sum() / (rows**2).sum(1).mean(), rel=1e-9)


def test_from_one_direction_to_all() -> None:
    line = np.outer(gaussian(500, 1)[:, 0], gaussian(1, 20)[0])
    assert spectrum(line).effective_rank == pytest.approx(1, abs=1e-6)
    assert spectrum(line).isoscore == pytest.approx(0, abs=1e-9)
    even = spectrum(gaussian(40_000, 20))
    assert even.effective_rank == pytest.approx(20, abs=0.01)
    assert even.isoscore == pytest.approx(1, abs=0.01)
    point = spectrum(np.ones((5, 3)))
    assert (point.effective_rank, point.isoscore, point.explained(1), point.mean_share) == (0, 0, 0, 1)
    assert spectrum(gaussian(9, 1)).isoscore == 1.0


def test_too_few_vectors_make_isoscore_low_and_the_table_says_so() -> None:
    few, enough = measure(gaussian(100, 40), neighbours=0), measure(gaussian(400, 40), neighbours=0)
    assert few.biased
    assert not enough.biased
    assert few.isoscore < enough.isoscore - 0.1
    assert "400 vectors it is biased" in few.to_text()
    assert "biased" not in enough.to_text()


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_occurrences_are_those_of_sorted_scores(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gaussian(60, 4).astype(np.float32)
    monkeypatch.setattr(_isotropy, "_VALUES", 400)
    counts = np.zeros(60, int)
    for i in range(60):
        scores = {
            "cosine": rows @ rows[i] / np.linalg.norm(rows, axis=1),
            "dot": rows @ rows[i],
            "euclidean": -((rows - rows[i]) ** 2).sum(1),
        }[metric]
        order = [j for j in np.argsort(-scores) if j != i]
        counts[order[:3]] += 1
    assert occurrences(rows, metric, 3).tolist() == counts.tolist()  # type: ignore[arg-type]


def test_a_hub_is_found() -> None:
    spokes = np.eye(30)
    centre = np.ones((1, 30))
    found = hubness(np.concatenate([spokes, centre]), "cosine", 1)
    assert found.most == 30
    assert found.never == pytest.approx(29 / 31)
    assert found.skewness > 5
    circle = np.stack([np.cos(a := np.arange(40) * math.pi / 20), np.sin(a)], 1)
    even = hubness(circle, "cosine", 2)
    assert (even.skewness, even.never, even.most) == (0, 0, 2)
    assert hubness(circle[:4], k=10).k == 3


def test_random_pairs_are_of_different_rows() -> None:
    first, second = random_pairs(3, 3000, 0)
    assert (first != second).all()
    counts = np.bincount(first * 3 + second, minlength=9).reshape(3, 3)
    assert counts[~np.eye(3, dtype=bool)] == pytest.approx(500, rel=0.2)


def test_a_whole_geometry() -> None:
    rows = gaussian(600, 16) * 3
    found = measure(rows.astype(np.float32), (rows[:50] + 0.3, rows[:50]), metric="euclidean", seed=1)
    assert found.sigreg_scaled < 3
    assert found.sigreg > 20
    assert found.scale == pytest.approx(1 / 3, rel=0.02)
    assert found.effective_rank == pytest.approx(16, abs=0.2)
    assert found.positives is not None
    assert found.positives.alignment == pytest.approx(2 - 2 * found.positives.cosine, rel=1e-4)
    assert list(found.explained) == [1, 10]
    assert sum(found.histogram.random) == pytest.approx(1)
    assert sum(found.histogram.positive) == pytest.approx(1)
    assert len(found.picture.documents) == 600
    assert len(found.picture.queries) == 50
    flat = np.array(found.picture.documents)
    assert flat.mean(0) == pytest.approx([0, 0], abs=1e-3)
    assert flat.var(0).sum() / rows.var(0).sum() == pytest.approx(spectrum(rows).explained(2), rel=1e-3)
    value = found.to_json()
    assert value["sigreg_per_item"] == pytest.approx(found.sigreg / 600)
    assert "picture" not in value
    assert len(found.to_json(points=True)["picture"]["documents"]) == 600
    assert set(found.measures) >= {"sigreg", "isoscore", "hubness", "alignment"}
    for name in ("SIGReg T, rescaled", "IsoScore", "effective rank", "uniformity", "alignment", "skew of N_10"):
        assert name in found.to_text()


def test_points_and_queries_are_few() -> None:
    rows = gaussian(2500, 3)
    found = measure(rows, (np.repeat(rows[:2], 5, 0), rows[:10]), neighbours=0)
    assert len(found.picture.documents) == 2000
    assert len(found.picture.queries) == 2
    assert found.hubness is None
    assert "hubness" not in found.measures
    single = measure(gaussian(10, 1))
    assert all(y == 0 for _, y in single.picture.documents)
    assert measure(np.ones((5, 3))).sigreg_scaled > 1


@pytest.mark.parametrize(
    ("rows", "pairs", "message"),
    [
        (np.zeros((1, 3)), None, "at least two vectors"),
        (np.zeros((3, 0)), None, "at least two vectors"),
        (np.zeros(3), None, "at least two vectors"),
        (np.full((3, 2), np.nan), None, "NaN or infinite"),
        (np.ones((3, 2)), (np.ones((2, 3)), np.ones((2, 3))), "do not fit"),
        (np.ones((3, 2)), (np.ones((2, 2)), np.ones((1, 2))), "two sides"),
    ],
)
def test_what_does_not_fit_is_refused(rows: Rows, pairs: tuple[Rows, Rows] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(rows, pairs)


def test_it_needs_no_torch() -> None:
    code = "import sys, lodesmith.evaluation.geometry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The nucleus, drawn by rows."""

from __future__ import annotations

import numpy as np
import torch

from lodesmith.generators._decoding import nucleus, uniforms

LOGITS = torch.log(torch.tensor([[0.5, 0.1, 0.3, 0.1]]))


def drawn(draws: list[float], temperature: float = 1.0, top_p: float = 1.0) -> list[int]:
    rows = LOGITS.expand(len(draws), -1)
    return nucleus(rows, temperature, top_p, torch.tensor(draws, dtype=torch.float64)).tolist()


def test_the_distribution_function_is_inverted() -> None:
    assert drawn([0.0, 0.49, 0.51, 0.79, 0.81, 0.89, 0.91, 0.999999]) == [0, 0, 2, 2, 1, 1, 3, 3]


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    assert set(drawn(np.linspace(0, 0.999, 50).tolist(), top_p=0.5)) == {0}
    assert set(drawn(np.linspace(0, 0.999, 50).tolist(), top_p=0.51)) == {0, 2}
    assert drawn([0.62, 0.63], top_p=0.8) == [0, 2]  # .5 of .8 is .625
    assert set(drawn([0.0, 0.9999999], top_p=1e-9)) == {0}


def test_temperature_sharpens() -> None:
    assert set(drawn(np.linspace(0, 0.99, 50).tolist(), temperature=0.05)) == {0}
    assert drawn([0.3], temperature=100.0) == [2]


def test_frequencies_are_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount(drawn(rng.random(20_000).tolist()), minlength=4) / 20_000
    assert np.allclose(counts, [0.5, 0.1, 0.3, 0.1], atol=0.01)


def test_random_numbers_belong_to_the_prompt() -> None:
    both = uniforms(1, [[5, 6], [7]], 4)
    assert both.shape == (2, 4)
    assert (uniforms(1, [[7]], 4)[0] == both[1]).all()
    assert (uniforms(1, [[7]], 2)[0] == both[1, :2]).all()
    assert not (uniforms(2, [[7]], 4)[0] == both[1]).any()
    assert not (both[0] == both[1]).any()

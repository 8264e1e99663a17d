"""Dropout from cheap bits: as many zeros as asked for, the same expectation, the same again in a replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lodesmith.encoders._dropout import Dropout, bits, kept, quicken, seeds, threshold

COUNT = 1_000_003
"""Values; more than a block, and an odd number."""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.03])
def test_as_many_values_are_dropped_as_asked_for(share: float) -> None:
    torch.manual_seed(0)
    out = Dropout(share)(torch.ones(COUNT))
    dropped = float((out == 0).double().mean())
    assert abs(dropped - share) < 2**-15 + 5 * (share * (1 - share) / COUNT) ** 0.5
    assert out.unique().tolist() == pytest.approx([0, 1 / kept(share)])
    assert abs(kept(share) - (1 - share)) <= 2**-16


def test_no_value_says_anything_about_another() -> None:
    torch.manual_seed(1)
    count = 1 << 18  # a block: its halves are made of the same words
    dropped = (Dropout(0.1)(torch.ones(count)) == 0).double()
    dropped -= dropped.mean()
    for apart in (1, 2, 3, 64, 384, count // 2):
        correlation = float((dropped * dropped.roll(apart)).mean() / dropped.square().mean())
        assert abs(correlation) < 5 / (count / 2) ** 0.5, apart


def test_values_stay_in_their_places_and_gradients_take_the_same_mask() -> None:
    x = torch.randn(7, 300, 300, requires_grad=True)
    out = Dropout(0.3)(x)
    mask = out != 0
    torch.testing.assert_close(out, torch.where(mask, x / kept(0.3), 0.0))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, mask / kept(0.3))
    turned = x.transpose(0, 2)
    assert Dropout(0.3)(turned).shape == turned.shape


def test_gradients_of_gradients() -> None:
    x = torch.randn(20, requires_grad=True)
    torch.manual_seed(0)
    out = Dropout(0.5)(x)
    (first,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * out.detach() * (out != 0) / kept(0.5) ** 2)


def test_torch_s_random_state_says_what_is_dropped() -> None:
    layer, x = Dropout(0.2), torch.ones(5000)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    state = torch.get_rng_state()
    assert torch.equal(layer(x), second)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), second)
    assert not torch.equal(first, second)


def test_a_pass_that_is_computed_again_drops_the_same() -> None:
    layer, found = Dropout(0.4), []
    for again in (False, True):
        x = torch.linspace(1, 2, 500, requires_grad=True)
        torch.manual_seed(2)
        out = checkpoint(lambda t: layer(t).square(), x, use_reentrant=False) if again else layer(x).square()
        found.append(torch.autograd.grad(out.sum(), x)[0])
    assert torch.equal(*found)


def test_nothing_is_dropped_where_nothing_is_asked_for() -> None:
    x = torch.ones(1000)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.9).eval()(x), x)
    assert Dropout(0.5)(torch.zeros(0, 4)).shape == (0, 4)
    assert not Dropout(1.0)(torch.ones(COUNT)).any()


def test_other_types_go_torch_s_way() -> None:
    x = torch.ones(4000, dtype=torch.bfloat16)
    torch.manual_seed(0)
    expected = nn.Dropout(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.5)(x), expected)


def test_thresholds() -> None:
    assert [threshold(share) for share in (0.0, 1e-9, 0.5, 0.9999999)] == [0, 0, 1 << 14, (1 << 15) - 1]


@pytest.mark.parametrize("counts", [[1], [2, 3], [0, 7], [5, 4]])
def test_bits_come_in_the_sizes_asked_for(counts: list[int]) -> None:
    found = list(bits(3, 0.5, counts))
    assert [len(part) for part in found] == counts
    assert all(int(part.min()) >= 0 for part in bits(3, 0.0, counts) if len(part))
    assert len(set(seeds(50))) == 50


def test_every_dropout_of_a_model_is_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.7), nn.AlphaDropout(0.2))).eval()
    names = [name for name, _ in model.named_parameters()]
    quicken(model)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(Dropout), kinds.count(nn.Dropout), kinds.count(nn.AlphaDropout)) == (2, 0, 1)
    assert [module.p for module in model.modules() if isinstance(module, Dropout)] == [0.3, 0.7]
    assert not any(module.training for module in model.modules())
    assert [name for name, _ in model.named_parameters()] == names
    np.testing.assert_array_equal(model(torch.ones(2, 3)).detach(), model[0](torch.ones(2, 3)).detach())

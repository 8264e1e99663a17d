"""int8 layers: near the layers they take the place of, and each row by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.encoders import _int8
from lodesmith.encoders._int8 import Int8Embedding, Int8Linear, quantise, restore


def layer(inputs: int = 40, outputs: int = 24, *, bias: bool = True) -> Int8Linear:
    torch.manual_seed(0)
    weight, scale = _int8._rounded(torch.randn(outputs, inputs))
    return Int8Linear(weight, scale, torch.randn(outputs) if bias else None)


def exact(made: Int8Linear, rows: torch.Tensor) -> torch.Tensor:
    return linear(rows, made.weight_int8.float() * made.scale[:, None], made.bias)


@pytest.mark.parametrize("bias", [False, True])
def test_the_product_is_that_of_the_rounded_weights_but_for_the_rounding_of_rows(bias: bool) -> None:
    made, rows = layer(bias=bias), torch.randn(5, 7, 40)
    found, wanted = made(rows), exact(made, rows)
    assert found.shape == (5, 7, 24)
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_codes_that_are_whole_numbers_lose_nothing() -> None:
    made = layer()
    rows = torch.randint(-126, 127, (9, 40)).float()
    rows[:, 0], rows[:, 1] = 127.0, -127.0
    torch.testing.assert_close(made(rows), exact(made, rows), rtol=1e-5, atol=1e-4)


def test_a_row_does_not_depend_on_the_others() -> None:
    made, rows = layer(), torch.randn(600, 40) * torch.logspace(-3, 3, 600)[:, None]
    alone = torch.cat([made(rows[at : at + 1]) for at in (0, 511, 512, 599)])
    assert torch.equal(made(rows)[[0, 511, 512, 599]], alone)


def test_rows_that_lie_far_to_one_side_are_rounded_around_their_middle() -> None:
    rows, made = torch.rand(64, 40) + 100.0, layer()
    assert (made(rows) - exact(made, rows)).abs().max() < 0.2  # around 0 the steps would be 0.8 wide


def test_without_int8_instructions_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = layer(), torch.randn(11, 40)
    found = made(rows)
    other = not _int8.has_int8_products()
    monkeypatch.setattr(_int8, "has_int8_products", lambda: other)
    torch.testing.assert_close(made(rows), found, rtol=1e-6, atol=1e-6)


def test_no_rows_and_rows_of_zeros() -> None:
    made = layer()
    assert made(torch.empty(0, 40)).shape == (0, 24)
    torch.testing.assert_close(made(torch.zeros(2, 40)), made.bias.expand(2, 24))


def test_what_is_not_a_number_stays_so() -> None:
    rows = torch.zeros(2, 40)
    rows[0, 3] = float("nan")
    found = layer()(rows)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_word_embeddings_have_a_scale_each() -> None:
    table = torch.randn(30, 16) * torch.logspace(-4, 4, 30)[:, None]
    found = Int8Embedding(*_int8._rounded(table))(torch.arange(30)[None])[0]
    assert ((found - table).abs().amax(1) <= table.abs().amax(1) / 253).all()


class Toy(nn.Module):
    """A table, a layer that reads it, and one after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(12, 16), nn.Linear(16, 32), nn.Linear(32, 8, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(self.words(ids))))


def test_a_module_is_quantised_and_restored_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids, toy = torch.arange(12)[None], Toy()
    with torch.no_grad():
        wanted = toy(ids)
        quantise(toy)
    found = toy(ids)
    assert 0 < (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    again = Toy()
    restore(again, toy.state_dict(), tmp_path / "file")
    assert torch.equal(again(ids), found)


def test_the_weights_of_another_module_are_refused(tmp_path: Path) -> None:
    toy, other = Toy(), Toy()
    quantise(toy)
    state = toy.state_dict()
    del other.second
    with pytest.raises(IntegrityError, match="not the weights of this model"):
        restore(other, state, tmp_path / "file")
    with pytest.raises(IntegrityError, match="not the weights of this model"):
        restore(Toy(), {name: value for name, value in state.items() if name != "first.scale"}, tmp_path / "file")


def test_a_module_without_linear_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no linear layers"):
        quantise(nn.Sequential(nn.ReLU()))

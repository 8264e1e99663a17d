"""Token attention of a student and its teacher: against the whole distributions, and grids that are pooled."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import InputError
from lodesmith.losses.attention import attention, common_grid, pooled, regrid

SOFT = 0.1


def top(teacher: torch.Tensor, lengths: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's largest shares and where they are."""
    places = torch.arange(teacher.shape[1])
    shares = (teacher / SOFT).masked_fill(places >= lengths[:, None], -torch.inf).softmax(1)
    mass, columns = shares.topk(min(k, teacher.shape[1]), dim=1)
    return columns.masked_fill(mass == 0, -1), mass


def whole(student: torch.Tensor, teacher: torch.Tensor, lengths: torch.Tensor, scale: float) -> torch.Tensor:
    """The definition, row by row over all tokens."""
    found = []
    for row, length in enumerate(lengths.tolist()):
        p, q = ((side[row, :length] / SOFT).log_softmax(0) for side in (teacher, student))
        found.append((p.exp() * (p - q)).sum())
    return torch.stack(found).mean() * scale**2


@pytest.fixture
def sides() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(3)
    student, teacher = (torch.rand(6, 9, generator=made, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return student, teacher, torch.tensor([9, 9, 4, 4, 1, 7])


def test_with_every_token_it_is_the_divergence(sides: tuple[torch.Tensor, ...]) -> None:
    student, teacher, lengths = sides
    student.requires_grad_()
    loss = attention(student, lengths, *top(teacher, lengths, 9), SOFT, 2.0)
    expected = whole(student, teacher, lengths, 2.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(side, student)[0] for side in (loss, expected)))


def test_the_rest_is_one_share_and_never_more_than_the_whole(sides: tuple[torch.Tensor, ...]) -> None:
    student, teacher, lengths = sides
    losses = [float(attention(student, lengths, *top(teacher, lengths, k), SOFT)) for k in range(1, 10)]
    assert losses == sorted(losses)
    assert losses[0] > 0
    assert losses[-1] == pytest.approx(float(whole(student, teacher, lengths, 2.0)), rel=1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), extra=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_padding_and_order_do_nothing(seed: int, k: int, extra: int) -> None:
    made = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(5, 8, generator=made, dtype=torch.float64) for _ in range(2))
    lengths = torch.randint(1, 9, (5,), generator=made)
    columns, mass = top(teacher, lengths, k)
    loss = attention(student, lengths, columns, mass, SOFT)
    padded = torch.nn.functional.pad(student, (0, extra), value=9.0)
    torch.testing.assert_close(attention(padded, lengths, columns, mass, SOFT), loss)
    order = torch.randperm(5, generator=made)
    torch.testing.assert_close(attention(student[order], lengths[order], columns[order], mass[order], SOFT), loss)
    assert float(loss) >= -1e-12
    same = attention(teacher, lengths, columns, mass, SOFT)
    assert abs(float(same)) < 1e-9


def test_half_of_it_is_lost_on_raw_cosines() -> None:
    """At T = 2 without the scale the term vanishes; with it, it does not."""
    made = torch.Generator().manual_seed(0)
    sides = [torch.rand(64, 100, generator=made) * 1.2 - 0.2 for _ in range(2)]
    lengths = torch.full((64,), 100)

    def at(softness: float) -> float:
        shares = (sides[1] / softness).softmax(1)
        mass, columns = shares.topk(100, dim=1)
        return float(attention(sides[0], lengths, columns, mass, softness, 2.0))

    assert at(2.0) < 0.2
    assert at(0.1) > 2


def test_gradients_are_finite_where_a_document_is_one_token() -> None:
    student = torch.randn(3, 1, requires_grad=True)
    loss = attention(student, torch.ones(3, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1))
    loss.backward()
    assert loss.detach().item() == 0
    assert student.grad is not None
    assert bool((student.grad == 0).all())
    assert float(attention(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 2).long(), torch.zeros(0, 2))) == 0


def test_errors() -> None:
    rows = torch.zeros(2, 3)
    with pytest.raises(InputError, match="temperature"):
        attention(rows, torch.tensor([3, 3]), torch.zeros(2, 1).long(), torch.ones(2, 1), 0)
    with pytest.raises(InputError, match="do not fit"):
        attention(rows, torch.tensor([3, 3]), torch.zeros(3, 1).long(), torch.ones(3, 1))
    with pytest.raises(InputError, match="does not have"):
        attention(rows, torch.tensor([3, 2]), torch.full((2, 1), 2), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("teacher", "student", "found"),
    [((32, 32), (8, 8), (8, 8)), ((24, 16), (16, 16), (8, 16)), ((7,), (7,), (7,)), ((1, 6), (3, 6), (1, 6))],
)
def test_the_finest_common_grid(teacher: tuple[int, ...], student: tuple[int, ...], found: tuple[int, ...]) -> None:
    assert common_grid(teacher, student) == found


@pytest.mark.parametrize(("teacher", "student"), [((7, 8), (8, 8)), ((4,), (2, 2)), ((), ()), ((0, 2), (2, 2))])
def test_grids_without_a_common_one(teacher: tuple[int, ...], student: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cannot be pooled to a common one"):
        common_grid(teacher, student)


def test_shares_of_a_coarser_grid() -> None:
    mass = torch.arange(24.0).reshape(1, 24)
    found = regrid(mass, (4, 6), (2, 3))
    blocks = mass.reshape(4, 6)
    expected = [float(blocks[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum()) for i in range(2) for j in range(3)]
    assert found.tolist() == [expected]
    assert math.isclose(float(found.sum()), float(mass.sum()))
    torch.testing.assert_close(regrid(mass, (4, 6), (4, 6)), mass)
    with pytest.raises(InputError, match="cannot be pooled"):
        regrid(mass, (4, 6), (3, 3))
    with pytest.raises(InputError, match="24 shares"):
        regrid(mass, (4, 4), (2, 2))


def test_similarities_to_cells_have_the_softmax_of_their_tokens_summed() -> None:
    made = torch.Generator().manual_seed(0)
    near = torch.rand(5, 9, generator=made, dtype=torch.float64) * 2 - 1
    cells = torch.tensor([2, -1, 0, 0, 1, 2, -1, 2, 0])
    for temperature in (0.1, 0.002):  # of the second, exp of what is far from the largest is 0
        found = pooled(near, cells, 3, temperature)
        shares = (near[:, cells >= 0] / temperature).softmax(1)
        expected = torch.stack([shares[:, cells[cells >= 0] == cell].sum(1) for cell in range(3)], 1)
        torch.testing.assert_close((found / temperature).softmax(1), expected)
        assert bool(torch.isfinite(found).all())
    wanted = near.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda own: pooled(own, cells, 3, 0.1), (wanted,))
    alone = torch.arange(9).roll(3)
    torch.testing.assert_close(pooled(near, alone, 9), near[:, alone.argsort()])


@pytest.mark.parametrize(("cells", "count"), [([0, 0, 2], 3), ([0, 1, 2], 2), ([-1, -1, -1], 1), ([0, 1], 2)])
def test_tokens_that_do_not_fill_the_cells(cells: list[int], count: int) -> None:
    with pytest.raises(InputError, match=f"do not fill {count} cells"):
        pooled(torch.zeros(2, 3), torch.tensor(cells), count)


def test_a_column_that_is_none_takes_nothing_from_the_first_token() -> None:
    near = torch.tensor([[0.1, 0.0, -0.1]])
    lengths, half = torch.tensor([3]), torch.tensor([[0.5, 0.0]])
    found = attention(near, lengths, torch.tensor([[0, -1]]), half, SOFT, 1.0)
    torch.testing.assert_close(found, attention(near, lengths, torch.tensor([[0]]), half[:, :1], SOFT, 1.0))

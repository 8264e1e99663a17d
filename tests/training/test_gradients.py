"""Clipping and the Adam that moves only rows with a gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from lodesmith.core.events import Step
from lodesmith.encoders import Bag, Vocabulary
from lodesmith.training import Stage, fit
from lodesmith.training.engine import TorchEngine
from lodesmith.training.gradients import LazyAdam, clip
from lodesmith.training.optim import OptimSettings, build, freeze

ROWS, WIDTH = 7, 3


def gradient(*rows: int, seed: int = 0) -> torch.Tensor:
    """Dense [ROWS, WIDTH], zero but for some rows."""
    made = torch.zeros(ROWS, WIDTH)
    made[list(rows)] = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(seed))
    return made


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(9)))


def moved(steps: list[torch.Tensor], **settings: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """A table after steps of the lazy optimiser, and its state."""
    parameter = table()
    optimizer = LazyAdam([parameter], [parameter], lr=0.1, **settings)
    for own in steps:
        parameter.grad = own.clone()
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


@pytest.mark.parametrize("decoupled", [False, True])
def test_where_every_row_has_a_gradient_it_is_adam(decoupled: bool) -> None:
    steps = [gradient(*range(ROWS), seed=seed) for seed in range(4)]
    settings: dict[str, Any] = {"weight_decay": 0.3, "decoupled_weight_decay": decoupled}
    found, state = moved(steps, **settings)
    parameter = table()
    peer = torch.optim.Adam([parameter], lr=0.1, fused=True, **settings)
    for own in steps:
        parameter.grad = own.clone()
        peer.step()
    assert torch.equal(found, parameter.detach())
    assert state.keys() == peer.state[parameter].keys()
    assert all(torch.equal(state[name], value) for name, value in peer.state[parameter].items())


def test_without_decay_it_is_torchs_sparse_adam() -> None:
    steps = [gradient(1, 4), gradient(0, 4, seed=1), gradient(6, seed=2), gradient(1, seed=3)]
    found, _ = moved(steps)
    parameter = table()
    peer = torch.optim.SparseAdam([parameter], lr=0.1)
    for own in steps:
        parameter.grad = own.to_sparse(1)
        peer.step()
    torch.testing.assert_close(found, parameter.detach())


def test_a_row_without_a_gradient_keeps_value_and_moments() -> None:
    first, state = moved([gradient(1, 4)], weight_decay=0.5)
    before = {name: value.clone() for name, value in state.items()}
    second, after = moved([gradient(1, 4), gradient(4, seed=1)], weight_decay=0.5)
    still = [row for row in range(ROWS) if row != 4]
    assert torch.equal(second[still], first[still])
    assert torch.equal(after["exp_avg"][still], before["exp_avg"][still])
    assert torch.equal(after["exp_avg_sq"][still], before["exp_avg_sq"][still])
    assert not torch.equal(second[4], first[4])
    assert float(after["step"]) == 2


def test_dense_and_sparse_gradients_move_it_alike() -> None:
    steps = [gradient(1, 4), gradient(0, 4, seed=1), gradient()]
    dense, _ = moved(steps)
    sparse, _ = moved([own.to_sparse(1) for own in steps])
    assert torch.equal(dense, sparse)


def test_rows_named_twice_in_a_sparse_gradient_move_once() -> None:
    own, shares = gradient(1, 4), torch.tensor([[0.5], [1.0], [0.5]])
    places = torch.tensor([[4, 1, 4]])
    twice = torch.sparse_coo_tensor(places, own[places[0]] * shares, own.shape, check_invariants=True)
    torch.testing.assert_close(moved([twice])[0], moved([own])[0])


def test_a_gradient_that_is_not_a_number_is_not_passed_over() -> None:
    broken = gradient(2)
    broken[2] = float("nan")
    assert moved([broken])[0][2].isnan().all()


@pytest.mark.parametrize("sparse", [False, True])
def test_clipping_scales_over_all_groups_and_tells_their_norms(sparse: bool) -> None:
    parameters = [nn.Parameter(torch.zeros(ROWS, WIDTH)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))]
    own = gradient(1, 5)
    parameters[0].grad = own.to_sparse(1) if sparse else own.clone()
    parameters[1].grad = torch.full((4,), 3.0)
    norms = clip([parameters[:1], parameters[1:]], 0.5)
    assert norms.tolist() == pytest.approx([float(own.norm()), 6.0])
    clipped = torch.cat([parameters[0].grad.to_dense().flatten(), parameters[1].grad])
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-5)
    torch.testing.assert_close(parameters[0].grad.to_dense(), own * float(0.5 / norms.norm()))
    kept = parameters[1].grad.clone()
    assert clip([parameters], None).tolist() == pytest.approx([0.5], rel=1e-5)
    assert torch.equal(parameters[1].grad, kept)


def test_rows_named_twice_in_a_sparse_gradient_count_once_in_its_norm() -> None:
    parameter = nn.Parameter(torch.zeros(ROWS, 1))
    parameter.grad = torch.sparse_coo_tensor(
        torch.tensor([[3, 3]]), torch.tensor([[3.0], [4.0]]), (ROWS, 1), check_invariants=True
    )
    assert clip([[parameter]], None).tolist() == [7.0]


def test_only_tables_are_lazy() -> None:
    settings = OptimSettings(lazy=True, lr=0.1, weight_decay=0.0)
    module = nn.ModuleDict({"words": nn.Embedding(5, 2), "head": nn.Linear(2, 2)})
    optimizer = build(settings, freeze(settings, module), [module["words"].weight])
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
            parameter.grad[0] = 1.0
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        optimizer.step()
        for parameter in module.parameters():
            parameter.grad = None
    assert torch.equal(module["words"].weight[1:], before["words.weight"][1:])
    assert not torch.equal(module["words"].weight[0], before["words.weight"][0])


class Texts(nn.Module):
    """A bag whose vectors are drawn to ones."""

    weights: ClassVar = {"square": 1.0}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = Bag(Vocabulary.build([" ".join(f"w{at}" for at in range(50))], min_count=1), 4, weights="learned")

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"square": (self.bag(batch) - 1).square().mean()}


class Few:
    """Batches of three texts, other words in each."""

    position: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return 4

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def __iter__(self) -> Any:
        for at in range(4):
            ids = torch.arange(2 + 3 * at, 2 + 3 * at + 6)
            yield {"ids": ids, "offsets": torch.tensor([0, 2, 2, 6])}


def trained(lazy: bool) -> Texts:
    objective = Texts()
    optim = OptimSettings(lr=0.05, lazy=lazy, clip=0.01, schedule="constant", warmup=0.0)
    stage = Stage(name="only", objective=objective, batches=Few(), optim=optim, epochs=2)
    losses = [event.total for event in fit([stage], engine=TorchEngine(seed=0), log_every=1) if isinstance(event, Step)]
    assert len(losses) == 8
    return objective


def test_the_engine_moves_only_the_words_of_its_batches() -> None:
    first = Texts().bag.embedding.weight.detach()
    lazy, dense = trained(True).bag, trained(False).bag
    never = slice(2 + 3 * 3 + 6, None)
    assert torch.equal(lazy.embedding.weight[never], first[never])
    assert not torch.equal(dense.embedding.weight[2:], lazy.embedding.weight[2:])
    assert not torch.equal(lazy.embedding.weight[2:5], first[2:5])
    assert not lazy.embedding.sparse  # as it was before

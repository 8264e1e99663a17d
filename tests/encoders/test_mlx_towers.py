"""Towers and projections on MLX: vectors and gradients are those of torch."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from tower_worlds import VOCABULARY, packed

pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

from lodesmith.core.errors import ConfigError
from lodesmith.encoders import Bag, ProjectionLayer, Recurrent
from lodesmith.encoders import _mlx_through as bridge
from lodesmith.encoders._mlx_through import seed, through
from lodesmith.encoders._mlx_towers import on_mlx

TEXTS = [[5, 3, 4, 4], [], [1, 1], [0, 2, 3, 0], [1, 6, 7], [2], [3, 4, 5, 6, 7, 2, 3]]
"""Empty, unknown alone, among padding, unknown beside known ones, with words twice, and of many lengths."""
BATCHES = [TEXTS, [[3], [4]], [[], [1, 1]], [[2, 3, 2]]]

CELLS = [
    {"cell": cell, "bidirectional": both, "pooling": pooling, "dimension": 5 if both else None, "layers": 1 + both}
    for cell, both, pooling in product(("rnn", "gru", "lstm"), (False, True), ("last", "mean", "max"))
]
BAGS = [{"weights": weights, "projection": size} for weights in ("uniform", "idf", "learned") for size in (None, 5)]
PROJECTIONS = [
    {"kind": kind, "bias": bias, "norm": norm}
    for kind, norm in (("mlp", False), ("mlp", True), ("linear", False), ("residual_linear", False), ("none", False))
    for bias in (True, False)
]


def pair(module: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The module with random weights, in torch and on MLX."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module, on_mlx(copy.deepcopy(module))


def passed(module: torch.nn.Module, given: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Vectors, and gradients by name, of a loss that weighs every number differently."""
    module.zero_grad()
    made = module(given)
    (made * torch.randn(made.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    found = {name: own.grad for name, own in module.named_parameters()}
    return made.detach(), {
        name: own.to_dense() if own is not None and own.is_sparse else own for name, own in found.items()
    }


def check(module: torch.nn.Module, given: Any) -> None:
    theirs, ours = pair(module)
    (expected, wanted), (vectors, gradients) = passed(theirs, given), passed(ours, given)
    torch.testing.assert_close(vectors, expected, atol=1e-4, rtol=0)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        own = wanted[name]
        assert own is not None
        torch.testing.assert_close(gradient, own, atol=1e-3 * float(own.abs().max()), rtol=0)


# --------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("settings", BAGS, ids=str)
def test_a_bag_is_that_of_torch(settings: dict[str, Any]) -> None:
    for texts in BATCHES:
        check(Bag(VOCABULARY, 6, **settings), packed(texts))


@pytest.mark.parametrize("settings", CELLS, ids=str)
def test_a_recurrent_tower_is_that_of_torch(settings: dict[str, Any]) -> None:
    for texts in BATCHES:
        check(Recurrent(VOCABULARY, words=6, hidden=4, **settings), packed(texts))


@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_a_projection_is_that_of_torch(settings: dict[str, Any]) -> None:
    vectors = torch.randn(9, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    layer = ProjectionLayer(8, 8, dropout=0.0, **settings)
    for weight in layer.parameters():
        assert weight.requires_grad
    check(layer, vectors)


def test_a_predictor_is_that_of_torch() -> None:
    check(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4)), torch.randn(5, 4))


@pytest.mark.parametrize("kind", [Bag, Recurrent])
def test_rows_that_train_by_themselves_have_sparse_gradients(kind: type[Bag] | type[Recurrent]) -> None:
    theirs, ours = pair(kind(VOCABULARY))
    for tower in (theirs, ours):
        tower.embedding.sparse = True  # type: ignore[union-attr, assignment]
        tower(packed(TEXTS)).square().sum().backward()
    wanted, found = (tower.embedding.weight.grad.coalesce() for tower in (theirs, ours))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found.to_dense(), wanted.to_dense(), atol=1e-5, rtol=1e-3)
    assert found.indices().tolist() == [sorted(set(found.indices()[0].tolist()))]


def test_among_equals_the_maximum_shares_its_gradient() -> None:
    tower = Recurrent(VOCABULARY, cell="rnn", words=3, hidden=2, bidirectional=False, pooling="max")
    with torch.no_grad():
        tower.cell.weight_hh_l0.zero_()  # equal words have equal states
    ours = on_mlx(copy.deepcopy(tower))
    for own in (tower, ours):
        own(packed([[3, 3, 3], [4]])).square().sum().backward()
    for own, wanted in zip(ours.parameters(), tower.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad)


# -------------------------------------------------------------------------------------------------- padding and dropout


@pytest.mark.parametrize("kind", [Bag, Recurrent])
def test_neither_padding_nor_company_changes_a_vector(kind: type[Bag] | type[Recurrent]) -> None:
    tower = on_mlx(kind(VOCABULARY, 4))
    whole = tower(packed(TEXTS))
    assert whole.requires_grad
    for text, vector in zip(TEXTS, whole, strict=True):
        alone = tower(packed([[0, *text, 0, 0]]))[0]
        torch.testing.assert_close(alone, vector, atol=1e-6, rtol=1e-5)
    assert not whole[[1, 2]].any()


def test_without_training_and_gradients_it_is_torch() -> None:
    for tower in (Bag(VOCABULARY, 4, projection=3), Recurrent(VOCABULARY, 3, words=4, hidden=4), ProjectionLayer(4, 4)):
        given: Any = torch.randn(3, 4) if isinstance(tower, ProjectionLayer) else packed(TEXTS)
        names = [name for name, _ in tower.named_parameters()]
        with pytest.MonkeyPatch.context() as patched, torch.no_grad():
            expected = tower.eval()(given)
            patched.setattr("lodesmith.encoders._mlx_towers.through", None)
            ours = on_mlx(tower)
            assert ours is tower
            assert torch.equal(ours(given), expected)
        assert [name for name, _ in ours.named_parameters()] == names


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_is_drawn_from_the_random_numbers_of_torch(layers: int) -> None:
    made: list[torch.nn.Module] = [
        Bag(VOCABULARY, 4, dropout=0.5),
        Recurrent(VOCABULARY, words=4, hidden=4, dropout=0.5, layers=layers),
        ProjectionLayer(4, 4, dropout=0.5),
    ]
    for module in map(on_mlx, made):
        given: Any = torch.randn(3, 4) if isinstance(module, ProjectionLayer) else packed(TEXTS)
        found = []
        for number in (0, 0, 1):
            torch.manual_seed(number)
            found.append(passed(module.train(), given))
        assert torch.equal(found[0][0], found[1][0])
        assert not torch.equal(found[0][0], found[2][0])
        for name, gradient in found[0][1].items():
            assert gradient is not None
            assert torch.equal(gradient, found[1][1][name])  # type: ignore[arg-type]
        torch.manual_seed(0)
        with torch.no_grad():  # the pass that keeps nothing drops out the same
            assert torch.equal(module(given), found[0][0])


def test_dropout_leaves_the_mean_as_it_is() -> None:
    layer = ProjectionLayer(1, 1, hidden=2000, dropout=0.25)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.01)
    expected = layer.eval()(torch.ones(1, 1)).item()
    found = [on_mlx(layer).train()(torch.ones(1, 1)).item() for _ in range(20)]
    assert len(set(found)) > 10
    assert sum(found) / 20 == pytest.approx(expected, rel=0.02)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_it_cannot_compute_is_refused() -> None:
    for module in (torch.nn.Bilinear(2, 2, 2), torch.nn.Sequential(torch.nn.ReLU())):
        with pytest.raises(ConfigError, match="cannot train on MLX"):
            on_mlx(module)
    with pytest.raises(ConfigError, match="not of meta"):
        on_mlx(ProjectionLayer(2, 2).to("meta"))(torch.zeros(1, 2, device="meta"))


def test_the_bridge_gives_gradients_to_what_wants_them() -> None:
    a, b, c = (torch.tensor([2.0, 3.0]).requires_grad_(wants) for wants in (True, False, True))
    product, total = through(lambda x, y, z: (x * y * z, x + z), a, b, c)
    (product.sum() + 10 * total.sum()).backward()
    assert a.grad is not None
    assert c.grad is not None
    assert a.grad.tolist() == c.grad.tolist() == [14.0, 19.0]
    assert b.grad is None
    torch.manual_seed(3)
    first = seed()
    torch.manual_seed(3)
    assert seed() == first != seed()
    assert torch.equal(bridge.tensor(bridge.array(b)), b)

"""From gradients to new weights where gradients may be sparse: clipping, and an Adam that moves only the rows of
embedding tables that a step has met.

Over a vocabulary most rows have no gradient in a step. Adam moves them all the same, by their old momentum, and reads
and writes the whole table three times for it. Here such a row keeps its value and its moments until it is met again,
as in `torch.optim.SparseAdam`, so that a step costs what its batch holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

__all__ = ["LazyAdam", "clip", "tables"]


def tables(module: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    """The embedding tables of a module."""
    return [own for own in module.modules() if isinstance(own, nn.Embedding | nn.EmbeddingBag)]


def clip(groups: Sequence[Sequence[nn.Parameter]], largest: float | None) -> Tensor:
    """Scale the gradients of all groups, in place, so that their length over all together is at most `largest`.

    Args:
        groups: of parameters; those without a gradient are passed over.
        largest: length; None to leave them as they are.

    Returns:
        float32 [groups], the length of each group's gradients before.
    """
    gradients = [dense_parts(group) for group in groups]
    device = next((part.device for own in gradients for part in own), torch.device("cpu"))
    norms = torch.stack(
        [nn.utils.get_total_norm(own).float().to(device) for own in gradients]
    )  # none at all: on the CPU
    whole = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(norms)
    # Where nothing is clipped every gradient would be read and written times 1; asking costs a CPU nothing.
    if largest is not None and (whole.device.type != "cpu" or not whole <= largest):
        torch._foreach_mul_([part for own in gradients for part in own], (largest / (whole + 1e-6)).clamp(max=1.0))
    return norms


class LazyAdam(torch.optim.Adam):
    """torch's fused Adam, but for some parameters: a row of these whose gradient has the length 0 keeps its value and
    both moments, and is not decayed. Bias correction counts every step. The state is that of `torch.optim.Adam`.

    Args:
        groups: as torch's optimisers take them.
        rows: the parameters of which only rows with a gradient move; their gradients may be sparse.
        settings: of `torch.optim.Adam`.
    """

    def __init__(self, groups: Any, rows: Iterable[Tensor], **settings: Any) -> None:
        super().__init__(groups, fused=True, **settings)
        self._step_supports_amp_scaling = False  # a step with infinite gradients is left out, not undone
        self._by_rows = {id(parameter) for parameter in rows}

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step."""
        taken: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) in self._by_rows:
                    taken.append((parameter, parameter.grad))
                    self._move(parameter, group)
                    parameter.grad = None
        found = super().step(closure)  # type: ignore[arg-type]
        for parameter, gradient in taken:
            parameter.grad = gradient
        return found

    @torch.no_grad()
    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        rows, gradient = touched(parameter.grad)
        whole = (parameter.data, state["exp_avg"], state["exp_avg_sq"])
        values, first, second = (tensor.index_select(0, rows) for tensor in whole)
        beta1, beta2 = group["betas"]
        adam(
            [values],
            [gradient],
            [first],
            [second],
            [],
            [state["step"]],
            fused=True,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=False,
            maximize=False,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        for tensor, moved in zip(whole, (values, first, second), strict=True):
            tensor.index_copy_(0, rows, moved)


def touched(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a gradient [v, …], dense or sparse, whose length is not 0: int64 [u], and their values [u, …]."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
    else:
        rows, values = torch.arange(len(gradient), device=gradient.device), gradient
    live = torch.linalg.vector_norm(values.flatten(1), dim=1) != 0  # NaN lives
    return (rows, values) if bool(live.all()) else (rows[live], values[live])


def dense_parts(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients that there are, as dense tensors that can be changed in place: of a sparse one its values, each
    row once."""
    found: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = coalesced(parameter.grad)
            found.append(parameter.grad.values())
        elif parameter.grad is not None:
            found.append(parameter.grad)
    return found


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient with each row once. torch forgets on the way that one is so already, and sorts it again."""
    rows = gradient._indices()
    if rows.shape[0] == 1 and bool((rows[0, 1:] > rows[0, :-1]).all()):
        gradient._coalesced_(True)
    return gradient.coalesce()

"""The torch engine, on Hugging Face Accelerate: precision, accumulation, clipping, several processes under torchrun.

The loop asks an engine for steps and states and touches no tensor itself, so that another array library can take its
place. Figures stay on the device until `read`: one transfer for many steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from torch import nn

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.memory import keep_freed
from lodesmith.training import optim
from lodesmith.training._tensors import move, named_tensors, size
from lodesmith.training.checkpoint import Snapshot
from lodesmith.training.gradients import clip, tables
from lodesmith.training.optim import OptimSettings
from lodesmith.training.randomness import random_state, seed_everything, set_random_state

__all__ = ["Row", "TorchEngine", "move", "seed_everything", "size"]

Precision = Literal["float32", "bfloat16", "float16"]
_ACCELERATE = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Row:
    """The figures of one step, still on the device.

    Args:
        terms: names of the loss terms.
        groups: names of the parameter groups.
        values: float32 [terms + 1 + groups]: the terms, their total, the gradient norms.
        examples: over all batches and ranks.
        chance: value of each term when the model guesses, where it is known.
    """

    terms: tuple[str, ...]
    groups: tuple[str, ...]
    values: torch.Tensor
    examples: int
    chance: Mapping[str, float]


class TorchEngine:
    """Runs the steps of a training. Use it as a context: `with TorchEngine(seed=1) as engine`; `fit` does.

    Args:
        seed: of dropout and whatever else draws numbers; each rank adds its number.
        precision: of the forward pass (autocast); weights and optimiser stay as they are.
        accumulate: so many batches make a step; their mean counts.
        device: `"cpu"` keeps off accelerators; None takes what is there.
        deterministic: ask torch for deterministic kernels, with a warning where there is none.
        unused: under several processes, allow parameters without a gradient in some steps.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        precision: Precision = "float32",
        accumulate: int = 1,
        device: Literal["cpu"] | None = None,
        deterministic: bool = False,
        unused: bool = False,
    ) -> None:
        if accumulate < 1:
            raise ConfigError(f"accumulate must be at least 1, not {accumulate}")
        if precision not in _ACCELERATE:
            raise ConfigError(f"precision is {precision!r}", f"choose one of: {', '.join(_ACCELERATE)}")
        self.seed, self.precision, self.accumulate = seed, precision, accumulate
        self.device, self.deterministic, self.unused = device, deterministic, unused
        keep_freed()

    @property
    def settings(self) -> dict[str, Any]:
        """What changes the result, for the checkpoint's identity."""
        names = ("seed", "precision", "accumulate", "deterministic")
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        # One process may train several times with other settings; Accelerate keeps the first ones otherwise.
        AcceleratorState._reset_state()
        self._accelerator = Accelerator(
            mixed_precision=_ACCELERATE[self.precision],
            cpu=self.device == "cpu" or not torch.accelerator.is_available(),  # else it sees no other process
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=self.unused)],
        )
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        seed_everything(self.seed + self.rank)
        self._objective: nn.Module | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        torch.use_deterministic_algorithms(self._before[0], warn_only=self._before[1])

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        """How many processes train together."""
        return int(self._accelerator.num_processes)

    @property
    def threads(self) -> int:
        """Threads of one operator: sums depend on it."""
        return torch.get_num_threads()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.world == 1:
            return flag
        mine = torch.tensor(float(flag), device=self._accelerator.device)
        return bool(self._accelerator.reduce(mine, "sum").item() > 0)

    def agreed(self, values: Mapping[str, float]) -> dict[str, float]:
        """The first rank's values: what each has measured may differ in the last digit, and a decision must not."""
        everyone = [dict(values)]
        if self.world > 1:
            torch.distributed.broadcast_object_list(everyone, 0)
        return everyone[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        self._accelerator.wait_for_everyone()

    # ----------------------------------------------------------------- steps

    def prepare(self, objective: nn.Module, settings: OptimSettings) -> None:
        """Begin a stage: freeze, build the optimiser, place the objective on the device."""
        self.release()
        self._objective = objective
        self._required = [(p, p.requires_grad) for p in objective.parameters()]
        self._settings = settings
        objective.to(self._accelerator.device)
        self._members = optim.freeze(settings, objective)
        # Of all that trains at some time: what has no gradient is passed over, and has no state before it has one.
        self._tables = [(table, table.sparse) for table in tables(objective)] if settings.by_rows else []
        for table, _ in self._tables:
            table.sparse = self.world == 1  # several processes add up dense gradients, and rows of zeros tell the same
        self._optimizer = optim.build(settings, self._members, [table.weight for table, _ in self._tables])
        self._waiting = optim.waiting(settings, 0)
        self._open()
        self._model, self._wrapped = self._accelerator.prepare(objective, self._optimizer)
        self._weights: Mapping[str, float] = cast(Any, objective).weights
        self._known: tuple[str, ...] | None = None
        objective.train()

    def _open(self) -> None:
        """Let train what waits no longer, and nothing else."""
        self._groups = {name: own for name, own in self._members.items() if name not in self._waiting}
        for name, parameters in self._members.items():
            for parameter in parameters:
                parameter.requires_grad_(name not in self._waiting)

    def epoch(self, number: int) -> None:
        """An epoch (from 0) of the stage begins or is gone on with: groups whose frozen epochs are over train."""
        waiting = optim.waiting(self._settings, number) & self._members.keys()
        if waiting == self._waiting & self._members.keys():
            return
        self._waiting = waiting
        self._open()
        # Wrapped anew: under several processes the wrapper knows only what trained when it was made.
        model = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self._model = self._accelerator.prepare_model(model)

    def release(self) -> None:
        """End a stage: take off wrappers, and let what the stage froze train again."""
        objective = getattr(self, "_objective", None)
        if objective is None:
            return
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
            parameter.grad = None
        for table, sparse in self._tables:
            table.sparse = sparse
        if self._accelerator.device.type != "cpu":  # there memory is scarce, and worth a pass of the garbage collector
            self._accelerator.free_memory()
        self._accelerator._models.clear()  # or they, and the optimisers' moments, would live as long as it does
        self._accelerator._optimizers.clear()
        self._objective = self._model = self._wrapped = None
        self._required = []

    def step(self, batches: Sequence[Any], factor: float) -> Row:
        """One optimiser step over the mean of the batches.

        Args:
            batches: as many as are accumulated.
            factor: on every learning rate.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        share = 1.0 / len(batches)
        losses = []
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                names, values = self._forward(batch)
                total = values[-1] if len(batches) == 1 else values[-1] * share
                self._accelerator.backward(total)
            losses.append(torch.stack([v.detach() for v in values]))
        norms = self._clip()
        figures = losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)
        if self._accelerator.scaler is None:
            self._optimizer.step()
        else:
            self._wrapped.step()
        self._optimizer.zero_grad(set_to_none=True)
        return Row(
            names,
            tuple(self._groups),
            torch.cat([figures, norms]),
            sum(map(size, batches)) * self.world,
            self._chance(),
        )

    def _chance(self) -> Mapping[str, float]:
        """The objective's own `chance`, as it stood after the last batch; else nothing is known."""
        return dict(getattr(self._objective, "chance", {}))

    def evidence(self) -> dict[str, float]:
        """What the objective says of the last batch beside the loss (its `evidence`, if it has one): the mean over
        those ranks whose batch says it."""
        said: Mapping[str, torch.Tensor] = getattr(self._objective, "evidence", {})
        mine = {name: float(value) for name, value in said.items()}
        everyone: list[Any] = [mine]
        if self.world > 1:
            everyone = [None] * self.world
            torch.distributed.all_gather_object(everyone, mine)
        names = dict.fromkeys(name for own in everyone for name in own)
        return {name: fmean(own[name] for own in everyone if name in own) for name in names}

    def _forward(self, batch: Any) -> tuple[tuple[str, ...], list[torch.Tensor]]:
        """Names of the terms, and the terms and their weighted sum as float32 scalars."""
        terms = self._model(move(batch, self._accelerator.device))
        names = tuple(terms)
        if names != self._known:
            self._check(terms)
            self._known = names
        values = [terms[name].float() for name in names]
        total = self._weights[names[0]] * values[0]
        for name, value in zip(names[1:], values[1:], strict=True):
            total = total + self._weights[name] * value
        return names, [*values, total]

    def _check(self, terms: Mapping[str, torch.Tensor]) -> None:
        kind = type(self._objective).__name__
        if missing := [name for name in terms if name not in self._weights]:
            raise ConfigError(f"{kind} gives the term {missing[0]!r} no weight", f"it has: {list(self._weights)}")
        if wrong := [name for name, value in terms.items() if value.ndim]:
            raise ConfigError(f"the term {wrong[0]!r} of {kind} has shape {list(terms[wrong[0]].shape)}, not []")
        if not terms:
            raise ConfigError(f"{kind} gave no terms", "an objective returns at least one")

    def _clip(self) -> torch.Tensor:
        """Gradient norm of each group before clipping: float32 [groups]; clips over all of them together."""
        if self._accelerator.scaler is not None:
            self._accelerator.unscale_gradients(self._wrapped)
        return clip(list(self._groups.values()), self._settings.clip).to(self._accelerator.device)

    def read(self, rows: Sequence[Row]) -> list[list[float]]:
        """The figures of the steps as numbers, averaged over ranks: one transfer for all of them."""
        if not rows:
            return []
        flat = torch.cat([row.values for row in rows])
        if self.world > 1:
            flat = self._accelerator.reduce(flat, "mean")
        numbers = flat.tolist()
        ends = np.cumsum([0, *(len(row.values) for row in rows)])
        return [numbers[start:end] for start, end in pairwise(ends)]

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled (float16), so that single infinite gradients are normal and skipped."""
        return self._accelerator.scaler is not None

    def rates(self) -> dict[str, float]:
        """The learning rate at the last step of each group that trains."""
        groups = self._optimizer.param_groups
        return {group["name"]: float(group["lr"]) for group in groups if group["name"] in self._groups}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch dropout and gradients off inside the block."""
        assert self._objective is not None
        self._objective.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._objective.train()

    # ---------------------------------------------------------------- states

    def weights_of(self, objectives: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
        """Every parameter and persistent buffer of the objectives, each once: name → a copy on the CPU."""
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in named_tensors(objectives)}

    def load_weights(self, objectives: Sequence[nn.Module], weights: Mapping[str, torch.Tensor]) -> None:
        """Put saved weights back, in place.

        Raises:
            IntegrityError: names, shapes or types are not those of the model.
        """
        named = dict(named_tensors(objectives))
        if named.keys() != weights.keys():
            odd = sorted(named.keys() ^ weights.keys())[0]
            raise IntegrityError(
                f"the checkpoint and the model differ in {odd!r}", "resume with the model that wrote it"
            )
        for name, tensor in named.items():
            saved = weights[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise IntegrityError(
                    f"{name} is {list(saved.shape)} {saved.dtype} in the checkpoint, "
                    f"{list(tensor.shape)} {tensor.dtype} in the model"
                )
        with torch.no_grad():
            for name, tensor in named.items():
                tensor.copy_(weights[name])

    def state(self) -> Snapshot:
        """Optimiser and random numbers (of all ranks)."""
        optimizer = self._optimizer.state_dict()
        tensors: dict[str, torch.Tensor] = {}
        plain: dict[str, dict[str, Any]] = {}
        for number, values in optimizer["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{number}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
                else:
                    plain.setdefault(str(number), {})[name] = value
        rng, drawn = self._random()
        scaler = self._accelerator.scaler
        state = {
            "groups": optimizer["param_groups"],
            "plain": plain,
            "random": drawn,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        return Snapshot({"optimizer": tensors, "rng": rng}, state)

    def load(self, snapshot: Snapshot) -> None:
        """Put optimiser and random numbers back, after `prepare`."""
        values: dict[int, dict[str, Any]] = {
            int(number): dict(own) for number, own in snapshot.state.get("plain", {}).items()
        }
        for name, tensor in snapshot.tensors.get("optimizer", {}).items():
            number, _, own = name.partition(".")
            values.setdefault(int(number), {})[own] = tensor
        groups = [{k: tuple(v) if k == "betas" else v for k, v in g.items()} for g in snapshot.state["groups"]]
        self._optimizer.load_state_dict({"state": values, "param_groups": groups})
        if self._accelerator.scaler is not None and snapshot.state["scaler"]:
            self._accelerator.scaler.load_state_dict(snapshot.state["scaler"])
        self.load_random(snapshot)

    def _random(self) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        mine = random_state()
        everyone: list[Any] = [mine]
        if self.world > 1:
            everyone = [None] * self.world
            torch.distributed.all_gather_object(everyone, mine)
        tensors = {f"{rank}.{name}": t for rank, (own, _) in enumerate(everyone) for name, t in own.items()}
        return tensors, [plain for _, plain in everyone]

    def load_random(self, snapshot: Snapshot) -> None:
        """Put this rank's random numbers back; with another number of ranks than before, the rest keep their seeds."""
        plain = snapshot.state["random"]
        if self.rank < len(plain):
            own = f"{self.rank}."
            rng = {n.removeprefix(own): t for n, t in snapshot.tensors["rng"].items() if n.startswith(own)}
            set_random_state(rng, plain[self.rank])

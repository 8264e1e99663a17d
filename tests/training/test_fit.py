"""The loop's own rules: what it reports, when it stops, what it leaves behind."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lodesmith.core import events
from lodesmith.core.errors import ConfigError, DivergedError, InputError, NotFiniteError
from lodesmith.core.events import Event
from lodesmith.training import Checkpoints, Group, OptimSettings, Stage, fit
from lodesmith.training.checkpoint import read
from lodesmith.training.engine import TorchEngine, move, seed_everything, size
from lodesmith.training.optim import Plateau

STILL = OptimSettings(use="sgd", lr=0.1, momentum=0, weight_decay=0, schedule="constant", warmup=0, clip=None)


class Numbers:
    """Batches of given examples [n, 1], in order."""

    def __init__(self, values: list[float], batch_size: int = 2) -> None:
        self.parts = torch.tensor(values)[:, None].split(batch_size)
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            part = self.parts[self.position]
            self.position = (self.position + 1) % len(self.parts)
            yield {"x": part}
            if not self.position:
                return

    def __len__(self) -> int:
        return len(self.parts)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


class Toy(nn.Module):
    """Terms `pull` = mean (w·x − 1)² and `rest` = b²: with weights 1 and 2."""

    def __init__(self, w: float = 0.0, b: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.b = nn.Parameter(torch.tensor(b))
        self.weights = {"pull": 1.0, "rest": 2.0}

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"pull": (self.w * batch["x"] - 1).square().mean(), "rest": self.b.square()}


def stage(objective: nn.Module | None = None, values: list[float] | None = None, **settings: Any) -> Stage:
    settings = {"name": "s", "optim": STILL, "epochs": None if "steps" in settings else 1, **settings}
    return Stage(objective=objective or Toy(), batches=Numbers(values or [1.0] * 8), **settings)


def steps(happened: list[Event]) -> list[events.Step]:
    return [event for event in happened if isinstance(event, events.Step)]


def test_a_step_event_is_the_mean_over_its_window() -> None:
    happened = list(fit([stage(values=[1.0] * 6)], log_every=2))
    # Gradients by hand: w ← w − .1·2(w − 1), b ← b − .1·4b
    w, b, pulls, rests = 0.0, 1.0, [], []
    for _ in range(3):
        pulls.append((w - 1) ** 2)
        rests.append(b**2)
        w, b = w - 0.2 * (w - 1), b - 0.4 * b
    first, last = steps(happened)
    assert first.terms == pytest.approx({"pull": sum(pulls[:2]) / 2, "rest": sum(rests[:2]) / 2})
    assert last.terms == pytest.approx({"pull": pulls[2], "rest": rests[2]})
    assert first.total == pytest.approx((sum(pulls[:2]) + 2 * sum(rests[:2])) / 2)
    assert last.grad_norm == pytest.approx({"default": math.hypot(2 * (0.36 - 1), 4 * 0.36)})
    assert (first.step, last.step, last.steps, last.epoch) == (2, 3, 3, 1)
    assert first.lr == {"default": pytest.approx(0.1)}
    assert first.throughput > 0
    assert isinstance(happened[-1], events.Done)
    assert happened[-1].reason == "complete"


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    small, large = Toy(), Toy()
    values = [1.0, 2.0, -1.0, 0.5, 3.0, 1.5, 0.25, -2.0]
    list(fit([stage(small, values)], engine=TorchEngine(accumulate=2)))
    settings = {"name": "s", "optim": STILL, "epochs": 1}
    list(fit([Stage(objective=large, batches=Numbers(values, 4), **settings)]))
    assert small.w.item() == pytest.approx(large.w.item(), abs=1e-6)
    assert len(steps(list(fit([stage(values=values)], engine=TorchEngine(accumulate=3), log_every=1)))) == 2


def test_clipping_bounds_the_update_and_the_norm_is_reported_before_it() -> None:
    toy = Toy(w=0.0, b=0.0)
    (only,) = steps(list(fit([stage(toy, [50.0, 50.0], optim=STILL.model_copy(update={"clip": 0.5}))])))
    assert only.grad_norm["default"] == pytest.approx(100.0)
    assert toy.w.item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_groups_have_their_own_rates_and_frozen_ones_stay() -> None:
    toy = Toy()
    groups = (Group(match="b", freeze=True), Group(match="w", lr=0.01))
    happened = steps(list(fit([stage(toy, optim=STILL.model_copy(update={"groups": groups}))], log_every=1)))
    assert toy.b.item() == 1.0
    assert toy.b.requires_grad  # the next stage may train it
    assert happened[0].lr == {"w": pytest.approx(0.01)}
    assert list(happened[0].grad_norm) == ["w"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_group_waits_for_its_epoch_and_then_begins_as_if_new(precision: Any) -> None:
    toy = Toy(b=0.5)
    seen: list[float] = []
    optim = STILL.model_copy(update={"use": "adamw", "groups": (Group(match="b", freeze_epochs=2, lr=0.01),)})
    plan = stage(toy, optim=optim, epochs=3, validate=lambda: seen.append(toy.b.item()) or {"x": 1.0})
    happened = steps(list(fit([plan], log_every=4, engine=TorchEngine(precision=precision))))
    assert seen[:2] == [0.5, 0.5]
    # Adam's steps at a gradient that hardly changes are of the size of the rate, the first one's exactly.
    assert seen[2] == pytest.approx(0.5 - 4 * 0.01, abs=1e-3)
    assert [set(event.lr) for event in happened] == [{"default"}, {"default"}, {"default", "b"}]
    assert [set(event.grad_norm) for event in happened] == [{"default"}, {"default"}, {"default", "b"}]
    assert toy.b.requires_grad


def test_a_plateau_lowers_the_rates_whenever_so_many_validations_were_no_better() -> None:
    scores = iter([0.1, 0.2, 0.2, 0.1, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
    optim = STILL.model_copy(update={"schedule": "plateau", "plateau": Plateau(patience=2, factor=0.5, minimum=0.2)})
    plan = stage(optim=optim, epochs=10, validate=lambda: {"quality": next(scores)}, monitor="quality")
    rates = [event.lr["default"] for event in steps(list(fit([plan], log_every=4)))]
    assert rates == pytest.approx([0.1] * 4 + [0.05] * 3 + [0.025] * 2 + [0.02])


def test_best_and_last_can_be_read_and_the_best_weights_are_the_result(tmp_path: Path) -> None:
    toy = Toy()
    scores = iter([0.3, 0.5, 0.4, 0.4])
    plan = stage(toy, epochs=9, validate=lambda: {"quality": next(scores)}, monitor="quality", patience=2)
    list(fit([plan], checkpoints=tmp_path))
    folder = Checkpoints(tmp_path)
    best, last = read(folder.best_path), folder.last()
    assert last is not None
    assert best.state["step"] == 8
    for snapshot in (best, last.snapshot):
        assert snapshot.tensors["model"]["0.w"].item() == toy.w.item()
    before = read(folder.paths()[-2])  # of the last epoch, which was not the best
    assert before.tensors["model"]["0.w"].item() != toy.w.item()


def test_early_stopping_keeps_the_best_weights() -> None:
    toy = Toy()
    scores = iter([0.3, 0.5, 0.4, 0.5, 0.9])
    seen: list[float] = []

    def validate() -> dict[str, float]:
        assert not toy.training
        assert not torch.is_grad_enabled()
        seen.append(toy.w.item())
        return {"quality": next(scores)}

    happened = list(fit([stage(toy, epochs=9, validate=validate, monitor="quality", patience=2)]))
    validations = [event for event in happened if isinstance(event, events.Validation)]
    assert [event.best for event in validations] == [True, True, False, False]
    assert [event.epoch for event in validations] == [1, 2, 3, 4]
    assert toy.w.item() == seen[1]
    done = happened[-1]
    assert isinstance(done, events.Done)
    assert "quality has not become better for 2 validations" in done.reason
    assert "step 8" in done.reason


def test_the_untrained_model_can_be_the_best_and_less_can_be_better() -> None:
    toy = Toy(w=0.25)
    scores = iter([0.1, 0.3, 0.2])
    plan = stage(
        toy,
        epochs=2,
        validate=lambda: {"loss": next(scores)},
        validate_first=True,
        monitor="loss",
        higher=False,
    )
    happened = list(fit([plan]))
    assert [event.step for event in happened if isinstance(event, events.Validation)] == [0, 4, 8]
    assert toy.w.item() == 0.25
    (told,) = [event for event in happened if isinstance(event, events.Warning)]
    assert "no validation was better than the first" in told.message
    assert "8 steps are not kept" in told.message


def test_validation_that_is_not_a_number_warns_and_is_never_the_best() -> None:
    happened = list(fit([stage(validate=lambda: {"quality": math.nan}, monitor="quality")]))
    validation = next(event for event in happened if isinstance(event, events.Validation))
    assert not validation.best
    assert any(isinstance(event, events.Warning) and "quality is nan" in event.message for event in happened)
    with pytest.raises(ConfigError, match="no 'qualty'"):
        list(fit([stage(validate=lambda: {"quality": 1.0}, monitor="qualty")]))


@pytest.mark.parametrize(("value", "named"), [(math.nan, "pull is nan at step 3"), (1e30, "pull is inf at step 3")])
def test_a_loss_that_is_no_number_stops_with_its_name_and_step(tmp_path: Path, value: float, named: str) -> None:
    toy = Toy(w=0.5)
    values = [1.0, 1.0, 1.0, 1.0, value, 1.0, 1.0, 1.0]
    happened: list[Event] = []
    with pytest.raises(DivergedError, match=named):
        happened.extend(fit([stage(toy, values, checkpoint_every=2)], checkpoints=tmp_path))
    assert isinstance(happened[-1], events.Warning)
    assert happened[-1].cure
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000002"]


def test_vectors_that_are_no_numbers_end_a_training_as_its_loss_would() -> None:
    def measured() -> Mapping[str, float]:
        raise NotFiniteError("the tower gave vectors with NaN or infinity")

    happened: list[Event] = []
    with pytest.raises(DivergedError, match="NaN or infinity after step 4; the last good checkpoint is kept"):
        happened.extend(fit([stage(validate=measured)]))
    assert isinstance(happened[-1], events.Warning)
    assert happened[-1].cause == "nan"


def test_weights_that_are_no_numbers_take_no_good_checkpoint_s_place(tmp_path: Path) -> None:
    class Broken(Toy):
        def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            if batch["x"][0] == 3:
                self.w.data.fill_(math.nan)
            return {"rest": self.b.square()}

    plan = stage(Broken(), [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 1.0, 1.0], checkpoint_every=1)
    with pytest.raises(DivergedError, match="a weight is NaN or infinite after step 3"):
        list(fit([plan], checkpoints=tmp_path))
    kept = read(max(tmp_path.glob("step-*"))).tensors["model"]
    assert all(bool(torch.isfinite(weights).all()) for weights in kept.values())


def test_a_gradient_that_is_no_number_is_named_by_its_group() -> None:
    class Root(Toy):
        def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"pull": (self.w * batch["x"]).sqrt().mean(), "rest": self.b.square()}

    with pytest.raises(DivergedError, match=r"gradient norm of group 'default' is (nan|inf) at step 1"):
        list(fit([stage(Root(w=0.0))]))


def test_a_loss_of_guessing_and_a_loss_of_zero_are_pointed_out_once() -> None:
    class Flat(Toy):
        chance: Mapping[str, float] = {"pull": math.log(64)}

        def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"pull": math.log(64) + 0 * self.w, "rest": 0 * self.b}

    happened = list(fit([stage(Flat(), epochs=5)], log_every=2))
    warnings = [event for event in happened if isinstance(event, events.Warning)]
    assert [(event.step, event.message.split()[0]) for event in warnings] == [(10, "pull"), (10, "rest")]
    assert "log(64)" in warnings[0].message
    assert all(event.cure for event in warnings)


def test_stages_follow_each_other_over_shared_modules() -> None:
    toy = Toy()
    happened = list(fit([stage(toy, name="a", steps=3), stage(toy, name="b", steps=2)], log_every=1))
    assert [(event.step, event.stage, event.steps) for event in steps(happened)] == [
        (1, "a", 3),
        (2, "a", 3),
        (3, "a", 3),
        (4, "b", 5),
        (5, "b", 5),
    ]


def test_breaking_leaves_no_half_written_file_and_restores_what_it_changed(tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    for event in fit([stage(epochs=3)], checkpoints=tmp_path, engine=TorchEngine(deterministic=True)):
        if isinstance(event, events.Checkpoint):
            assert torch.are_deterministic_algorithms_enabled()
            break
    del event
    assert torch.are_deterministic_algorithms_enabled() is before
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004"]


def test_bfloat16_and_float32_follow_each_other_in_one_process() -> None:
    seed_everything(0)

    class Linear(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.kinds: list[torch.dtype] = []

        def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            out = self.layer(batch["x"])
            self.kinds.append(out.dtype)
            return {"pull": out.square().mean(), "rest": self.b.square()}

    objective = Linear()
    list(fit([stage(objective)], engine=TorchEngine(precision="bfloat16")))
    assert set(objective.kinds) == {torch.bfloat16}
    assert objective.layer.weight.dtype == torch.float32
    objective.kinds.clear()
    list(fit([stage(objective)]))
    assert set(objective.kinds) == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 1, "steps": 2}, "give one of them"),
        ({"epochs": None}, "give one of them"),
        ({"epochs": 0}, "at least 1"),
        ({"monitor": "x"}, "has no validation"),
        ({"validate": dict, "patience": 2}, "monitors nothing"),
        ({"optim": OptimSettings(schedule="plateau")}, "plateau but monitors nothing"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stage(**settings)
    assert message in str(caught.value)


def test_objectives_and_batches_that_break_their_promise_are_refused() -> None:
    toy = Toy()
    toy.weights = {"pull": 1.0}
    with pytest.raises(ConfigError, match="gives the term 'rest' no weight"):
        list(fit([stage(toy)]))

    class Long(Numbers):
        def __len__(self) -> int:
            return 9

    with pytest.raises(InputError, match="9 batches were announced, 4 came"):
        list(fit([Stage(name="s", objective=Toy(), batches=Long([1.0] * 8), optim=STILL, epochs=1)]))
    with pytest.raises(ConfigError, match="no stages"):
        list(fit([]))


def test_batches_are_moved_and_counted_whatever_their_shape() -> None:
    batch = {"a": [torch.ones(3, 2)], "b": ("text", torch.zeros(3))}
    moved = move(batch, torch.device("meta"))
    assert moved["a"][0].device.type == "meta"
    assert moved["b"][0] == "text"
    assert size(batch) == 3
    assert size({"name": "nothing"}) == 0


def test_the_loop_loads_no_torch_before_it_starts() -> None:
    code = "import sys, lodesmith.training; sys.exit('torch' in sys.modules or 'accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    program = Path(__file__).with_name("ranked_training.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29577", program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, str(tmp_path)], env=environment, check=True, timeout=240)
    first, second = ((tmp_path / f"rank{rank}.txt").read_text().split() for rank in (0, 1))
    assert first == second
    toy = Toy()
    optim = STILL.model_copy(update={"momentum": 0.5, "groups": (Group(match="b", freeze_epochs=1, lr=0.02),)})
    list(fit([stage(toy, [float(i % 5) for i in range(16)], optim=optim, epochs=3)]))
    assert float(first[0]) == pytest.approx(toy.w.item(), abs=1e-6)
    assert first[1] == "resumed"
    assert float(first[2]) == pytest.approx(toy.b.item(), abs=1e-6)
    agreed = Toy()
    list(fit([stage(agreed, [1.0] * 16, epochs=2)]))
    assert first[3] == "4"  # two validations after the best one of the first rank
    assert float(first[4]) == pytest.approx(agreed.w.item(), abs=1e-6)

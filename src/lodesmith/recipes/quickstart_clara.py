"""A world learned in one command: documents of facts, a small language model that reads them, and memory tokens of
them at several rates, trained in three stages and asked beside what they are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lodesmith import __version__
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.events import Event, Step
from lodesmith.core.files import locked, read_object, write_text
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.data.supervision import QA
from lodesmith.recipes._answer_pools import Kind
from lodesmith.recipes._run_folder import finished
from lodesmith.recipes._side_by_side import side_by_side
from lodesmith.recipes.steps import Steps
from lodesmith.recipes.world import PROMPT, SOURCE, Reader, Sizes, reader_events, write_world

__all__ = ["FAST", "FULL", "Clara", "Scale", "run"]

_TEXTS = ("closed", "text")
"""What no rate changes: asked once."""
_STAGES = ("stage1", "stage2", "stage2-ranked", "full")
_CONTROLS = ("random", "shuffled")
MEASURE = "CoverEM"
FOUND = "R@1"
"""What the last stage is to raise."""
PERMUTATIONS = 50_000
"""Every pair of some twenty systems on two pools is compared: with so many, p can fall below .01 after Holm."""
POOLS: tuple[Kind, ...] = ("oracle", "normal")
_AGAIN = "delete this folder and run the command again"


@dataclass(frozen=True)
class Scale:
    """How much is made and learned.

    Args:
        sizes: of the world.
        reader: the language model.
        rates: of compression.
        controls: the rate at which the controls are measured.
        length: tokens of a document that are read.
        epochs: of each stage.
        lr: of each stage.
        lora: of the adapters.

    Raises:
        ConfigError: controls at a rate that is not among the rates.
    """

    sizes: Sizes = field(default_factory=Sizes)
    reader: Reader = field(default_factory=Reader)
    rates: tuple[int, ...] = (4, 16, 64)
    controls: int = 16
    length: int = 164
    epochs: tuple[int, int, int] = (2, 2, 1)
    lr: tuple[float, float, float] = (1e-3, 5e-4, 2e-4)
    lora: dict[str, Any] = field(default_factory=lambda: {"rank": 32, "alpha": 64, "dropout": 0.0})

    def __post_init__(self) -> None:
        if self.controls not in self.rates:
            raise ConfigError(f"controls are measured at one of the rates {self.rates}, not at {self.controls}")

    def overrides(self, dataset: Path, base: Path, rate: int, seed: int) -> dict[str, Any]:
        """What the recipe `clara` is told of it."""
        read = self.sizes.read
        settings: dict[str, Any] = {
            "data": str(dataset),
            "base": str(base),
            "seed": seed,
            "encoder.rate": rate,
            "encoder.document_length": self.length,
            "encoder.prompt": PROMPT,
            "encoder.separator": " ",
            "encoder.lora": self.lora,
            "stages.0.objective.together": 12,
            "stages.0.objective.kinds": ["simple", "complex"],
            "stages.0.batch_size": 192,
            "stages.1.objective.together": 12,
            "stages.1.batch_size": 192,
            "stages.1.objective.kinds": [QA],
            "stages.1.objective.mse": 0.1,
            # The compressor is tuned, where the recipe freezes it.
            "stages.1.optim.groups": [{"match": "*.lora_*.query_reasoner.*", "freeze": True}],
            "stages.2.objective.kinds": [QA],
            "stages.1.objective.documents": read,
            "stages.2.objective.documents": read,
            "stages.2.objective.candidates": self.sizes.candidates,
            "evaluation.split": "none",
        }
        for stage, (epochs, lr) in enumerate(zip(self.epochs, self.lr, strict=True)):
            settings |= {f"stages.{stage}.epochs": epochs, f"stages.{stage}.optim.lr": lr}
        return settings


FULL = Scale()
FAST = Scale(
    sizes=Sizes(documents=1200, instructed=600, dev=48, test=100, forms=25),
    reader=Reader(steps=450),
    rates=(4, 16),
)


@dataclass(frozen=True)
class Clara:
    """What was measured, and where everything lies."""

    out: Path
    table: str
    evaluations: tuple[Evaluation, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures and the paths."""
        systems = [
            {"system": e.system, "dataset": e.dataset}
            | {name: estimate.mean for name, estimate in e.measures.items()}
            | {"cost": dict(e.cost)}
            for e in self.evaluations
        ]
        report = str(self.out / "report.html")
        return {"out": str(self.out), "systems": systems, "report": report, "seconds": round(self.seconds, 1)}

    def to_text(self) -> str:
        """The table and the paths."""
        return f"{self.table}\n\nReport: {self.out / 'report.html'}"


def run(
    out: Path,
    *,
    fast: bool = False,
    scale: Scale | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Clara:
    """Make the world, learn in it and measure, into a folder; every finished step is kept, and an unfinished training
    goes on where it was.

    Args:
        out: the folder for everything.
        fast: a smaller world, two rates.
        scale: how much, instead.
        seed: of everything.
        say: told a line at each step.
    """
    with locked(out):
        return _Job(out, scale or (FAST if fast else FULL), seed, Steps(out, say), say).run()


@dataclass
class _Job:
    out: Path
    scale: Scale
    seed: int
    steps: Steps
    say: Callable[[str], None]

    def run(self) -> Clara:
        scale, place = asdict(self.scale), self.out / "dataset"
        own = {"seed": self.seed, "v": __version__, "sizes": scale["sizes"]}
        self._check(place)
        self.steps.once("world", own, self._write, products=[place / "dataset.json", place / "columns"])
        self.say(f"{self.dataset!r}")
        own["reader"] = scale["reader"]
        self.steps.once("reader", own, self._read, products=[self._reader])
        own["scale"] = scale
        runs = [self._run(rate) for rate in self.scale.rates]
        products = [folder / name for folder in runs for name in ("model", "manifest.json")]
        self.steps.once("three stages at each rate", own, self._train, products=products)
        for rate in self.scale.rates:
            for pool in POOLS:
                self._measure(rate, pool)
        return self._conclude()

    def _check(self, place: Path) -> None:
        """Refuse to write over another dataset."""
        if not (place / "dataset.json").is_file() and not (place / "corpus.jsonl").is_file():
            return
        found = read_object(place / "dataset.json") if (place / "dataset.json").is_file() else {}
        sizes = asdict(self.scale.sizes)
        if {name: found.get(name) for name in ("source", "seed", "sizes")} == {
            "source": SOURCE,
            "seed": self.seed,
            "sizes": sizes,
        }:
            return
        there = found.get("sizes")
        apart = [name for name in sizes if isinstance(there, dict) and there.get(name) != sizes[name]]
        told = f" ({', '.join(apart)} differ: of another version, or of --fast)" if apart else ""
        raise InputError(f"another dataset is here{told}", "choose another --out", path=place)

    def _write(self) -> None:
        write_world(self.out / "dataset", self.scale.sizes, self.seed)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.load(self.out / "dataset")

    @property
    def _reader(self) -> Path:
        return self.out / "reader" / "model"

    def _read(self) -> None:
        follow(reader_events(self.out / "reader", self.scale.sizes, reader=self.scale.reader, seed=self.seed))

    def _run(self, rate: int) -> Path:
        return self.out / f"rate-{rate}"

    def _train(self) -> None:
        """Every rate, a process each while there are threads."""
        import torch

        items = [
            (f"rate {rate}", self.scale.overrides(self.out / "dataset", self._reader, rate, self.seed), self._run(rate))
            for rate in self.scale.rates
        ]
        side_by_side(_train, items, torch.get_num_threads())

    def _ways(self, rate: int) -> tuple[str, ...]:
        texts = _TEXTS if rate == self.scale.rates[0] else ()
        return (*texts, "text-truncated", *_STAGES, *(_CONTROLS if rate == self.scale.controls else ()))

    def _system(self, rate: int, way: str) -> str:
        return way if way in _TEXTS else f"rate-{rate}, {way}"

    def _files(self, rate: int, pool: str) -> list[Path]:
        return [self.out / "evaluations" / pool / f"{self._system(rate, way)}.json" for way in self._ways(rate)]

    def _measure(self, rate: int, pool: Kind) -> None:
        from lodesmith.recipes.answering import Plan, answer_dataset

        def work() -> None:
            sizes = self.scale.sizes
            plan = Plan(self._ways(rate), pool=pool, documents=sizes.read, candidates=sizes.candidates)
            for evaluation, _ in answer_dataset(str(self._run(rate)), self.dataset, plan):
                system = self._system(rate, evaluation.system.removeprefix(f"rate-{rate}, "))
                replace(evaluation, system=system).save(self.out / "evaluations" / pool / f"{system}.json")

        model, name = read_object(self._run(rate) / "manifest.json"), f"answer at rate {rate}, {pool} pool"
        if not finished(self._run(rate)):
            raise InputError("this training is not finished, or its manifest is damaged", _AGAIN, path=self._run(rate))
        own = {"model": model["model_files"], "stages": model.get("stage_files"), "v": __version__}
        own |= {"dataset": self.dataset.fingerprint, "pool": pool, "ways": self._ways(rate)}
        if not all(_whole(file) for file in self._files(rate, pool) if file.exists()):
            self.steps.again(name)
        self.steps.once(name, own, work, products=self._files(rate, pool))

    def _conclude(self) -> Clara:
        from lodesmith.evaluation.compare import compare, figures
        from lodesmith.recipes.answering import NOTES
        from lodesmith.reports.page import render
        from lodesmith.reports.tables import comparison_text

        found = [
            Evaluation.load(file) for pool in POOLS for rate in self.scale.rates for file in self._files(rate, pool)
        ]
        comparison: Comparison = compare(found, measure=MEASURE, baseline="text", permutations=PERMUTATIONS)
        comparison.save(self.out / "comparison.json")
        stages = [(f"rate-{rate}, full", f"rate-{rate}, stage2-ranked") for rate in self.scale.rates]
        ranked = compare(found, measure=FOUND, baseline=stages[0][1], planned=stages)
        ranked.save(self.out / "retrieval.json")
        told = [f"{FOUND} of {p.a} against {p.b} on {p.dataset}: {figures(p)}" for p in ranked.pairs]
        told += self._warnings()
        for line in told:
            self.say(line)
        notes = [
            *NOTES,
            f"{self.dataset!r}",
            f"lodesmith {__version__}, seed {self.seed}",
            f"All steps together took {self.steps.seconds():.0f} s.",
            *told,
        ]
        write_text(self.out / "report.html", render("Answers from memory tokens", found, comparison, notes=notes))
        return Clara(self.out, comparison_text(found, comparison), tuple(found), self.steps.seconds())

    def _warnings(self) -> list[str]:
        """What looked wrong in the trainings."""
        from lodesmith.training.metrics import read_lenient

        found = []
        for folder in (self.out / "reader", *(self._run(rate) for rate in self.scale.rates)):
            for row in read_lenient(folder / "metrics.jsonl")[0]:
                if row["event"] == "warning":
                    found.append(f"{folder.name}, {row['stage']}, step {row['step']:,}: {row['message']}")
        return found


def _train(name: str, overrides: dict[str, Any], folder: Path) -> None:
    """The recipe `clara` from its beginning, or from where it was."""
    from lodesmith.recipes.train import plan

    follow(plan("clara", overrides, out=folder, resume="auto", reported=False).events())
    if not finished(folder):
        raise InputError(f"the training at {name} did not finish", _AGAIN, path=folder)


def _whole(file: Path) -> bool:
    """Whether an evaluation can be read."""
    try:
        Evaluation.load(file)
    except InputError:
        return False
    return True


def follow(events: Iterable[Event]) -> None:
    """Go through a training, telling how far it is."""
    for event in events:
        if isinstance(event, Step):
            tell(f"train {event.stage}", event.step, event.steps, "steps")

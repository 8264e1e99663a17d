"""The main job in one command: which retriever is best on these documents, by how much, at what cost, is it real?

Documents → dataset with honest splits → baselines → training → comparison → recommendation → index → report.
The recommendation is made on the dev split alone; the table shows the test split.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from lodesmith import __version__
from lodesmith.core.errors import InputError
from lodesmith.core.files import locked, read_json, sha256_file, write_json, write_text
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.recipes.steps import Steps

__all__ = ["Quickstart", "run"]

CAPS = {"full": 20_000, "fast": 4_000, "full, float32": 10_000, "fast, float32": 2_000}
"""How many passages the Python documentation is capped at: half where the processor has no bfloat16 matrix units, since
encoding takes nearly all of the time and is several times slower there."""
UNTRAINED = ("random", "bm25", "minilm", "bm25+minilm")
TRAINED = "minilm-projected"
SYSTEMS = (*UNTRAINED, TRAINED, f"bm25+{TRAINED}")
"""From simple to complex: a later one is recommended only where it is significantly better."""
FEWEST_QUERIES = 5
"""Of the dev and of the test split: below this nothing can be told apart."""
FEWEST_PAIRS = 50
"""Below this many training pairs nothing is trained: a projection would only learn them by heart."""
MEASURE = "nDCG@10"


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart found, and where everything lies."""

    out: Path
    recommended: str
    reason: str
    table: str
    answers: tuple[dict[str, Any], ...]
    evaluations: tuple[Evaluation, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures of the table, the recommendation and the paths."""
        systems = {
            e.system: {name: estimate.mean for name, estimate in e.measures.items()} | {"cost": dict(e.cost)}
            for e in self.evaluations
        }
        return {
            "out": str(self.out),
            "recommended": self.recommended,
            "reason": self.reason,
            "systems": systems,
            "report": str(self.out / "report.html"),
            "seconds": round(self.seconds, 1),
        }

    def to_text(self) -> str:
        """The table, the recommendation, the answers and the paths."""
        parts = [self.table, f"Recommended: {self.recommended}. {self.reason}"]
        for found in self.answers:
            hits = [f"  {hit['rank']}. {hit['title'] or hit['id']}: {hit['text']}" for hit in found["hits"][:3]]
            parts.append("\n".join([f"? {found['query']}", *hits]))
        parts.append(f'Report: {self.out / "report.html"}\nSearch: lode search {self.out / "index"} "your question"')
        return "\n\n".join(parts)


def run(
    out: Path,
    *,
    docs: Sequence[Path] = (),
    queries: Path | None = None,
    fast: bool = False,
    passages: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Quickstart:
    """Run the whole job into a folder, reusing every step that was finished with the same inputs.

    Args:
        out: the folder for everything.
        docs: files and folders; the Python documentation of this interpreter where there are none.
        queries: the user's queries with relevant documents; self-supervised queries where there are none.
        fast: a fifth of the passages of the Python documentation.
        passages: this many of them; None for `CAPS`.
        say: told a line at each step.

    Raises:
        InputError: the documents cannot be used, or give too few queries to measure anything.
    """
    for path in (*docs, *([queries] if queries else [])):
        if not path.exists():
            raise InputError("no such file or folder", path=path)
    with locked(out):
        cap = passages or _cap(fast, say if not docs else lambda line: None)
        return _Job(out, tuple(docs), queries, cap, Steps(out, say), say).run()


def _cap(fast: bool, say: Callable[[str], None]) -> int:
    import torch

    from lodesmith.encoders._precision import multiplies_bfloat16

    size = "fast" if fast else "full"
    if multiplies_bfloat16(torch.device("cpu")) or torch.cuda.is_available():
        return CAPS[size]
    cap = CAPS[f"{size}, float32"]
    say(f"no bfloat16 matrix units here: {cap:,} passages instead of {CAPS[size]:,} (--passages N for another number)")
    return cap


@dataclass
class _Job:
    out: Path
    docs: tuple[Path, ...]
    queries: Path | None
    cap: int
    steps: Steps
    say: Callable[[str], None]

    def run(self) -> Quickstart:
        self.steps.once(
            "dataset", self._sources(), self._make_dataset, products=[self.out / "dataset" / "dataset.json"]
        )
        self.say(f"{self.dataset!r}")
        for system in self._untrained:
            self._evaluate(system)
        if self._trainable:
            self._train()
            for system in SYSTEMS[len(UNTRAINED) :]:
                self._evaluate(system)
        return self._conclude()

    # dataset

    def _sources(self) -> dict[str, Any]:
        """What the dataset depends on."""
        if not self.docs:
            packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
            return {"python": sys.version, "packages": packages, "cap": self.cap, "v": __version__}
        from lodesmith.data.importing import files_of

        own = self.out.resolve()
        files = [(name, path) for name, path in files_of(self.docs) if own not in path.resolve().parents]
        return {
            "files": [[name, sha256_file(path)] for name, path in files],
            "queries": sha256_file(self.queries) if self.queries else None,
            "v": __version__,
        }

    def _make_dataset(self) -> None:
        dataset = self._imported() if self.docs else self._python()
        for split in ("dev", "test"):
            if len(dataset.judgements.get(split, {})) < FEWEST_QUERIES:
                raise InputError(
                    f"these documents give too few {split} queries ({len(dataset.documents)} passages, "
                    f"{len(dataset.judgements.get(split, {}))} {split} queries; at least {FEWEST_QUERIES} are needed)",
                    "give more documents, or judged queries with --queries FILE",
                )
        dataset.save(self.out / "dataset")

    def _python(self) -> Dataset:
        from lodesmith.data.pydocs import gather

        return gather(cap=self.cap)

    def _imported(self) -> Dataset:
        from lodesmith.data.importing import import_paths
        from lodesmith.data.selfsupervised import self_supervise, with_queries

        report = import_paths(self.docs, self.out / "documents", leave_out=self.out)
        for line in report.to_text().splitlines():
            self.say(line)
        dataset = Dataset.load(self.out / "documents")
        if self.queries is not None:
            return with_queries(dataset, self.queries)
        self.say(
            "no --queries: queries are made from titles, headings and leading sentences, taken out of their passage"
        )
        return self_supervise(dataset)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.load(self.out / "dataset")

    # systems

    @cached_property
    def _trainable(self) -> bool:
        pairs = sum(map(len, self.dataset.judgements.get("train", {}).values()))
        if pairs < FEWEST_PAIRS:
            self.say(f"only {pairs} training pairs: nothing is trained (at least {FEWEST_PAIRS} are needed)")
        return pairs >= FEWEST_PAIRS

    @property
    def _untrained(self) -> tuple[str, ...]:
        return UNTRAINED

    def _file(self, system: str, split: str) -> Path:
        return self.out / ("evaluations" if split == "test" else "validation") / f"{system}.json"

    def _evaluate(self, system: str) -> None:
        products = [self._file(system, split) for split in ("dev", "test")]
        inputs: dict[str, Any] = {"system": system, "dataset": self.dataset.fingerprint, "v": __version__}
        if TRAINED in system:
            inputs["model"] = read_json(self.out / "training" / "manifest.json")["model_files"]
        self.steps.once(f"evaluate {system}", inputs, lambda: self._measure(system), products=products)

    def _measure(self, system: str) -> None:
        from lodesmith.recipes.evaluating import evaluate_system
        from lodesmith.recipes.systems import fused, renamed

        parts = [self._systems.resolve(str(self.out / "training") if p == TRAINED else p) for p in system.split("+")]
        resolved = renamed(parts[0], system) if len(parts) == 1 else fused(parts, system)
        for split in ("dev", "test"):
            evaluation, ranking = evaluate_system(resolved, self.dataset, split)
            evaluation.save(self._file(system, split))
            write_json(self._file(system, split).with_suffix(".top.json"), dict(ranking.top(10)), indent=None)

    @cached_property
    def _systems(self) -> Any:
        from lodesmith.recipes.systems import Resolver

        return Resolver(self.dataset)

    def _train(self) -> None:
        from lodesmith.recipes.train import finished, plan

        folder = self.out / "training"
        self._drop_stale(folder)
        overrides = {"data": str(self.out / "dataset"), "data.validation": None, "data.hold_out": 0}
        recipe = plan("isotropic", overrides, out=folder, resume="auto", reported=False).recipe.fingerprint

        def work() -> None:
            from lodesmith.core.events import Step
            from lodesmith.core.progress import tell

            for event in plan("isotropic", overrides, out=folder, resume="auto", reported=False).events():
                if isinstance(event, Step):
                    tell("train", event.step, event.steps, "steps")

        inputs = {"recipe": recipe, "dataset": self.dataset.fingerprint, "v": __version__}
        self.steps.once("train", inputs, work, products=[folder / "model", folder / "manifest.json"])
        if not finished(folder):
            raise InputError("the training did not finish", f"delete {folder} and run the command again")

    def _drop_stale(self, folder: Path) -> None:
        """Remove a training of other data or by another version: its split may have held what is tested now."""
        if not (folder / "manifest.json").exists():
            return
        manifest = read_json(folder / "manifest.json")
        same = manifest.get("dataset") == self.dataset.fingerprint
        if not same or manifest.get("versions", {}).get("lodesmith") != __version__:
            shutil.rmtree(folder)

    # conclusion

    def _load(self, split: str) -> list[Evaluation]:
        systems = SYSTEMS if self._trainable else UNTRAINED
        return [Evaluation.load(self._file(system, split)) for system in systems]

    def _conclude(self) -> Quickstart:
        from lodesmith.evaluation.compare import compare, recommend
        from lodesmith.reports.tables import comparison_text

        dev, test = self._load("dev"), self._load("test")
        usable = [e for e in dev if e.system != "random"]  # few queries may not tell it apart; nobody wants it
        best = max((e for e in usable if e.system in UNTRAINED), key=lambda e: e.measures[MEASURE].mean).system
        choice = recommend(usable, compare(usable, measure=MEASURE, baseline=best), SYSTEMS)
        comparison = compare(test, measure=MEASURE, baseline=best)
        comparison.save(self.out / "comparison.json")
        self._index(choice.system)
        answers = self._answers()
        reason = f"Chosen on the {dev[0].queries} dev queries: {choice.reason}"
        self._report(test, comparison, choice.system, reason, answers)
        table = comparison_text(test, comparison)
        return Quickstart(self.out, choice.system, reason, table, answers, tuple(test), self.steps.seconds())

    def _index(self, system: str) -> None:
        inputs = {"system": system, "dataset": self.dataset.fingerprint, "v": __version__}
        if TRAINED in system:
            inputs["model"] = read_json(self.out / "training" / "manifest.json")["model_files"]
        work = lambda: self._build(system)  # noqa: E731
        self.steps.once(f"index {system}", inputs, work, products=[self.out / "index"])

    def _build(self, system: str) -> None:
        from lodesmith.recipes.storing import build_system

        build_system(system.split("+"), self.out, self.dataset, {TRAINED: "training", "minilm": "minilm"})

    def _answers(self) -> tuple[dict[str, Any], ...]:
        from lodesmith.recipes.storing import answers, open_searcher

        searcher = open_searcher(self.out / "index")
        queries = list(self.dataset.queries_of("test").values())
        chosen = queries[:: max(1, len(queries) // 3)][:3]
        return tuple(answers(searcher, [query.text for query in chosen], 3))

    def _report(
        self,
        test: list[Evaluation],
        comparison: Comparison,
        chosen: str,
        reason: str,
        answers: tuple[dict[str, Any], ...],
    ) -> None:
        from lodesmith.recipes.explaining import examples, page_answers
        from lodesmith.reports.page import render

        folder = self.out / "evaluations"
        notes = [
            f"{self.dataset!r}",
            str(self.dataset.info.get("note", "")),
            f"lodesmith {__version__}, Python {platform.python_version()}, {platform.machine()}",
            f"All steps together took {self.steps.seconds():.0f} s.",
        ]
        page = render(
            "Which retriever is best on these documents?",
            test,
            comparison,
            recommendation=f"{chosen}: {reason}",
            examples=examples(self.dataset, test, comparison, f"{chosen}: {reason}", folder),
            notes=[note for note in notes if note],
            answers=page_answers(answers),
        )
        write_text(self.out / "report.html", page)
        write_json(self.out / "recommendation.json", {"system": chosen, "reason": reason})

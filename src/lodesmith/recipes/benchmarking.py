"""A system over many datasets: folders, or BEIR sets and groups by name; what is finished is not measured again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lodesmith import __version__
from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json, read_object, sha256_file, sha256_folder
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.evaluation import measures as measuring
from lodesmith.recipes._hybrid_folder import hybrid_of
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.systems import parts_of, resolve

__all__ = ["Benchmark", "Target", "evaluate_datasets", "targets"]

REQUEST = "request"
"""The fingerprint by which a finished evaluation is known: of system, dataset, split and measures."""
_PUBLISHED_SPLIT = {"beir/msmarco": "dev"}
"""The split that published figures of a BEIR set are of, where it is not `test`."""


@dataclass(frozen=True)
class Target:
    """A dataset to measure on.

    Args:
        folder: where it lies.
        member: its name in BEIR (`beir/scifact`) where it was asked for by that, else empty.
    """

    folder: Path
    member: str = ""

    def split(self, wanted: str) -> str:
        """The split to measure: msmarco's published figures in BEIR are of `dev`, so that `test` means that there."""
        return _PUBLISHED_SPLIT.get(self.member, wanted) if wanted == "test" else wanted


def targets(spellings: Sequence[str | Path]) -> list[Target]:
    """The datasets of folders, BEIR sets (`beir/scifact`) and groups (`beir:quick`); each once, in order.

    A BEIR set is looked for where `lode data pull` puts it in the working directory (`beir/scifact`,
    `beir-quick/scifact` …, or `scifact`), and in the folder that LODESMITH_DATA names. Nothing is downloaded.

    Raises:
        InputError: there is no such group, or a set is not there; the message has the command that pulls it.
    """
    found: dict[Path, Target] = {}
    for spelling in map(str, spellings):
        for target in _named(spelling):
            found.setdefault(target.folder.resolve(), target)
    return list(found.values())


def _named(spelling: str) -> list[Target]:
    if Path(spelling).is_dir():  # which may be the name of a set, in the folder where it was pulled
        return [Target(Path(spelling), spelling if spelling in _PUBLISHED_SPLIT else "")]
    if not re.match("beir[:/]", spelling):
        return [Target(Path(spelling))]
    from lodesmith.data.pulls import expand

    members = expand(spelling)
    places = {member: _place(member) for member in members}
    if missing := [member for member in members if places[member] is None]:
        told = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        which = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{told} {which} not here (looked in the working directory and $LODESMITH_DATA)",
            f"pull: lode data pull {spelling if len(missing) > 1 else missing[0]}",
        )
    return [Target(place, member) for member, place in places.items() if place is not None]


def _place(member: str) -> Path | None:
    """The folder of a BEIR set, or None. One that is only named like it must have been pulled as it, or lie in
    LODESMITH_DATA."""
    set_ = member.removeprefix("beir/")
    shared = [Path(os.environ["LODESMITH_DATA"])] if os.environ.get("LODESMITH_DATA") else []
    for root in [Path(), *shared]:
        for place in [root / member, *sorted(root.glob(f"beir-*/{set_}")), root / set_]:
            if _is_dataset(place) and (place != Path(set_) or _pulled_as(place) == member):
                return place
    return None


def _is_dataset(place: Path) -> bool:
    return any((place / f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))


def _pulled_as(place: Path) -> str:
    info = read_json(place / "dataset.json") if (place / "dataset.json").is_file() else {}
    pull = info.get("pull") if isinstance(info, dict) else None
    return str(pull.get("name")) if isinstance(pull, dict) else ""


@dataclass(frozen=True)
class Benchmark:
    """A system's evaluations, in the order asked for; `kept` are the datasets that had been finished before."""

    evaluations: tuple[Evaluation, ...]
    kept: tuple[str, ...] = ()


def evaluate_datasets(
    system: str,
    datasets: Sequence[str | Path],
    *,
    split: str = "test",
    measures: Sequence[str] = (),
    out: Path | None = None,
    run: Path | None = None,
    passages: int | None = None,
) -> Benchmark:
    """Measure a system by its spelling on datasets; write evaluation and run files where asked.

    With one dataset `out` and `run` are files; with several, or where they are folders, they get a file named like the
    dataset each. An evaluation file in the folder `out` that was made of the same system, data, split and measures is
    kept, and its dataset is not measured again (but where a run file is asked for that is not there).

    Raises:
        InputError: a dataset is not there, lacks the split, or two have the same name.
        ConfigError: a spelling is no measure.
    """
    wanted = list(dict.fromkeys(str(measuring.parse(name)) for name in measures))
    chosen = [(target, Dataset.load(target.folder)) for target in targets(datasets)]
    for target, dataset in chosen:
        dataset.split(target.split(split))
    plan = _Plan(system, wanted, passages, *_files([dataset for _, dataset in chosen], out, run))
    results, kept = [], []
    for target, dataset in track(chosen, "evaluate", unit="datasets"):
        found = plan.kept(dataset, target.split(split))
        if found is None:
            found = plan.measured(dataset, target.split(split))
        else:
            kept.append(dataset.name)
        results.append(found)
    return Benchmark(tuple(results), tuple(kept))


Files = dict[str, Path]
"""Dataset name → file."""


def _files(datasets: Sequence[Dataset], out: Path | None, run: Path | None) -> tuple[Files, Files, bool]:
    """The evaluation file and the run file of each dataset, and whether finished evaluations are kept."""
    names = {dataset.name: re.sub(r"[^\w.-]+", "_", dataset.name) for dataset in datasets}
    if len(set(names.values())) < len(datasets):
        twice = [dataset.name for dataset in datasets]
        raise InputError(f"two datasets are called {max(twice, key=twice.count)!r}", "evaluate them one at a time")

    def placed(path: Path | None, ending: str) -> Files:
        if path is None:
            return {}
        several = len(datasets) > 1 or path.is_dir()
        return {name: path / f"{safe}{ending}" if several else path for name, safe in names.items()}

    return placed(out, ".json"), placed(run, ".trec"), out is not None and (len(datasets) > 1 or out.is_dir())


@dataclass(frozen=True)
class _Plan:
    """What is measured on each dataset, and where it goes."""

    system: str
    measures: Sequence[str]
    passages: int | None
    files: Files
    runs: Files
    keeping: bool

    def kept(self, dataset: Dataset, split: str) -> Evaluation | None:
        """The finished evaluation, or None: it is missing, damaged, or of another request."""
        file, run = self.files.get(dataset.name), self.runs.get(dataset.name)
        if not self.keeping or file is None or not file.is_file() or (run is not None and not run.is_file()):
            return None
        try:
            found = Evaluation.load(file)
        except InputError:
            return None
        return found if found.fingerprints.get(REQUEST) == self.request(dataset, split) else None

    def measured(self, dataset: Dataset, split: str) -> Evaluation:
        """Evaluate and write the files."""
        system = resolve(self.system, dataset, self.passages)
        evaluation, ranking = evaluate_system(system, dataset, split, self.measures)
        if self.keeping:
            prints = dict(evaluation.fingerprints) | {REQUEST: self.request(dataset, split)}
            evaluation = replace(evaluation, fingerprints=prints)
        if (run := self.runs.get(dataset.name)) is not None:
            ranking.save(run, tag=evaluation.system)
        if (file := self.files.get(dataset.name)) is not None:
            evaluation.save(file)  # last: it says that the dataset is finished
        return evaluation

    def request(self, dataset: Dataset, split: str) -> str:
        """SHA-256 over all that decides the figures."""
        return fingerprint(
            {
                "version": __version__,
                "system": [_content(part) for part in parts_of(self.system)],
                "passages": self.passages,
                "dataset": dataset.fingerprint,
                "split": split,
                "measures": sorted(self.measures),
            }
        )


def _content(part: str) -> list[str]:
    """The spelling of a part of a system, and the content of what it names."""
    name, path = part, Path(part.removeprefix("rerank:"))
    if (hybrid := hybrid_of(part)) is not None:
        return [name, _folder_content(hybrid[0])]  # its manifest has the fingerprints of both models
    if not path.exists():
        depth, _, model = part.removeprefix("rerank:").partition(":")
        path = Path(model) if part.startswith("rerank:") and depth.isdigit() else path
    if path.is_file():
        return [name, sha256_file(path)]
    if not path.is_dir():
        return [name]  # a model of the hub, or no model at all
    return [name, _folder_content(path)]


def _folder_content(path: Path) -> str:
    """An index by its manifest, which has the hash of each file; a run by its model, and how that is fused where it
    is; any other folder by its files."""
    manifest = read_object(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    if (path / "model").is_dir() and (path / "recipe.yaml").is_file():
        return fingerprint({"model": sha256_folder(path / "model"), "fusion": manifest.get("fusion")})
    if "generation" in manifest:
        return fingerprint(manifest)
    return fingerprint(sha256_folder(path))

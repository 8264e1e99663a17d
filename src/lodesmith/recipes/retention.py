"""What a student keeps of its teacher on a dataset: quality, the order of results, speed, size, and where it loses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.files import write_json
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Estimate, Evaluation, Pair
from lodesmith.core.run import Run
from lodesmith.evaluation.agreement import overlap, retained, spearman
from lodesmith.evaluation.compare import compare
from lodesmith.evaluation.parts import estimates, part
from lodesmith.evaluation.significance import holm
from lodesmith.recipes._speed import Speed, speed
from lodesmith.recipes.benchmarking import targets
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.systems import Resolver, System, renamed

__all__ = ["Loss", "Part", "Retention", "retention", "retention_datasets", "retention_page", "thirds"]

MEASURE = "nDCG@10"
OVERLAP, SPEARMAN = "overlap@10", "spearman@100"
_DEPTH = 100
_ALPHA = 0.05
_WORST = 10


@dataclass(frozen=True)
class Part:
    """Student and teacher on some of the queries.

    Args:
        kind: `length` or `rarest word`: by what the queries were parted.
        range: which ones, in words.
        student: its mean there.
        teacher: its mean there.
        pair: student against teacher; `p_holm` and `significant` run over all parts of the dataset.
    """

    kind: str
    range: str
    student: float
    teacher: float
    pair: Pair


@dataclass(frozen=True)
class Loss:
    """A query on which the student is worse, with the measure of both."""

    query: str
    text: str
    student: float
    teacher: float


@dataclass(frozen=True)
class Retention:
    """A student against its teacher on one split of one dataset.

    Args:
        student: its evaluation.
        teacher: its evaluation.
        comparison: their one pair, the teacher being the baseline.
        retained: the student's nDCG@10 as a share of the teacher's, by the ratio of the means.
        agreement: `overlap@10`, the share of the teacher's first ten that the student returns among its own; and, of
            two models, `spearman@100`, the rank correlation of both scores over the union of both first hundreds, a
            mean over queries. Whoever is in that union was near the top of one, so that the correlation is far below
            one over all documents, and may be negative.
        speed: documents/s of both; None where one of them is no single model, or it was not asked for.
        size: `parameters` and `weights` (bytes on disk) of both, as (student, teacher).
        parts: queries by thirds of length and of their rarest word's idf.
        losses: the queries that lose most.
    """

    student: Evaluation
    teacher: Evaluation
    comparison: Comparison
    retained: Estimate
    agreement: Mapping[str, Estimate]
    speed: Speed | None
    size: Mapping[str, tuple[float | None, float | None]]
    parts: tuple[Part, ...]
    losses: tuple[Loss, ...]

    @property
    def pair(self) -> Pair:
        """The student against the teacher."""
        return self.comparison.pair(self.student.system, self.teacher.system)

    def to_json(self) -> dict[str, Any]:
        """The retention file's content."""
        return {
            "measure": MEASURE,
            "retained": asdict(self.retained),
            "difference": asdict(self.pair),
            "agreement": {name: asdict(estimate) for name, estimate in self.agreement.items()},
            "speed": None if self.speed is None else self.speed.to_json(),
            "size": {
                name: {"student": own, "teacher": whole, "ratio": own / whole if own and whole else None}
                for name, (own, whole) in self.size.items()
            },
            "parts": [asdict(each) for each in self.parts],
            "losses": [asdict(loss) for loss in self.losses],
            "student": self.student.to_json(),
            "teacher": self.teacher.to_json(),
        }

    def save(self, path: Path | str) -> None:
        """Write the retention file atomically."""
        write_json(path, self.to_json(), indent=1)


def retention(  # noqa: PLR0913 - what is held against what, and how, by name
    student: str,
    teacher: str,
    dataset: Dataset,
    split: str = "test",
    measures: Sequence[str] = (),
    *,
    passages: int | None = None,
    timed: bool = True,
    seed: int = 0,
) -> Retention:
    """Hold a student against its teacher on the judged queries of a split. Each searches the documents by its own
    vectors.

    Args:
        student: a system's spelling.
        teacher: another one's.
        dataset: where.
        split: whose queries.
        measures: more of them, for the evaluations.
        passages: split documents into windows of so many tokens.
        timed: measure documents/s, which takes some seconds.
        seed: of what is drawn.

    Raises:
        InputError: the two are one, the split has fewer than two queries, or the teacher finds nothing.
    """
    if Path(student) == Path(teacher):
        raise InputError(f"student and teacher are the same, {student!r}", "name two systems")
    resolver = Resolver(dataset, passages)
    two = _told_apart(resolver.resolve(student), resolver.resolve(teacher), student)
    tell("retention", 0, 3, "steps")
    (own, own_run), (whole, whole_run) = (evaluate_system(system, dataset, split, measures) for system in two)
    comparison = compare([whole, own], measure=MEASURE, baseline=whole.system, seed=seed)
    tell("retention", 1, 3, "steps")
    texts = {key: query.content for key, query in dataset.queries_of(split).items()}
    found = Retention(
        own,
        whole,
        comparison,
        retained(own, whole, MEASURE, seed),
        _agreement(two, (own_run, whole_run), texts, dataset.drop_same_id),
        _speed(two, dataset, seed) if timed else None,
        {"parameters": _parameters(two), "weights": (_weights(student, two[0]), _weights(teacher, two[1]))},
        _parts(own, whole, texts, dataset, seed),
        _losses(own, whole, texts),
    )
    tell("retention", 3, 3, "steps")
    return found


def retention_datasets(
    student: str,
    teacher: str,
    datasets: Sequence[str | Path],
    *,
    split: str = "test",
    measures: Sequence[str] = (),
    out: Path | None = None,
    passages: int | None = None,
) -> list[Retention]:
    """`retention` on datasets. `out` is the file to write; with several datasets, or where it is one, a folder that
    gets a file for each.

    Raises:
        InputError: as `retention`; a dataset is not there, lacks the split, or two have the same name.
    """
    chosen = [(target, Dataset.load(target.folder)) for target in targets(datasets)]
    names = [re.sub(r"[^\w.-]+", "_", dataset.name) for _, dataset in chosen]
    if len(set(names)) < len(names):
        raise InputError(f"two datasets are called {max(names, key=names.count)!r}", "take them one at a time")
    for target, dataset in chosen:
        dataset.split(target.split(split))
    found = []
    for name, (target, dataset) in zip(names, chosen, strict=True):
        found.append(retention(student, teacher, dataset, target.split(split), measures, passages=passages))
        if out is not None:
            found[-1].save(out / f"{name}.json" if len(chosen) > 1 or out.is_dir() else out)
    return found


def retention_page(found: Sequence[Retention], notes: Sequence[str] = ()) -> str:
    """The HTML page of student and teacher; Holm's correction runs over the datasets.

    Raises:
        InputError: there is none, or a dataset is there twice.
    """
    from lodesmith.reports.page import render

    evaluations = [evaluation for each in found for evaluation in (each.teacher, each.student)]
    comparison = compare(evaluations, measure=MEASURE)
    return render(f"{found[0].student.system} against {found[0].teacher.system}", evaluations, comparison, notes=notes)


Two = tuple[System, System]


def _told_apart(student: System, teacher: System, spelling: str) -> Two:
    """Two folders may have one name."""
    if student.name != teacher.name:
        return student, teacher
    return renamed(student, spelling if spelling != teacher.name else f"{spelling} (student)"), teacher


def _agreement(two: Two, runs: tuple[Run, Run], texts: Mapping[str, str], drop_same_id: bool) -> dict[str, Estimate]:
    """The overlap of the first ten, and the correlation of scores where both have vectors."""
    if drop_same_id:
        runs = _without_same(runs[0]), _without_same(runs[1])
    found = {OVERLAP: _mean(OVERLAP, overlap(*runs, k=10))}
    correlations = _correlations(two, runs, texts)
    return found | ({SPEARMAN: _mean(SPEARMAN, correlations)} if correlations else {})


def _without_same(run: Run) -> Run:
    return Run.of({query: {key: score for key, score in ranking if key != query} for query, ranking in run.items()})


def _mean(name: str, values: Mapping[str, float]) -> Estimate:
    return estimates({query: {name: value} for query, value in values.items()})[name]


def _correlations(two: Two, runs: tuple[Run, Run], texts: Mapping[str, str]) -> dict[str, float]:
    """Query → Spearman over the union of both lists; without queries for which it is not defined."""
    from lodesmith.recipes._scores import Scores

    scores = [Scores.of(system, texts) for system in two]
    if scores[0] is None or scores[1] is None:
        return {}
    tops = [run.top(_DEPTH) for run in runs]
    found = {}
    for query in texts:
        union = sorted({document for top in tops if query in top for document, _ in top[query]})
        value = spearman(scores[0](query, union), scores[1](query, union))
        if value is not None:
            found[query] = value
    return found


def _encoders(two: Two) -> tuple[Any, Any]:
    """The encoder of each system; None for one that is no single model."""
    from lodesmith.retrieval.dense import Dense

    first, second = (s.retriever.encoder if isinstance(s.retriever, Dense) else None for s in two)
    return first, second


def _speed(two: Two, dataset: Dataset, seed: int) -> Speed | None:
    student, teacher = _encoders(two)
    if student is None or teacher is None or not len(dataset.documents):
        return None
    if "images" in {getattr(encoder, "reads", "text") for encoder in (student, teacher)}:
        return None  # of texts alone
    drawn = np.random.default_rng(seed).permutation(len(dataset.documents))[:4096]
    ids = list(dataset.documents)
    return speed(student, teacher, [dataset.documents[ids[at]].content for at in drawn])


def _parameters(two: Two) -> tuple[float | None, float | None]:
    return two[0].cost.get("parameters"), two[1].cost.get("parameters")


def _weights(spelling: str, system: System) -> float | None:
    """Bytes of the weights on disk; None for a system that is no single model of a folder."""
    encoder = _encoders((system, system))[0]
    if encoder is None:
        return None
    folder = Path(getattr(encoder, "folder", None) or spelling)
    folder = folder / "model" if (folder / "recipe.yaml").is_file() else folder
    return float(sum(file.stat().st_size for file in folder.rglob("*.safetensors"))) or None


def _parts(
    own: Evaluation, whole: Evaluation, texts: Mapping[str, str], dataset: Dataset, seed: int
) -> tuple[Part, ...]:
    from lodesmith.retrieval.rarity import Rarity, words

    rarity = Rarity.of(document.content for document in dataset.documents.values())
    lengths = {query: float(len(words(text))) for query, text in texts.items()}
    rarest = {query: rarity.rarest(text) for query, text in texts.items()}
    found = [_part("length", *third, own, whole, seed) for third in thirds(lengths, "{:.0f}", "words")]
    found += [_part("rarest word", *third, own, whole, seed) for third in thirds(rarest, "{:.1f}", "idf")]
    corrected = holm([each.pair.p for each in found])
    return tuple(
        replace(each, pair=replace(each.pair, family=f"{len(found)} parts", p_holm=p, significant=p <= _ALPHA))
        for each, p in zip(found, corrected, strict=True)
    )


def thirds(values: Mapping[str, float], shown: str, unit: str) -> list[tuple[str, list[str]]]:
    """Queries in up to three parts by their values, with the range of each in words; equal values stay together.

    A part of one query, which cannot be tested, joins the part below it, or above it where there is none.
    """
    order = sorted(values.values())
    cuts = [order[-(-len(order) * third // 3) - 1] for third in (1, 2)] if order else []
    groups: list[list[str]] = [[], [], []]
    for query, number in values.items():
        groups[sum(number > cut for cut in cuts)].append(query)
    joined: list[list[str]] = []
    for group in filter(None, groups):
        if joined and min(len(group), len(joined[-1])) < 2:
            joined[-1] += group
        else:
            joined.append(group)
    found = []
    for group in joined:
        low, high = (shown.format(pick(values[query] for query in group)) for pick in (min, max))
        found.append((f"{low} {unit}" if low == high else f"{low}–{high} {unit}", group))
    return found if len(values) > 1 else []


def _part(kind: str, label: str, queries: list[str], own: Evaluation, whole: Evaluation, seed: int) -> Part:
    first, second = part(own, queries), part(whole, queries)
    pair = compare([second, first], measure=MEASURE, baseline=second.system, seed=seed).pairs[0]
    return Part(kind, label, first.measures[MEASURE].mean, second.measures[MEASURE].mean, pair)


def _losses(own: Evaluation, whole: Evaluation, texts: Mapping[str, str]) -> tuple[Loss, ...]:
    both = {query: (own.per_query[query][MEASURE], whole.per_query[query][MEASURE]) for query in texts}
    worst = sorted(both, key=lambda query: (both[query][0] - both[query][1], query))[:_WORST]
    return tuple(Loss(query, texts[query], *both[query]) for query in worst if both[query][0] < both[query][1])

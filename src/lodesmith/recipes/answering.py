"""Answers to a dataset's questions: by a memory model as its stages left it, and by what it is held against.

`closed` reads nothing; `text` the first documents of each pool as texts, by the language model without adapters;
`text-truncated` the same, each cut to as many tokens as its memory has; `stage1` and `stage2` their memory, made and
read by the model of that stage; `stage1-ranked`, `stage2-ranked` and `full` the memory of the documents that the model
of that stage ranks first; `full-given` again that of the pool's first. Controls: `random`, what `full` ranks first,
replaced by noise; `shuffled`, what `full` would read for another question.

    for evaluation, run in answer_dataset("runs/clara", dataset, Plan(("text", "full"), pool="oracle")):
        print(evaluation.measures["CoverEM"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lodesmith import __version__
from lodesmith.core.errors import InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.core.run import Run
from lodesmith.evaluation import compare as comparing
from lodesmith.evaluation.answers import answer_measures
from lodesmith.evaluation.measures import parse, score
from lodesmith.evaluation.parts import estimates
from lodesmith.recipes._answer_memory import PooledMemory
from lodesmith.recipes._answer_pools import Pools, Questions
from lodesmith.recipes._answer_ways import TEXTS, WAYS, Plan, Reading, Times, read_memory, read_text, timed, written
from lodesmith.recipes._memory_models import MemoryModels
from lodesmith.recipes._variants import Kept, measure_variants
from lodesmith.recipes.benchmarking import targets

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["NOTES", "Answered", "Plan", "answer_dataset", "answer_datasets", "answers_page"]

MEASURE = "CoverEM"
_RECALLS = tuple(map(parse, ("R@1", "R@3", "R@5")))
NOTES = (
    "Each question is asked among the documents of its pool, and reads the first of them. In an oracle pool the "
    "documents that hold the answer stand first, so that R@k of what reads the pool's own order says nothing of "
    "retrieval there. closed: nothing is read. "
    "text: the pool's own order, as texts, by the language model without adapters; text-truncated: each document cut "
    "to as many tokens as its memory has. stage1, stage2, full-given: the memory tokens of the same documents. "
    "stage1-ranked, stage2-ranked, full: memory tokens in the order of the cosine of the flattened memory. random: the "
    "documents of full, each component of their memory drawn anew with its mean and deviation. shuffled: the memory "
    "that full reads for another question.",
    "Context tokens are those of the documents, memory or text, a mean over questions; the prompt's own are not "
    "counted. The time is that of finding the pool where BM25 does, ranking it, and writing the answer, one question "
    "at a time.",
)


@dataclass(frozen=True)
class Answered:
    """The evaluations of each way on each dataset, in the order asked for, and their comparison by CoverEM; without
    pairs where there is one way, or one question."""

    evaluations: tuple[Evaluation, ...]
    comparison: Comparison


def answer_dataset(
    model: str, dataset: Dataset, plan: Plan | None = None, split: str = "test", kept: Kept = lambda system: None
) -> Iterator[tuple[Evaluation, Run | None]]:
    """Answer the questions of a split in each way of a plan, grouped by the models that they take.

    Args:
        model: a run directory, or the folder of one model.
        dataset: whose judged queries that have answers are asked; where it judges nothing, all that have answers, and
            no recall is measured.
        plan: what is measured; the final model on normal pools where None.
        split: whose queries.
        kept: gives the evaluation of a system that was measured before; one of the same model, dataset, pools and plan
            by the same version is not measured again.

    Yields:
        The evaluation, called `MODEL, WAY` on `DATASET, POOL pool`, with the answers, and the pools as ranked, None of
        what was kept.

    Raises:
        InputError: the model is no memory model, no query has answers, or the corpus has fewer documents than a
            question reads.
        ConfigError: the run has no such stage.
        IntegrityError: weights are not those that training wrote.
    """
    plan = plan or Plan()
    models = MemoryModels(model)
    for way in plan.ways:
        models.folder(WAYS[way])
    asked = Questions.of(dataset, split, plan.limit)
    if len(dataset.documents) < plan.documents:
        raise InputError(
            f"{dataset.name} has {len(dataset.documents)} documents, and a question is to read {plan.documents}",
            "lower --documents",
        )
    models.open(WAYS[_ordered(plan)[0]])  # what is no memory model is refused before anything is searched
    work = _Work(models, plan, dataset, split, asked, Pools(dataset, asked, plan.candidates, plan.pool))
    for way in _ordered(plan):
        before = kept(work.name(way))
        yield (before, None) if before is not None and work.is_same(way, before) else work.measured(way)


def _ordered(plan: Plan) -> list[str]:
    return [way for way in WAYS if way in plan.ways]


class _Work:
    """What the ways share."""

    def __init__(
        self, models: MemoryModels, plan: Plan, dataset: Dataset, split: str, asked: Questions, pools: Pools
    ) -> None:
        self.models, self.plan, self.dataset, self.split = models, plan, dataset, split
        self.asked, self.pools = asked, pools
        self._pooled: tuple[str, PooledMemory] | None = None

    def name(self, way: str) -> str:
        """Of the system."""
        return f"{self.models.name}, {way}"

    def is_same(self, way: str, found: Evaluation) -> bool:
        """Whether an evaluation is what measuring would give again."""
        own = found.system, found.dataset, found.split, found.fingerprints
        model = self.models.open(WAYS[way]).fingerprint
        return own == (self.name(way), self._dataset_name, self.split, self._prints(way, model))

    @property
    def _dataset_name(self) -> str:
        return f"{self.dataset.name}, {self.plan.pool} pool"

    def measured(self, way: str) -> tuple[Evaluation, Run]:
        """The evaluation and the run of one way."""
        stage, plan, asked, pools = WAYS[way], self.plan, self.asked, self.pools
        encoder = self.models.open(stage)
        if way in TEXTS:
            reading = read_text(way, plan, encoder, self.dataset, pools)
        else:
            reading = read_memory(way, plan, asked, self._memory(stage))
        answers = written(way, plan, encoder, asked, reading)
        per_query = answer_measures(answers, asked.answers)
        missing = 0
        if reading.ranking is not None and (judged := self.dataset.judgements.get(self.split)):
            scores = score(reading.ranking, {key: judged[key] for key in asked.texts}, _RECALLS)
            per_query = {key: {**row, **per_query[key]} for key, row in scores.per_query().items()}
            missing = len(scores.missing)
        found = Evaluation(
            system=self.name(way),
            dataset=self._dataset_name,
            split=self.split,
            queries=len(per_query),
            measures=estimates(per_query),
            per_query=per_query,
            cost=self._cost(way, reading, timed(plan, encoder, asked, reading, pools)),
            fingerprints=self._prints(way, encoder.fingerprint),
            missing=missing,
            answers=answers,
        )
        return found, Run.of({}) if reading.ranking is None else reading.ranking

    def _memory(self, stage: int | None) -> PooledMemory:
        """The pools as memory of the model of a stage; the ways of one model share it."""
        name = self.models.folder(stage)
        if self._pooled is None or self._pooled[0] != name:
            self._pooled = None
            encoder = self.models.open(stage)
            self._pooled = name, PooledMemory(name, encoder, self.dataset, self.asked, self.pools)
        return self._pooled[1]

    def _cost(self, way: str, reading: Reading, times: Times) -> dict[str, float | None]:
        encoder = self.models.open(WAYS[way])
        size = None if way in TEXTS else len(self.dataset.documents) * encoder.count * encoder.dimension * 2  # float16
        return {
            "context_tokens": sum(reading.tokens.values()) / len(reading.tokens),
            "query_ms_p50": times.total,
            "retrieval_ms_p50": times.retrieval,
            "prefill_ms_p50": times.prefill,
            "generation_ms_p50": times.generation,
            "index_bytes": 0 if way == "closed" else size,
            "parameters": _parameters(way, encoder),
            "documents": 0 if way == "closed" else self.plan.documents,
            "candidates": 0 if way == "closed" else self.plan.candidates,
        }

    def _prints(self, way: str, model: str) -> dict[str, str]:
        settings = {key: value for key, value in asdict(self.plan).items() if key != "ways"} | {"version": __version__}
        prints = {"dataset": self.dataset.fingerprint, "model": model, "reading": fingerprint({"way": way, **settings})}
        return prints | ({} if way == "closed" else {"pools": self.pools.fingerprint})


def _parameters(way: str, encoder: MemoryEncoder) -> int:
    """Of what takes part: texts are read without adapters and memory tokens."""
    from lodesmith.encoders._memory_model import ADAPTERS

    model = encoder.model
    own = [*(p for name in ADAPTERS for p in model.weights(name).values()), model.memory, model.mark]
    return encoder.parameters_total - (sum(p.numel() for p in own) if way in TEXTS else 0)


def answer_datasets(
    model: str,
    datasets: Sequence[str | Path],
    plan: Plan | None = None,
    *,
    split: str = "test",
    out: Path | None = None,
    run: Path | None = None,
) -> Answered:
    """`answer_dataset` on datasets, compared; the baseline is `text` where it is among the ways, else the first.

    Args:
        model: a run directory, or the folder of one model.
        datasets: folders.
        plan: what is measured.
        split: whose queries.
        out: the evaluation file to write, of one way on one dataset; else a folder that gets a file each, where what is
            finished is kept.
        run: the same of the TREC run files.

    Raises:
        InputError: as `answer_dataset`; a dataset is not there, lacks the split, or two have the same name.
        ConfigError: as `answer_dataset`.
        IntegrityError: as `answer_dataset`.
    """
    plan = plan or Plan()
    found: list[Evaluation] = []
    one = len(plan.ways) == 1 and len(chosen := targets(datasets)) == 1
    if one and not any(path is not None and path.is_dir() for path in (out, run)):
        dataset, part = Dataset.load(chosen[0].folder), chosen[0].split(split)
        for evaluation, ranking in answer_dataset(model, dataset, plan, part):
            found.append(evaluation)
            if out is not None:
                evaluation.save(out)
            if run is not None and ranking is not None:
                ranking.save(run, tag=evaluation.system)
    else:
        found = measure_variants(
            datasets,
            lambda dataset, part, kept: answer_dataset(model, dataset, plan, part, kept),
            split=split,
            out=out,
            run=run,
            by="several ways to answer",
            unjudged=True,
        )
    order = {f"{MemoryModels(model).name}, {way}": at for at, way in enumerate(plan.ways)}
    names = list(dict.fromkeys(evaluation.dataset for evaluation in found))
    found.sort(key=lambda evaluation: (names.index(evaluation.dataset), order[evaluation.system]))
    return Answered(tuple(found), _compared(found))


def _compared(found: Sequence[Evaluation]) -> Comparison:
    systems = tuple(dict.fromkeys(evaluation.system for evaluation in found))
    baseline = next((name for name in systems if name.endswith(", text")), systems[0])
    if len(systems) < 2 or any(evaluation.queries < 2 for evaluation in found):
        return Comparison(baseline, MEASURE, systems, ())
    return comparing.compare(found, measure=MEASURE, baseline=baseline)


def answers_page(found: Answered) -> str:
    """The HTML page: quality with intervals, against context tokens and against latency, and every pair."""
    from lodesmith.reports.page import render

    return render("Answers", found.evaluations, found.comparison, notes=NOTES)

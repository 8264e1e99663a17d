"""`Recipe`: the plan of a training. YAML is its spelling, `section.key=value` its overrides, its hash the run's name.

Everything resolves here, before anything heavy loads: names, types, components and their settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.registry import did_you_mean
from lodesmith.data.traced import COLUMN, Mode
from lodesmith.recipes._spelling import locate, overrides_of, put, read, shipped
from lodesmith.training.health import Cause
from lodesmith.training.optim import OptimSettings
from lodesmith.training.tracking import Name as Tracking

__all__ = ["TEACHER", "AdaptRecipe", "Recipe", "WordVectorsRecipe", "load", "load_any", "shipped"]

TEACHER = "teacher"
"""As a recipe's base, or as a tower's `init`: the first teacher."""
SHORT = {"data": "data.path"}
"""Overrides that have a shorter spelling than their place in the recipe."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    def to_yaml(self) -> str:
        """The resolved settings as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Component(BaseModel):
    """A component by file name (or dotted path) in `use`, with the settings of its signature beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str = Field(description="file name in the family, or package.module.Name")

    @property
    def settings(self) -> dict[str, Any]:
        """The component's own settings."""
        return dict(self.model_extra or {})


class Data(Section):
    """What is trained on."""

    path: str | None = Field(
        None, description="dataset folder in BEIR layout, or several with commas; `data=DIR` for short"
    )
    train: str = Field("train", description="split that gives the training pairs")
    validation: str | None = Field("dev", description="split that is measured while training; null for none")
    limit: int | None = Field(None, ge=1, description="at most this many training pairs, drawn by the seed")
    negatives: str | None = Field(None, description="column of mined negatives, such as `negatives`; null for none")
    negatives_each: int = Field(7, ge=1, description="at most this many of a query's mined negatives")
    hold_out: float = Field(
        0.1, ge=0, lt=1, description="share of the training queries kept for validation where its split is missing"
    )


class TracesPlan(Section):
    """Reasoning traces behind the queries (`lode data trace`), in training and in validation."""

    mode: Mode = Field("use", description="use; or a control: none, shuffle (another query's)")
    column: str = Field(COLUMN, description="the column that has them")
    words: int | None = Field(None, ge=1, description="a trace is cut after so many")


class StagePlan(Section):
    """One stage: an objective, its optimiser and how long."""

    name: str
    objective: Component
    optim: OptimSettings = OptimSettings()  # type: ignore[call-arg]
    pairs: Literal["judged", "text", "none", "answers"] = Field(
        "judged",
        description="judged: the training split's; text: out of the documents alone, as `lode data pairs`; none: each "
        "document and training query by itself, for an objective that mimics a teacher; answers: questions with their "
        "answers, of the training split and the column `questions`",
    )
    batch_size: int = Field(128, ge=1)
    chunk: int | None = Field(
        None, ge=1, description="texts that are in memory at once while a batch of any size is learned; null for all"
    )
    pool: int = Field(0, ge=0, description="further documents, drawn at random, that are negatives of every query")
    epochs: int = Field(10, ge=1)
    min_steps: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="where `epochs` make fewer steps, more epochs, until so many, validated `epochs` times in all; 0 "
        "where `epochs` is overridden",
    )
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better one")
    monitor: str = Field(
        "nDCG@10",
        description="measure that decides which weights are kept; teacher: the mean cosine of the vectors of queries "
        "that no stage sees to the teacher's, and a measure of ranking where there are none",
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps; null for once an epoch")

    def passes(self, batches: int, accumulate: int = 1) -> int:
        """How often the data are gone over, whole: `epochs`, or more where these make fewer than `min_steps`.

        Args:
            batches: of one pass.
            accumulate: batches that make a step.
        """
        steps = -(-batches // accumulate)
        return max(self.epochs, -(-self.min_steps // steps)) if steps else self.epochs


class VocabularyPlan(Section):
    """The words of towers that are trained from scratch."""

    min_count: int = Field(2, ge=1, description="rarer words are left out")
    max_size: int | None = Field(200_000, ge=3, description="the most frequent stay; null for no limit")


class EnginePlan(Section):
    """How the steps are computed."""

    arrays: Literal["torch", "mlx"] = Field(
        "torch", description="what computes the forward and backward pass of training; mlx needs the extra mlx"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the forward pass")
    accumulate: int = Field(1, ge=1, description="so many batches make a step; their mean counts")
    processes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="that share each batch; `lode train` launches them; null for as many as torchrun starts",
    )


_WATCHING: dict[str, Any] = {
    "tracking": True,
    "stop_on": True,
    "evaluation": {"geometry"},
    "engine": {"arrays", "processes"},
}
"""Settings that are not of the experiment: who watches it, what computes it, and how many processes share it."""


class EvaluationPlan(Section):
    """What is measured after training."""

    split: str = "test"
    measures: tuple[str, ...] = ()
    validate_on: tuple[str, ...] = Field(
        (),
        description="datasets (folders, or pulled BEIR sets) that are measured while training; their mean decides "
        "wherever a ranking does",
    )
    validate_split: str = Field("dev", description="split of those datasets")
    geometry: bool = Field(True, description="tell the geometry of some of the vectors at each validation")

    @field_validator("validate_on", mode="before")
    @classmethod
    def _with_commas(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Recipe(Section):
    """A training, whole. Values come from YAML and overrides; `fingerprint` names the experiment."""

    short: ClassVar[Mapping[str, str]] = SHORT

    name: str
    seed: int = Field(0, ge=0, lt=2**63)
    data: Data = Data()  # type: ignore[call-arg]
    base: str = Field("minilm", description="sentence-transformers model: hub name, folder, `minilm`, or `teacher`")
    teacher: str | None = Field(None, description="the model that is mimicked, or several with commas, side by side")
    encoder: Component
    traces: TracesPlan | None = Field(None, description="reasoning traces behind the queries")
    document_encoder: Component | None = Field(None, description="the documents' own tower; null: both sides share one")
    vocabulary: VocabularyPlan = VocabularyPlan()  # type: ignore[call-arg]
    stages: tuple[StagePlan, ...] = Field(min_length=1)
    engine: EnginePlan = EnginePlan()  # type: ignore[call-arg]
    evaluation: EvaluationPlan = EvaluationPlan()  # type: ignore[call-arg]
    tracking: tuple[Tracking, ...] = Field((), description="experiment trackers that get the figures")
    stop_on: tuple[Cause, ...] = Field(
        (), description="findings that stop the training instead of warning; NaN always does"
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The models that are mimicked."""
        return tuple(name.strip() for name in (self.teacher or "").split(",") if name.strip())

    @property
    def monitors(self) -> tuple[str, ...]:
        """The measures of ranking that decide which weights are kept; nDCG@10 where a teacher decides alone."""
        names = dict.fromkeys(stage.monitor for stage in self.stages if stage.monitor != TEACHER)
        return tuple(names) or (StagePlan.model_fields["monitor"].default,)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved recipe, but for who watches and who computes it, and what is told of it."""
        settings = self.model_dump(mode="json", exclude=_WATCHING)
        if self.traces is None:
            del settings["traces"]  # which the fingerprints of older runs do not have
        return fingerprint(settings)


class AdaptationPlan(Section):
    """How a system is made for documents that nobody has asked anything yet."""

    queries: tuple[Literal["sentence", "title", "phrase"], ...] = Field(
        ("sentence", "title"), min_length=1, description="what is taken out of documents to choose weight and strength"
    )
    trained: tuple[Literal["sentence", "title", "phrase"], ...] = Field(
        ("sentence",), min_length=1, description="what is taken out of documents to train on"
    )
    held_out: int = Field(300, ge=10, description="queries of each kind that choose weight and strength, at most")
    weight: float = Field(0.5, ge=0, le=1, description="of the encoder beside BM25, where the two are equally good")
    evidence: float = Field(
        1.5, ge=0, le=100, description="power of their ratio of nDCG@10 that moves the weight's odds; 0 leaves them"
    )
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.5, 1.0), min_length=1, description="of the trained residual, of which one is chosen; 0 leaves the base"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, value: Any) -> Any:
        """Runs of before `evidence` have a setting `pull`, which chose their weight and does nothing afterwards."""
        retired = isinstance(value, dict) and "evidence" not in value
        return {key: own for key, own in value.items() if key != "pull"} if retired else value


class AdaptRecipe(Recipe):
    """A training without labels: the recipe that has a section `adaptation`."""

    adaptation: AdaptationPlan


class Texts(Section):
    """What word vectors are trained on."""

    path: str | tuple[str, ...] | None = Field(
        None, description="dataset folders, text files or folders of texts, comma-separated; `data=PATH` for short"
    )
    document: Literal["file", "line"] = Field("file", description="what one document of a plain text file is")


class WordVectorsPlan(Section):
    """How word vectors are trained."""

    model: Literal["skip_gram", "cbow"] = "skip_gram"
    dimension: int = Field(128, ge=1, le=16_384)
    window: int = Field(5, ge=1, le=10_000, description="words on each side, at most")
    epochs: int = Field(5, ge=1)
    negatives: int = Field(5, ge=1, le=1000, description="noise words for each true one")
    subsample: float = Field(
        1e-3, ge=0, le=1, description="share of the tokens above which a word is at times left out"
    )
    min_count: int = Field(2, ge=1, description="rarer words are left out")
    max_size: int | None = Field(200_000, ge=3, description="the most frequent stay; null for no limit")
    workers: int = Field(1, ge=1, le=256, description="threads; more than one is faster, and no two runs are the same")


class WordVectorsRecipe(Section):
    """A training of word vectors: the recipe that has a section `word_vectors` and no stages."""

    short: ClassVar[Mapping[str, str]] = {
        **{name: f"word_vectors.{name}" for name in WordVectorsPlan.model_fields},
        **{name: f"data.{name}" for name in Texts.model_fields},
        **SHORT,
    }

    name: str
    seed: int = Field(0, ge=0, lt=2**32 - 1)
    data: Texts = Texts()  # type: ignore[call-arg]
    word_vectors: WordVectorsPlan
    evaluation: EvaluationPlan = EvaluationPlan()  # type: ignore[call-arg]
    tracking: tuple[Tracking, ...] = Field((), description="experiment trackers that get the figures")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the resolved recipe, but for who watches it: that changes no result."""
        return fingerprint(self.model_dump(mode="json", exclude={"tracking"}))


_KINDS: Mapping[str, type[Recipe] | type[WordVectorsRecipe]] = {
    "word_vectors": WordVectorsRecipe,
    "adaptation": AdaptRecipe,
}
"""Section → the kind of recipe that has it."""


def load(source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """A recipe from a shipped name or a YAML path, with overrides (`["stages.0.optim.lr=1e-4"]` or a mapping).

    Raises:
        ConfigError: a name, key or value is wrong; the message says which and offers the nearest right one.
    """
    found = load_any(source, overrides)
    if isinstance(found, WordVectorsRecipe):
        raise ConfigError(f"{source} trains word vectors and has no stages", "choose another recipe: `lode recipes`")
    return found


def load_any(source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe | WordVectorsRecipe:
    """As `load`, of either kind: a recipe with a section `word_vectors` trains those.

    Raises:
        ConfigError: a name, key or value is wrong.
    """
    tree = read(locate(str(source)))
    kind = next((kind for name, kind in _KINDS.items() if name in tree), Recipe)
    given = {kind.short.get(key, key): value for key, value in overrides_of(overrides)}
    for key, value in given.items():
        put(tree, key, value)
    for key in given:  # whoever says how many epochs means so many, whatever the recipe's least number of steps
        least = key.removesuffix(".epochs") + ".min_steps"
        if key.startswith("stages.") and key.endswith(".epochs") and least not in given:
            put(tree, least, 0)
    try:
        found = kind.model_validate(tree)
    except ValidationError as error:
        raise _explained(error, kind) from None
    for place, value in _numbers(found.model_dump()):
        if not math.isfinite(value):
            raise ConfigError(f"{place} is {value}", "give a finite number")
    return found


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number of resolved settings, with its dotted place."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(item, f"{place}.{key}" if place else str(key))


def _explained(error: ValidationError, kind: type[Section]) -> ConfigError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        choices = _known(first["loc"], kind)
        return ConfigError(f"unknown setting {place!r}", did_you_mean(str(first["loc"][-1]), choices))
    return ConfigError(f"{place}: {first['msg']} (found {first['input']!r})", "`lode recipes NAME` shows every setting")


def _known(location: tuple[int | str, ...], kind: type[Section]) -> list[str]:
    """The setting names at the place of an unknown one."""
    model: Any = kind
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", (annotation,))
        model = next((a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)

"""Terms beside an objective's own: losses over all vectors of a batch, and a prediction of documents from queries.

A recipe gives each as a mapping, `sigreg: {weight: 0.1}`; the weight may follow a schedule. They teach, and are no part
of a validation's loss: that stays comparable between weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Unpack, cast

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from lodesmith.core import registry
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.gaussianity import knots_of
from lodesmith.core.protocols import Metric
from lodesmith.objectives._candidates import Scored, wide

Loss = Callable[..., torch.Tensor]

PREDICTION = "prediction"
Kind = TypeVar("Kind", bound="Ramp")
SUPPLIED = ("vectors", "seed", "step", "total")
"""Arguments of a loss that a recipe does not give."""


class Ramp(BaseModel):
    """A term's weight, at each step of a training. Steps are batches, counted from the stage's first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    weight: float = Field(ge=0, allow_inf_nan=False, description="beside the objective's own, which is 1")
    begin: float | None = Field(None, ge=0, allow_inf_nan=False, description="the weight at first; null for `weight`")
    steps: int | None = Field(None, ge=1, description="so many lead from `begin` to `weight`")
    schedule: Literal["linear", "cosine"] = Field("linear", description="how")

    @model_validator(mode="after")
    def _both(self) -> Ramp:
        if (self.begin is None) != (self.steps is None):
            said = {"begin": str(self.begin), "steps": str(self.steps)}
            raise PydanticCustomError("ramp", "begin is {begin} and steps {steps}: give both, or neither", said)
        return self

    @property
    def off(self) -> bool:
        """Whether the weight is 0 for good."""
        return not self.weight and not self.begin

    def at(self, step: int) -> float:
        """The weight at a step, from 0."""
        if self.begin is None or self.steps is None or step >= self.steps:
            return self.weight
        done = step / self.steps
        done = done if self.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
        return self.begin + (self.weight - self.begin) * done


class _Settings(Ramp):
    """Of a loss over vectors, beside what is the loss's own."""

    of: Literal["unit", "raw"] | None = Field(
        None, description="vectors scaled to length √d, or as they are; null: scaled where cosine compares them"
    )


@dataclass(frozen=True)
class Term:
    """A loss over vectors, as a recipe has it.

    Args:
        loss: vectors [n, d] → scalar; of `lodesmith.losses`.
        ramp: its weight.
        of: what it is given: `unit`, vectors of length √d, where those of a standard Gaussian lie; or `raw`.
        own: the loss's settings.
    """

    loss: Loss
    ramp: Ramp
    of: Literal["unit", "raw"] | None
    own: Mapping[str, Any]

    @staticmethod
    def read(name: str, given: Mapping[str, Any]) -> Term:
        """Check the settings; the loss itself is tried on two vectors.

        Raises:
            ConfigError: a setting is unknown, missing or out of range.
        """
        loss: Loss = registry.find("losses", name)
        arguments = [key for key in inspect.signature(loss).parameters if key not in SUPPLIED]
        shared = parsed(_Settings, name, given, arguments)
        term = Term(loss, shared, shared.of, {key: value for key, value in given.items() if key in arguments})
        try:
            term.value(torch.eye(2), seed=0, step=0)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.what}", error.do) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from error
        return term

    @property
    def summed(self) -> bool:
        """Whether processes sum what they have of the loss; otherwise each needs the vectors of all."""
        return "total" in inspect.signature(self.loss).parameters

    @property
    def floor(self) -> float | None:
        """What the loss of standard normal vectors is on average, where it is the same for any number of them."""
        if self.loss.__name__ != "sigreg":
            return None
        bound = inspect.signature(self.loss).bind_partial(**self.own)
        bound.apply_defaults()
        return knots_of(bound.arguments["knots"], bound.arguments["reach"]).floor

    def value(self, vectors: torch.Tensor, **supplied: Any) -> torch.Tensor:
        """The loss of vectors [n, d].

        Args:
            vectors: as encoded.
            supplied: `seed`, `step` and `total`, for a loss that takes them.
        """
        if self.of == "unit":
            vectors = normalize(wide(vectors), dim=1) * math.sqrt(vectors.shape[1])
        taken = inspect.signature(self.loss).parameters
        return self.loss(vectors, **self.own, **{key: value for key, value in supplied.items() if key in taken})


def parsed(kind: type[Kind], name: str, given: Mapping[str, Any], more: Collection[str] = ()) -> Kind:
    """The settings that all terms have.

    Raises:
        ConfigError: one of them is wrong, or a setting is neither theirs nor among `more`.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} is {given!r}, not a mapping", "give {weight: 0.1}")
    offered = [*kind.model_fields, *more]
    for key in given:
        if key not in offered:
            raise ConfigError(f"{name}: unknown setting {key!r}", registry.did_you_mean(str(key), offered))
    try:
        return kind.model_validate({key: value for key, value in given.items() if key in kind.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (name, *first["loc"])))
        raise ConfigError(f"{place}: {first['msg']}") from None


def checks(name: str, read: Callable[[str, Any], object]) -> AfterValidator:
    """So that a recipe's settings, which `read` refuses by a ConfigError, are checked before anything is loaded."""

    def check(given: Any) -> Any:
        try:
            read(name, given)
        except ConfigError as error:
            said = error.what.removeprefix(name).lstrip(":. ")
            said = f"{said}, {error.do}" if error.do else said
            raise PydanticCustomError("settings", "{said}", {"said": said}) from None
        return given

    return AfterValidator(check)


def _checks(name: str) -> AfterValidator:
    return checks(name, partial(parsed, Ramp) if name == PREDICTION else Term.read)


SigregSettings = Annotated[Mapping[str, Any], _checks("sigreg")]
CovarianceSettings = Annotated[Mapping[str, Any], _checks("covariance")]
UniformitySettings = Annotated[Mapping[str, Any], _checks("uniformity")]
GorSettings = Annotated[Mapping[str, Any], _checks("gor")]
PredictionSettings = Annotated[Mapping[str, Any], _checks(PREDICTION)]


class Beside(TypedDict, total=False):
    """What an objective takes beside its own settings; see `objectives.contrast.Contrast`."""

    sigreg: SigregSettings | None
    covariance: CovarianceSettings | None
    uniformity: UniformitySettings | None
    gor: GorSettings | None
    prediction: PredictionSettings | None
    predictor: nn.Module | None
    seed: int


LOSSES = ("sigreg", "covariance", "uniformity", "gor")


class Regularisers(nn.Module):
    """The terms beside an objective's own.

    Where there are any, their state is one number, `step`, of the batches trained on: a resumed training goes on with
    the weights and the directions that it would have had.

    A text that is in a batch several times counts once, where the batch says its id: repeated vectors are no sample.

    Args:
        similarity: of the objective.
        given: settings of each loss, or None; of the `prediction`, None for a weight of 1; the `predictor`, query
            vectors [n, e] → document vectors [n, e]; and the `seed` of directions and pairs.

    Raises:
        ConfigError: a setting is wrong.
    """

    step: torch.Tensor

    def __init__(self, similarity: Metric, **given: Unpack[Beside]) -> None:
        super().__init__()
        if unknown := given.keys() - Beside.__annotations__.keys():
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        self.similarity, self.seed = similarity, given.get("seed", 0)
        default: Literal["unit", "raw"] = "unit" if similarity == "cosine" else "raw"
        settings = {name: cast(Mapping[str, Any], given).get(name) for name in LOSSES}
        found = {name: Term.read(name, own) for name, own in settings.items() if own is not None}
        self.terms = {name: replace(t, of=t.of or default) for name, t in found.items() if not t.ramp.off}
        self.ramps = {name: term.ramp for name, term in self.terms.items()}
        prediction, predictor = given.get("prediction"), given.get("predictor") is not None
        predicted = parsed(Ramp, PREDICTION, {"weight": 1.0} if prediction is None else prediction)
        self.lacking = not predictor and prediction is not None and not predicted.off
        self.predicts = predictor and not predicted.off
        if self.predicts:
            self.ramps[PREDICTION] = predicted
        if self.ramps:
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def weights(self) -> dict[str, float]:
        """Of each term, at the next step."""
        step = int(self.step) if self.ramps else 0
        return {name: ramp.at(step) for name, ramp in self.ramps.items()}

    @property
    def evidence(self) -> dict[str, torch.Tensor]:
        """What the terms are where nothing is left to gain, as far as it is known: `sigreg_floor`."""
        floors = {name: term.floor for name, term in self.terms.items()}
        return {f"{name}_floor": torch.tensor(floor) for name, floor in floors.items() if floor is not None}

    def forward(
        self, scored: Scored, predictor: nn.Module | None, weights: MutableMapping[str, float]
    ) -> dict[str, torch.Tensor]:
        """The terms of a batch; none in evaluation mode. One more batch is then counted.

        Args:
            scored: the batch.
            predictor: of documents from queries, if there is a prediction.
            weights: get those of this step.

        Raises:
            ConfigError: a prediction is asked for, and there is no predictor.
            InputError: a text has several vectors.
        """
        if not self.training:
            return {}
        if self.lacking:
            raise ConfigError("a prediction needs a predictor", "set encoder.predictor to true, or prediction to null")
        if not self.ramps:
            return {}
        weights.update(self.weights)
        step = int(self.step)
        self.step += 1
        terms = self._spread(scored, step) if self.terms else {}
        if predictor is not None:
            terms[PREDICTION] = _prediction(scored, predictor, self.similarity)
        return terms

    def _spread(self, scored: Scored, step: int) -> dict[str, torch.Tensor]:
        """The losses over vectors."""
        encoded, ranks = scored.encoded, scored.ranks
        if not (isinstance(encoded.queries, torch.Tensor) and encoded.queries.ndim == 2):
            raise InputError("a text has several vectors", f"leave {', '.join(self.terms)} out")
        rows = ranks.gather(scored.rows)
        places = distinct(rows[:, 1]), distinct(rows[:, 0])
        supplied = {"seed": self.seed, "step": step, "total": ranks.sum if ranks.world > 1 else None}
        kinds = {term.summed for term in self.terms.values()}
        vectors = {summed: _vectors(scored, places, gathered=not summed) for summed in sorted(kinds)}
        return {name: term.value(vectors[term.summed], **supplied) for name, term in self.terms.items()}


def distinct(ids: torch.Tensor) -> torch.Tensor:
    """int64 [u]: the first row of each id, in the ids' order, which is the same however rows lie on processes. A row
    of unknown id is its own."""
    rows = torch.arange(len(ids), device=ids.device)
    found, inverse = torch.unique(torch.where(ids < 0, rows - len(ids), ids), return_inverse=True)
    return rows.new_full((len(found),), len(ids)).scatter_reduce(0, inverse, rows, "amin")


def _vectors(scored: Scored, places: Sequence[torch.Tensor], *, gathered: bool) -> torch.Tensor:
    """Of queries and documents, [·, e]: those at the places among the rows of all processes, or this one's share."""
    sides = (scored.encoded.queries, scored.encoded.documents)
    if gathered:
        return torch.cat([scored.ranks.gather(side)[where] for side, where in zip(sides, places, strict=True)])
    first, n = scored.ranks.first, len(scored.rows)
    own = [where[(where >= first) & (where < first + n)] - first for where in places]
    return torch.cat([side[where] for side, where in zip(sides, own, strict=True)])


def _prediction(scored: Scored, predictor: nn.Module, similarity: Metric) -> torch.Tensor:
    """Mean over rows of 1 − cos(predictor(q), d), or of ‖predictor(q) − d‖² / e where another similarity compares
    them; gradients go through both sides."""
    predicted, documents = wide(predictor(scored.encoded.queries)), wide(scored.encoded.documents)
    if similarity == "cosine":
        apart = 1 - cosine_similarity(predicted, documents, dim=1)
    else:
        apart = (predicted - documents).square().mean(1)
    return apart.sum() * scored.ranks.world / max(1, sum(scored.ranks.counts[0]))

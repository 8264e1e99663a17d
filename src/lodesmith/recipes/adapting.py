"""The recipe for documents without labels: pseudo-queries train a residual projection and weigh it against BM25.

What is chosen is chosen on held-out pseudo-queries, which favour the words of their documents; so they may only move
the weight of the fusion from one that serves any collection, not set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import read_json, sha256_folder, write_json
from lodesmith.core.joined import load_several
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.run import Run
from lodesmith.core.tables import Judgements
from lodesmith.evaluation.measures import parse, score
from lodesmith.recipes._run_folder import finished
from lodesmith.recipes.recipe import AdaptationPlan, AdaptRecipe
from lodesmith.recipes.run_report import report
from lodesmith.recipes.train import Training

if TYPE_CHECKING:
    from lodesmith.encoders.projected import ProjectionLayer
    from lodesmith.recipes.learners.vectors import Stored

__all__ = ["AdaptTraining", "Choice", "choose"]

DEPTH = 200
"""Results of BM25 and of the encoder that are fused."""
WEIGHTS = tuple(round(number * 0.05, 2) for number in range(21))
FAR = 0.2
"""A distance from the recipe's weight beyond which more costs nothing: evidence that strong says that one of the two
is of no use here, as an encoder of another language."""
_MEASURE = parse("nDCG@10")


@dataclass(frozen=True)
class Choice:
    """What held-out pseudo-queries chose.

    Args:
        weight: of the encoder in the fusion; BM25 has the rest.
        strength: the share of the trained residual that stays; 0 leaves the base as it was.
        held_out: mean nDCG@10 of `bm25`, `base`, the `encoder` as it stays, and both `fused`.
    """

    weight: float
    strength: float
    held_out: Mapping[str, float]


def choose(lexical: Run, encoded: Mapping[float, Run], judgements: Judgements, plan: AdaptationPlan) -> Choice:
    """The residual's strength, by the fusion at the plan's weight, and then the fusion's weight.

    The weight is argmax of nDCG@10(w) − pull · min(|w − weight|, FAR)²: it leaves the plan's weight as far as the
    evidence carries it. Among equals the weaker residual and the nearer weight stand.

    Args:
        lexical: BM25's results for the held-out queries.
        encoded: strength → the encoder's; the plan's shares are among them, and 0.
        judgements: of these queries.
        plan: of the recipe.
    """
    from lodesmith.retrieval.fuse import standardised

    def measured(*runs: Run, weights: tuple[float, ...] = (1.0,)) -> float:
        run = runs[0] if len(runs) == 1 else standardised(runs, weights)
        return float(score(run, judgements, [_MEASURE]).means[str(_MEASURE)])

    def fused(strength: float, weight: float) -> float:
        return measured(lexical, encoded[strength], weights=(1 - weight, weight))

    strength = max(sorted(set(plan.shares)), key=lambda own: fused(own, plan.weight))
    gains = {weight: fused(strength, weight) for weight in track(WEIGHTS, "weights", unit="weights")}
    weight = max(
        sorted(gains, key=lambda own: abs(own - plan.weight)),
        key=lambda own: gains[own] - plan.pull * min(abs(own - plan.weight), FAR) ** 2,
    )
    held_out = {
        "bm25": measured(lexical),
        "base": measured(encoded[0.0]),
        "encoder": measured(encoded[strength]),
        "fused": gains[weight],
    }
    return Choice(weight, strength, held_out)


class _Residual:
    """The trained weights of a residual projection x + Wx + b, of which any share can be kept."""

    def __init__(self, projection: ProjectionLayer) -> None:
        self._projection = projection
        self._trained = [parameter.detach().clone() for parameter in projection.parameters()]

    def keep(self, share: float) -> None:
        """Set the projection to x + share · (Wx + b)."""
        for parameter, trained in zip(self._projection.parameters(), self._trained, strict=True):
            parameter.data.copy_(share * trained)


class AdaptTraining(Training):
    """A planned training without labels; the dataset's own queries and judgements are never read for it."""

    @cached_property
    def dataset(self) -> Dataset:
        """The documents with queries made from them."""
        from lodesmith.data.pseudo_queries import pseudo_queries

        plan, limit = self._plan, self.recipe.data.limit
        return pseudo_queries(
            load_several(str(self.recipe.data.path)),
            plan.queries,
            trained=plan.trained,
            held_out=plan.held_out,
            limit=limit,
            seed=self.recipe.seed,
        )

    @cached_property
    def _residual(self) -> _Residual:
        return _Residual(cast("Stored", self.learner).encoder.projection)

    @property
    def _plan(self) -> AdaptationPlan:
        return cast(AdaptRecipe, self.recipe).adaptation

    @property
    def summary(self) -> dict[str, Any]:
        """What was chosen: weight of the encoder, strength of the residual, measures on held-out pseudo-queries, and
        how many of these there were by kind."""
        if not finished(self.out):
            return {}
        fusion = read_json(self.out / "manifest.json").get("fusion")
        if fusion is None:
            raise IntegrityError(
                f"{self.out}: the manifest has no fusion", "restore a copy, or train in another folder"
            )
        return {"fusion": fusion}

    def _report(self) -> None:
        if self.reported:
            report(Training(self.recipe, self.out))  # over the dataset as it is: its judgements only measure

    def _finish(self) -> None:
        learner = cast("Stored", self.learner)
        chosen = self._choice(learner)
        self._residual.keep(chosen.strength)
        learner.save(self.out / "model")
        fusion = {
            "weight": chosen.weight,
            "depth": DEPTH,
            "strength": chosen.strength,
            "held_out": dict(chosen.held_out),
            "queries": self.dataset.info["pseudo_queries"],
        }
        files = sha256_folder(self.out / "model")
        write_json(self.out / "manifest.json", self._manifest() | {"model_files": files, "fusion": fusion})

    def _choice(self, learner: Stored) -> Choice:
        """Held-out queries against all documents: BM25, and the encoder at each strength."""
        from lodesmith.retrieval.bm25 import BM25

        texts = {key: self.dataset.queries[key].content for key in self.pairs.validation}
        lexical = BM25().build((key, document.content) for key, document in self.dataset.documents.items())
        encoded = {}
        for strength in track(sorted({0.0, *self._plan.shares}), "strengths", unit="strengths"):
            self._residual.keep(strength)
            index = find("indexes", "flat")(metric=learner.metric)
            index.add(learner.documents())
            encoded[strength] = index.search(learner.queries(texts), DEPTH)
        return choose(lexical.search(texts, DEPTH), encoded, self.pairs.validation, self._plan)

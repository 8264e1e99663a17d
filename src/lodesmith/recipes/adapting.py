"""The recipe for documents without labels: pseudo-queries train a residual projection and weigh it against BM25.

Held-out pseudo-queries say how good BM25 and the encoder are here, and so which of them has more weight. As they have
more words of their documents than people's queries have, their coverage by BM25 is kept: a query with less of it, as
one in other words than the documents', leaves more to the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from lodesmith.core.files import sha256_folder, write_json
from lodesmith.core.joined import load_several
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.core.run import Run
from lodesmith.core.tables import Judgements
from lodesmith.evaluation.measures import parse, score
from lodesmith.recipes._fusion import fusion_of
from lodesmith.recipes._run_folder import finished
from lodesmith.recipes.recipe import AdaptationPlan, AdaptRecipe
from lodesmith.recipes.run_report import report
from lodesmith.recipes.train import Training

if TYPE_CHECKING:
    from lodesmith.encoders.projected import ProjectionLayer
    from lodesmith.recipes.learners.vectors import Stored

__all__ = ["AdaptTraining", "Choice", "choose"]

DEPTH = 2000
"""Results of BM25 and of the encoder that are fused: so many that their spread is the collection's more than that of
the few documents that a query is about."""
_LEAST = 0.02
"""Added to both measures of a ratio, so that one of nothing decides only as far as the other is something."""
_MEASURE = parse("nDCG@10")


@dataclass(frozen=True)
class Choice:
    """What held-out pseudo-queries chose.

    Args:
        weight: of the encoder in the fusion; BM25 has the rest.
        reference: mean `BM25.coverage` of the held-out queries, from which on BM25 has that weight in full.
        strength: the share of the trained residual that stays; 0 leaves the base as it was.
        held_out: mean nDCG@10 of `bm25`, `base`, the `encoder` as it stays, and both `fused`.
    """

    weight: float
    reference: float
    strength: float
    held_out: Mapping[str, float]


def choose(
    lexical: Run,
    encoded: Mapping[float, Run],
    coverage: Mapping[str, float],
    judgements: Judgements,
    plan: AdaptationPlan,
) -> Choice:
    """The fusion's weight, by how good both sides are, and then the residual's strength, by the fusion.

    logit(w) = logit(weight) + evidence · ln((d + .02) / (b + .02)), d and b the mean nDCG@10 of the base encoder and of
    BM25. Among equals the weaker residual stands.

    Args:
        lexical: BM25's results for the held-out queries.
        encoded: strength → the encoder's; the plan's shares are among them, and 0.
        coverage: query id → `BM25.coverage`.
        judgements: of these queries.
        plan: of the recipe.
    """
    from lodesmith.retrieval.fuse import Weight, covered, standardised

    def measured(*runs: Run, weights: Sequence[Weight] = (1.0,)) -> float:
        run = runs[0] if len(runs) == 1 else standardised(runs, weights)
        return float(score(run, judgements, [_MEASURE]).means[str(_MEASURE)])

    held_out = {"bm25": measured(lexical), "base": measured(encoded[0.0])}
    weight = _moved(plan, (held_out["base"] + _LEAST) / (held_out["bm25"] + _LEAST))
    reference = fmean(coverage.values())
    weights = covered(weight, coverage, reference)
    gains = {
        strength: measured(lexical, encoded[strength], weights=weights)
        for strength in track(sorted(set(plan.shares)), "shares", unit="shares")
    }
    strength = max(gains, key=gains.__getitem__)
    held_out |= {"encoder": measured(encoded[strength]), "fused": gains[strength]}
    return Choice(weight, reference, strength, held_out)


def _moved(plan: AdaptationPlan, ratio: float) -> float:
    """The plan's weight, its odds times ratio^evidence."""
    encoder, words = plan.weight * math.pow(ratio, plan.evidence), 1 - plan.weight
    return encoder / (encoder + words)


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
    def source(self) -> Dataset:
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
        """What was chosen: weight of the encoder, reference of the coverage, strength of the residual, measures on
        held-out pseudo-queries, and how many of these there were by kind."""
        if not finished(self.out):
            return {}
        fusion = fusion_of(self.out)
        return {} if fusion is None else {"fusion": fusion.told}

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
            "reference": chosen.reference,
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
        found = lexical.search(texts, DEPTH)
        return choose(found, encoded, lexical.coverage(texts, found), self.pairs.validation, self._plan)

"""What a contrast's `negatives: auto` means for a recipe and its data; the run's own recipe names the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lodesmith.core.joined import load_several
from lodesmith.recipes.learners import way
from lodesmith.recipes.recipe import Component, Recipe, StagePlan

__all__ = ["with_negatives"]

MOST = 250_000
"""Documents beyond which all of them are too many: a step then takes 3 s on two cores (.2 s for 15,800), at 384
dimensions."""


def with_negatives(recipe: Recipe, *, look: bool = True) -> Recipe:
    """The recipe with `corpus` in place of each `auto` where every document can be a negative at each step, else with
    `batch`.

    All documents serve over stored vectors, while they are few enough, and where the stage asks for nothing that they
    rule out: mined negatives, a pool, a symmetric loss, dimensions.

    Args:
        recipe: with its data.
        look: count the documents; False takes them for few, before it is known whether there are any.

    Raises:
        InputError: the dataset is broken.
    """
    if not any(_asks(stage) for stage in recipe.stages):
        return recipe
    possible = way(recipe.encoder) == "vectors" and recipe.data.negatives is None
    if possible and look:
        possible = len(load_several(str(recipe.data.path)).documents) <= MOST
    stages = [_settled(stage, possible) if _asks(stage) else stage for stage in recipe.stages]
    return recipe.model_copy(update={"stages": tuple(stages)})


def _asks(stage: StagePlan) -> bool:
    return stage.objective.settings.get("negatives") == "auto"


def _settled(stage: StagePlan, possible: bool) -> StagePlan:
    settings: dict[str, Any] = dict(stage.objective.settings)
    ruled_out: Sequence[Any] = (stage.pool, settings.get("symmetric"), settings.get("dimensions"))
    settings["negatives"] = "corpus" if possible and not any(ruled_out) else "batch"
    return stage.model_copy(update={"objective": Component(use=stage.objective.use, **settings)})

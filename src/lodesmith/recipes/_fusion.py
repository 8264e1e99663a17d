"""What a run without labels says of its fusion with BM25."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import read_object
from lodesmith.recipes.recipe import AdaptRecipe, load_any

__all__ = ["Fusion", "fusion_of"]


@dataclass(frozen=True)
class Fusion:
    """How the encoder stands beside BM25.

    Args:
        weight: of the encoder, 0 to 1.
        depth: results of each side that are fused.
        reference: mean coverage of the pseudo-queries by BM25; 0 for runs that weigh all queries alike.
        told: all that the manifest says.
    """

    weight: float
    depth: int
    reference: float
    told: Mapping[str, Any]


def fusion_of(run: Path) -> Fusion | None:
    """The fusion that a finished run's manifest names; None for runs of recipes that fuse nothing.

    Raises:
        IntegrityError: the run is one that fuses, and its manifest does not say how.
    """
    found = read_object(run / "manifest.json").get("fusion")
    if found is None and not isinstance(load_any(run / "recipe.yaml"), AdaptRecipe):
        return None
    try:
        weight, depth, reference = (_number(found, name) for name in ("weight", "depth", "reference"))
        if not (0 <= weight <= 1 and 1 <= depth <= 2**31 and 0 <= reference <= 1):
            raise ValueError(f"weight {weight}, depth {depth}, reference {reference}")
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{run / 'manifest.json'} says no fusion that can be used: {error}",
            "restore a copy, or train in another folder",
        ) from None
    return Fusion(weight, int(depth), reference, cast("dict[str, Any]", found))


def _number(found: Any, name: str) -> float:
    if not isinstance(found, dict):
        raise TypeError(f"it is {found!r}")
    value = found.get(name, 0.0) if name == "reference" else found[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}")
    return value

"""The terms that `objectives.mimic` may consist of, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field

from lodesmith.losses.mse import Over
from lodesmith.objectives._regularisers import Ramp, checks, parsed


class Mse(Ramp):
    """Of `losses.mse`."""

    over: Over = Field("sum", description="the dimensions: their sum or mean")
    of: Literal["unit", "raw"] | None = Field(
        None, description="vectors scaled to length 1, or as they are; null: scaled where cosine compares them"
    )


class Kl(Ramp):
    """Of `losses.kl`."""

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the similarities of both")


class Relative(Ramp):
    """Of `losses.relative`."""

    margin: float = Field(0.015, ge=0, allow_inf_nan=False, description="in units of the similarity")


SETTINGS: Mapping[str, type[Ramp]] = {
    "infonce": Ramp,
    "mse": Mse,
    "cosine": Ramp,
    "kl": Kl,
    "margin_mse": Ramp,
    "relational": Ramp,
    "relative": Relative,
}
COMPARING = ("infonce", "kl", "margin_mse")
"""Terms of a query against candidates; the others are of texts by themselves."""


def reader(kinds: Mapping[str, type[Ramp]]) -> Callable[[str, Any], Ramp]:
    """A function that reads a term's settings, by the term's name; a number is its weight. It raises ConfigError where
    one of them is wrong."""
    return lambda name, given: parsed(kinds[name], name, {"weight": given} if isinstance(given, int | float) else given)


read_term = reader(SETTINGS)


class Terms(TypedDict, total=False):
    """What `Mimic` may consist of."""

    infonce: Annotated[Mapping[str, Any] | float, checks("infonce", read_term)] | None
    mse: Annotated[Mapping[str, Any] | float, checks("mse", read_term)] | None
    cosine: Annotated[Mapping[str, Any] | float, checks("cosine", read_term)] | None
    kl: Annotated[Mapping[str, Any] | float, checks("kl", read_term)] | None
    margin_mse: Annotated[Mapping[str, Any] | float, checks("margin_mse", read_term)] | None
    relational: Annotated[Mapping[str, Any] | float, checks("relational", read_term)] | None
    relative: Annotated[Mapping[str, Any] | float, checks("relative", read_term)] | None

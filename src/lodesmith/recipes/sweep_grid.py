"""The grid of a sweep: what is varied, where it stands in the recipe, and every setting and run that comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.registry import did_you_mean, find, parameters
from lodesmith.recipes.recipe import Component, Recipe, load

__all__ = ["Axis", "Grid", "Setting", "axes_of", "grid", "places", "split_values"]

SEED = "seed"
RECIPE = "recipe"
SAME = {
    "data": "every setting is compared on the same queries: run one sweep a dataset",
    "evaluation": "every setting is compared by the same measures on the same queries: leave it as it is",
    "name": "give several recipes instead: lode train a.yaml,b.yaml",
    "tracking": "who watches a training changes nothing in it: give one value, without --sweep",
    "stop_on": "who watches a training changes nothing in it: give one value, without --sweep",
}
"""Settings that a sweep may not vary, and why."""
_FAMILIES = {"encoder": "encoders", "document_encoder": "encoders", "objective": "objectives"}
MOST = 1000
"""Runs of a sweep: what is beyond is a slip of the hand, and would be planned for minutes."""
_LONGEST = 100
"""Characters of a folder's name; what is longer ends in a hash."""


@dataclass(frozen=True)
class Axis:
    """A setting that is varied: its key as it was given, and the values as texts."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One combination of values; its repetitions differ in the seed alone.

    Args:
        name: what tables call it.
        source: the recipe's name or YAML path.
        values: axis key → the value as the recipe holds it, the recipe itself among them where there are several.
        labels: axis key → the value as tables show it.
        overrides: of the recipe, without the seed.
        seeds: of its repetitions.
    """

    name: str
    source: str
    values: Mapping[str, Any]
    labels: Mapping[str, str]
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]

    def run_name(self, seed: int) -> str:
        """The folder of one repetition: the same for the same settings, whatever else the sweep has."""
        return folder_name(f"{self.name},seed={seed}")


@dataclass(frozen=True)
class Grid:
    """All settings of a sweep.

    Args:
        title: the recipes' names, for people.
        axes: what is varied, but the seed: key → the values' labels in the order given.
        settings: the first is what the others are held against.
        key: names the sweep; it depends on the recipes and the keys, not on the values.
    """

    title: str
    axes: Mapping[str, tuple[str, ...]]
    settings: tuple[Setting, ...]
    key: str


def folder_name(text: str) -> str:
    """A text as the name of a folder."""
    safe = re.sub(r"[^\w.=,-]+", "_", text.replace(", ", ",")).strip("_.") or "run"
    return safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST - 9]}-{fingerprint(text)[:8]}"


# ------------------------------------------------------------------------ what was asked


def axes_of(sweeps: Sequence[str], overrides: Sequence[str] = ()) -> tuple[list[Axis], list[str]]:
    """Read `KEY=a,b` spellings; an override that has several values is one of them.

    Args:
        sweeps: of `--sweep`.
        overrides: `key=value`; `data` may have commas of its own.

    Returns:
        The axes, and the overrides that are left.

    Raises:
        ConfigError: a spelling is wrong, or a key may not be varied or comes twice.
    """
    plain: list[str] = []
    several = list(sweeps)
    for text in overrides:
        key, _, values = text.partition("=")
        swept = len(split_values(values)) > 1 and key not in ("data", "data.path")
        (several if swept else plain).append(text)
    axes = [_axis(text) for text in several]
    for axis in axes:
        if [other.key for other in axes].count(axis.key) > 1:
            raise ConfigError(f"the sweep names {axis.key!r} twice", f"give all values at once: {axis.key}=a,b,c")
    return axes, plain


def _axis(text: str) -> Axis:
    key, equals, values = text.partition("=")
    parts = split_values(values)
    if not equals or not key.strip() or not all(parts):
        raise ConfigError(f"{text!r} is not a sweep", "write --sweep KEY=a,b, such as stages.0.optim.lr=1e-4,1e-3")
    if doubled := next((part for part in parts if parts.count(part) > 1), None):
        raise ConfigError(f"--sweep {text}: {doubled} comes twice", "name each value once")
    key = key.strip()
    full = Recipe.short.get(key, key)
    if full in ("data.path", "data") or full.partition(".")[0] in SAME.keys() - {"data"}:
        raise ConfigError(f"{key} cannot be swept", SAME[full.partition(".")[0]])
    return Axis(key, tuple(parts))


def split_values(text: str) -> list[str]:
    """Split at the commas outside of brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{(") - (character in ")}]")
        if character == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


# --------------------------------------------------------------- where a key stands


def places(key: str, recipe: Recipe) -> list[str]:
    """The dotted places that a key means: itself, every stage's for `stages.*.…`, or the one that a short key has.

    Raises:
        ConfigError: a short key has no place (with the nearest name), or several.
    """
    key = Recipe.short.get(key, key)
    head = key.partition(".")[0]
    if key.startswith("stages.*."):
        return [f"stages.{number}.{key.removeprefix('stages.*.')}" for number in range(len(recipe.stages))]
    if head in Recipe.model_fields:
        return [key]
    sections = dict(_sections(recipe))
    found = [f"{place}.{key}" for place, names in sections.items() if head in names]
    if not found:
        known = sorted({name for names in sections.values() for name in names} | set(Recipe.model_fields))
        raise ConfigError(f"no setting of the recipe {recipe.name!r} is called {key!r}", did_you_mean(head, known))
    outer = [place for place in found if ".groups." not in place]
    found = outer or found  # a stage's own setting comes before that of a group of its parameters
    if len(found) > 1:
        every = {re.sub(r"^stages\.\d+\.", "stages.*.", place) for place in found}
        both = f", or {every.pop()} for all stages" if len(every) == 1 else ""
        raise ConfigError(f"{key!r} could be {', '.join(found)}", f"write the one that you mean{both}")
    return found


def _sections(part: BaseModel, place: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each part of a recipe that has settings, with their names; what a sweep may not vary is left out."""
    for name, value in part:
        here = f"{place}.{name}" if place else name
        if name in ("evaluation", *SAME.keys() - {"data"}):
            continue
        if isinstance(value, Component):
            yield here, _component_names(value, _FAMILIES.get(name))
        elif isinstance(value, BaseModel):
            yield here, [key for key in type(value).model_fields if (name, key) != ("data", "path")]
            yield from _sections(value, here)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, item in enumerate(value):
                yield f"{here}.{number}", [key for key in type(item).model_fields if key != "name"]
                yield from _sections(item, f"{here}.{number}")


def _component_names(component: Component, family: str | None) -> list[str]:
    given = list(component.settings)
    if family is None:
        return given
    there = parameters(find(family, component.use)).values()
    named = [p.name for p in there if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return list(dict.fromkeys([*given, *named]))


def _value_at(recipe: Recipe, place: str) -> Any:
    """What the resolved recipe holds at a dotted place."""
    value: Any = recipe.model_dump(mode="json")
    for part in place.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


# ------------------------------------------------------------------------ the grid


def grid(sources: Sequence[str], overrides: Sequence[str], sweeps: Sequence[str]) -> Grid:
    """Every combination of recipes and values. Each is resolved and checked as far as the recipe goes.

    Args:
        sources: recipe names or YAML paths.
        overrides: `key=value` for all of them.
        sweeps: `KEY=a,b`; `seed=0,1` are repetitions.

    Raises:
        ConfigError: a key, a value or a combination is wrong; the message names the combination.
    """
    axes, plain = axes_of(sweeps, overrides)
    seeds = next((axis.values for axis in axes if axis.key == SEED), ())
    varied = [axis for axis in axes if axis.key != SEED]
    if len(set(sources)) < len(sources):
        raise ConfigError(f"a recipe comes twice in {','.join(sources)}", "name each recipe once")
    count = len(sources) * prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise ConfigError(f"these are {count:,} runs; a sweep has at most {MOST:,}", "leave values or keys out")
    names = _source_labels(sources)
    drafts = [_draft(source, plain, varied, combination) for source in sources for combination in _product(varied)]
    labels = {axis.key: _labels([draft.values[axis.key] for draft in drafts]) for axis in varied}
    settings = [_setting(draft, names, {k: labels[k][i] for k in labels}, seeds) for i, draft in enumerate(drafts)]
    _check_distinct(settings, drafts)
    shown = {key: tuple(dict.fromkeys(own)) for key, own in labels.items()}
    if len(sources) > 1:
        shown = {RECIPE: tuple(names.values()), **shown}
    loaded = [load(source, plain).fingerprint for source in sources]
    return Grid(", ".join(names.values()), shown, tuple(settings), fingerprint([loaded, sorted(a.key for a in axes)]))


@dataclass(frozen=True)
class _Draft:
    source: str
    recipe: Recipe
    overrides: tuple[str, ...]
    values: Mapping[str, Any]


def _product(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    for values in product(*(axis.values for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def _draft(source: str, plain: Sequence[str], axes: Sequence[Axis], values: Mapping[str, str]) -> _Draft:
    bare = load(source, plain)
    at = {axis.key: places(axis.key, bare) for axis in axes}
    _check_apart(at)
    swept = [f"{place}={values[key]}" for key, found in at.items() for place in found]
    try:
        recipe = load(source, [*plain, *swept])
    except ConfigError as error:
        told = ", ".join(f"{key}={value}" for key, value in values.items())
        raise ConfigError(f"with {told}: {error.what}", error.do) from None
    return _Draft(source, recipe, (*plain, *swept), {key: _value_at(recipe, found[0]) for key, found in at.items()})


def _check_apart(at: Mapping[str, Sequence[str]]) -> None:
    """Refuse a place that two keys vary: one of them would count for nothing."""
    taken: dict[str, str] = {}
    for key, found in at.items():
        for place in found:
            if other := taken.get(place):
                raise ConfigError(f"--sweep {other}=… and --sweep {key}=… both set {place}", "leave one of them out")
            taken[place] = key


def _setting(draft: _Draft, names: Mapping[str, str], labels: Mapping[str, str], seeds: Sequence[str]) -> Setting:
    several = len(names) > 1
    source = names[draft.source]
    shorts = _short_keys(list(labels))
    parts = [source] if several or not labels else []
    parts += [f"{shorts[key]}={label}" for key, label in labels.items()]
    own = {RECIPE: source} if several else {}
    numbers = [load(draft.source, [*draft.overrides, f"{SEED}={seed}"]).seed for seed in seeds] or [draft.recipe.seed]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"--sweep seed={','.join(seeds)}: a seed comes twice", "name each seed once")
    return Setting(
        ", ".join(parts), draft.source, own | dict(draft.values), own | dict(labels), draft.overrides, tuple(numbers)
    )


def _source_labels(sources: Sequence[str]) -> dict[str, str]:
    """Source → its stem, or the source itself where two stems are equal."""
    stems = [Path(source).stem if source.endswith((".yaml", ".yml")) else source for source in sources]
    return {s: stem if stems.count(stem) == 1 else s for s, stem in zip(sources, stems, strict=True)}


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key → its last parts, as many as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-size:]) for size in range(1, len(parts) + 1)]
        others = [other for other in keys if other != key]
        found[key] = next((t for t in tails if not any(f".{o}".endswith(f".{t}") for o in others)), key)
    return found


def _labels(values: Sequence[Any]) -> list[str]:
    """How tables show values: a path by its last part, where that is enough."""
    whole = [_label(value) for value in values]
    short = [
        Path(text).name if isinstance(v, str) and "/" in v else text for v, text in zip(values, whole, strict=True)
    ]
    return short if len(set(short)) == len(set(whole)) else whole


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def _check_distinct(settings: Sequence[Setting], drafts: Sequence[_Draft]) -> None:
    """Refuse two settings that are one: equal recipes, or equal folders."""
    recipes: dict[str, str] = {}
    folders: dict[str, str] = {}
    for setting, draft in zip(settings, drafts, strict=True):
        bare = draft.recipe.model_copy(update={"name": ""}).fingerprint
        if bare in recipes:
            raise ConfigError(f"{recipes[bare]!r} and {setting.name!r} are the same recipe", "leave one of them out")
        folder = setting.run_name(0)
        if folder in folders:
            raise ConfigError(
                f"{folders[folder]!r} and {setting.name!r} would share a folder",
                "write their values so that they differ",
            )
        recipes[bare], folders[folder] = setting.name, setting.name

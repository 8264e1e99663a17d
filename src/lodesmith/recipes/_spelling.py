"""How a recipe is spelled: YAML files, shipped or the user's own, and `key=value` overrides of their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.registry import did_you_mean

__all__ = ["locate", "overrides_of", "put", "read", "shipped"]

FOLDER = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read(path: Path) -> dict[str, Any]:
    """The tree of a recipe, with a name; its settings are not yet looked at."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise InputError(f"not valid YAML: {error}", path=path, line=None if line is None else line + 1) from None
    if not isinstance(tree, dict):
        raise InputError("a recipe must be a mapping", "see `lode recipes isotropic`", path=path)
    return {"name": path.stem} | tree


def locate(source: str) -> Path:
    """The file of a recipe, by a shipped name or a path.

    Raises:
        InputError: there is no such file.
        ConfigError: no shipped recipe is called so.
    """
    if source.endswith((".yaml", ".yml")) or "/" in source:
        if not Path(source).is_file():
            raise InputError("no such recipe file", "`lode recipes` lists the shipped ones", path=source)
        return Path(source)
    known = shipped()
    if source not in known:
        raise ConfigError(f"no recipe is called {source!r}", did_you_mean(source, list(known)))
    return known[source]


def overrides_of(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of `["stages.0.optim.lr=1e-4"]` or of a mapping.

    Raises:
        ConfigError: one is no `key=value`.
    """
    if isinstance(overrides, Mapping):
        return [(key, _told(value)) for key, value in overrides.items()]
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not an override", "write key=value, such as stages.0.optim.lr=1e-4")
        pairs.append((key, _value(value)))
    return pairs


def _told(value: Any) -> Any:
    """A path as YAML has it."""
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    return str(value) if isinstance(value, PurePath) else value


def _value(text: str) -> Any:
    try:
        return float(text) if _is_exponent(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_exponent(text: str) -> bool:
    """YAML 1.1 reads 1e-4 as a string; people mean a number."""
    mantissa, e, exponent = text.lower().partition("e")
    return bool(e) and mantissa.replace(".", "", 1).lstrip("+-").isdigit() and exponent.lstrip("+-").isdigit()


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a value at a dotted key of a tree, in place.

    Raises:
        ConfigError: there is no such place.
    """
    *parents, last = key.split(".")
    place: Any = tree
    for depth, part in enumerate(parents):
        place = place[_position(place, part, key)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"{key}: {'.'.join(parents[: depth + 1])} has no settings below it", "shorten the key")
    if isinstance(place, list):
        place[_position(place, last, key)] = value
    else:
        place[last] = value


def _position(place: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"{key}: {part!r} is no position in a list of {len(place)}", f"use 0 to {len(place) - 1}")
    return int(part)

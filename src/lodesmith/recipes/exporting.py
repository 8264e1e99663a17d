"""Export a model to ONNX, OpenVINO or int8, and say how far its vectors are those of its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import atomic_folder, write_json, write_text
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean
from lodesmith.recipes import _equality
from lodesmith.recipes.systems import load_encoder

if TYPE_CHECKING:
    from lodesmith.encoders._exported import Kind
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["Exported", "export"]

TOLERANCE = 1e-4
"""Largest difference of a float32 export's vectors, relative to the largest component."""
LIKE = 0.8
"""The least cosine of a text to itself in int8."""
_FLOAT32 = ("onnx", "openvino")
_REPORT = "equality.json"


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Args:
        folder: it loads like any model folder.
        report: how its vectors, rankings, speed and size compare with its source's; JSON, as in `equality.json`.
    """

    folder: Path
    report: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"folder": str(self.folder)} | dict(self.report)

    def to_text(self) -> str:
        """The report as lines."""
        return f"{self.folder}\n{_equality.text(self.report)}"


def export(
    model: str, to: str, out: Path | str, *, check: Path | str | None = None, split: str = "test", limit: int = 1000
) -> Exported:
    """Write a model as another program runs it, and compare it with its source.

    The folder keeps the tokenizer, prompts, pooling, later modules and limits. It appears whole, or not at all.

    Args:
        model: a model folder, a run directory, a hub name or `minilm`.
        to: `onnx` or `openvino`, in float32; `int8`, for torch; `onnx-int8`.
        out: a folder that is not there.
        check: a dataset on whose documents and queries they are compared too.
        split: whose queries.
        limit: documents of the sample: all that are judged relevant, and others at random up to so many.

    Raises:
        InputError: the model, the dataset or its split is not there; `out` is; or a float32 export differs by more than
            1e-4 of the largest component.
        ConfigError: there is no such kind, or the model cannot be exported.
        MissingExtraError: a package for it is not installed.
    """
    from lodesmith.encoders._exported import KINDS, write_exported
    from lodesmith.encoders.transformer import TransformerEncoder

    kind = next((kind for kind in KINDS if kind == to), None)
    if kind is None:
        raise ConfigError(f"nothing is exported to {to!r}", did_you_mean(to, list(KINDS)))
    out = Path(out)
    if out.exists():
        raise InputError("is there already", "choose another --out, or remove it", path=out)
    sample = None if check is None else _equality.sampled(Dataset.load(check), split, limit)
    source = _source(model)
    with atomic_folder(out) as new:
        tell("export", 0, 2, "steps")
        write_exported(source, kind, new)
        tell("export", 1, 2, "steps")
        exported = TransformerEncoder(new)
        report = _told(source, kind, exported) | _equality.on_texts(source, exported)
        _accept(kind, report["texts"], source.source)
        if sample is not None:
            report |= _equality.on_dataset(source, exported, sample)
            _accept(kind, report["documents"], source.source)
            report["speed"] = _equality.speed(source, exported, sample)
        write_json(new / _REPORT, report)
        write_text(new / "README.md", _card(source, kind))
        tell("export", 2, 2, "steps")
    return Exported(out, report)


def _source(model: str) -> TransformerEncoder:
    """A transformer's model, in float32.

    Raises:
        ConfigError: it is something else.
    """
    from lodesmith.encoders.transformer import TransformerEncoder

    encoder = load_encoder(model)
    if not isinstance(encoder, TransformerEncoder):
        raise ConfigError(
            f"{model} is a {type(encoder).__name__}, and only transformers are exported",
            "its table of words needs no other program; keep its vectors small with lode evaluate … --codec int8",
        )
    if encoder.precision.startswith("bfloat16"):
        encoder = TransformerEncoder(encoder.source, precision="float32")
    return encoder


def _told(source: TransformerEncoder, kind: Kind, exported: TransformerEncoder) -> dict[str, Any]:
    sizes = {"source": _equality.size(source.folder), "exported": _equality.size(exported.folder)}
    return {
        "kind": kind,
        "source": source.source,
        "tolerance": TOLERANCE if kind in _FLOAT32 else None,
        "fingerprints": {"source": source.fingerprint, "exported": exported.fingerprint},
        "bytes": sizes | {"ratio": sizes["exported"] / sizes["source"]},
    }


def _accept(kind: Kind, agreement: Mapping[str, Any], name: str) -> None:
    """Refuse a float32 export that gives other vectors, and one in int8 that gives vectors of other texts."""
    difference = agreement["difference"]
    if kind in _FLOAT32 and not difference <= TOLERANCE:
        raise InputError(
            f"{name} in {kind} gives other vectors: they differ by {difference:.1g} of the largest component, and "
            f"{TOLERANCE:g} is allowed",
            "nothing was written; export it to int8, or with other versions of the packages",
        )
    if not (least := agreement["cosine"]["min"]) >= LIKE:
        raise InputError(
            f"{name} in {kind} gives other vectors: a text has a cosine of {least:.2f} to its own, not {LIKE}",
            "nothing was written; this model does not bear int8: export it to onnx or openvino",
        )


def _card(source: TransformerEncoder, kind: Kind) -> str:
    return _CARD.format(source=source.source, kind=kind)


_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, retrieval, lodesmith, {kind}]
---
# {source}, exported to {kind}

How its vectors compare with those of `{source}` is in `equality.json`; what wrote it, in `manifest.json`.

```python
import lodesmith as lode

documents = lode.load("path/of/this/folder").encode(["a passage", "another passage"])
```
"""

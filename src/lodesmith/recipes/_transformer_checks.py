"""Whether the transformers part of a model loads here: class, quantisation, shapes, tokenizer. Nothing is allocated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError, IntegrityError, LodesmithError
from lodesmith.core.files import read_json, verify_files
from lodesmith.recipes._weights import Tensor, of_folder

__all__ = [
    "Checkup",
    "Json",
    "base_folder",
    "check_tokenizer",
    "check_transformer",
    "describe",
    "is_for_mlx",
    "is_there",
    "refuse_pickles",
    "weigh",
]

Json = Mapping[str, Any]

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "compressed-tensors": "compressed_tensors",
    "torchao": "torchao",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "eetq": "eetq",
    "vptq": "vptq",
    "mxfp4": "kernels",
}
"""The package that each way of quantisation needs."""
GPU_ONLY = {"gptq", "awq", "fp8", "fbgemm_fp8", "mxfp4", "nvfp4", "eetq", "aqlm", "vptq", "hqq"}
ON_CPU = {"bitsandbytes": (0, 50)}
"""Packages that need no GPU from a version on; the oldest that is tested here."""
BY_MLX = "lodesmith.encoders.MLXMemoryEncoder reads it, and torch does not, so neither does `lode train`"
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "hidden_dim")
LIST = 3
"""So many names are listed."""


@dataclass
class Checkup:
    """What was found out about a model.

    Args:
        name: as it was asked for.
        folder: where it is.
        kind: `sentence-transformers`, `transformers`, `adapter` or `memory`.
        facts: parameters, types, sizes.
        faults: why it will not load, or not work; none where it will.
        notes: what is no fault.
    """

    name: str
    folder: Path
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[LodesmithError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults

    def attempt(self, part: Callable[[], object]) -> None:
        """Do one part of the examination; what it raises is a fault."""
        try:
            part()
        except LodesmithError as error:
            self.faults.append(error)

    def raise_first(self) -> None:
        """Raise the first fault, where there is one."""
        if self.faults:
            raise self.faults[0]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        faults = [{"error": type(fault).__name__, "what": fault.what, "do": fault.do} for fault in self.faults]
        own = {"model": self.name, "folder": str(self.folder), "kind": self.kind, **self.facts}
        return {"healthy": self.healthy, **own, "problems": faults, "notes": self.notes}


def check_transformer(found: Checkup, folder: Path, *, mlx: bool = False) -> int | None:
    """Examine a transformers folder; its width.

    Args:
        found: gets what is found.
        folder: of the model.
        mlx: whether it is enough that MLX reads it.
    """
    config = read_json(folder / "config.json")
    if config.get("auto_map"):
        raise InputError(
            f"its class is code of the model's own ({_one(config['auto_map'])}), which is never run",
            "choose a model of a class that transformers has",
            path=folder / "config.json",
        )
    _check_type(config, folder)
    tensors = weigh(found, folder)
    quantised = config.get("quantization_config")
    if is_for_mlx(config):
        found.attempt(lambda: _for_mlx(found, folder, config["quantization"], tensors, enough=mlx))
    elif isinstance(quantised, Mapping):
        found.attempt(lambda: _quantised(found, quantised, folder))
    elif tensors:
        found.attempt(lambda: _compare(found, folder, config, tensors))
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    found.attempt(lambda: check_tokenizer(folder, rows))
    return _width(config)


def _check_type(config: Json, folder: Path) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind, path = config.get("model_type"), folder / "config.json"
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(
            f"transformers {transformers.__version__} knows no model of type {kind!r}",
            "update transformers, or choose another model",
            path=path,
        )
    for architecture in config.get("architectures") or []:
        if not hasattr(transformers, architecture):
            raise InputError(
                f"transformers {transformers.__version__} has no class {architecture}", "update transformers", path=path
            )


def weigh(found: Checkup, folder: Path) -> dict[str, Tensor]:
    """The folder's tensors, and what they weigh."""
    from lodesmith.encoders._exported import kind_of

    refuse_pickles(folder)
    tensors: dict[str, Tensor] = {}
    if kind := kind_of(folder):
        manifest = read_json(folder / "manifest.json")
        found.attempt(lambda: verify_files(folder, manifest.get("files")))
        found.notes.append(f"exported as {kind}: its files were compared with their hashes")
        return tensors
    found.attempt(lambda: tensors.update(of_folder(folder)))
    count = sum(tensor.count for tensor in tensors.values())
    found.facts["parameters"] = found.facts.get("parameters", 0) + count
    found.facts["bytes"] = found.facts.get("bytes", 0) + sum(tensor.bytes for tensor in tensors.values())
    kinds = {tensor.dtype for tensor in tensors.values()} | set(found.facts.get("types", []))
    found.facts["types"] = sorted(kinds)
    return tensors


def refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for file in folder.glob(pattern)
    )
    if pickles:
        raise InputError(
            f"the weights are only there as {', '.join(pickles[:LIST])}, and pickles can run code: they are not loaded",
            "convert them to safetensors with a tool that you trust, or choose another revision of the model",
            path=folder,
        )


def _quantised(found: Checkup, settings: Json, folder: Path) -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    method = str(settings.get("quant_method", "unknown")).lower()
    found.facts["quantisation"] = method
    path = folder / "config.json"
    if not any(known == method or known.startswith(f"{method}_") for known in AUTO_QUANTIZER_MAPPING):
        raise InputError(f"transformers here cannot load weights quantised with {method!r}", "update it", path=path)
    package = PACKAGES.get(method)
    if package is not None and not is_there(package):
        name = package.replace(".", "-").replace("_", "-")
        raise InputError(
            f"the weights are quantised with {method}, which needs {name}: not installed",
            f"pip install {name}, or take the model's unquantised weights",
            path=path,
        )
    if package in ON_CPU and not _has_gpu() and _version(package) < ON_CPU[package]:
        oldest = ".".join(map(str, ON_CPU[package]))
        raise InputError(
            f"the weights are quantised with {method}; {package} before {oldest} computes on a GPU only: there is none",
            f"pip install '{package}>={oldest}', or take the model's unquantised weights",
            path=path,
        )
    if method in GPU_ONLY and not _has_gpu():
        raise InputError(
            f"the weights are quantised with {method}, which computes on a GPU only: there is none here",
            "take the model's unquantised weights",
            path=path,
        )
    found.notes.append(f"quantised with {method}: shapes are packed and were not compared")


def is_for_mlx(config: Json) -> bool:
    """Whether mlx-lm has quantised a model: newer folders of its have transformers' setting too."""
    return isinstance(config.get("quantization"), Mapping)


def _for_mlx(found: Checkup, folder: Path, settings: Json, tensors: Mapping[str, Tensor], *, enough: bool) -> None:
    """Weights of mlx-lm, which MLX reads where it is there and built for the model, and torch never does."""
    bits, group = settings.get("bits"), settings.get("group_size")
    found.facts["quantisation"] = f"mlx, {bits} bits"
    what = f"the weights are quantised for MLX ({bits} bits in groups of {group}), which torch does not read"
    do, path = "take the model's unquantised weights", folder / "config.json"
    if not enough:
        raise InputError(what, do, path=path)
    if not is_there("mlx"):
        raise InputError(f"{what}, and mlx is not installed", f"pip install 'lodesmith[mlx]', or {do}", path=path)
    if not tensors:  # damaged, which has been said
        return
    from lodesmith.encoders._mlx_folder import count_weights, read_config

    try:
        count = count_weights(folder, *read_config(folder))
    except InputError as error:
        raise InputError(f"{what}; nor does MLX: {error.what}", do) from None
    found.facts["parameters"] += count - sum(tensor.count for tensor in tensors.values())
    found.notes.append(f"quantised for MLX ({bits} bits in groups of {group}): {BY_MLX}")


def is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _version(package: str) -> tuple[int, ...]:
    """The first two numbers of an installed package's version."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version(package).split(".")[:2])


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def base_folder(base: str, folder: Path) -> Path | None:
    """Where the model under an adapter lies.

    Args:
        base: its path, also from the adapter's folder, or its name on the hub, whose cache is looked into.
        folder: of the adapter.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for place in (Path(base), folder / base):
        if base and place.is_dir():
            return place
    try:
        cached = try_to_load_from_cache(base, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def describe(folder: Path, config: Json) -> Any:
    """The model that a configuration describes, of its own class, on the device `meta`: nothing is allocated.

    Raises:
        InputError: none can be made of it.
    """
    import torch
    import transformers

    names = config.get("architectures") or []
    try:
        own = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        kind = getattr(transformers, names[0]) if names else None
        with torch.device("meta"):
            return transformers.AutoModel.from_config(own) if kind is None else kind._from_config(own)
    except Exception as error:  # a configuration may be wrong in as many ways as it has settings
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"no model can be made of it: {reason}", "correct it, or fetch it again", path=folder
        ) from None


def _expected(folder: Path, config: Json) -> tuple[dict[str, tuple[int, ...]], str]:
    """Name → shape of what the configuration describes, and the prefix of its inner model."""
    model = describe(folder, config)
    return {name: tuple(own.shape) for name, own in model.state_dict().items()}, str(model.base_model_prefix)


def _compare(found: Checkup, folder: Path, config: Json, tensors: Mapping[str, Tensor]) -> None:
    """Shapes of the file against those of the configuration."""
    expected, prefix = _expected(folder, config)
    pairs = dict(_matched(tensors, expected, prefix))
    wrong = {name: (tensors[name].shape, expected[other]) for name, other in pairs.items()}
    wrong = {name: shapes for name, shapes in wrong.items() if shapes[0] != shapes[1]}
    if wrong:
        name, (has, wants) = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more tensors do not fit" if len(wrong) > 1 else ""
        numbers = (
            next(f"{a} ≠ {b}" for a, b in zip(has, wants, strict=False) if a != b) if len(has) == len(wants) else ""
        )
        raise IntegrityError(
            f"{folder}: {name} is {list(has)} in the file, {list(wants)} by config.json"
            f"{f': {numbers}' if numbers else ''}{more}",
            "weights and configuration are of two models: fetch or save both together",
        )
    absent = sorted(set(expected) - set(pairs.values()))
    if absent and len(pairs) < len(expected) / 2:
        found.notes.append(
            f"{len(absent)} of {len(expected)} tensors have other names in the file: only loading can tell"
        )
    elif absent:
        found.notes.append(f"not in the file, so random or tied when it is loaded: {_one(absent)}")


def _matched(tensors: Mapping[str, Tensor], expected: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Names of the file and of the model that mean the same: with or without the inner model's prefix."""
    for name in tensors:
        options = (
            name,
            f"{prefix}.{name}",
            name.removeprefix(f"{prefix}."),
            name.replace("LayerNorm.gamma", "LayerNorm.weight"),
        )
        if match := next((option for option in options if option in expected), None):
            yield name, match


def check_tokenizer(folder: Path, rows: Any) -> None:
    """Every token has one of the embedding's rows.

    Raises:
        IntegrityError: one has none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() or not isinstance(rows, int):
        return
    tree = read_json(path)
    words = (tree.get("model") or {}).get("vocab") or {}
    numbers = words.values() if isinstance(words, dict) else range(len(words))
    added = [own.get("id", 0) for own in tree.get("added_tokens") or [] if isinstance(own, dict)]
    last = max([*numbers, *added], default=0)
    if last >= rows:
        raise IntegrityError(
            f"{path}: its last token has the number {last}, the embedding has {rows} rows: {last + 1} ≠ {rows}",
            "tokenizer and weights are of two models: fetch or save both together",
        )


def _width(config: Json) -> int | None:
    inner = config.get("text_config") or {}
    return next((int(place[name]) for place in (config, inner) for name in WIDTHS if place.get(name)), None)


def _one(names: Any) -> str:
    listed = [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]
    return ", ".join(listed[:LIST]) + (f" and {len(listed) - LIST} more" if len(listed) > LIST else "")

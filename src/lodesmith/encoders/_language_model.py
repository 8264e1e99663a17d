"""Load a causal language model with its fast tokenizer, and refuse what is not safe, not whole, or no such model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object
from lodesmith.core.model_files import names_no_family, refuse_damaged
from lodesmith.core.quantised import keep_as_read
from lodesmith.encoders._loading import loading

__all__ = ["check_language_model", "ends_of", "load_language_model", "load_tokenizer"]

_WORDS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")
"""Files of which a tokenizer has one at least; without any, transformers makes one that knows no word."""
_CHOOSE = "choose a causal language model of transformers, such as Qwen/Qwen2.5-0.5B"


def load_language_model(folder: Path, device: str, dtype: str) -> tuple[Any, Any, list[int]]:
    """Model, in evaluation mode, tokenizer, and the ids that end a text.

    What the folder says about sampling is dropped.

    Args:
        folder: that `find_model` found.
        device: such as `cpu`.
        dtype: of the weights: float32 or bfloat16.

    Raises:
        InputError: it is no causal language model, needs code of its own, has no fast tokenizer, or does not load.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    config = check_language_model(folder)
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}
    placed = {"device_map": {"": device}} if config.get("quantization_config") else {}
    tokenizer = load_tokenizer(folder)
    with loading(folder):
        model, told = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), output_loading_info=True, **safe, **placed
        )
        model = model.eval() if placed else model.to(device).eval()
    keep_as_read(model)
    refuse_damaged(model.named_parameters(), folder)
    if lost := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise InputError(f"{len(lost)} of its weights are missing or misshapen: {lost[0]}", _CHOOSE, path=folder)
    named = [getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    ends = ends_of(tokenizer, len(model.get_input_embeddings().weight), named, folder)
    model.generation_config = GenerationConfig(do_sample=False, num_beams=1)
    return model, tokenizer, ends


def ends_of(tokenizer: Any, rows: int, told: Sequence[Any], folder: Path) -> list[int]:
    """The ids that end a text: the tokenizer's own first.

    Args:
        tokenizer: of the model.
        rows: words of the model's vocabulary.
        told: ids that its configurations name: one, several or None each.
        folder: of the model.

    Raises:
        InputError: there is none, or the tokenizer knows more tokens than the model.
    """
    words = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not 0 < words <= rows:
        raise InputError(
            f"the tokenizer knows {words} tokens, and the model {rows}",
            "its files are not of one model: fetch or save it again",
            path=folder,
        )
    listed = [own if isinstance(own, list) else [own] for own in (tokenizer.eos_token_id, *told)]
    ends = list(dict.fromkeys(int(token) for own in listed for token in own if token is not None))
    if not ends:
        raise InputError("no token ends a text: neither tokenizer nor configuration names one", _CHOOSE, path=folder)
    return ends


def check_language_model(folder: Path) -> dict[str, Any]:
    """The configuration of a causal language model that is safe to load.

    Raises:
        InputError: it is none, torch does not read it, or it needs code of its own.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if not (folder / "config.json").is_file():
        raise InputError("not a language model: it has no config.json", _CHOOSE, path=folder)
    config = read_object(folder / "config.json")
    if isinstance(config.get("quantization"), Mapping):  # of mlx-lm; transformers writes quantization_config alone
        do = "read it with lodesmith.encoders.MLXMemoryEncoder, or give the model that it was made of"
        raise InputError("it is quantised by mlx-lm, and MLX alone reads it", do, path=folder / "config.json")
    if "auto_map" in config:
        raise InputError("the model brings code of its own, which is never run", _CHOOSE, path=folder / "config.json")
    if (folder / "adapter_config.json").is_file():
        raise InputError("the folder holds an adapter", "merge it into its base first", path=folder)
    kind, named = config.get("model_type"), config.get("architectures")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(kind))
    both_ways = str(kind) in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    if known is None or both_ways or not isinstance(named, list) or known not in named:
        found = named[0] if isinstance(named, list) and named else kind
        raise InputError(f"no causal language model: {found}", _CHOOSE, path=folder)
    if not any(folder.glob("*.safetensors")):
        raise InputError("it has no weights as safetensors", "convert them, or choose another model", path=folder)
    return config


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a language model's folder.

    Raises:
        InputError: it has none, or it does not load.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any(file.is_file() for pattern in _WORDS for file in folder.glob(pattern)):
        raise InputError("the model has no tokenizer", "add its tokenizer.json", path=folder)
    with loading(folder):
        family = PreTrainedTokenizerFast if names_no_family(folder) else AutoTokenizer
        tokenizer = family.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise InputError("the model has no fast tokenizer", "add its tokenizer.json", path=folder)
    return tokenizer

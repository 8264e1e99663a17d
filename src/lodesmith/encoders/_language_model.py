"""Load a causal language model with its fast tokenizer, and refuse what is not safe, not whole, or no such model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object
from lodesmith.core.model_files import names_no_family
from lodesmith.encoders._loading import loading

__all__ = ["load_language_model", "mixes_rows"]

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

    config = _checked(folder)
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}
    placed = {"device_map": {"": device}} if config.get("quantization_config") else {}
    with loading(folder):
        tokenizer = _tokenizer(folder)
        model, told = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), output_loading_info=True, **safe, **placed
        )
        model = model.eval() if placed else model.to(device).eval()
    _keep_as_read(model)
    if lost := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise InputError(f"{len(lost)} of its weights are missing or misshapen: {lost[0]}", _CHOOSE, path=folder)
    words, rows = max(tokenizer.get_vocab().values(), default=-1) + 1, len(model.get_input_embeddings().weight)
    if not 0 < words <= rows:
        raise InputError(
            f"the tokenizer knows {words} tokens, and the model {rows}",
            "its files are not of one model: fetch or save it again",
            path=folder,
        )
    ends = _ends(model, tokenizer)
    if not ends:
        raise InputError("no token ends a text: neither tokenizer nor configuration names one", _CHOOSE, path=folder)
    model.generation_config = GenerationConfig(do_sample=False, num_beams=1)
    return model, tokenizer, ends


def mixes_rows(model: Any) -> bool:
    """Whether what a model makes of a text depends on the texts beside it: 8-bit weights by bitsandbytes, where one
    large value in a batch takes a whole column out of the 8 bits (LLM.int8, arXiv 2208.07339)."""
    settings = getattr(model.config, "quantization_config", None)
    return bool(getattr(settings, "load_in_8bit", False) and getattr(settings, "llm_int8_threshold", 0.0) > 0)


def _keep_as_read(model: Any) -> None:
    """Leave weights as they are. Those of 4 bits bitsandbytes packs anew on some CPUs, for kernels that it fetches,
    where nothing is learned, and they would be others then, by their digest. Those of 8 bits it moves at the first
    product, which several threads may come to at once; it is done here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if getattr(getattr(module, "weight", None), "CB", None) is not None:
            module.init_8bit_state()


def _checked(folder: Path) -> dict[str, Any]:
    """The configuration of a folder that is safe to load."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if not (folder / "config.json").is_file():
        raise InputError("not a language model: it has no config.json", _CHOOSE, path=folder)
    config = read_object(folder / "config.json")
    if isinstance(config.get("quantization"), Mapping):  # of mlx-lm; transformers writes quantization_config alone
        do = "give the model that it was made of"
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


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any(file.is_file() for pattern in _WORDS for file in folder.glob(pattern)):
        raise InputError("the model has no tokenizer", "add its tokenizer.json", path=folder)
    family = PreTrainedTokenizerFast if names_no_family(folder) else AutoTokenizer
    tokenizer = family.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise InputError("the model has no fast tokenizer", "add its tokenizer.json", path=folder)
    return tokenizer


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's end token first, then the model's own."""
    told = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    listed = [own if isinstance(own, list) else [own] for own in told]
    return list(dict.fromkeys(int(token) for own in listed for token in own if token is not None))

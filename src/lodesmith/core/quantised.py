"""Models whose weights bitsandbytes reads as 8 or 4 bits: what encoders and generators mind about them."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["keep_as_read", "mixes_rows", "quiet_products"]


def mixes_rows(model: Any) -> bool:
    """Whether what a model makes of a text depends on the texts beside it: 8-bit weights by bitsandbytes, where one
    large value in a batch takes a whole column out of the 8 bits (LLM.int8, arXiv 2208.07339)."""
    settings = getattr(model.config, "quantization_config", None)
    return bool(getattr(settings, "load_in_8bit", False) and getattr(settings, "llm_int8_threshold", 0.0) > 0)


def keep_as_read(model: Any) -> None:
    """Leave weights as they are. Those of 4 bits bitsandbytes packs anew on some CPUs, for kernels that it fetches,
    where nothing is learned, and they would be others then, by their digest. Those of 8 bits it moves at the first
    product, which several threads may come to at once; it is done here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if getattr(getattr(module, "weight", None), "CB", None) is not None:
            module.init_8bit_state()


def quiet_products() -> None:
    """Let bitsandbytes tell errors alone, unless its level was set: it warns at every product of 8 bits."""
    told = logging.getLogger("bitsandbytes")
    if told.level == logging.NOTSET:
        told.setLevel(logging.ERROR)

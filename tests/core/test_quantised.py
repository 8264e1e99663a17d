"""Which models mix the rows of a batch, by what their configurations say."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lodesmith.core.quantised import mixes_rows, quiet_products


@pytest.mark.parametrize(
    ("settings", "mixes"),
    [
        ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, True),
        ({"load_in_8bit": True, "llm_int8_threshold": 0.0}, False),  # no column is taken out
        ({"load_in_8bit": False, "load_in_4bit": True, "llm_int8_threshold": 6.0}, False),
        ({"quant_method": "gptq"}, False),
        (None, False),
    ],
)
def test_8_bits_with_a_threshold_mix_rows(settings: dict[str, Any] | None, mixes: bool) -> None:
    told = {} if settings is None else {"quantization_config": SimpleNamespace(**settings)}
    assert mixes_rows(SimpleNamespace(config=SimpleNamespace(**told))) is mixes


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    told = logging.getLogger("bitsandbytes")
    before = told.level
    yield told
    told.setLevel(before)


@pytest.mark.parametrize(
    ("before", "after"), [(logging.NOTSET, logging.ERROR), (logging.INFO, logging.INFO), (logging.DEBUG, logging.DEBUG)]
)
def test_a_level_that_was_set_stays(logger: logging.Logger, before: int, after: int) -> None:
    logger.setLevel(before)
    quiet_products()
    assert logger.level == after

"""Each text once an epoch, whatever the ranks, and the same batches from any position."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from batch_worlds import texts
from hypothesis import given, settings
from hypothesis import strategies as st
from token_worlds import plain

from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.data.single_texts import SingleTexts
from lodesmith.data.tokens import Tokens, TokenStore
from lodesmith.training import Batches
from lodesmith.training.engine import size


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore(tmp_path_factory.mktemp("tokens"), plain())


@pytest.fixture(scope="module")
def sides(opened: TokenStore) -> tuple[Tokens, Tokens]:
    asked = texts(20, 5)
    written = texts(60, 12, 1)
    return opened.tokens([*asked, asked[3], ""]), opened.tokens(["", *written, written[7], written[7]])


def numbers(batch: dict[str, Any]) -> set[tuple[str, int]]:
    return {(side, number) for side in ("query", "document") for number in batch[f"{side}_ids"].tolist()}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.integers(1, 4), st.integers(0, 2), st.sampled_from([None, 9, 50]))
def test_each_text_once_an_epoch(
    sides: tuple[Tokens, Tokens], size: int, ranks: int, seed: int, limit: int | None
) -> None:
    size = max(size, ranks)
    shares = [SingleTexts(*sides, batch_size=size, seed=seed, limit=limit, shard=(r, ranks)) for r in range(ranks)]
    whole = {("query", at) for at in range(20)} | {("document", at) for at in range(1, 61)}
    for _ in range(2):
        seen: list[tuple[str, int]] = []
        for parts in zip(*shares, strict=True):
            assert all(numbers(part) for part in parts)  # no rank is left without
            assert sum(len(numbers(part)) for part in parts) <= size + (size < 2 * ranks)
            seen.extend(number for part in parts for number in numbers(part))
        assert len(seen) == len(set(seen)) == min(limit or 80, 80) == shares[0].texts
        assert set(seen) <= whole


def test_the_tokens_are_those_of_the_numbers(sides: tuple[Tokens, Tokens]) -> None:
    batches = SingleTexts(*sides, batch_size=16)
    assert isinstance(batches, Batches)
    assert len(batches) == 5
    for batch in batches:
        assert size(batch) == batch["examples"] == len(numbers(batch))
        for side, tokens in zip(("query", "document"), sides, strict=True):
            ids, offsets = tokens.take(batch[f"{side}_ids"].numpy())
            packed = batch["queries" if side == "query" else "documents"]
            np.testing.assert_array_equal(packed["ids"], ids)
            np.testing.assert_array_equal(packed["offsets"], offsets)


def test_epochs_differ_and_positions_are_exact(sides: tuple[Tokens, Tokens]) -> None:
    one = SingleTexts(*sides, batch_size=16, seed=3)
    epochs = [[numbers(batch) for batch in one] for _ in range(2)]
    assert epochs[0] != epochs[1]
    two = SingleTexts(*sides, batch_size=16, seed=3)
    list(islice(two, 3))
    again = SingleTexts(*sides, batch_size=16, seed=3)
    again.load_state_dict(two.state_dict())
    assert [numbers(batch) for batch in again] == epochs[0][3:]
    assert [numbers(batch) for batch in again] == epochs[1]
    for other in (SingleTexts(*sides, batch_size=8, seed=3), SingleTexts(sides[1], sides[0], batch_size=16, seed=3)):
        with pytest.raises(ResumeError, match="begun with"):
            other.load_state_dict(two.state_dict())


def test_what_is_out_of_range_is_refused(sides: tuple[Tokens, Tokens], opened: TokenStore) -> None:
    with pytest.raises(ConfigError, match="batch_size 1"):
        SingleTexts(*sides, batch_size=1, shard=(0, 2))
    none = opened.tokens([])
    with pytest.raises(InputError, match="0 texts"):
        SingleTexts(none, opened.tokens([""]), batch_size=4)
    assert SingleTexts(none, sides[1], batch_size=100).texts == 60


def test_each_rank_takes_every_other_text_of_a_batch(sides: tuple[Tokens, Tokens], opened: TokenStore) -> None:
    none = opened.tokens([])
    whole = next(iter(SingleTexts(none, sides[1], batch_size=10)))["document_ids"]
    for rank in (0, 1):
        part = next(iter(SingleTexts(none, sides[1], batch_size=10, shard=(rank, 2))))["document_ids"]
        assert torch.equal(part, whole[rank::2])

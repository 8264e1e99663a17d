"""Workers give the batches that there are without them, at the same positions."""

from __future__ import annotations

import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_worlds import plain

from lodesmith.core.errors import ConfigError, ResumeError
from lodesmith.data.loading import LoadedBatches, stateful_loader
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import TokenStore
from lodesmith.training import Batches


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def build(root: Path, **options: Any) -> TextBatches:
    rng = np.random.default_rng(0)
    tokens = TokenStore(root, plain()).tokens(f"{number} " * (1 + number % 9) for number in range(90))
    pairs = rng.integers(0, 90, (120, 2))
    mined = rng.integers(-1, 90, (120, 2))
    return TextBatches(tokens, tokens, pairs, **{"tokens": 150, "negatives": mined, **options})


def plainly(batch: Any) -> Any:
    return {name: plainly(value) for name, value in batch.items()} if isinstance(batch, dict) else batch.tolist()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_batches_for_any_number_of_workers(root: Path, workers: int) -> None:
    without, with_ = build(root), LoadedBatches(build(root), workers)
    assert isinstance(with_, Batches)
    for _ in range(2):
        assert [plainly(batch) for batch in with_] == [plainly(batch) for batch in without]
        assert with_.state_dict() == without.state_dict()


@pytest.mark.parametrize(("before", "after"), [(2, 2), (0, 2), (2, 0)])
def test_a_position_is_good_for_any_number_of_workers(root: Path, before: int, after: int) -> None:
    reference = build(root)
    stream = [plainly(batch) for _ in range(2) for batch in reference]
    begun = LoadedBatches(build(root), before)
    taken = len(begun) // 2
    assert [plainly(batch) for batch in islice(begun, taken)] == stream[:taken]
    state = json.loads(json.dumps(begun.state_dict()))
    assert (state["epoch"], state["batch"]) == (0, taken)  # what workers made ahead does not count
    assert len(json.dumps(state)) < 300
    resumed = LoadedBatches(build(root), after)
    resumed.load_state_dict(state)
    rest = [plainly(batch) for batch in resumed]
    assert rest == stream[taken : len(begun)]
    assert [plainly(batch) for batch in islice(resumed, 2)] == stream[len(begun) : len(begun) + 2]
    with pytest.raises(ResumeError, match="begun with seed 0, not 1"):
        LoadedBatches(build(root, seed=1)).load_state_dict(state)


def test_an_epoch_ends_with_its_last_batch_even_if_no_more_is_asked(root: Path) -> None:
    loaded = LoadedBatches(build(root), 0)
    list(islice(loaded, len(loaded)))
    assert (loaded.state_dict()["epoch"], loaded.state_dict()["batch"]) == (1, 0)
    assert loaded.plan is loaded.batches.plan


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_keeps_the_position_too(root: Path, workers: int) -> None:
    whole = [plainly(batch) for batch in build(root)]
    loader = stateful_loader(build(root), workers)
    assert len(loader) == len(whole)
    begun = [plainly(batch) for batch in islice(loader, 4)]
    state = loader.state_dict()
    assert len(pickle.dumps(state)) < 1000
    resumed = stateful_loader(build(root), workers)
    resumed.load_state_dict(state)
    assert begun + [plainly(batch) for batch in resumed] == whole


def test_a_loader_leaves_the_trainings_random_numbers_alone(root: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(LoadedBatches(build(root), 0))
    assert torch.equal(torch.rand(2), expected)


def test_a_negative_number_of_workers_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        LoadedBatches(build(root), -1)

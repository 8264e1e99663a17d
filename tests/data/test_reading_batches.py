"""Every example once an epoch, with its documents, at an exact position, shared by any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from reading_worlds import build, memory, texts, world

from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.data.reading_batches import ReadingBatches
from lodesmith.data.supervision import INSTRUCTION_REPEAT, Example
from lodesmith.training import Batches
from lodesmith.training.engine import move, size


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as lists, to compare."""
    return {
        name: plain(part) if isinstance(part, dict) else part.tolist() if isinstance(part, torch.Tensor) else part
        for name, part in batch.items()
    }


def stream(batches: ReadingBatches, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += [plain(batch) for batch in batches]
    return found[:count]


def rows(batch: dict[str, Any], name: str = "of") -> list[list[str]]:
    """The documents of each example by id, those of empty places left out."""
    there = [text.split()[-1] for text in texts(batch["documents"])]
    return [[f"d{there[row]}" for row in own if row >= 0] for own in batch[name].tolist()]


def test_every_example_comes_once_an_epoch_with_its_documents() -> None:
    examples, pools, _ = world()
    batches = build()
    assert len(batches) == 5
    for _ in range(2):
        seen = []
        for batch in batches:
            numbers = batch["query_ids"].tolist()
            seen += numbers
            assert size(batch) == batch["examples"] == len(numbers)
            assert len(numbers) in (4, 5)
            assert texts(batch["questions"]) == [f"Q {examples[number].question}" for number in numbers]
            for number, answer, own in zip(numbers, texts(batch["answers"]), rows(batch), strict=True):
                assert answer.removesuffix("\0") in examples[number].answers
                gold = set(examples[number].relevant)
                assert len(set(own)) == len(own) == 3
                assert len(gold & set(own)) == min(3, len(gold))
                assert set(own) - gold <= set(pools[number][: len(gold) + 3])
            documents = texts(batch["documents"])
            assert len(set(documents)) == len(documents) == len(batch["document_ids"])
            assert set(batch["of"].flatten().tolist()) == set(range(len(documents)))
        assert sorted(seen) == list(range(23))


def test_what_is_drawn_changes_with_epoch_and_seed_and_nothing_else() -> None:
    first = stream(build(), 10)
    torch.manual_seed(0)
    np.random.seed(0)
    assert stream(build(), 10) == first
    assert first[:5] != first[5:]
    assert stream(build(seed=1), 5) != first[:5]

    def told(batches: ReadingBatches, epochs: int) -> dict[int, list[tuple[str, tuple[str, ...]]]]:
        found: dict[int, list[tuple[str, tuple[str, ...]]]] = {}
        for _ in range(epochs):
            for batch in batches:
                for number, answer, own in zip(
                    batch["query_ids"].tolist(), texts(batch["answers"]), rows(batch), strict=True
                ):
                    found.setdefault(number, []).append((answer, tuple(own)))
        return found

    several = told(build(), 30)
    assert {answer for answer, _ in several[3]} == {f"a3.{j}\0" for j in range(4)}
    assert len({own for _, own in several[0]}) == 6  # one relevant document and two others, in every order
    assert {key for _, own in several[2] for key in own} == {f"d{2 + j}" for j in range(7)}  # by lot out of seven
    # What an example draws depends on its number, not on its batch.
    assert told(build(batch_size=2), 30) == several


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 7, 10])
@pytest.mark.parametrize("candidates", [None, 4])
def test_the_position_is_exact_at_any_batch(taken: int, candidates: int | None) -> None:
    batches, whole = build(candidates=candidates), stream(build(candidates=candidates), 15)
    state, count = batches.state_dict(), 0
    while count < taken:
        for _ in batches:
            count += 1
            if count == taken:
                state = batches.state_dict()
                break
    resumed = build(candidates=candidates)
    resumed.load_state_dict(state)
    assert stream(resumed, 15 - taken) == whole[taken:]
    assert isinstance(resumed, Batches)


def test_a_position_in_other_batches_is_refused() -> None:
    state = build().state_dict()
    with pytest.raises(ResumeError, match="begun with batch_size 5, not 6"):
        build(batch_size=6).load_state_dict(state)
    examples, pools, corpus = world()
    for other in (
        ([*examples[:-1], replace(examples[-1], answers=("other",))], pools, corpus),
        (examples, [*pools[:-1], pools[0]], corpus),
    ):
        with pytest.raises(ResumeError, match="begun with data"):
            build(other).load_state_dict(state)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_each_batch(ranks: int) -> None:
    whole = list(build())
    shares = [list(build(shard=(rank, ranks))) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        mine = [own[number] for own in shares]
        told = dict(zip(batch["query_ids"].tolist(), rows(batch), strict=True))
        parts = [dict(zip(own["query_ids"].tolist(), rows(own), strict=True)) for own in mine]
        assert all(parts)
        assert {n: own for part in parts for n, own in part.items()} == told
        assert sum(map(len, parts)) == len(told)
        numbers = dict(zip(texts(batch["documents"]), batch["document_ids"].tolist(), strict=True))
        for own in mine:
            assert (
                dict(zip(texts(own["documents"]), own["document_ids"].tolist(), strict=True)).items() <= numbers.items()
            )


def test_questions_on_the_same_documents_stand_side_by_side() -> None:
    _, _, corpus = world()
    asked = [Example("qa", f"{i}?", ("x",), (f"d{i % 4}",)) for i in range(24)]
    asked += [Example("qa", f"{i}?", ("x",)) for i in range(24, 30)]
    pools = [(*example.relevant, "d8", "d9", "d10") for example in asked]

    def orders(**options: Any) -> list[list[int]]:
        batches = build((asked, pools, corpus), documents=1, batch_size=30, **options)
        return [batch["query_ids"].tolist() for _ in range(2) for batch in batches]

    first, second = orders(together=3)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    for order in (first, second):
        on = [asked[number].relevant for number in order]
        runs = [len(list(group)) for key, group in groupby(on) if key]
        assert sum(runs) == 24
        assert all(run % 3 == 0 for run in runs)
    assert orders(together=3) == [first, second]
    assert any(len(list(group)) % 3 for _, group in groupby(asked[n].relevant for n in orders()[0]))
    with pytest.raises(ResumeError, match="together"):
        build(together=2).load_state_dict(build().state_dict())


def test_candidates_are_the_first_of_the_pool_and_say_which_are_relevant() -> None:
    examples, pools, _ = world()
    firsts = []
    for batch in build(documents=2, candidates=4):
        assert "of" not in batch
        asked = [examples[number].question for number in batch["query_ids"].tolist()]
        assert texts(batch["asked"]) == asked
        for number, own, relevant in zip(
            batch["query_ids"].tolist(), rows(batch, "candidates"), batch["relevant"].tolist(), strict=True
        ):
            assert sorted(own) == sorted(pools[number][:4])
            assert [key in examples[number].relevant for key in own] == relevant
            firsts.append(own[0] in examples[number].relevant)
    assert 0 < sum(firsts) < len(firsts)  # the place tells nothing


def test_a_smaller_pool_leaves_places_empty() -> None:
    examples, pools, corpus = world(6)
    for batch in build((examples, [pool[:3] for pool in pools], corpus), documents=2, candidates=5):
        assert batch["candidates"].shape[1] == 5
        assert (batch["candidates"][:, 3:] == -1).all()
        assert not batch["relevant"][:, 3:].any()


def test_a_frozen_compressor_gives_memory_of_the_documents_of_the_batch() -> None:
    seen: list[int] = []

    def told(ids: Any) -> Any:
        seen.append(len(ids))
        return memory(ids)

    for batch, other in zip(build(memory=told), build(), strict=True):
        assert "documents" not in batch
        assert batch["memory"].dtype == torch.float32
        assert batch["memory"].shape == (seen[-1], 2, 3)
        assert [f"d{int(row)}" for row in batch["memory"][:, 0, 0]] == [
            f"d{t.split()[-1]}" for t in texts(other["documents"])
        ]
        assert torch.equal(batch["of"], other["of"])
        assert size(move(batch, torch.device("cpu"))) == batch["examples"]
    with pytest.raises(InputError, match=r"memory of \d+ documents must be"):
        next(iter(build(memory=lambda ids: memory(ids)[1:])))


def test_what_is_of_its_documents_alone_reads_no_others() -> None:
    _, _, corpus = world()
    examples = [
        Example("paraphrase", "Say it otherwise?", ("x",), ("d1",)),
        Example("autoencode", INSTRUCTION_REPEAT, ("title2 text 2",), ("d2",)),
        Example("language", "", ("title3 text 3",)),
        Example("qa", "Which?", ("y",), (), "q"),
    ]
    given = (examples, [("d1",), ("d2",), (), ("d4", "d5", "d6", "d7")], corpus)
    (batch,) = build(given)
    found = dict(zip(batch["query_ids"].tolist(), rows(batch), strict=True))
    assert sorted(found.pop(3)) == ["d4", "d5", "d6"]
    assert found == {0: ["d1"], 1: ["d2"], 2: []}
    assert texts(batch["questions"])[batch["query_ids"].tolist().index(2)] == "Q "
    with pytest.raises(ConfigError, match="kind paraphrase does not say which document"):
        build(given, candidates=4)
    (only,) = build(([examples[2]], [()], corpus))
    assert len(only["documents"]["ids"]) == 0
    assert only["of"].tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch_size": 0}, ConfigError, "out of range"),
        ({"documents": 0}, ConfigError, "out of range"),
        ({"together": 0}, ConfigError, "together 0 and shard"),
        ({"shard": (2, 2)}, ConfigError, "out of range"),
        ({"candidates": 2}, ConfigError, "3 documents cannot be chosen among 2"),
        ({"documents": 9}, InputError, "the example 'q0' has 8 documents, and 9 are read"),
        ({"batch_size": 1, "shard": (0, 2)}, InputError, "batches of 1 of the 23 examples are too few for 2 ranks"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        build(**options)


def test_examples_must_have_pools_and_their_documents() -> None:
    examples, pools, corpus = world()
    with pytest.raises(InputError, match="no examples"):
        build(([], [], corpus))
    with pytest.raises(InputError, match="23 examples have 22 pools"):
        build((examples, pools[1:], corpus))
    del corpus["d7"]
    with pytest.raises(InputError, match="document 'd7' is not in the corpus"):
        build((examples, pools, corpus))

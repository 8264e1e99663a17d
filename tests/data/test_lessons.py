"""Lessons: what is an answer in them, what they never show, and where they go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from lodesmith.core.errors import ConfigError, ResumeError
from lodesmith.data.lessons import Lessons, Level, levels
from lodesmith.data.world import FRIEND, OPENINGS, STATEMENTS, World

WORLD = World(names=24, relations=4, values=6)
VOCABULARY = {word: number for number, word in enumerate(WORLD.vocabulary)}
PLAN = levels(10, 2)
END, PAD = VOCABULARY["</s>"], VOCABULARY["<pad>"]
NUMBERS = {level.name: number for number, level in enumerate(PLAN)}


def lessons(level: int = 0, plan: Sequence[Level] = PLAN, **options: Any) -> Lessons:
    return Lessons(WORLD, plan, level, vocabulary=VOCABULARY, **{"batch_size": 6, "length": 4, **options})


def words(ids: Sequence[int]) -> list[str]:
    return [WORLD.vocabulary[number] for number in ids]


def bare(sentence: str) -> str:
    """A sentence without its openings."""
    own = next((own for own in OPENINGS if sentence.startswith(f"{own} ")), None)
    return sentence if own is None else bare(sentence[len(own) + 1 :])


def sentences(told: str) -> dict[tuple[str, str], str]:
    """(Name, relation) → value of a document's sentences."""
    found: dict[tuple[str, str], str] = {}
    for sentence in map(bare, told.split(" . ")):
        text = sentence.removesuffix(" .").split()
        relation = next(word for word in text if word in (*WORLD.known, FRIEND))
        names = [" ".join(pair) for pair in pairwise(text) if pair[0] in WORLD.first and pair[1] in WORLD.last]
        if relation == FRIEND:
            first = sentence.startswith(names[0])
            says = text[0] == "the" or text[0] == "for" or text[1] == ":" or (first and text[2] == "has")
            name, value = names if says else names[::-1]
        else:
            name, value = names[0], next(word for word in text if word in WORLD.known[relation])
        assert (name, relation) not in found
        found[name, relation] = value
    return found


def taken_apart(ids: list[int], asked: list[bool]) -> tuple[str, list[tuple[str, str]]]:
    """The document, and each question with its answer."""
    assert ids[0] == VOCABULARY["<s>"]
    assert not asked[0]
    document, pairs, at = "", [], 1
    borders = [number for number, token in enumerate(ids) if token == END]
    assert all(asked[border] for border in borders)
    assert borders[-1] == len(ids) - 1
    for border in borders:
        begin = border
        while asked[begin - 1]:
            begin -= 1
        text = " ".join(words(ids[at:begin]))
        if not document:
            document, _, text = text.rpartition(" . ")
        pairs.append((text, " ".join(words(ids[begin:border]))))
        at = border + 1
    return document, pairs


def expected(question: str, known: Mapping[tuple[str, str], str]) -> str:
    told = question.split()
    name, relations = " ".join(told[-2:]), [word for word in told if word in (*WORLD.known, FRIEND)]
    if "and" in told:
        friend = known[name, FRIEND]
        return f"{friend} {known[friend, relations[1]]}"
    return known[name, relations[0]]


@pytest.mark.parametrize("level", range(1, len(PLAN)))
@pytest.mark.parametrize("held_out", [False, True])
def test_answers_are_marked_with_their_end_and_follow_from_the_document(level: int, held_out: bool) -> None:
    own = lessons(level, held_out=held_out)
    seen = 0
    for number in range(60):
        ids, asked = own.row(number)
        assert len(ids) == len(asked)
        if END not in ids:  # of the level of words to repeat
            assert not held_out
            continue
        document, pairs = taken_apart(ids, asked)
        known = sentences(document)
        assert 0 < len(pairs) <= PLAN[level].questions
        for question, answer in pairs:
            assert answer == expected(question, known)
        seen += 1
    assert seen > 30


def test_what_is_repeated_is_known_but_for_its_beginning() -> None:
    own = lessons(0)
    for number in range(100):
        ids, asked = own.row(number)
        half = (len(ids) - 1) // 2
        assert ids[1 : half + 1] == ids[half + 1 :]
        assert 6 <= half <= 24
        assert [at for at, is_asked in enumerate(asked) if is_asked] == list(range(half + 2, len(ids)))
        assert min(ids[1:]) >= 4  # no special token


def test_levels_ask_for_one_thing_more_each() -> None:
    assert [level.facts for level in levels(20)] == [0, 4, 4, 8, 8, 20]
    assert [level.facts for level in levels(3)] == [0, 3, 3, 3, 3, 3]
    assert [level.documents for level in levels(20, 3)] == [1] * 6 + [3]
    assert len({level.name for level in levels(20, 3)}) == 7


def test_held_out_names_are_in_no_lesson() -> None:
    trained, measured = set[str](), set[str]()
    for level in range(1, len(PLAN)):
        for held_out, found in ((False, trained), (True, measured)):
            own = lessons(level, held_out=held_out)
            for number in range(80):
                ids, asked = own.row(number)
                if END in ids:
                    found |= {name for name, _ in sentences(taken_apart(ids, asked)[0])}
    held = {
        f"{first} {last}"
        for i, first in enumerate(WORLD.first)
        for j, last in enumerate(WORLD.last)
        if WORLD.is_held_out(i, j)
    }
    assert measured <= held
    assert not trained & held
    assert len(trained) > 100
    assert len(measured) > 20


def test_the_first_sentences_have_one_form_and_what_measures_them_too() -> None:
    form = STATEMENTS[0].split()[1]
    own = lessons(NUMBERS["one form"], held_out=True)
    for number in range(40):
        document, _ = taken_apart(*own.row(number))
        assert all(sentence.split()[1] == form for sentence in document.split(" . "))


def test_sentences_have_openings_from_some_level_on() -> None:
    for name, level in NUMBERS.items():
        told = [taken_apart(*lessons(level, held_out=True).row(number))[0] for number in range(20)] if level else []
        opened = [bare(sentence) != sentence for document in told for sentence in document.split(" . ")]
        assert set(opened) == ({PLAN[level].openings} if level else set())
        assert PLAN[level].openings == (name not in {"repeat", "one form", "every form"}) or not level


def test_documents_are_as_they_will_be() -> None:
    plan = levels(12)
    own = lessons(len(plan) - 1, plan, about=4, relations=2, openings=2, held_out=True)
    for number in range(30):
        told = sentences(taken_apart(*own.row(number))[0])
        assert len(told) == 12
        assert len({name for name, _ in told}) == 4
        assert len({relation for _, relation in told} - {FRIEND}) == 2


def test_no_name_is_in_two_documents_that_are_read_together() -> None:
    own = lessons(NUMBERS["several documents"], held_out=True)
    for number in range(60):
        document, _ = taken_apart(*own.row(number))
        assert len({name for name, _ in sentences(document)}) == 6  # three of each


def test_a_batch_is_padded_behind_and_says_what_is_text() -> None:
    batch = next(iter(lessons(3)))
    assert batch["examples"] == 6
    assert batch["ids"].shape == batch["text"].shape == batch["answer"].shape
    assert batch["ids"].dtype == torch.int64
    lengths = batch["text"].sum(1)
    assert int(lengths.max()) == batch["ids"].shape[1]
    for ids, text, answer, length in zip(batch["ids"], batch["text"], batch["answer"], lengths.tolist(), strict=True):
        assert text[:length].all()
        assert not text[length:].any()
        assert (ids[length:] == PAD).all()
        assert not (answer & ~text).any()


def test_a_row_depends_on_its_number_and_the_seed_alone() -> None:
    one, two, other = lessons(4), lessons(4, batch_size=3, length=9), lessons(4, seed=1)
    assert [one.row(number) for number in range(20)] == [two.row(number) for number in range(20)]
    assert [one.row(number) for number in range(20)] != [other.row(number) for number in range(20)]
    first, second = (torch.cat([batch["ids"].flatten() for batch in own]) for own in (one, one))  # two epochs
    assert not torch.equal(first, second)
    assert lessons(4, held_out=True).row(0) != one.row(0)


def test_ranks_share_a_batch_without_overlap() -> None:
    whole = [lessons(3).row(number) for number in range(6, 12)]
    parts = [lessons(3, shard=(rank, 4)).batch(0, 1) for rank in range(4)]
    assert [part["examples"] for part in parts] == [2, 2, 1, 1]
    told = [part["ids"][at][part["text"][at]].tolist() for part in parts for at in range(part["examples"])]
    assert sorted(told) == sorted(ids for ids, _ in whole)


def test_they_go_on_in_the_middle_of_an_epoch() -> None:
    own = lessons(2)
    for _ in own:
        pass
    rest = iter(own)
    next(rest)
    state = json.loads(json.dumps(own.state_dict()))
    after = [batch["ids"] for batch in rest]
    other = lessons(2)
    other.load_state_dict(state)
    found = [batch["ids"] for batch in other]
    assert len(found) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, after, strict=True))
    assert other.state_dict() == own.state_dict()
    assert other.state_dict()["epoch"] == 2
    for changed in ({"seed": 1}, {"batch_size": 5}, {"length": 5}):
        with pytest.raises(ResumeError, match=next(iter(changed))):
            lessons(2, **changed).load_state_dict(state)
    with pytest.raises(ResumeError, match="level"):
        lessons(3).load_state_dict(state)


def test_a_world_with_too_few_names_is_refused() -> None:
    tiny = World(names=4, relations=2, values=2, seed=1)
    numbers = {word: number for number, word in enumerate(tiny.vocabulary)}
    own = Lessons(tiny, levels(6, 9), 6, vocabulary=numbers, held_out=True)
    with pytest.raises(ConfigError, match="held-out names are wanted"):
        own.row(0)

"""The world of facts: what documents say, what is asked, and what training never meets."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from lodesmith.core.errors import ConfigError
from lodesmith.data import world as words
from lodesmith.data.world import (
    FRIEND,
    NEW_QUESTIONS,
    NEW_STATEMENTS,
    NEW_STEPS,
    OPENINGS,
    QUESTIONS,
    STATEMENTS,
    STEPS,
    Fact,
    World,
)

WORLD = World()
SMALL = World(names=16, relations=3, values=4)


def facts(number: int, world: World = WORLD, **options: object) -> list[Fact]:
    settings = {"count": 20, "about": 3, **options}
    return world.facts(Random(f"{number}"), **settings)  # type: ignore[arg-type]


def test_words_are_many_and_mean_one_thing() -> None:
    for world in (WORLD, SMALL, World(names=500, values=200, seed=9)):
        lists = [world.first, world.last, *world.known.values()]
        assert [len(own) for own in lists] == [world.names] * 2 + [world.values] * world.relations
        every = [word for own in lists for word in own]
        assert len(set(every)) == len(every)
        said = {word for form in (*STATEMENTS, *NEW_STATEMENTS, *QUESTIONS, *STEPS) for word in form.split()}
        assert not set(every) & (said | {FRIEND, *words.RELATIONS})
        assert world.vocabulary[:4] == ["<pad>", "<s>", "</s>", "<unk>"]
        assert len(set(world.vocabulary)) == len(world.vocabulary)


def test_no_name_has_a_relation_twice() -> None:
    for number in range(300):
        told = facts(number, SMALL, count=8 + number % 9)
        assert max(Counter((fact.name, fact.relation) for fact in told).values()) == 1
        assert len(told) == min(8 + number % 9, 3 * 4)  # three relations and a friend
        assert len({fact.name for fact in told}) == 3


def test_friends_are_others_of_the_document() -> None:
    for number in range(200):
        told = facts(number)
        names = {fact.name for fact in told}
        friends = [fact for fact in told if fact.relation == FRIEND]
        assert {fact.name for fact in friends} == names
        assert all(fact.value in names - {fact.name} for fact in friends)
        assert not [fact for fact in facts(number, friends=False) if fact.relation == FRIEND]
        assert not [fact for fact in facts(number, about=1) if fact.relation == FRIEND]


def test_held_out_names_are_met_nowhere_else() -> None:
    trained = {fact.name for number in range(3000) for fact in facts(number, SMALL)}
    held_out = {fact.name for number in range(3000) for fact in facts(number, SMALL, held_out=True)}
    assert not trained & held_out
    assert len(held_out) == SMALL.held_out
    assert len(trained) == 16**2 - SMALL.held_out
    assert 0.05 < WORLD.held_out / WORLD.names**2 < 0.15
    assert {name.split()[0] for name in held_out} <= {name.split()[0] for name in trained}  # whose words are known


def test_names_that_others_have_are_left_to_them() -> None:
    taken: set[str] = set()
    for number in range(SMALL.held_out // 3):
        names = {fact.name for fact in facts(number, SMALL, held_out=True, taken=taken)}
        assert not names & taken
        taken |= names
    with pytest.raises(ConfigError, match="held-out names are wanted"):
        facts(0, SMALL, held_out=True, about=SMALL.held_out - len(taken) + 1, taken=taken)


@pytest.mark.parametrize("held_out", [False, True])
def test_names_alike_share_one_word_with_another_and_are_of_their_kind(held_out: bool) -> None:
    world, shared, plain = World(names=128), 0, 0
    for number in range(50):
        draw, taken = Random(f"{number}"), {world.name(Random(number), held_out)}
        for alike in (0.9, 0.0):
            facts = world.facts(draw, 12, 3, held_out=held_out, taken=taken, alike=alike)
            names = [name.split() for name in dict.fromkeys(fact.name for fact in facts)]
            assert len({tuple(name) for name in [*names, *map(str.split, taken)]}) == len(names) + 1
            for first, last in names:
                assert world.is_held_out(world.first.index(first), world.last.index(last)) == held_out
            others = [name.split() for name in taken]
            found = sum(
                any((a == first) != (b == last) for a, b in [*others, *names] if [a, b] != [first, last])
                for first, last in names
            )
            shared, plain = (shared + found, plain) if alike else (shared, plain + found)
    assert shared > 120
    assert plain < 20


def test_few_relations_leave_it_to_the_name() -> None:
    for number in range(20):
        found = facts(number, count=9, about=9, friends=False, relations=1)
        assert len(found) == 9
        assert len({fact.relation for fact in found}) == 1
        assert len({fact.name for fact in found}) == 9
    several = [fact for number in range(20) for fact in facts(number, count=4, about=4, friends=False, relations=1)]
    assert len({fact.relation for fact in several}) > 3


def test_names_alike_end_where_all_of_them_are_taken() -> None:
    world = World(names=8)
    places = [(first, last) for first in range(1, 8) for last in range(8) if not world.is_held_out(first, last)]
    names = {f"{world.first[first]} {world.last[last]}" for first, last in places}
    found = world.facts(Random(0), 8, 2, taken=names, alike=0.9)
    assert {fact.name.split()[0] for fact in found} == {world.first[0]}


def test_a_story_states_each_fact_once_in_one_of_its_forms() -> None:
    for number in range(100):
        draw, told = Random(number), facts(number)
        story = WORLD.story(draw, told)
        assert story.facts == tuple(told)
        sentences = [f"{part.strip()} ." for part in story.text.split(" .") if part.strip()]
        for fact, sentence in zip(told, sentences, strict=True):
            own = {"name": fact.name, "relation": fact.relation, "value": fact.value}
            assert sentence in {form.format(**own) for form in STATEMENTS}
        assert set(story.text.split()) <= set(WORLD.vocabulary)


def test_openings_tell_nothing() -> None:
    told = facts(1)
    opened, plain = (WORLD.story(Random(1), told, openings=own).text for own in (1, 0))
    parts = [part.strip() for part in opened.split(" .") if part.strip()]
    own = [next(opening for opening in OPENINGS if part.startswith(f"{opening} ")) for part in parts]
    assert len(set(own)) > 2
    bare = [part.removeprefix(opening).strip() for part, opening in zip(parts, own, strict=True)]
    assert len(bare) == len(told) == plain.count(" .")
    assert not {word for opening in OPENINGS for word in opening.split()} & {
        *WORLD.first,
        *WORLD.last,
        *WORLD.known,
        *(value for values in WORLD.known.values() for value in values),
    }
    assert set(opened.split()) <= set(WORLD.vocabulary)


def asked_for(text: str) -> tuple[str, str, bool]:
    """Name, relation, and whether it takes two steps."""
    told = text.split()
    name = " ".join(told[-2:])
    relations = [word for word in told if word in (*words.RELATIONS, FRIEND)]
    return name, relations[1] if "and" in told else relations[0], "and" in told


@pytest.mark.parametrize("new", [False, True])
def test_every_question_has_one_answer_and_it_is_in_the_facts(new: bool) -> None:
    forms, steps = (NEW_QUESTIONS, NEW_STEPS) if new else (QUESTIONS, STEPS)
    kinds: Counter[str] = Counter()
    for number in range(300):
        told = facts(number, count=20 if number % 2 else 6)
        known = {(fact.name, fact.relation): fact.value for fact in told}
        asked = list(WORLD.questions(Random(number), told, forms=forms, steps=steps))
        assert len({question.text for question in asked}) == len(asked)
        assert [question.kind for question in asked[: len(told)]] == ["simple"] * len(told)
        for question in asked:
            name, relation, two = asked_for(question.text)
            kinds[question.kind] += 1
            assert question.kind == ("complex" if two else "simple")
            if two:
                friend = known[name, FRIEND]
                assert relation != FRIEND
                assert question.answer == f"{friend} {known[friend, relation]}"
            else:
                assert question.answer == known[name, relation]
            assert set(question.text.split()) <= set(WORLD.vocabulary)
    assert min(kinds.values()) > 200


def test_a_friend_without_facts_of_its_own_is_no_second_step() -> None:
    told = [Fact("a b", FRIEND, "c d"), Fact("c d", FRIEND, "a b"), Fact("a b", "metal", "iron")]
    asked = [question for question in WORLD.questions(Random(0), told) if question.kind == "complex"]
    assert [question.answer for question in asked] == ["a b iron"]
    assert asked_for(asked[0].text)[0] == "c d"


def test_unseen_forms_are_unseen() -> None:
    assert not set(NEW_STATEMENTS) & set(STATEMENTS)
    assert not {*NEW_QUESTIONS, *NEW_STEPS} & {*QUESTIONS, *STEPS}
    known = {word for form in (*STATEMENTS, *QUESTIONS, *STEPS) for word in form.split()}
    assert {word for form in (*NEW_STATEMENTS, *NEW_QUESTIONS, *NEW_STEPS) for word in form.split()} <= known


def test_the_same_seed_says_the_same_in_another_process() -> None:
    code = (
        "from random import Random; from lodesmith.data.world import World; w = World(seed=3); d = Random('x');"
        "f = w.facts(d, 9, 2); print(w.vocabulary, w.story(d, f).text, list(w.questions(d, f)))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert World(seed=3).first != World(seed=4).first


@pytest.mark.parametrize(
    "settings", [{"names": 3}, {"names": 501}, {"relations": 0}, {"relations": 9}, {"values": 1}, {"values": 201}]
)
def test_a_world_that_cannot_be_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        World(**settings)


def test_a_world_without_enough_names_is_refused_and_does_not_search_for_ever() -> None:
    none = next(world for seed in range(10) if not (world := World(names=4, seed=seed)).held_out)
    with pytest.raises(ConfigError, match="1 held-out names are wanted, and 4 words make 0"):
        none.facts(Random(0), 2, 1, held_out=True)
    with pytest.raises(ConfigError, match="names to train on"):
        none.facts(Random(0), 2, 17)

"""A world of facts to learn in: documents that state who has what, questions about them, all from a seed.

A document is about a few names and states facts of them in sentences of several forms. Questions ask for one fact, or
for a friend and a fact of the friend's, which takes two steps. Some names, and some forms of sentences and questions,
are held out: in training nobody meets them. Names have two words each, which other names share, so that finding a name
takes both. Everything is words of a small vocabulary, which a small language model can learn to read on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from random import Random

from lodesmith.core.errors import ConfigError

__all__ = ["FRIEND", "OPENINGS", "Fact", "Question", "Story", "World"]

FRIEND = "friend"
"""The relation whose value is another name of the same document."""
RELATIONS = ("colour", "metal", "fruit", "tool", "stone", "bird", "tree", "drink")
STATEMENTS = (
    "{relation} : {name} {value} .",
    "the {relation} of {name} is {value} .",
    "{name} has {value} as its {relation} .",
    "for {name} the {relation} is {value} .",
    "{value} is the {relation} of {name} .",
)
OPENINGS = (
    "everybody here knows well that",
    "it is written in books that",
    "old people often tell that",
    "one can often hear that",
    "as the old book says ,",
)
"""What a sentence may begin with, which tells nothing."""
NEW_STATEMENTS = ("as its {relation} {name} has {value} .",)
QUESTIONS = ("what is the {relation} of {name}", "which {relation} has {name}", "tell the {relation} of {name}")
NEW_QUESTIONS = ("what {relation} is for {name}",)
STEPS = ("what is the friend and {relation} of friend of {name}", "which friend and {relation} of friend has {name}")
NEW_STEPS = ("tell the friend and {relation} of friend of {name}",)
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_HELD_OUT = 10
"""One name of so many is held out."""


@dataclass(frozen=True)
class Fact:
    """What one name has.

    Args:
        name: two words.
        relation: one of the world's, or `FRIEND`.
        value: a word; of `FRIEND` a name.
    """

    name: str
    relation: str
    value: str


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Args:
        text: the question.
        answer: the value; of two steps the friend and the friend's value.
        kind: `simple`, or `complex` where it takes two steps.
    """

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Story:
    """A document: facts in their order, and the text that states them."""

    facts: tuple[Fact, ...]
    text: str


@dataclass(frozen=True)
class World:
    """Names, relations and values, and what can be said of them.

    Args:
        names: first and last words of names, so many of each.
        relations: of `RELATIONS`, beside `FRIEND`.
        values: words of each relation.
        seed: of the words.

    Raises:
        ConfigError: a size is out of range.
    """

    names: int = 256
    relations: int = 8
    values: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not (4 <= self.names <= 500 and 1 <= self.relations <= len(RELATIONS) and 2 <= self.values <= 200):
            raise ConfigError(
                f"a world of {self.names} words of names, {self.relations} relations and {self.values} values cannot "
                "be made",
                f"4 to 500 words, 1 to {len(RELATIONS)} relations, 2 to 200 values",
            )

    @cached_property
    def _words(self) -> list[str]:
        """Words of two or three syllables, each once."""
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        draw = Random(self.seed)
        wanted, found = 2 * self.names + len(RELATIONS) * self.values, dict[str, None]()
        while len(found) < wanted:
            found["".join(draw.sample(syllables, draw.choice((2, 2, 3))))] = None
        return list(found)

    @cached_property
    def first(self) -> list[str]:
        """First words of names."""
        return self._words[: self.names]

    @cached_property
    def last(self) -> list[str]:
        """Last words of names."""
        return self._words[self.names : 2 * self.names]

    @cached_property
    def known(self) -> dict[str, list[str]]:
        """The values of each relation."""
        values = self._words[2 * self.names :]
        return {
            relation: values[at * self.values : (at + 1) * self.values]
            for at, relation in enumerate(RELATIONS[: self.relations])
        }

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every word, the special tokens first."""
        forms = (*OPENINGS, *STATEMENTS, *NEW_STATEMENTS, *QUESTIONS, *NEW_QUESTIONS, *STEPS, *NEW_STEPS)
        said = dict.fromkeys(word for form in forms for word in form.split() if "{" not in word)
        values = [value for own in self.known.values() for value in own]
        return list(dict.fromkeys([*_SPECIAL, *said, FRIEND, *self.known, *self.first, *self.last, *values]))

    def is_held_out(self, first: int, last: int) -> bool:
        """Whether the name of these words is one that training does not meet."""
        return (7 * first + 13 * last + self.seed) % _HELD_OUT == 0

    @cached_property
    def held_out(self) -> int:
        """How many names are held out."""
        return sum(self.is_held_out(first, last) for first in range(self.names) for last in range(self.names))

    def name(self, draw: Random, held_out: bool, like: str | None = None) -> str:
        """A name of one kind; with `like`, one that has a word of that name, where there is one."""
        if like is not None and (found := self._alike(like, held_out)):
            return draw.choice(found)
        while True:
            first, last = draw.randrange(self.names), draw.randrange(self.names)
            if self.is_held_out(first, last) == held_out:
                return f"{self.first[first]} {self.last[last]}"

    def _alike(self, name: str, held_out: bool) -> list[str]:
        """The other names of a kind that have a word of this one."""
        first, last = (own.index(word) for own, word in zip((self.first, self.last), name.split(), strict=True))
        places = [(at, last) for at in range(self.names) if at != first]
        places += [(first, at) for at in range(self.names) if at != last]
        return [f"{self.first[at]} {self.last[to]}" for at, to in places if self.is_held_out(at, to) == held_out]

    def facts(  # noqa: PLR0913 - how a document may be, by name
        self,
        draw: Random,
        count: int,
        about: int,
        *,
        friends: bool = True,
        held_out: bool = False,
        taken: AbstractSet[str] = frozenset(),
        alike: float = 0.0,
        relations: int | None = None,
    ) -> list[Fact]:
        """Facts of one document, in a random order; no name has a relation twice.

        Args:
            draw: random numbers.
            count: how many; fewer where names and relations give no more.
            about: names of the document.
            friends: each name has a friend among the others, where there are others.
            held_out: names that training does not meet.
            taken: names of this kind that others have; the document is about none of them.
            alike: share below 1 of the names that have a word of another one, of the document's or of those taken.
            relations: so many of them alone, drawn; all where None. Where they are few the name tells, and not the
                relation.

        Raises:
            ConfigError: there are not so many names, or relations.
        """
        there = self.held_out if held_out else self.names**2 - self.held_out
        if about + len(taken) > there:
            kind = "held-out names" if held_out else "names to train on"
            raise ConfigError(
                f"{about + len(taken)} {kind} are wanted, and {self.names} words make {there}",
                "give more words of names",
            )
        if relations is not None and not 1 <= relations <= len(self.known):
            raise ConfigError(f"{relations} relations are wanted, and the world has {len(self.known)}", "ask for fewer")
        names: dict[str, None] = {}
        known = sorted(taken) if alike else []
        while len(names) < about:
            others = [*known, *names] if alike and draw.random() < alike else []
            if (name := self.name(draw, held_out, draw.choice(others) if others else None)) not in taken:
                names[name] = None
        listed = list(names)
        own = list(self.known) if relations is None else draw.sample(list(self.known), relations)
        grid = [(name, relation) for name in listed for relation in own]
        found = [Fact(name, relation, draw.choice(self.known[relation])) for name, relation in grid]
        draw.shuffle(found)
        linked = []
        if friends and about > 1:
            linked = [Fact(name, FRIEND, draw.choice([other for other in listed if other != name])) for name in listed]
        kept = [*linked, *found][:count]
        draw.shuffle(kept)
        return kept

    def story(
        self, draw: Random, facts: Sequence[Fact], *, forms: Sequence[str] = STATEMENTS, openings: int = 0
    ) -> Story:
        """Facts as a document, each in one of the forms, behind so many of `OPENINGS`."""
        said = []
        for fact in facts:
            said += draw.sample(OPENINGS, openings)
            said.append(draw.choice(forms).format(name=fact.name, relation=fact.relation, value=fact.value))
        return Story(tuple(facts), " ".join(said))

    def questions(
        self,
        draw: Random,
        facts: Sequence[Fact],
        *,
        forms: Sequence[str] = QUESTIONS,
        steps: Sequence[str] = STEPS,
    ) -> Iterator[Question]:
        """One question for each fact, and for each friend one of two steps, if the friend has a fact."""
        for fact in facts:
            text = draw.choice(forms).format(relation=fact.relation, name=fact.name)
            yield Question(text, fact.value, "simple")
        for fact in facts:
            own = [other for other in facts if fact.relation == FRIEND != other.relation and other.name == fact.value]
            if own:
                asked = draw.choice(own)
                text = draw.choice(steps).format(relation=asked.relation, name=fact.name)
                yield Question(text, f"{fact.value} {asked.value}", "complex")

"""Lessons in reading: from copying words to answering questions about documents of a world, level by level.

That a language model finds in its context what it is asked for comes late, and all at once. It comes soon where each
level asks for one thing more than the last: to repeat what follows a word, then to find a fact by its name where the
sentence is always the same, then in sentences of any form, then among more facts and words that tell nothing, then by
two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from lodesmith.data._position import Position
from lodesmith.data.world import STATEMENTS, Fact, World

__all__ = ["Lessons", "Level", "levels"]

Row = tuple[list[int], list[bool]]
_EARLIER = 0.2
"""Share of the lessons that are of earlier levels."""
_ALIKE = 0.5
"""Share of the names that have a word of another one, where several documents are read."""


@dataclass(frozen=True)
class Level:
    """What lessons of a level are like.

    Args:
        name: of the level.
        facts: of a document; 0 for words to repeat.
        forms: of sentences, the first so many.
        openings: sentences have those of documents as they will be.
        friends: names have friends, and questions of two steps are asked.
        alike: share of the names that have a word of another one in the lesson, so that a name is both its words.
        whole: documents are as they will be: about so many names, with so many relations.
        documents: that are read one after another.
        questions: on them.
    """

    name: str
    facts: int
    forms: int = len(STATEMENTS)
    openings: bool = True
    friends: bool = False
    alike: float = 0.0
    whole: bool = False
    documents: int = 1
    questions: int = 10


def levels(facts: int, documents: int = 1) -> tuple[Level, ...]:
    """The levels up to so many documents of so many facts each."""
    few, some = min(4, facts), min(8, facts)
    several = [Level("several documents", facts, friends=True, alike=_ALIKE, whole=True, documents=documents)]
    return (
        Level("repeat", 0),
        Level("one form", few, forms=1, openings=False),
        Level("every form", few, openings=False),
        Level("more facts", some),
        Level("friends", some, friends=True),
        Level("documents", facts, friends=True, whole=True),
        *(several if documents > 1 else []),
    )


class Lessons(Position):
    """Batches of a level for `objectives.language`; a `training.Batches`. None is ever the same: what a batch holds
    depends on the seed, the epoch and its number alone.

    Args:
        world: whose documents are read.
        plan: all levels.
        level: which of them this is.
        vocabulary: word → token id.
        about: names of a document as it will be.
        relations: of it beside friends, drawn for each; any where None.
        openings: of each sentence.
        batch_size: documents of a batch, over all ranks.
        length: batches of an epoch.
        seed: of everything that is drawn.
        held_out: of names that training does not meet, and of this level alone: to measure.
        shard: (rank, ranks): this process takes every ranks-th document.
    """

    def __init__(  # noqa: PLR0913 - a world, its words, a level and sizes, all by name
        self,
        world: World,
        plan: Sequence[Level],
        level: int,
        *,
        vocabulary: Mapping[str, int],
        about: int = 3,
        relations: int | None = None,
        openings: int = 1,
        batch_size: int = 32,
        length: int = 50,
        seed: int = 0,
        held_out: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.world, self.plan, self.level, self.vocabulary = world, tuple(plan), level, vocabulary
        self.about, self.relations, self.openings = about, relations, openings
        self.batch_size, self.length = batch_size, length
        self.seed, self.held_out, self.shard = seed, held_out, shard

    def __len__(self) -> int:
        return self.length

    def _meaning(self) -> dict[str, Any]:
        return {"seed": self.seed, "level": self.level, "batch_size": self.batch_size, "length": self.length}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch, number in self.rest():
            batch = self.batch(epoch, number)
            self.passed()
            yield batch

    def batch(self, epoch: int, number: int) -> dict[str, Any]:
        """The documents of a batch with their questions, as this rank has them."""
        first = (epoch * self.length + number) * self.batch_size
        rank, ranks = self.shard
        rows = [self.row(first + own) for own in range(self.batch_size)[rank::ranks]]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.vocabulary["<pad>"])
        text, answer = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros(ids.shape, dtype=torch.bool)
        for at, (own, asked) in enumerate(rows):
            ids[at, : len(own)] = torch.tensor(own)
            text[at, : len(own)] = True
            answer[at, : len(own)] = torch.tensor(asked)
        return {"examples": len(rows), "ids": ids, "text": text, "answer": answer}

    def row(self, number: int) -> Row:
        """A lesson: its token ids, and which of them are answers."""
        draw = Random(f"{self.seed} {self.level} {number} {self.held_out}")
        level = self.level
        if not self.held_out and level and draw.random() < _EARLIER:
            level = draw.randrange(level + 1)
        plan = self.plan[level]
        return self._repeated(draw) if not plan.facts else self._document(draw, plan)

    def _repeated(self, draw: Random) -> Row:
        """Words at random, twice over."""
        words = list(self.vocabulary.values())[4:]
        chosen = [draw.choice(words) for _ in range(draw.randint(6, 24))]
        asked = [False] * (len(chosen) + 2) + [True] * (len(chosen) - 1)  # the first again is a guess
        return [self.vocabulary["<s>"], *chosen, *chosen], asked

    def _document(self, draw: Random, plan: Level) -> Row:
        read: list[list[Fact]] = []
        for _ in range(plan.documents):  # no name is in two of them: a question has one answer
            read.append(self._facts(draw, plan, {fact.name for facts in read for fact in facts}))
        forms, openings = STATEMENTS[: plan.forms], self.openings if plan.openings else 0
        told = [self.world.story(draw, facts, forms=forms, openings=openings).text for facts in read]
        ids = [self.vocabulary["<s>"], *self._ids(" ".join(told))]
        asked = [False] * len(ids)
        questions = [question for facts in read for question in self.world.questions(draw, facts)]
        draw.shuffle(questions)
        for question in questions[: plan.questions]:
            before, behind = self._ids(question.text), [*self._ids(question.answer), self.vocabulary["</s>"]]
            ids += before + behind
            asked += [False] * len(before) + [True] * len(behind)
        return ids, asked

    def _facts(self, draw: Random, plan: Level, taken: AbstractSet[str]) -> list[Fact]:
        """Those of a document as it will be; or of one name, or, where they are few, of one relation, so that each
        alone is learned too."""
        kind = "document" if self.held_out else draw.choice(("relation", "relation", "name", "document"))
        about = {"relation": plan.facts, "name": 1, "document": 2}[kind]
        if plan.whole and kind != "name":
            about = self.about
        facts = self.world.facts(
            draw,
            plan.facts,
            about,
            friends=plan.friends,
            held_out=self.held_out,
            taken=taken,
            alike=plan.alike,
            relations=self.relations if plan.whole and kind != "name" else None,
        )
        if kind != "relation" or plan.whole:
            return facts
        relation, names = draw.choice(list(self.world.known)), dict.fromkeys(fact.name for fact in facts)
        return [Fact(name, relation, draw.choice(self.world.known[relation])) for name in names]

    def _ids(self, text: str) -> list[int]:
        return [self.vocabulary[word] for word in text.split()]

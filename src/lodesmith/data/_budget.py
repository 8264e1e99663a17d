"""How much a batch may hold, and what it holds while it is being filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError
from lodesmith.data.tokens import Tokens

__all__ = ["Budget", "Examples", "Load", "Sizes"]

_BLOCK = 1 << 16
"""Examples whose sizes are looked up at once."""

Sizes = tuple[int, int, int, int]
"""Of an example: tokens of the query, of its document, of its longest negative; and how many negatives."""


@dataclass(frozen=True)
class Budget:
    """The largest batch.

    Args:
        tokens: of queries, documents and negatives together; None for any.
        examples: None for any.
        padded: count each text as long as the longest of its kind (queries, documents, negatives) in the batch.
        fewest: examples that a batch has in any case, even beyond `tokens`: one for each rank.

    Raises:
        ConfigError: there is no limit, or one is out of range.
    """

    tokens: int | None = None
    examples: int | None = None
    padded: bool = False
    fewest: int = 1

    def __post_init__(self) -> None:
        given = [limit for limit in (self.tokens, self.examples) if limit is not None]
        if not given or min(given) < 1:
            raise ConfigError(
                f"tokens is {self.tokens} and batch_size {self.examples}", "give one of them or both, from 1 on"
            )
        if self.examples is not None and self.examples < self.fewest:
            raise ConfigError(f"batch_size {self.examples} gives {self.fewest} ranks no example each", "raise it")


@dataclass(frozen=True, eq=False)
class Examples:
    """Query, positive and negatives of n examples, as numbers of texts.

    Args:
        queries: the queries' tokens.
        documents: the documents' tokens.
        pairs: int32 [n, 2] of (query, document); equal texts have one number.
        negatives: [n, h] documents, −1 for an empty place.
    """

    queries: Tokens
    documents: Tokens
    pairs: NDArray[np.int32]
    negatives: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def blocks(self) -> Iterator[slice]:
        """The examples, some at a time."""
        for start in range(0, len(self), _BLOCK):
            yield slice(start, start + _BLOCK)

    def sizes(self, examples: NDArray[np.integer] | slice) -> NDArray[np.int64]:
        """Sizes [n, 4] of some examples, and in a fifth column the sum of their tokens."""
        pairs = self.pairs[examples]
        found = np.zeros((len(pairs), 5), np.int64)
        found[:, 0] = self.queries.lengths(pairs[:, 0])
        found[:, 1] = self.documents.lengths(pairs[:, 1])
        found[:, 4] = found[:, 0] + found[:, 1]
        if self.negatives is not None and self.negatives.size:
            rows = np.asarray(self.negatives[examples])
            lengths = np.where(rows < 0, 0, self.documents.lengths(rows.clip(min=0)))
            found[:, 2] = lengths.max(1)
            found[:, 3] = (rows >= 0).sum(1)
            found[:, 4] += lengths.sum(1)
        return found


class Load:
    """What a batch holds while it is being filled.

    Args:
        budget: its limits.
    """

    __slots__ = ("_budget", "_longest", "count", "tokens")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._longest: Sizes = (0, 0, 0, 0)
        self.count = 0
        self.tokens = 0

    def takes(self, sizes: Sizes, tokens: int) -> bool:
        """Whether an example of these sizes and tokens still fits in."""
        budget = self._budget
        if self.count < budget.fewest:
            return True
        if budget.examples is not None and self.count >= budget.examples:
            return False
        return budget.tokens is None or self._with(sizes, tokens)[1] <= budget.tokens

    def add(self, sizes: Sizes, tokens: int) -> None:
        """Put an example in."""
        self._longest, self.tokens = self._with(sizes, tokens)
        self.count += 1

    def _with(self, sizes: Sizes, tokens: int) -> tuple[Sizes, int]:
        """The longest of each kind (and the number of negatives), and the tokens, with one example more."""
        if not self._budget.padded:
            return self._longest, self.tokens + tokens
        query, document, negative, many = self._longest
        longest = (max(query, sizes[0]), max(document, sizes[1]), max(negative, sizes[2]), many + sizes[3])
        return longest, (longest[0] + longest[1]) * (self.count + 1) + longest[2] * longest[3]

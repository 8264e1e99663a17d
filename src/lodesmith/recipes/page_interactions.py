"""A teacher's interactions where both sides read page images: to which part of its page each query token attends.

Teacher and student cut a page into different patches and have different tokens of a query. So the shares are those of
the cells of a grid, the finest in which each patch of both lies in one cell; and the rows are the tokens that both
spell alike, of the query's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import fingerprint, text_key
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Encoder
from lodesmith.core.records import PageImage
from lodesmith.recipes.interactions import (
    Interactions,
    Rows,
    attended,
    check_interacts,
    encoded,
    kept,
    largest,
    ragged,
)

if TYPE_CHECKING:
    from lodesmith.encoders._page_layout import Layout
    from lodesmith.encoders.patches import PageEncoder

__all__ = ["PageInteractions", "check_interacts_on_pages", "page_interactions"]


@dataclass(frozen=True)
class PageInteractions(Interactions):
    """What a teacher attends to on m pages, for p pairs: `columns` are cells of the grid that teacher and student share
    on a page, `lengths` their numbers.

    Args:
        tokens: int32 [r], the student's token of the query that a row is of.
        pages: int64 [p], the page of each pair.
        cells: int32 [t], of the student's tokens of the m pages the cell of each; −1 for those that are no patch.
        bounds: int64 [m + 1] of a page's tokens.
    """

    tokens: NDArray[np.int32]
    pages: NDArray[np.int64]
    cells: NDArray[np.int32]
    bounds: NDArray[np.int64]

    def take(self, pairs: Rows) -> dict[str, Any]:
        """Those of some pairs, as `objectives.mid` reads them."""
        import torch

        rows, _ = ragged(self.offsets, pairs)
        places, offsets = ragged(self.bounds, self.pages[pairs])
        cells = {"values": self.cells[places].astype(np.int64), "offsets": offsets}
        return super().take(pairs) | {
            "tokens": torch.from_numpy(self.tokens[rows].astype(np.int64)),
            "cells": {name: torch.from_numpy(value) for name, value in cells.items()},
        }


def page_interactions(
    teacher: PageEncoder,
    student: PageEncoder,
    pairs: Sequence[tuple[str, PageImage]],
    *,
    softness: float,
    top: int,
    cache: Path,
) -> PageInteractions:
    """The teacher's interactions of queries with pages: read from the cache, or made now. Each query and each page is
    encoded once.

    Args:
        teacher: as it is.
        student: how it reads queries and pages counts, and not its weights.
        pairs: (query, page), each once.
        softness: divides the inner products before the softmax over a page's patches.
        top: cells that are kept for each query token.
        cache: a folder of the cache.

    Raises:
        InputError: the patches of both lie in the cells of no common grid, or of a query both spell no token alike.
    """
    keys = [(text_key(query), text_key(page)) for query, page in pairs]
    info = {"teacher": teacher.fingerprint, "student": student.reading, "softness": softness, "top": top}
    folder = cache / "interactions" / fingerprint({**info, "pages": keys, "v": 1})[:32]
    return kept(
        PageInteractions, folder, lambda: _made(teacher, student, pairs, softness, top), **info, pairs=len(pairs)
    )


def check_interacts_on_pages(teacher: Encoder) -> None:
    """Refuse a teacher whose patches have no vectors.

    Raises:
        InputError: it gives one vector a text, or reads texts.
    """
    check_interacts(teacher)
    if getattr(teacher, "reads", "text") != "images":
        raise InputError(
            "the teacher reads texts, and its student page images", "choose a teacher such as ColPali or ColQwen2"
        )


def _made(
    teacher: PageEncoder, student: PageEncoder, pairs: Sequence[tuple[str, PageImage]], softness: float, top: int
) -> PageInteractions:
    words = {query: _matched(teacher, student, query) for query, _ in pairs}  # what may be refused comes first
    distinct = list(dict.fromkeys(page for _, page in pairs))
    placed = {page: _Placed.of(teacher, student, page) for page in distinct}
    queries = encoded(teacher, [query for query, _ in pairs], "query")
    pages = encoded(teacher, distinct, "document")
    columns, mass = [np.empty((0, top), np.uint16)], [np.empty((0, top), np.float16)]
    for number, (query, page) in enumerate(pairs):
        place = placed[page]
        shares = attended(queries[query][words[query][0]], pages[page][place.patches], softness)
        one = largest(_by_cell(shares, place.of_patches, place.count), top)
        columns.append(one[0])
        mass.append(one[1])
        if number % 256 == 0:
            tell("interactions", number, len(pairs), "pairs")
    tell("interactions", len(pairs), len(pairs), "pairs")
    numbers = {page: at for at, page in enumerate(distinct)}
    return PageInteractions(
        np.concatenate(columns),
        np.concatenate(mass),
        _bounds([len(words[query][0]) for query, _ in pairs]),
        np.asarray([placed[page].count for _, page in pairs], np.int64),
        np.concatenate([np.empty(0, np.int32), *(words[query][1] for query, _ in pairs)]).astype(np.int32),
        np.asarray([numbers[page] for _, page in pairs], np.int64),
        np.concatenate([np.empty(0, np.int32), *(placed[page].cells for page in distinct)]),
        _bounds([len(placed[page].cells) for page in distinct]),
    )


def _bounds(counts: Sequence[int]) -> Rows:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def _by_cell(shares: NDArray[np.float32], cells: Rows, count: int) -> NDArray[np.float32]:
    """Shares [r, patches] summed over the patches of each cell: [r, count]."""
    found = np.zeros((count, len(shares)), np.float32)
    np.add.at(found, cells, shares.T)
    return found.T


# ---------------------------------------------------------------------------------------------------- what fits what


def _matched(teacher: PageEncoder, student: PageEncoder, query: str) -> tuple[Rows, Rows]:
    """The tokens of a query's words that both spell alike, in order: where they are with the teacher and the student.

    Raises:
        InputError: there are none.
    """
    spelled = [[(at, word) for at, word in enumerate(side.words(query)) if word] for side in (teacher, student)]
    theirs, own = spelled
    blocks = SequenceMatcher(None, [word for _, word in theirs], [word for _, word in own], autojunk=False)
    found = [
        (theirs[block.a + step][0], own[block.b + step][0])
        for block in blocks.get_matching_blocks()
        for step in range(block.size)
    ]
    if not found:
        read = [" ".join(word for _, word in side) or "nothing" for side in spelled]
        raise InputError(
            f"the tokenizers differ: of the query {query!r} the teacher reads {read[0]!r} and the student {read[1]!r}",
            "choose a base whose tokenizer splits words as the teacher's does",
        )
    return np.asarray([pair[0] for pair in found], np.int64), np.asarray([pair[1] for pair in found], np.int64)


@dataclass(frozen=True)
class _Placed:
    """A page under the grid of both sides.

    Args:
        patches: int64 [q], the teacher's tokens that are patches.
        of_patches: int64 [q], their cells.
        cells: int32 [t], those of the student's tokens; −1 for the ones that are no patch.
        count: of the cells.
    """

    patches: Rows
    of_patches: Rows
    cells: NDArray[np.int32]
    count: int

    @classmethod
    def of(cls, teacher: PageEncoder, student: PageEncoder, page: PageImage) -> _Placed:
        """How both sides read a page.

        Raises:
            InputError: they have no common grid.
        """
        from lodesmith.losses.attention import common_grid

        theirs, own = teacher.layout(page), student.layout(page)
        try:
            grid = common_grid(_grid(theirs), _grid(own))
        except InputError as error:
            raise InputError(f"teacher and student: {error.what}", error.do, path=page.path) from None
        cells = np.full(own.total, -1, np.int32)
        cells[own.tokens] = _cells(own, grid)
        return cls(theirs.tokens, _cells(theirs, grid), cells, int(np.prod(grid)))


def _grid(layout: Layout) -> tuple[int, int]:
    """Rows and columns of the finest grid in whose cells all patches of a page lie: of a page in tiles those of its
    overview, whose patches are the largest."""
    sizes = layout.boxes[:, 2:] - layout.boxes[:, :2]
    across, down = (int(np.gcd.reduce(np.rint(1 / sizes[:, axis]).astype(np.int64))) for axis in (0, 1))
    return down, across


def _cells(layout: Layout, grid: Sequence[int]) -> Rows:
    """The cell of each patch, row by row."""
    middles = (layout.boxes[:, :2] + layout.boxes[:, 2:]) / 2
    row, column = (np.floor(middles[:, 1 - axis] * grid[axis]).astype(np.int64) for axis in (0, 1))
    cells: Rows = row * grid[1] + column
    return cells

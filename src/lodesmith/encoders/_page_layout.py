"""Where on its page each token of a page image is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError

__all__ = ["Layout", "layout"]

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


@dataclass(frozen=True)
class Layout:
    """The patches of a page.

    Args:
        tokens: int64 [p], which of the page's vectors belong to a patch.
        boxes: float64 [p, 4]: left, top, right, bottom of each, as shares of the page's width and height.
        total: of the page's vectors.
    """

    tokens: NDArray[np.int64]
    boxes: NDArray[np.float64]
    total: int


def layout(processor: Any, features: dict[str, torch.Tensor]) -> Layout:
    """The patches of a page by what the processor made of it.

    A page that is cut into tiles has the patches of each tile, and then those of the whole page, coarser.

    Raises:
        InputError: the image's tokens form no grid that is known here.
    """
    ids = features["input_ids"][0].tolist()
    name = getattr(processor, "image_token", "<image>")
    mark = processor.tokenizer.convert_tokens_to_ids(getattr(name, "content", name))
    at = np.flatnonzero(np.asarray(ids) == mark)
    if "image_grid_thw" in features:
        _, rows, columns = features["image_grid_thw"][0].tolist()
        merge = int(processor.image_processor.merge_size)
        return Layout(at, _grid(rows // merge, columns // merge, len(at)), len(ids))
    labels = processor.tokenizer.convert_ids_to_tokens(ids)
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    tiles = [_TILE.fullmatch(labels[run[0] - 1]) for run in runs if len(run)]
    places = [(int(found[1]), int(found[2])) for found in tiles if found]
    down, across = (max((place[axis] for place in places), default=1) for axis in (0, 1))
    boxes = [
        _within(_square(len(run)), (1, 1), (1, 1)) if found is None
        else _within(_square(len(run)), (int(found[1]), int(found[2])), (down, across))
        for run, found in zip(runs, tiles, strict=True)
    ]  # fmt: skip
    return Layout(at, np.concatenate(boxes) if boxes else np.zeros((0, 4)), len(ids))


def _square(count: int) -> NDArray[np.float64]:
    side = math.isqrt(count)
    return _grid(side, side, count)


def _grid(rows: int, columns: int, count: int) -> NDArray[np.float64]:
    """The boxes of a grid's cells, row by row."""
    if rows * columns != count:
        raise InputError(f"{count} tokens of an image are no grid of {rows} × {columns}", "choose another model")
    y, x = (part.ravel() for part in np.mgrid[:rows, :columns].astype(np.float64))
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)


def _within(boxes: NDArray[np.float64], place: Sequence[int], of: Sequence[int]) -> NDArray[np.float64]:
    """Boxes of a tile, by row and column counted from 1, as boxes of the page."""
    (row, column), (down, across) = place, of
    shift = np.asarray([column - 1, row - 1] * 2, np.float64)
    whole: NDArray[np.float64] = (boxes + shift) / np.asarray([across, down] * 2, np.float64)
    return whole

"""How far a student's attention of query tokens over document tokens is from its teacher's."""

from __future__ import annotations

import math

import torch

from lodesmith.core.errors import InputError

__all__ = ["attention", "common_grid", "pooled", "regrid"]


def attention(
    similarities: torch.Tensor,
    lengths: torch.Tensor,
    columns: torch.Tensor,
    mass: torch.Tensor,
    temperature: float = 0.1,
    scale: float = 2.0,
) -> torch.Tensor:
    """scale² · mean over query tokens of KL(teacher ‖ student), each a distribution over a document's tokens.

    The student's is softmax(similarities / temperature). The teacher's is known by its largest shares; what is left of
    it is one share more, held against the sum of what the student gives to the other tokens. So the loss is a lower
    bound of that between the whole distributions, and equal to it where `columns` has every token.

    Args:
        similarities: [r, m] of r query tokens, of all queries, with their own documents' tokens; computed in float32
            at least.
        lengths: int64 [r], of how many tokens each row's document is; what stands behind does not count.
        columns: int64 [r, k], the tokens to which the teacher gives most; −1 for none.
        mass: [r, k], their shares, which sum to at most 1.
        temperature: above 0, in units of the similarities. Cosines are softened twice: a scale τ near .05 makes them
            logits, and T softens those of both sides alike; this is τ · T.
        scale: T, whose square keeps the gradient's size.

    Returns:
        A scalar, differentiable in the similarities; 0 where there are no rows.

    Raises:
        InputError: the shapes do not fit, a column is outside its document, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"the temperature must be above 0, not {temperature}")
    rows = len(similarities)
    if columns.shape != mass.shape or {len(columns), len(lengths)} != {rows}:
        raise InputError(
            f"{rows} rows of similarities do not fit columns {list(columns.shape)}, mass {list(mass.shape)} and "
            f"{len(lengths)} lengths"
        )
    if not rows:
        return similarities.sum()
    if bool((columns >= lengths[:, None]).any()):
        raise InputError("the teacher attends to a token that the document does not have", "teach again")
    logits = similarities.float() if similarities.dtype in (torch.float16, torch.bfloat16) else similarities
    none = torch.finfo(logits.dtype).min / 2  # finite: a row of which nothing is left would be NaN
    places = torch.arange(logits.shape[1], device=logits.device)
    shares = (logits / temperature).masked_fill(places >= lengths[:, None], none).log_softmax(1)
    known, chosen = columns >= 0, columns.clamp(min=0)
    found = shares.gather(1, chosen)
    wanted = mass.to(found.dtype).masked_fill(~known, 0.0)
    taken = torch.zeros_like(shares, dtype=torch.int64).scatter_add(1, chosen, known.long()) > 0  # −1 is at 0 too
    left = shares.masked_fill(taken, none).logsumexp(1)
    rest = (1 - wanted.sum(1)).clamp(min=0).masked_fill(lengths <= known.sum(1), 0.0)
    apart = _relative(wanted, found).sum(1) + _relative(rest, left)
    return apart.mean() * scale**2


def _relative(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """p · (log p − log q), 0 where p is."""
    return torch.where(wanted > 0, wanted * (wanted.clamp(min=1e-30).log() - found), 0.0)


def common_grid(teacher: tuple[int, ...], student: tuple[int, ...]) -> tuple[int, ...]:
    """The finest grid that both can be pooled to in whole cells: the greatest common divisor along each axis.

    Args:
        teacher: cells along each axis.
        student: likewise.

    Raises:
        InputError: they have not the same axes, or an axis of several cells on both sides would be left with one.
    """
    found = tuple(math.gcd(*pair) for pair in zip(teacher, student, strict=False))
    lost = any(own == 1 < min(pair) for own, pair in zip(found, zip(teacher, student, strict=False), strict=True))
    if len(teacher) != len(student) or not teacher or lost or min(*teacher, *student) < 1:
        raise InputError(
            f"a grid of {_spelled(teacher)} and one of {_spelled(student)} cannot be pooled to a common one",
            "choose models, or image sizes, whose numbers of patches have a common divisor along each side",
        )
    return found


def pooled(similarities: torch.Tensor, cells: torch.Tensor, count: int, temperature: float = 0.1) -> torch.Tensor:
    """Similarities to cells, whose softmax is the sum of the tokens' in each cell: temperature · logsumexp(similarities
    / temperature) over the tokens of a cell.

    Args:
        similarities: [r, m] of r query tokens with the tokens of a document.
        cells: int64 [m], in which cell each of these is; −1 for none, which does not count.
        count: of the cells.
        temperature: of the softmax, above 0.

    Returns:
        [r, count], differentiable in the similarities.

    Raises:
        InputError: a cell has no token, or is none of these.
    """
    kept = cells[cells >= 0]
    sizes = torch.bincount(kept, minlength=count)
    if len(cells) != similarities.shape[1] or len(sizes) != count or not bool((sizes > 0).all()):
        raise InputError(f"{len(kept)} of {similarities.shape[1]} tokens do not fill {count} cells")
    order = cells.argsort(stable=True)[len(cells) - len(kept) :]
    own = cells[order]
    within = torch.arange(len(kept), device=cells.device) - (sizes.cumsum(0) - sizes)[own]
    places = torch.full((count, int(sizes.max())), -1, device=cells.device)
    places[own, within] = order
    logits = (similarities / temperature)[:, places.clamp(min=0)]
    none = torch.finfo(logits.dtype).min / 2
    return logits.masked_fill(places < 0, none).logsumexp(2) * temperature


def regrid(mass: torch.Tensor, grid: tuple[int, ...], to: tuple[int, ...]) -> torch.Tensor:
    """Shares of a grid's cells as those of a coarser grid: sums over blocks.

    Args:
        mass: [r, cells], row-major.
        grid: cells along each axis.
        to: the same of the result; a divisor along each axis.

    Returns:
        [r, cells of `to`].

    Raises:
        InputError: the grids do not fit.
    """
    if len(grid) != len(to) or any(n < 1 or own % n for own, n in zip(grid, to, strict=True)):
        raise InputError(f"a grid of {_spelled(grid)} cannot be pooled to {_spelled(to)}", "see common_grid")
    if mass.shape[1] != math.prod(grid):
        raise InputError(f"{mass.shape[1]} shares are not those of a grid of {_spelled(grid)}")
    blocks = [size for own, n in zip(grid, to, strict=True) for size in (n, own // n)]
    inner = tuple(range(2, 2 * len(grid) + 1, 2))
    return mass.reshape(len(mass), *blocks).sum(inner).reshape(len(mass), math.prod(to))


def _spelled(grid: tuple[int, ...]) -> str:
    return " × ".join(map(str, grid))

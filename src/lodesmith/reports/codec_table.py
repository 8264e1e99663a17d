"""Quality against bytes a document: what codecs cost, as the one results table's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lodesmith.core.results import Comparison, Evaluation
from lodesmith.reports.findings import Systems, average, by_dataset, common_systems, find_pair
from lodesmith.reports.tables import Block, Cell, Mark, Row, Table
from lodesmith.reports.text import NONE, one_line, probability, signed, size, value

__all__ = ["codec_table"]

BYTES, SHARED = "bytes_per_document", "shared_bytes"
"""The costs that the table shows."""


def codec_table(evaluations: Sequence[Evaluation], comparison: Comparison) -> Table:
    """A row a codec, the baseline first: the measure, its difference to the baseline, and the bytes.

    Args:
        evaluations: with the costs `bytes_per_document` and `shared_bytes`, at most one a system and dataset.
        comparison: of each codec with the baseline; its p is shown after Holm's correction.

    Raises:
        InputError: there are no evaluations, or two of one system on one dataset.
    """
    blocks = by_dataset(evaluations)
    shown = [_block(systems, comparison) for systems in blocks.values()]
    if len(blocks) > 1 and common_systems(blocks):
        shown.append(_average(blocks, comparison))
    significant = any(cell.mark for block in shown for row in block.rows for cell in row.cells)
    marks: tuple[Mark, ...] = ("significant",) if significant else ()
    titles = (f"{comparison.measure} [95\u00a0%]", "difference [95\u00a0%]", "p", "bytes/document", "share", "shared")
    return Table(titles, tuple(shown), marks)


def _block(systems: Systems, comparison: Comparison) -> Block:
    first = next(iter(systems.values()))
    base = systems.get(comparison.baseline)
    rows = [Row(one_line(name), _cells(found, base, comparison)) for name, found in systems.items()]
    return Block(f"{one_line(first.dataset)} · {one_line(first.split)} · {first.queries:,} queries", tuple(rows))


def _cells(found: Evaluation, base: Evaluation | None, comparison: Comparison) -> tuple[Cell, ...]:
    estimate = found.measures.get(comparison.measure)
    quality = Cell(NONE)
    if estimate is not None:
        quality = Cell(value(estimate.mean), f"[{value(estimate.low)}, {value(estimate.high)}]")
    own, full = found.cost.get(BYTES), None if base is None else base.cost.get(BYTES)
    share = Cell(f"{own / full:.1%}" if own is not None and full else NONE)
    return quality, *_difference(found, comparison), Cell(_exact(own)), share, Cell(size(found.cost.get(SHARED)))


def _difference(found: Evaluation, comparison: Comparison) -> tuple[Cell, Cell]:
    """The difference with its interval, and p."""
    if found.system == comparison.baseline:
        return Cell("baseline"), Cell(NONE)
    pair = find_pair(comparison, found.system, comparison.baseline, found.dataset)
    if pair is None:
        return Cell(NONE), Cell(NONE)
    mark: Mark = "significant" if pair.significant else ""
    interval = f"[{signed(pair.low)}, {signed(pair.high)}]"
    return Cell(signed(pair.difference), interval, mark), Cell(probability(pair.p_holm).removeprefix("p = "))


def _exact(number: float | None) -> str:
    """Bytes, whole where they are; items of several rows have a mean."""
    return NONE if number is None else f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def _average(blocks: Mapping[str, Systems], comparison: Comparison) -> Block:
    base = average(blocks, comparison.baseline, comparison.measure)
    rows = []
    for name in common_systems(blocks):
        mean = average(blocks, name, comparison.measure)
        gap = None if mean is None or base is None else mean - base
        delta = "baseline" if name == comparison.baseline else signed(gap)
        rows.append(Row(one_line(name), (Cell(value(mean)), Cell(delta), *(Cell(NONE) for _ in range(4)))))
    return Block(f"average of {len(blocks)} datasets", tuple(rows))

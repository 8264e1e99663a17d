"""A student beside its teacher, as the one results table's data: what it keeps, and on which queries it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lodesmith.reports.tables import Block, Cell, Mark, Row, Table
from lodesmith.reports.text import NONE, clip, one_line, probability, rate, signed, value

__all__ = ["losses_text", "parts_table", "retention_notes", "retention_table"]

Told = Mapping[str, Any]
"""A retention file's content."""
_COLUMNS = ("nDCG@10 [95\u00a0%]", "retained [95\u00a0%]", "difference", "overlap@10", "Spearman@100")
_SPEEDS = ("docs/s", "tensors alone", "parameters", "weights")
_TEXT = 90


def retention_table(found: Sequence[Told]) -> Table:
    """A block a dataset: the teacher, then the student. Speeds and sizes are the student's by the teacher's.

    Args:
        found: contents of retention files.
    """
    blocks = tuple(_block(told) for told in found)
    return Table((*_COLUMNS, *_SPEEDS), blocks, _marks(blocks))


def parts_table(found: Sequence[Told]) -> Table:
    """A block a dataset: queries by length and by their rarest word; p after Holm's correction over the parts."""
    blocks = tuple(
        Block(f"{_title(told)} · where the student loses", tuple(_part(each) for each in told["parts"]))
        for told in found
        if told["parts"]
    )
    return Table(("queries", "teacher", "student", "difference [95\u00a0%]", "p"), blocks, _marks(blocks))


def losses_text(found: Sequence[Told]) -> str:
    """The queries that lose most, a line each."""
    parts = []
    for told in found:
        if told["losses"]:
            lines = [f"{_title(told)} · the queries that lose most (teacher → student)"]
            for loss in told["losses"]:
                figures = f"{value(loss['teacher'])} → {value(loss['student'])}"
                lines.append(f"{figures}  {clip(one_line(loss['text']), _TEXT)}")
            parts.append("\n".join(lines))
    return "\n\n".join(parts) + ("\n" if parts else "")


def retention_notes(found: Sequence[Told]) -> list[str]:
    """The same in sentences, for a page."""
    notes = []
    for told in found:
        own, whole, kept = (told[name] for name in ("student", "teacher", "retained"))
        text = f"On {own['dataset']} {own['system']} keeps {_share(kept['mean'])} "
        text += f"[{_share(kept['low'])}, {_share(kept['high'])}] of {whole['system']}'s nDCG@10"
        if (speed := told["speed"]) is not None:
            text += f" at {_times(speed['ratio'])} its documents a second ({speed['documents']:,} documents)"
        notes.append(text + ".")
        notes += [
            f"{own['dataset']}, {each['kind']} {each['range']}: {each['pair']['queries']} queries, difference "
            f"{signed(each['pair']['difference'])}, {probability(each['pair']['p_holm'])} after Holm."
            for each in told["parts"]
        ]
    return notes


def _marks(blocks: Sequence[Block]) -> tuple[Mark, ...]:
    return ("significant",) if any(c.mark for block in blocks for row in block.rows for c in row.cells) else ()


def _title(told: Told) -> str:
    own = told["student"]
    return f"{one_line(own['dataset'])} · {one_line(own['split'])} · {own['queries']:,} queries"


def _block(told: Told) -> Block:
    none = Cell(NONE)
    base = Row(one_line(told["teacher"]["system"]), (_quality(told["teacher"]), none, Cell("baseline"), *[none] * 6))
    return Block(_title(told), (base, Row(one_line(told["student"]["system"]), _cells(told))))


def _cells(told: Told) -> tuple[Cell, ...]:
    kept, agreement, speed = told["retained"], told["agreement"], told["speed"] or {}
    return (
        _quality(told["student"]),
        Cell(_share(kept["mean"]), f"[{_share(kept['low'])}, {_share(kept['high'])}]"),
        _difference(told["difference"]),
        *(Cell(value(agreement.get(name, {}).get("mean"))) for name in ("overlap@10", "spearman@100")),
        *(Cell(_times(speed.get(name))) for name in ("ratio", "tensors")),
        *(Cell(_times(told["size"][name]["ratio"])) for name in ("parameters", "weights")),
    )


def _quality(evaluation: Told) -> Cell:
    own = evaluation["measures"]["nDCG@10"]
    return Cell(value(own["mean"]), f"[{value(own['low'])}, {value(own['high'])}]")


def _difference(pair: Told) -> Cell:
    mark: Mark = "significant" if pair["significant"] else ""
    return Cell(signed(pair["difference"]), probability(pair["p_holm"]), mark)


def _part(each: Told) -> Row:
    pair = each["pair"]
    mark: Mark = "significant" if pair["significant"] else ""
    interval = f"[{signed(pair['low'])}, {signed(pair['high'])}]"
    cells = (
        Cell(f"{pair['queries']:,}"),
        Cell(value(each["teacher"])),
        Cell(value(each["student"])),
        Cell(signed(pair["difference"]), interval, mark),
        Cell(probability(pair["p_holm"]).removeprefix("p = ")),
    )
    return Row(f"{each['kind']}: {each['range']}", cells)


def _share(number: float) -> str:
    return f"{number:.1%}"


def _times(number: float | None) -> str:
    return NONE if number is None else f"{rate(number)}×"

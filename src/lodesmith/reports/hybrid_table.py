"""A hybrid's curve as the one results table's data, and its router's reliability in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lodesmith.reports.tables import Block, Cell, Row, Table, to_text
from lodesmith.reports.text import NONE, one_line, probability, rate, signed, value

__all__ = ["hybrid_table", "hybrid_text"]

Told = Mapping[str, Any]
"""A hybrid's report.json."""
_COLUMNS = ("teacher asked", "nDCG@10 [95\u00a0%]", "ms/query", "random", "gain", "random, same ms", "oracle")
_DRIFT = 0.05


def hybrid_table(told: Told) -> Table:
    """Student, five thresholds and teacher. `random` asks the teacher as often, for queries drawn by chance; p of the
    gain is not corrected for the five thresholds.

    Args:
        told: content of a hybrid's report.
    """
    none = Cell(NONE)
    ends = [
        Row(name, (Cell(share), _quality(told[name]["quality"]), Cell(rate(told[name]["query_ms"])), *[none] * 4))
        for name, share in (("student", "0.0%"), ("teacher", "100.0%"))
    ]
    rows = (ends[0], *(_point(point) for point in told["points"]), ends[1])
    title = f"{one_line(told['dataset'])} · {one_line(told['split'])} · {told['queries']:,} queries"
    return Table(_COLUMNS, (Block(title, rows),))


def hybrid_text(told: Told) -> str:
    """The table, and how far the router's probabilities can be trusted, as text."""
    training = told["training"]
    lines = [
        _trust(f"{training['split']} queries that were held out", training["reliability"]),
        _trust(f"{told['split']} queries", told["reliability"]),
        f"the student finds {training['overlap@10']:.1%} of the teacher's first ten on the {training['split']} queries",
    ]
    if told["reliability"]["base_rate"] > training["reliability"]["base_rate"] + _DRIFT:
        lines.append(
            f"the teacher does better more often on {told['split']} than on {training['split']}, whose queries the "
            "student may have learned from: the probabilities are too low; train the router on queries new to both"
        )
    return to_text(hybrid_table(told)) + "\n" + "\n".join(lines) + "\n"


def _trust(what: str, found: Told) -> str:
    auc = "undefined" if found["auc"] is None else value(found["auc"])
    return (
        f"router on {found['queries']:,} {what}: Brier {value(found['brier'])} (always the base rate "
        f"{value(found['base_rate'])}: {value(found['brier_base_rate'])}), calibration error "
        f"{value(found['calibration_error'])}, AUC {auc}"
    )


def _quality(found: Told) -> Cell:
    return Cell(value(found["mean"]), f"[{value(found['low'])}, {value(found['high'])}]")


def _point(point: Told) -> Row:
    cells = (
        Cell(f"{point['share']:.1%}"),
        _quality(point["quality"]),
        Cell(rate(point["query_ms"])),
        Cell(value(point["random"])),
        Cell(signed(point["gain"]["mean"]), probability(point["p"])),
        Cell(value(point["same_ms"])),
        Cell(value(point["oracle"])),
    )
    return Row(f"@{point['threshold']:.3f}", cells)

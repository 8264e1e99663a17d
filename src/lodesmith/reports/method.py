"""The page's last sections: every pair tested, and how the figures were made."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

from lodesmith.core.results import Pair
from lodesmith.reports.markup import Markup, foreign, tag
from lodesmith.reports.sections import section
from lodesmith.reports.story import Story
from lodesmith.reports.text import isolated, probability, signed, value

_PAIR_COLUMNS = ("a − b", "difference", "p after Holm", "p", "p of t-test", "won / equal / lost", "detectable")


def pair_section(story: Story) -> Markup:
    """All tests of the comparison, folded."""
    pairs = story.comparison.pairs
    if not pairs:
        return Markup("")
    several = len({pair.dataset for pair in pairs}) > 1
    head = tag("tr", *(tag("th", title, scope="col") for title in _PAIR_COLUMNS))
    body = tag("tbody", *(_pair_row(pair, several=several) for pair in pairs))
    box = tag("div", tag("table", tag("thead", head), body), **_SCROLL)
    count = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} tested"
    return section("pairs-tested", "Every pair", "", tag("details", tag("summary", count), box))


_SCROLL: dict[str, str | bool] = {
    "class_": "scroll",
    "role": "region",
    "aria_label": "Every pair tested",
    "tabindex": "0",
}


def _pair_row(pair: Pair, *, several: bool) -> Markup:
    where = tag("small", foreign(pair.dataset)) if several else ""
    sign = tag("span", "*", class_="mark significant") if pair.significant else ""
    interval = tag("small", f"[{signed(pair.low)}, {signed(pair.high)}]")
    return tag(
        "tr",
        tag("th", foreign(pair.a), " − ", foreign(pair.b), where, scope="row"),
        tag("td", tag("span", signed(pair.difference), sign), interval),
        *(tag("td", probability(p).removeprefix("p ").removeprefix("= ")) for p in (pair.p_holm, pair.p, pair.p_t)),
        tag("td", f"{pair.wins:,} / {pair.ties:,} / {pair.losses:,}"),
        tag("td", value(pair.detectable)),
    )


def method_section(story: Story, notes: Sequence[str]) -> Markup:
    """Tests, power, data, costs, the caller's notes, fingerprints and versions."""
    items = [*_data_notes(story), *_test_notes(story), _cost_note(), _version_note()]
    own = [foreign(note, "li") for note in notes]
    return section(
        "method", "How this was measured", "", tag("ul", *map(_item, items), *own, class_="notes"), _prints(story)
    )


def _item(text: str) -> Markup:
    return tag("li", text)


def _data_notes(story: Story) -> list[str]:
    found = []
    for dataset, systems in story.blocks.items():
        first = next(iter(systems.values()))
        sizes = {evaluation.queries for evaluation in systems.values()}
        many = f"{first.queries:,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
        found.append(
            f"Data: {isolated(dataset)}, split {isolated(first.split)}, {many} queries, {len(systems)} systems."
        )
    return found


def _test_notes(story: Story) -> list[str]:
    comparison, pairs = story.comparison, story.pairs
    tested = len([pair for pair in comparison.pairs if pair.measure == comparison.measure])
    notes = [
        f"Systems are compared by {comparison.measure}, paired query by query; the baseline is "
        f"{isolated(comparison.baseline)}. A query with no results counts 0.",
        f"p is that of a two-sided randomisation test; Holm's correction runs over all {tested} pairs, and significant "
        "means p < 0.05 after it. The paired t-test stands beside it under “Every pair”. Intervals are 95\u00a0% "
        "bootstrap intervals over queries.",
    ]
    for pair in pairs:
        where = f" on {isolated(pair.dataset)}" if len(pairs) > 1 else ""
        notes.append(
            f"Between {isolated(pair.a)} and {isolated(pair.b)}{where}, {pair.queries:,} queries find a true "
            f"difference of {value(pair.detectable)} with 80\u00a0% power; a smaller one can remain unseen."
        )
    return notes


def _cost_note() -> str:
    return (
        "Costs: documents encoded a second, median milliseconds a query, bytes of the index and parameters of the "
        "model, each on the machine that ran the evaluation; – is what does not apply or was not measured."
    )


def _version_note() -> str:
    versions = [f"{name} {_version(name)}" for name in ("lodesmith", "numpy")]
    return f"Page made with {', '.join(versions)}, Python {platform.python_version()}."


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _prints(story: Story) -> Markup | str:
    rows = [
        _print_row(dataset, evaluation.system, evaluation.fingerprints)
        for dataset, systems in story.blocks.items()
        for evaluation in systems.values()
        if evaluation.fingerprints
    ]
    return tag("details", tag("summary", "Fingerprints"), tag("dl", *rows, class_="prints")) if rows else ""


def _print_row(dataset: str, system: str, prints: Mapping[str, str]) -> Markup:
    lines = [tag("dd", foreign(name), " ", foreign(str(mark), "code")) for name, mark in prints.items()]
    return tag("div", tag("dt", foreign(system), " on ", foreign(dataset)), *lines)

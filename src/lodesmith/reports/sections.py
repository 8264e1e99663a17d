"""The sections of the page, each a function from the story to HTML, or to nothing where there is nothing to show."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations

from lodesmith.core.results import Evaluation, Pair
from lodesmith.reports.examples import Answer, Example, Passage
from lodesmith.reports.findings import differences, find_pair, ranked
from lodesmith.reports.markup import Markup, breakable, foreign, join, tag
from lodesmith.reports.plots import LATENCY, difference_plot, interval_plot, quality_cost_plot
from lodesmith.reports.story import Story
from lodesmith.reports.tables import Cell, Table
from lodesmith.reports.text import clip, isolated, probability, signed, value

WIDTHS = (("narrow", 328), ("wide", 840))
"""Every plot is drawn twice, for a phone and for a screen: scaling one of them would make its labels too small."""

_FIGURES = 24
"""How many pairs get a plot, over all datasets; the table of all pairs names every one."""

_BLANK_LINES = re.compile(r"\n\s*\n")

_NOTHING = Markup("")


def section(key: str, title: str, lead: str, *body: str) -> Markup:
    """A section with its heading and a sentence that says how to read it; nothing where the body is empty."""
    content = join(body)
    if not content:
        return _NOTHING
    return tag("section", tag("h2", title), tag("p", lead, class_="note") if lead else "", content, id=key)


def opening(title: str, story: Story) -> Markup:
    """The answer first."""
    facts = [
        tag(
            "div",
            tag("dt", fact.question),
            tag("dd", foreign(fact.answer) if fact.name else fact.answer, class_="big"),
            tag("dd", fact.below),
        )
        for fact in story.facts
    ]
    sentence = foreign(story.sentence, "p", class_="reason") if story.sentence else ""
    head = [foreign(title, "p", class_="title"), tag("h1", story.headline), sentence]
    return tag("header", *head, tag("dl", *facts, class_="facts"))


def table_section(table: Table, story: Story) -> Markup:
    """The results table in a box of its own that scrolls sideways."""
    head = tag("tr", *(tag("th", title, scope="col") for title in ("system", *table.columns)))
    bodies = []
    for block in table.blocks:
        title = tag("th", foreign(block.title), colspan=str(len(table.columns) + 1), scope="rowgroup")
        rows = [
            tag("tr", _row_head(row.system, story), *map(_cell, row.cells), class_=_role(row.system, story))
            for row in block.rows
        ]
        bodies.append(tag("tbody", tag("tr", title, class_="block"), *rows))
    box = tag(
        "div",
        tag("table", tag("thead", head), *bodies),
        class_="scroll",
        role="region",
        aria_label="Results",
        tabindex="0",
    )
    marks = [tag("li", _sign(mark), ": ", text) for mark, text in zip(table.marks, table.legend, strict=True)]
    return section("results", "Results", "", box, tag("ul", *marks, class_="legend") if marks else "")


def _role(system: str, story: Story) -> str:
    return "chosen" if isolated(system) == isolated(story.lead) else ""


def _row_head(system: str, story: Story) -> Markup:
    badge = tag("span", "recommended", class_="badge") if story.recommended and _role(system, story) else ""
    return tag(
        "th",
        tag("bdi", breakable(clip(system, 80)), dir="auto", title=system if len(system) > 80 else ""),
        badge,
        scope="row",
    )


def _sign(mark: str) -> Markup:
    shown = tag("strong", "bold") if mark == "best" else {"tied": "≈ best", "significant": "*"}[mark]
    return tag("span", shown, class_=f"mark {mark}")


def _cell(cell: Cell) -> Markup:
    figure = tag("strong", cell.text) if cell.mark == "best" else cell.text
    before = _sign(cell.mark) if cell.mark == "tied" else ""
    after = _sign(cell.mark) if cell.mark == "significant" else ""
    return tag("td", before, figure, after, tag("small", cell.detail) if cell.detail else "")


def fitting(plots: Sequence[str]) -> Markup:
    """One plot for each of `WIDTHS`; the style sheet shows the one that fits."""
    return join(tag("div", Markup(plot), class_=name) for (name, _), plot in zip(WIDTHS, plots, strict=True) if plot)


def interval_section(story: Story) -> Markup:
    """How sure each mean is."""
    figures = []
    for dataset, systems in story.blocks.items():
        names = [name for name in ranked(systems, story.measure) if story.measure in systems[name].measures]
        estimates = {name: systems[name].measures[story.measure] for name in names}
        if not estimates:
            continue
        reference = story.comparison.baseline
        drawn = fitting(
            [
                interval_plot(estimates, measure=story.measure, lead=story.lead, reference=reference, width=width)
                for _, width in WIDTHS
            ]
        )
        figures.append(tag("figure", _dataset_caption(dataset, story), drawn))
    lead = (
        "The mean over queries and its 95\u00a0% bootstrap interval. Intervals that overlap can still differ "
        "significantly, because the tests compare query by query; the dashed line is "
        f"{isolated(story.comparison.baseline)}."
    )
    return section("intervals", "How sure are the means?", lead, *figures)


def _dataset_caption(dataset: str, story: Story) -> Markup | str:
    return tag("figcaption", foreign(dataset)) if len(story.blocks) > 1 else ""


def latency_section(story: Story) -> Markup:
    """What quality costs in time."""
    lead = f"{story.measure} with its interval against the median time of a query. Higher and further left is better."
    figures = _cost_figures(story, "query_ms_p50", LATENCY)
    return section("latency", "What does quality cost?", lead, *figures)


def context_section(story: Story) -> Markup:
    """What quality costs in context, of systems that read one."""
    lead = (
        f"{story.measure} with its interval against the tokens that the documents of a question take, a mean over "
        "questions. Higher and further left is better; what reads nothing is not drawn."
    )
    figures = _cost_figures(story, "context_tokens", ("tokens of context a question", "tokens"))
    return section("context", "How much context does quality take?", lead, *figures)


def _cost_figures(story: Story, key: str, cost: tuple[str, str]) -> list[Markup]:
    """Quality against one of the costs, a figure a dataset."""
    figures = []
    for dataset, systems in story.blocks.items():
        points = {
            name: (own, evaluation.measures[story.measure])
            for name, evaluation in systems.items()
            if (own := evaluation.cost.get(key)) is not None and story.measure in evaluation.measures
        }
        plots = [
            quality_cost_plot(points, measure=story.measure, cost=cost, lead=story.lead, width=width)
            for _, width in WIDTHS
        ]
        if any(plots):
            figures.append(tag("figure", _dataset_caption(dataset, story), fitting(plots)))
    return figures


def shown_pairs(story: Story) -> list[tuple[str, str, str]]:
    """(dataset, a, b) of the pairs that get a plot: the story's own first, then the lead's, the baseline's, others."""
    pairs = [
        (dataset, a, b)
        for dataset, systems in story.blocks.items()
        for a, b in combinations(_lead_first(list(ranked(systems, story.measure)), story), 2)
    ]
    own = {story.lead, story.rival}

    def order(pair: tuple[str, str, str]) -> tuple[bool, bool, bool]:
        names = {pair[1], pair[2]}
        return names != own, story.lead not in names, story.comparison.baseline not in names

    return sorted(pairs, key=order)[:_FIGURES]


def _lead_first(names: list[str], story: Story) -> list[str]:
    return sorted(names, key=lambda name: (name != story.lead, name == story.comparison.baseline))


def difference_section(story: Story) -> Markup:
    """The chosen pair query by query; the other pairs behind a fold, which the script turns into a selector."""
    figures = [figure for pair in shown_pairs(story) if (figure := _difference_figure(story, *pair))]
    if not figures:
        return _NOTHING
    others = ""
    if len(figures) > 1:
        count = f"{len(figures) - 1} other pair{'s' if len(figures) > 2 else ''}"
        others = tag("details", tag("summary", count), *figures[1:], class_="others")
    lead = f"The difference in {story.measure} on each query, sorted: one bar a query."
    return section("queries", "Query by query", lead, tag("div", figures[0], others, id="pairs"))


def _difference_figure(story: Story, dataset: str, a: str, b: str) -> Markup:
    systems = story.blocks[dataset]
    values = list(differences(systems[a], systems[b], story.measure).values())
    if not values:
        return _NOTHING
    plots = [difference_plot(values, a=a, b=b, measure=story.measure, width=width) for _, width in WIDTHS]
    where = f" · {isolated(dataset)}" if len(story.blocks) > 1 else ""
    pair = find_pair(story.comparison, a, b, dataset)
    caption = tag("figcaption", f"{isolated(a)} minus {isolated(b)}{where}", tag("small", _verdict(pair)))
    return tag("figure", caption, fitting(plots), data_dataset=dataset, data_a=a, data_b=b)


def _verdict(pair: Pair | None) -> str:
    if pair is None:
        return "not tested"
    real = "significant" if pair.significant else "not significant"
    interval = f"[{signed(pair.low)}, {signed(pair.high)}]"
    return f"{signed(pair.difference)} {interval}, {probability(pair.p_holm)} after Holm: {real}"


def data_of(story: Story, most: int = 5000) -> dict[str, object]:
    """Values by query for the read-out under a plot, by dataset and system; nothing of larger datasets."""
    data: dict[str, object] = {}
    for dataset, systems in story.blocks.items():
        queries = list(next(iter(systems.values())).per_query)
        if len(queries) <= most:
            values = {name: [_rounded(e, query, story.measure) for query in queries] for name, e in systems.items()}
            data[dataset] = {"queries": queries, "systems": values}
    return {"measure": story.measure, "datasets": data}


def _rounded(evaluation: Evaluation, query: str, measure: str) -> float | None:
    found = evaluation.per_query.get(query, {}).get(measure)
    return None if found is None or not math.isfinite(found) else round(found, 4)


def example_section(examples: Sequence[Example], story: Story) -> Markup:
    """The queries won and lost most, with what was found."""
    won = sorted((e for e in examples if e.difference > 0), key=lambda e: -e.difference)
    lost = sorted((e for e in examples if e.difference < 0), key=lambda e: e.difference)
    parts = []
    for title, kind, group in (("Won most", "won", won), ("Lost most", "lost", lost)):
        if group:
            parts += [tag("h3", title), *(_example(example, kind, story) for example in group)]
    lead = f"Where {isolated(story.lead)} is furthest ahead of {isolated(story.rival)}, and furthest behind."
    return section("examples", "Won and lost", lead, *parts)


def _example(example: Example, kind: str, story: Story) -> Markup:
    values = f"{value(example.a_value)} against {value(example.b_value)}"
    difference = tag("span", signed(example.difference), class_=f"difference {kind}")
    summary = tag("summary", difference, foreign(clip(example.query, 300), "span"), tag("small", values))
    tops = [_found(story.lead, example.a_top), _found(story.rival, example.b_top)]
    relevant = tag("div", tag("h4", "Relevant"), _passages(example.relevant)) if example.relevant else ""
    inside = tag("div", relevant, tag("div", *tops, class_="two"), class_="inside")
    return tag("details", summary, inside, class_="example")


def _found(system: str, passages: Sequence[Passage]) -> Markup:
    body = _passages(passages) if passages else tag("p", "nothing found", class_="note")
    return tag("div", tag("h4", foreign(system), " found"), body)


def _passages(passages: Sequence[Passage], longest: int = 700) -> Markup:
    """At most `longest` characters of each."""
    return tag("ol", *(_passage(passage, longest) for passage in passages), class_="passages")


def _passage(passage: Passage, longest: int) -> Markup:
    facts = [foreign(passage.document_id, class_="id")]
    if passage.score is not None:
        facts.append(tag("span", f"score {passage.score:.3f}"))
    if passage.relevant is not None:
        kind = "yes" if passage.relevant else "no"
        facts.append(tag("span", "relevant" if passage.relevant else "not relevant", class_=f"judged {kind}"))
    title = foreign(clip(passage.title, 200), "b") if passage.title.strip() else ""
    shown = _BLANK_LINES.sub("\n", passage.text.strip())
    body = foreign(clip(shown, longest), "p") if shown else ""
    return tag("li", title, body, tag("div", *facts, class_="meta"))


def answer_section(answers: Sequence[Answer], story: Story) -> Markup:
    """Sample questions with the best passages."""
    parts = [
        tag("article", foreign(answer.question, "h3"), _passages(answer.passages, 320) if answer.passages else "")
        for answer in answers
    ]
    return section("answers", "Sample questions", f"The best passages of {isolated(story.lead)}.", *parts)

"""`lode ask`, and the options of `lode evaluate` that measure answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lodesmith.cli.console import Json, progress, put, say, show

if TYPE_CHECKING:
    from lodesmith.recipes.answering import Answered
    from lodesmith.recipes.asking import Asked

WAYS = (
    "have a memory model answer the queries that have answers, in these ways: closed, text, text-truncated, stage1, "
    "stage1-ranked, stage2, stage2-ranked, full, full-given, random, shuffled; with several, by commas, --out and "
    "--run are folders"
)
As = Annotated[str | None, typer.Option("--as", metavar="WAY[,WAY…]", help=WAYS)]
Pool = Annotated[
    str | None,
    typer.Option(metavar="normal|oracle", help="with --as: what retrieval gives (the default), or gold ones among it"),
]
Documents = Annotated[int | None, typer.Option(min=1, help="with --as: documents that a question reads (5)")]
Candidates = Annotated[int | None, typer.Option(min=1, help="with --as: documents of a question's pool (20)")]
Limit = Annotated[int | None, typer.Option(min=1, help="with --as: ask the first questions alone")]


def ask(
    model: Annotated[str, typer.Argument(metavar="RUN", help="run directory of clara, or its model/ folder")],
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="index folder of the same model")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="the question")],
    k: Annotated[int, typer.Option("-k", min=1, help="how many documents are read")] = 5,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens of the answer, at most")] = 32,
    as_json: Json = False,
) -> None:
    """Answer a question from the documents that fit it best, read as the memory tokens of their index.

    Example: lode index build runs/clara my-dataset --out my-index && lode ask runs/clara my-index "who eats apples?"
    """
    from lodesmith.recipes.asking import ask as asked

    found = asked(model, index, question, k, max_new_tokens=max_new_tokens, write=None if as_json else put)
    show(as_json, found.to_json(), asked_text(found))


def asked_text(found: Asked) -> str:
    """What stands below the answer: the passages, what they cost, and how long it took."""
    lines = ["" if found.answer else "(no answer)", ""] if found.finished else [" …", ""]
    for passage in found.passages:
        lines.append(f"{passage.rank:>3}  {passage.score:.4f}  {passage.id}  {passage.title}".rstrip())
        lines += [f"     {passage.text}"] if passage.text else []
    cost = f"{len(found.passages)} passages as {found.memory_tokens:,} memory tokens"
    if (text := found.text_tokens) is not None and (saved := found.tokens_saved) is not None:
        cost += f" for {text:,} of text: {abs(saved):,} {'saved' if saved >= 0 else 'more'}"
    times = {"retrieval": found.retrieval_ms, "prefill": found.prefill_ms, "generation": found.generation_ms}
    return "\n".join([*lines, "", cost, ", ".join(f"{name} {ms:,.1f} ms" for name, ms in times.items())])


def measure_answers(
    model: str,
    datasets: Sequence[str],
    ways: str,
    given: Mapping[str, Any],
    *,
    split: str,
    out: Path | None,
    run: Path | None,
) -> Answered:
    """The answers of a model in ways that commas part; of what is not given the defaults hold."""
    from lodesmith.recipes.answering import Plan, answer_datasets

    names = tuple(name.strip() for name in ways.split(",") if name.strip())
    plan = Plan(names, **{name: value for name, value in given.items() if value is not None})
    with progress():
        return answer_datasets(model, datasets, plan, split=split, out=out, run=run)


def show_answers(
    as_json: bool, found: Answered, markdown: Path | None, latex: Path | None, report: Path | None
) -> None:
    """The ways to answer, on the screen and where asked."""
    from lodesmith.core.files import write_text
    from lodesmith.recipes.answering import answers_page
    from lodesmith.reports.tables import comparison_table, to_latex, to_markdown, to_text

    table = comparison_table(found.evaluations, found.comparison)
    for path, render in ((markdown, to_markdown), (latex, to_latex), (report, lambda _: answers_page(found))):
        if path is not None:
            write_text(path, render(table))
            say(f"wrote {path}")
    value = {"evaluations": [each.to_json() for each in found.evaluations], "comparison": found.comparison.to_json()}
    show(as_json, value, to_text(table))


VERBS = (ask,)

"""`lode encode`, `lode index …` and `lode search`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from lodesmith.cli.console import Json, progress, say, show
from lodesmith.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Build and keep indexes.")
Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="index folder")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="model folder, run directory, hub name or `minilm`")]
DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="dataset folder")]


PASSAGES = "split long documents into overlapping windows of this many tokens; the best one counts"
DTYPE = (
    "how the vectors are kept: float32 (the default for one vector a document), float16 (for several), or int8 (memory "
    "tokens, each with a scale)"
)
Dtype = Annotated[str | None, typer.Option(metavar="float32|float16|int8", help=DTYPE)]


def encode(
    model: ModelName,
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="vectors folder to write or to continue")],
    passages: Annotated[int | None, typer.Option(min=8, help=PASSAGES)] = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Encode a corpus into a vectors folder. Stop it at any time: the same command continues.

    Example: lode encode minilm my-dataset --out my-vectors
    """
    from lodesmith.recipes.storing import encode_dataset

    with progress():
        report = encode_dataset(model, dataset, out, passages=passages, dtype=dtype)
    show(as_json, report, "\n".join(f"{key}: {value}" for key, value in report.items()))


@app.command()
def build(
    model: ModelName,
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="index folder to write")],
    index: Annotated[str, typer.Option(help="flat (exact), hnsw, ivf or ivfpq")] = "flat",
    passages: Annotated[int | None, typer.Option(min=8, help=PASSAGES)] = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Encode a corpus and index it.

    Example: lode index build minilm my-dataset --out my-index
    """
    from lodesmith.recipes.storing import build_index

    with progress():
        _report(as_json, build_index(model, dataset, out, index=index, passages=passages, dtype=dtype))


@app.command()
def add(folder: Folder, dataset: DatasetFolder, as_json: Json = False) -> None:
    """Add a dataset's documents; those that are there are replaced.

    Example: lode index add my-index more-documents
    """
    from lodesmith.recipes.storing import add_to_index

    with progress():
        _report(as_json, add_to_index(folder, dataset))


@app.command()
def delete(
    folder: Folder, ids: Annotated[Path, typer.Option(help="file of document ids, one a line")], as_json: Json = False
) -> None:
    """Take documents out by id.

    Example: lode index delete my-index --ids gone.txt
    """
    from lodesmith.recipes.storing import delete_from_index

    _report(as_json, delete_from_index(folder, ids))


@app.command()
def verify(folder: Folder, as_json: Json = False) -> None:
    """Compare every file of an index with its checksum.

    Example: lode index verify my-index
    """
    from lodesmith.recipes.storing import verify_index

    _report(as_json, verify_index(folder))


@app.command()
def compact(folder: Folder, as_json: Json = False) -> None:
    """Rewrite an index without what was deleted.

    Example: lode index compact my-index
    """
    from lodesmith.recipes.storing import compact_index

    _report(as_json, compact_index(folder))


def _report(as_json: bool, report: dict[str, Any]) -> None:
    show(as_json, report, "\n".join(f"{key}: {value}" for key, value in report.items()))


def search(
    folder: Folder,
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="the query; without one, standard input is read")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="how many documents")] = 10,
    as_json: Json = False,
) -> None:
    """Search an index with one query, or with one a line from standard input.

    At a terminal each line is answered as it is typed, with --json by an object of its own; Ctrl-D ends.

    Example: lode search my-index "how do I renew a passport" -k 5

    Example: lode search my-index --json < queries.txt > answers.json
    """
    from lodesmith.recipes.storing import answers, open_searcher

    typed = query is None and sys.stdin.isatty()
    queries = [] if typed else _lines() if query is None else _given(query)
    searcher = open_searcher(folder)

    def answer(queries: list[str]) -> None:
        found = answers(searcher, queries, k)
        texts = [_hits_text(f) if typed else f"{f['query']}\n{_hits_text(f)}" for f in found]
        show(as_json, {"index": str(folder), "queries": found}, "\n\n".join(texts))

    if typed:
        _converse(answer)
    else:
        answer(queries)


def _given(query: str) -> list[str]:
    """The query of the command line or of a terminal; bytes that are no UTF-8 arrive there as lone surrogates."""
    try:
        query.encode()
    except UnicodeEncodeError:
        raise InputError("the query is not valid UTF-8", "type it in a UTF-8 terminal") from None
    if not query.strip():
        raise InputError("the query is empty", 'say what is looked for: lode search INDEX "words"')
    return [query]


def _lines() -> list[str]:
    """The queries of standard input, one a line; empty lines are passed over."""
    queries = []
    for number, raw in enumerate(sys.stdin.buffer.read().splitlines(), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"not valid UTF-8: {error}", path="standard input", line=number) from None
        if text.strip():
            queries.append(text)
    if not queries:
        raise InputError("there is no query", 'give one: lode search INDEX "words", or lines on standard input')
    return queries


def _converse(answer: Callable[[list[str]], None]) -> None:
    """Answer each line as it is typed; what is wrong with one line ends nothing."""
    say("one query a line; Ctrl-D ends")
    for line in _typed():
        if line.strip():
            try:
                answer(_given(line))
            except InputError as error:
                say(f"error: {error}")


def _typed() -> Iterator[str]:
    """The lines typed at the terminal, with editing and history where both its sides are there."""
    if sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - `input` uses it from now on
    while True:
        with redirect_stdout(sys.stdout if sys.stdout.isatty() else sys.stderr):  # the prompt is no result
            try:
                line = input("query> ")
            except EOFError:
                break
            except UnicodeDecodeError as error:
                say(f"error: not valid UTF-8: {error}")
                continue
        yield line
    say("")


def _hits_text(found: dict[str, Any]) -> str:
    lines = []
    for hit in found["hits"]:
        lines.append(f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['id']}  {hit['title']}".rstrip())
        if hit["text"]:
            lines.append("     " + hit["text"])
    return "\n".join(lines)

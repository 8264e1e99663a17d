"""`lode data trace` and `lode data questions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lodesmith.cli.console import Json, progress, show

Folder = Annotated[Path, typer.Argument(help="dataset folder in BEIR layout")]
Limit = Annotated[int | None, typer.Option(min=1, help="only the first so many")]
PromptOption = Annotated[
    Path | None, typer.Option("--prompt", help="a prompt file in the place of the package's own: copy that and edit it")
]
BatchTokens = Annotated[int, typer.Option(min=1, help="tokens of a batch, padding and new ones among them")]
NewTokens = Annotated[int | None, typer.Option(min=1, help="the most tokens of a text")]
Temperature = Annotated[float, typer.Option(min=0, help="0: greedy decoding")]
TopP = Annotated[float, typer.Option(min=0.01, max=1, help="share of the probability that is sampled from")]
Seed = Annotated[int, typer.Option(min=0, help="of the sampling")]
Device = Annotated[str | None, typer.Option(help="such as cpu or cuda:0")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="an example, tokens, time from a timed sample, and memory; nothing is written")
]


def trace(  # noqa: PLR0913, PLR0917 - the options of the verb
    folder: Folder,
    generator: Annotated[
        str, typer.Option("--with", help="a causal language model (folder or hub name), or feedback[:SYSTEM]")
    ] = "Qwen/Qwen2.5-0.5B-Instruct",
    split: Annotated[str | None, typer.Option(help="queries judged in this split; all where not given")] = None,
    limit: Limit = None,
    prompt: PromptOption = None,
    name: Annotated[str, typer.Option(help="of the column")] = "traces",
    batch_tokens: BatchTokens = 8192,
    max_new_tokens: NewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a reasoning trace for each query into columns/traces.jsonl. Interrupted, the same command continues.

    A trace that is empty, cut off, a refusal, too short or long, repetitive, only the query again, in another
    language, or that copies eight words in a row from a document judged relevant is rejected, and its query left
    without one; each reason is counted. `feedback` needs no model: expansion terms of what bm25 (or SYSTEM) finds.

    Example: lode data trace my-dataset --with feedback

    Example: lode data trace my-dataset --with Qwen/Qwen2.5-0.5B-Instruct --limit 100 --dry-run
    """
    from lodesmith.recipes.generating import GeneratorSettings, Work, trace_dataset

    work = Work(split, limit, prompt, name, max_new_tokens, dry_run)
    settings = GeneratorSettings(temperature, top_p, seed, batch_tokens, device, dtype)
    with progress():
        info = trace_dataset(folder, generator, work, settings)
    show(as_json, info, _forecast(info) if dry_run else _report(info, "queries"))


def questions(  # noqa: PLR0913, PLR0917 - the options of the verb
    folder: Folder,
    generator: Annotated[
        str, typer.Option("--with", help="a causal language model (folder or hub name), or cloze")
    ] = "Qwen/Qwen2.5-0.5B-Instruct",
    kinds: Annotated[
        str | None, typer.Option(help="simple, complex, paraphrase, separated by commas; all where not given")
    ] = None,
    per_document: Annotated[int, typer.Option(min=1, help="the most questions of a kind for a document")] = 3,
    document_words: Annotated[int, typer.Option(min=1, help="words of a document that are shown")] = 300,
    verify: Annotated[
        str | None,
        typer.Option(
            help="a model that must answer each question alike, or none; where not given a model of --with, "
            "and nobody for cloze and classes of one's own"
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="documents judged relevant in this split; all where not given")
    ] = None,
    limit: Limit = None,
    prompt: PromptOption = None,
    name: Annotated[str, typer.Option(help="of the column")] = "questions",
    batch_tokens: BatchTokens = 8192,
    max_new_tokens: NewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write questions with answers about each document into columns/questions.jsonl. Interrupted, the same command
    continues.

    Answers must stand in the document, questions must not copy it, near-duplicates are dropped, and a model is asked
    each question again with the document, to answer it alike; each reason of a rejection is counted. `cloze` needs no
    model: sentences of the document with a name or number blanked.

    Example: lode data questions my-dataset --with cloze --per-document 2

    Example: lode data questions my-dataset --with Qwen/Qwen2.5-0.5B-Instruct --kinds simple --limit 100
    """
    from lodesmith.recipes.generating import GeneratorSettings, QuestionSettings, Work, question_dataset

    work = Work(split, limit, prompt, name, max_new_tokens, dry_run)
    settings = GeneratorSettings(temperature, top_p, seed, batch_tokens, device, dtype)
    wanted = [kind.strip() for kind in (kinds or "").split(",") if kind.strip()]
    with progress():
        info = question_dataset(
            folder, generator, work, settings, QuestionSettings(wanted, per_document, document_words, verify)
        )
    show(as_json, info, _forecast(info) if dry_run else _report(info, "documents"))


def _report(info: dict[str, Any], owners: str) -> str:
    counts = dict(info["counts"])
    done, rows = counts.pop("done"), counts.pop("rows")
    kept = {reason: counts.pop(reason) for reason in list(counts) if reason.startswith("kept")}
    lines = [f"{rows:,} rows for {done:,} {owners} in {info['path']} ({info['seconds']:.1f} s)"]
    lines += [f"  {reason.replace('kept-', '')}: {count:,}" for reason, count in kept.items()]
    if counts:
        lines.append("rejected:")
        lines += [f"  {reason}: {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def _forecast(info: dict[str, Any]) -> str:
    tokens, memory = info["prompt_tokens"], info["memory_bytes"]
    lines = [
        f"{info['prompts']:,} prompts"
        + (f", about {tokens:,} tokens, at most {info['max_new_tokens']} new ones each" if tokens is not None else ""),
        f"about {_duration(info['seconds'])}: a sample of {info['sample']['prompts']} "
        f"took {info['sample']['seconds']:.2f} s",
    ]
    if asked := info.get("verifications"):
        lines.append(f"and some {asked:,} short answers to verify questions, which are not timed")
    if memory is not None:
        lines.append(f"about {memory / 2**30:.2f} GiB for weights and a full batch's keys and values")
    if example := info["example"]:
        prompt = example["prompt"]
        asked = prompt if isinstance(prompt, str) else "\n".join(f"[{m['role']}] {m['content']}" for m in prompt)
        lines += ["", "An example:", asked, "→", example["text"]]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

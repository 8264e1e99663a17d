"""Generators by their spelling, and the annotators that use one: reasoning traces, questions and paraphrases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError
from lodesmith.core.protocols import Generator, Prompt
from lodesmith.core.records import Dataset
from lodesmith.core.registry import find
from lodesmith.recipes.mining import check_name

if TYPE_CHECKING:
    from lodesmith.data.questions import QuestionGenerator, Verifier
    from lodesmith.data.traces import TraceGenerator

__all__ = [
    "DEFAULT_MODEL",
    "GeneratorSettings",
    "QuestionSettings",
    "Work",
    "forecast",
    "open_generator",
    "question_dataset",
    "trace_dataset",
]

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
TRACE_TOKENS, QUESTION_TOKENS = 160, 512
_FEEDBACK, _CLOZE, _ECHO, _NOBODY = "feedback", "cloze", "echo", "none"
_SAMPLE = 16  # prompts that are timed for a forecast, at most
_COUNTED = 256  # and prompts whose tokens are counted


@dataclass(frozen=True)
class GeneratorSettings:
    """How a language model writes; see `generators.hf.CausalLM`. Generators without a model use none of it."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_tokens: int = 8192
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Work:
    """What is annotated.

    Args:
        split: queries, or relevant documents, of this split; all where not given.
        limit: the first so many.
        prompt: a prompt file in the place of the package's own.
        name: of the column; the annotator's own where not given.
        max_new_tokens: the most tokens of a text; the annotator's own where not given.
        dry_run: forecast only: nothing is written.
    """

    split: str | None = None
    limit: int | None = None
    prompt: Path | None = None
    name: str | None = None
    max_new_tokens: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class QuestionSettings:
    """What is asked about documents.

    Args:
        kinds: of questions; where not given `cloze` of the generator of that name, and of others all the rest.
        per_document: the most of a kind for a document.
        document_words: a document is shown up to here.
        verify: the generator that must answer each question, greedily, from its document, as it was answered; `none`
            for nobody. Where not given it is the generator itself, if it is a language model of transformers.
    """

    kinds: Sequence[str] = ()
    per_document: int = 3
    document_words: int = 300
    verify: str | None = None


def open_generator(
    spelling: str, dataset: Dataset, settings: GeneratorSettings | None = None, *, per_document: int = 3
) -> Generator:
    """A generator by its spelling.

    Args:
        spelling: a model folder or hub name; `feedback`, or `feedback:SYSTEM` (expansion terms from what SYSTEM finds,
            `bm25` where not said); `cloze` (sentences with a gap); `echo` (the prompt's last line, for tests); or
            `package.module.Name` of one's own class without arguments.
        dataset: whose documents `feedback` searches.
        settings: of a language model.
        per_document: questions of `cloze`.

    Raises:
        InputError: there is no such model.
        ConfigError: a class of one's own is no generator.
    """
    kind, _, system = spelling.partition(":")
    if kind == _FEEDBACK and not Path(spelling).exists():
        return _feedback(dataset, system or "bm25")
    if spelling == _CLOZE:
        from lodesmith.data.passages import sentences
        from lodesmith.generators.cloze import Cloze

        return Cloze(sentences, most=per_document)
    if spelling == _ECHO:
        from lodesmith.testing import EchoGenerator

        return EchoGenerator()
    if _is_class(spelling):
        made = find("generators", spelling)()
        if not isinstance(made, Generator):
            raise ConfigError(f"{spelling!r} is no generator", "it needs `generate` and `fingerprint`")
        return made
    from lodesmith.generators.hf import CausalLM

    chosen = settings or GeneratorSettings()
    return CausalLM(spelling, **vars(chosen))


def _is_class(spelling: str) -> bool:
    """Whether a name is a dotted path to a class, and no folder or hub name."""
    return "." in spelling and "/" not in spelling and not Path(spelling).exists() and _capital(spelling)


def _capital(spelling: str) -> bool:
    parts = spelling.split(".")
    return all(part.isidentifier() for part in parts) and parts[-1][0].isupper()


def _feedback(dataset: Dataset, system: str) -> Generator:
    import Stemmer

    from lodesmith.generators.feedback import Feedback
    from lodesmith.recipes.systems import resolve

    found = resolve(system, dataset)
    prints = ",".join(f"{key}={value}" for key, value in sorted(found.fingerprints.items()))
    name = f"{system} {prints} {dataset.fingerprint} english"
    return Feedback(found.retriever, dataset.documents, stem=Stemmer.Stemmer("english").stemWord, name=name)


def trace_dataset(
    folder: Path | str,
    generator: str = DEFAULT_MODEL,
    work: Work | None = None,
    settings: GeneratorSettings | None = None,
) -> dict[str, Any]:
    """Write reasoning traces for a dataset's queries into `columns/traces.jsonl`, or forecast it.

    Raises:
        ConfigError: the generator writes no traces, or takes no prompt.
        InputError: the dataset, the prompt file or the model cannot be used.
    """
    from lodesmith.data import traces

    work = work or Work()
    name = work.name or "traces"
    check_name(name)
    if generator == _CLOZE:
        raise ConfigError(f"{_CLOZE!r} writes questions, not traces", "give a model, or --with feedback")
    searches = generator.partition(":")[0] == _FEEDBACK
    if searches and work.prompt:
        raise ConfigError(f"{generator!r} takes the query itself as its prompt", "leave --prompt out")
    prompt = _trace_prompt(work.prompt, searches)
    dataset = Dataset.load(folder)
    writer = traces.TraceGenerator(
        open_generator(generator, dataset, settings), prompt, max_new_tokens=work.max_new_tokens or TRACE_TOKENS
    )
    if work.dry_run:
        return _forecast_traces(writer, dataset, work)
    start = time.perf_counter()
    with_note = {"with": generator}
    info = traces.annotate(dataset, writer, split=work.split, limit=work.limit, name=name, note=with_note)
    return _told(folder, name, info, start)


def _trace_prompt(path: Path | None, searches: bool) -> Any:
    from lodesmith.data.prompting import PromptFile, shipped

    file = path or shipped("feedback" if searches else "trace")
    return PromptFile.load(file, ("query",), ("query",))


def _forecast_traces(writer: TraceGenerator, dataset: Dataset, work: Work) -> dict[str, Any]:
    from lodesmith.data import traces

    queries = [query.text for query in traces.choose(dataset, work.split, work.limit).values()]
    return forecast(writer.generator, writer.prompts(queries), writer.max_new_tokens)


def question_dataset(
    folder: Path | str,
    generator: str = DEFAULT_MODEL,
    work: Work | None = None,
    settings: GeneratorSettings | None = None,
    asked: QuestionSettings | None = None,
) -> dict[str, Any]:
    """Write questions, answers and paraphrases about a dataset's documents into `columns/questions.jsonl`, or
    forecast it.

    Raises:
        ConfigError: a kind is unknown, or the generator does not write it; who is to verify answers no questions.
        InputError: the dataset, the prompt file or the model cannot be used.
    """
    from lodesmith.data import questions

    work, asked = work or Work(), asked or QuestionSettings()
    name = work.name or "questions"
    check_name(name)
    prompts = questions.load_prompts(_kinds(generator, asked.kinds), work.prompt)
    dataset = Dataset.load(folder)
    opened = open_generator(generator, dataset, settings, per_document=asked.per_document)
    writer = questions.QuestionGenerator(
        opened,
        prompts,
        verifier=_verifier(opened, asked.verify, dataset, settings),
        per_document=asked.per_document,
        max_new_tokens=work.max_new_tokens or QUESTION_TOKENS,
        document_words=asked.document_words,
    )
    if work.dry_run:
        return _forecast_questions(writer, dataset, work)
    start = time.perf_counter()
    verifier = (asked.verify or generator) if writer.verifier else "none"
    with_note = {"with": generator, "verified": verifier}
    info = questions.annotate(dataset, writer, split=work.split, limit=work.limit, name=name, note=with_note)
    return _told(folder, name, info, start)


def _verifier(
    generator: Generator, spelling: str | None, dataset: Dataset, settings: GeneratorSettings | None
) -> Verifier | None:
    from lodesmith.data.questions import Verifier
    from lodesmith.generators.hf import CausalLM

    if spelling == _NOBODY:
        return None
    if spelling is None:
        return Verifier(generator.greedy()) if isinstance(generator, CausalLM) else None
    if spelling == _CLOZE or (spelling.partition(":")[0] == _FEEDBACK and not Path(spelling).exists()):
        raise ConfigError(f"{spelling!r} answers no questions", f"give a model, or --verify {_NOBODY}")
    if isinstance(generator, CausalLM) and spelling == generator.name:
        return Verifier(generator.greedy())
    return Verifier(open_generator(spelling, dataset, replace(settings or GeneratorSettings(), temperature=0.0)))


def _kinds(generator: str, kinds: Sequence[str]) -> Sequence[str]:
    if generator.partition(":")[0] == _FEEDBACK:
        raise ConfigError(f"{_FEEDBACK!r} writes traces, not questions", f"give a model, or --with {_CLOZE}")
    blanks = generator == _CLOZE
    if any(blanks != (kind == _CLOZE) for kind in kinds):
        wanted = f"{generator!r} does not write questions of the kinds {', '.join(kinds)}"
        raise ConfigError(wanted, f"--kinds {_CLOZE} goes with --with {_CLOZE}, and the other kinds with a model")
    return tuple(dict.fromkeys(kinds)) or ((_CLOZE,) if blanks else ("simple", "complex", "paraphrase"))


def _forecast_questions(writer: QuestionGenerator, dataset: Dataset, work: Work) -> dict[str, Any]:
    from lodesmith.data import questions

    ids = questions.choose(dataset, work.split, work.limit)
    told = forecast(writer.generator, writer.prompts([dataset.documents[key] for key in ids]), writer.max_new_tokens)
    return told | {"verifications": writer.verifications(len(ids))}


def _told(folder: Path | str, name: str, info: dict[str, Any], start: float) -> dict[str, Any]:
    """What the verb reports: where the column is, its counts, and the seconds of this call."""
    keys = ("column", "with", "verified", "counts", "fingerprint")
    found = {key: info[key] for key in keys if key in info}
    path = Path(folder) / "columns" / f"{name}.jsonl"
    return {"path": str(path)} | found | {"seconds": round(time.perf_counter() - start, 3)}


def forecast(generator: Generator, prompts: Sequence[Prompt], max_new_tokens: int) -> dict[str, Any]:
    """What a generation will take, from a timed sample: nothing is written.

    Args:
        generator: which.
        prompts: all that it will be asked.
        max_new_tokens: the most tokens of a text.

    Returns:
        `prompts`, `prompt_tokens` and `memory_bytes` (of a language model, else null), `max_new_tokens`, `seconds`
        for all of them, without loading the model, `sample` (`prompts`, `seconds`) and an `example` (`prompt`,
        `text`).
    """
    from lodesmith.generators.hf import CausalLM

    found: dict[str, Any] = {"prompts": len(prompts), "max_new_tokens": max_new_tokens}
    model = generator if isinstance(generator, CausalLM) else None
    counted = _spread(prompts, _COUNTED)
    tokens = sum(map(len, model.tokens(counted))) if model and counted else None
    found["prompt_tokens"] = None if tokens is None else round(tokens * len(prompts) / len(counted))
    found["memory_bytes"] = model.memory() if model else None
    sample = _spread(prompts, _SAMPLE)
    if not sample:
        return found | {"seconds": 0.0, "sample": {"prompts": 0, "seconds": 0.0}, "example": None}
    generator.generate(sample[:1], max_new_tokens=1)  # what is done once is not counted
    start = time.perf_counter()
    texts = generator.generate(sample, max_new_tokens=max_new_tokens)
    seconds = time.perf_counter() - start
    found["seconds"] = seconds * len(prompts) / len(sample)
    return found | {
        "sample": {"prompts": len(sample), "seconds": seconds},
        "example": {"prompt": sample[0], "text": str(texts[0])},
    }


def _spread(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many of them, evenly over all."""
    if len(prompts) <= most:
        return list(prompts)
    return [prompts[i * len(prompts) // most] for i in range(most)]

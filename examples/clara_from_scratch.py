"""CLaRa on one's own documents where no language model can be downloaded: a small one is made of the documents first.

    python examples/clara_from_scratch.py OUT PATH [--questions N] [--ask FILE] [--words N] [--steps N] [--rate N]

PATH is a PDF or text file, a folder of them, a file of questions that `lode data import` knows (CLaRa, SQuAD …), or a
dataset folder. Where nothing is asked, sentences with a name or number blanked are the questions (`lode data questions
--with cloze`). N questions are held out as the test; with the others a byte-pair tokenizer and a
Llama of a million parameters are trained to read, from nothing, then the three stages of `lode train clara`. All
answer the held-out questions in the end, and those of FILE, one JSON object a line with `question` and `answers`
(`questions_on_attention.jsonl` has twenty on Vaswani et al., arXiv 1706.03762); the documents are indexed as memory,
and the first question of the last of these splits is asked of the index. A model this small knows no English:
this shows the way through, and what each step costs; with `--base MODEL` any causal language model takes its place.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lodesmith.cli.asking import asked_text
from lodesmith.core.errors import InputError
from lodesmith.core.events import Step
from lodesmith.core.files import atomic_folder, read_json, write_json
from lodesmith.core.records import Dataset, Query
from lodesmith.data.importing import import_paths
from lodesmith.data.supervision import Example, examples
from lodesmith.encoders._small_llama import small_llama, tokenizer_of
from lodesmith.evaluation.answers import contiguous
from lodesmith.objectives.language import Language
from lodesmith.recipes.answering import Plan, answer_dataset
from lodesmith.recipes.asking import ask
from lodesmith.recipes.generating import question_dataset
from lodesmith.recipes.storing import build_index
from lodesmith.recipes.train import plan
from lodesmith.retrieval.bm25 import BM25

PROMPT = "Background:\n{documents}\n\nQuestion: {question}\nAnswer:"
"""How the language model learns to be asked, and is asked."""
WAYS = ("closed", "text", "text-truncated", "stage1", "stage2", "full")


def dataset_of(path: Path, out: Path, words: int) -> Dataset:
    """The dataset at a path, imported where it is none yet, with questions that have answers."""
    if not (path / "corpus.jsonl").is_file():
        own, told = {"path": str(path.resolve()), "words": words}, out.with_suffix(".json")
        if not told.is_file():
            if out.exists():
                raise InputError("it is not said what was imported there", "give another OUT", path=out)
            print(import_paths([path], out, words=words).to_text(), flush=True)
            write_json(told, own)
        elif read_json(told) != own:
            raise InputError(f"{read_json(told)} was imported, not {own}", "give another OUT", path=out)
        path = out
    data = Dataset.load(path)
    asked = any(query.answers for query in data.queries.values())
    if not asked and not (path / "columns" / "questions.jsonl").is_file():
        print(question_dataset(path, "cloze")["counts"], flush=True)
    return Dataset.load(path)


def hold_out(data: Dataset, count: int, seed: int) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and others to test on: no question is in both."""
    split = "train" if "train" in data.judgements else next(iter(data.judgements), "train")
    found = [example for example in examples(data, split, training=True) if not example.alone]
    if count >= len(found):
        raise InputError(f"{len(found)} questions have answers", f"hold out fewer than that, not {count}")
    order = np.random.default_rng(seed).permutation(len(found)).tolist()
    texts = {found[at].question for at in order[:count]}
    return [e for e in found if e.question not in texts], [found[at] for at in order[:count]]


def given_questions(file: Path, data: Dataset) -> list[Example]:
    """Questions of a file, each with the document that has an answer and that BM25 finds first for the two together."""
    lexical = BM25().build((key, document.content) for key, document in data.documents.items())
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            told = json.loads(line)
            question, answers = str(told["question"]), tuple(map(str, told["answers"]))
        except (ValueError, TypeError, KeyError):
            raise InputError("a line is no object with `question` and `answers`", path=file, line=number) from None
        ranked = lexical.search({"": f"{question} {' '.join(answers)}"}, len(data.documents))[""]
        keys = dict.fromkeys([*(key for key, _ in ranked), *data.documents])  # BM25 leaves out what shares no word
        able = [key for key in keys if contiguous(data.documents[key].content, answers)]
        if not able:
            raise InputError("no document has an answer", "correct the question", path=file, line=number)
        found.append(Example("qa", question, answers, (able[0],)))
    return found


def write_split(data: Dataset, sides: Mapping[str, list[Example]], folder: Path) -> Dataset:
    """The documents, with the examples as judged queries of splits."""
    queries: dict[str, Query] = {}
    judged: dict[str, dict[str, dict[str, int]]] = {}
    for split, own in sides.items():
        judged[split] = {}
        for number, example in enumerate(own):
            key = f"{split}{number}"
            queries[key] = Query(key, example.question, example.answers)
            judged[split][key] = dict.fromkeys(example.relevant, 1)
    Dataset(data.documents, queries, judged, {"name": folder.name}).save(folder)
    return Dataset.load(folder)


def language_model(folder: Path, data: Dataset, steps: int, length: int) -> Path:
    """A tokenizer and a Llama of their own, trained on documents with questions and answers as they will be asked."""
    from tokenizers import ByteLevelBPETokenizer

    own = {"data": data.fingerprint, "steps": steps, "length": length}
    if (folder / "made.json").is_file() and read_json(folder / "made.json") == own:
        return folder
    texts = [document.content for document in data.documents.values()]
    learned = ByteLevelBPETokenizer()
    asked = [f"{query.text} {query.answers[0]}" for query in data.queries_of("train").values()]
    learned.train_from_iterator(texts + asked, vocab_size=4000, special_tokens=["<pad>", "<s>", "</s>"])
    tokenizer = tokenizer_of(learned._tokenizer)
    torch.manual_seed(0)
    model = small_llama(tokenizer)
    objective, draw = Language(model), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    split = data.split("train")
    rows = [(next(iter(split[key])), query) for key, query in data.queries_of("train").items() if split[key]]
    for step in range(1, steps + 1):
        chosen = [rows[at] for at in draw.integers(0, len(rows), 16).tolist()]
        terms = objective(batch(tokenizer, data, chosen, length))
        loss = terms["answer"] + 0.5 * terms["text"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"language model: {step}/{steps} steps, text {terms['text'].item():.2f} nats a token", flush=True)
    with atomic_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        write_json(new / "made.json", own)
    return folder


def batch(tokenizer: Any, data: Dataset, rows: Sequence[tuple[str, Query]], length: int) -> dict[str, torch.Tensor]:
    """Prompts with their answers, padded behind."""
    made = []
    for document, query in rows:
        text = tokenizer(data.documents[document].content, add_special_tokens=False)["input_ids"][:length]
        before, between = PROMPT.replace("{question}", query.text).split("{documents}")
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, between)]
        answer = tokenizer(f" {query.answers[0]}", add_special_tokens=False)["input_ids"]
        made.append(([1, *parts[0], *text, *parts[1]], [*answer, 2]))
    longest = max(len(a) + len(b) for a, b in made)
    ids = torch.zeros((len(made), longest), dtype=torch.int64)
    text_mask, answer_mask = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros(ids.shape, dtype=torch.bool)
    for at, (prompt, answer) in enumerate(made):
        end = len(prompt) + len(answer)
        ids[at, :end] = torch.tensor(prompt + answer)
        text_mask[at, :end], answer_mask[at, len(prompt) : end] = True, True
    return {"ids": ids, "text": text_mask, "answer": answer_mask}


def main() -> None:
    """Import, ask, make the model, train, answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--questions", type=int, default=20, help="held out, and asked in the end (20)")
    parser.add_argument("--ask", type=Path, help="a file of questions with answers that are asked in the end too")
    parser.add_argument("--words", type=int, default=100, help="of a passage that is cut from a text (100)")
    parser.add_argument("--steps", type=int, default=300, help="of the language model (300)")
    parser.add_argument("--rate", type=int, default=4, help="of compression (4)")
    parser.add_argument("--length", type=int, default=160, help="tokens of a document that are read (160)")
    parser.add_argument("--limit", type=int, default=2000, help="questions that are trained on, at most (2,000)")
    parser.add_argument("--base", help="a causal language model in the place of the small one")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = dataset_of(given.path, given.out / "imported", given.words)
    sides = dict(zip(("train", "test"), hold_out(found, given.questions, 0), strict=True))
    if given.ask:
        sides["asked"] = given_questions(given.ask, found)
    data = write_split(found, sides, given.out / "dataset")
    print(f"{data!r}", flush=True)
    base = given.base or str(language_model(given.out / "base", data, given.steps, given.length))
    overrides = {
        "data": str(given.out / "dataset"),
        "data.limit": given.limit,
        "base": base,
        "encoder.rate": given.rate,
        "encoder.document_length": given.length,
        "encoder.prompt": PROMPT,
        "evaluation.split": "none",
        **{f"stages.{stage}.batch_size": 16 for stage in range(3)},
        **{f"stages.{stage}.objective.documents": 2 for stage in (1, 2)},
        **{f"stages.{stage}.optim.lr": lr for stage, lr in enumerate((1e-3, 5e-4, 1e-4))},
    }
    for event in plan("clara", overrides, out=given.out / "run", resume="auto", reported=False).events():
        if isinstance(event, Step) and event.step % 50 == 0:
            print(f"{event.stage}: step {event.step} of {event.steps}, loss {event.total:.3f}", flush=True)
    for split in list(sides)[1:]:
        for evaluation, _ in answer_dataset(str(given.out / "run"), data, Plan(WAYS, documents=2), split):
            measured = {name: f"{evaluation.measures[name].mean:.3f}" for name in ("CoverEM", "F1")}
            tokens = evaluation.cost["context_tokens"]
            print(f"{split}, {evaluation.system}: {measured}, {tokens:.0f} tokens of context", flush=True)
            evaluation.save(given.out / "evaluations" / split / f"{evaluation.system}.json")
    index = given.out / "index"
    if not (index / "manifest.json").is_file():
        build_index(str(given.out / "run"), given.out / "dataset", index)
    question = next(iter(data.queries_of(split).values())).text
    answer = ask(str(given.out / "run"), index, question, k=2)
    print(f'lode ask {given.out / "run"} {index} -k 2 "{question}"\n{answer.answer}{asked_text(answer)}')


if __name__ == "__main__":
    main()

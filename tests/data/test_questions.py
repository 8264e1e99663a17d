"""Questions and paraphrases: rules, near-duplicates, resumption after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lodesmith.core.columns import Column, names
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Generated, Prompt
from lodesmith.core.records import Dataset, Document
from lodesmith.data._answers import Pair
from lodesmith.data._asking import QuestionRules
from lodesmith.data.questions import INSTRUCTION, QuestionGenerator, Verifier, annotate, load_prompts

TEXT = (
    "The bridge over the river was built by Ada Lind in 1912. It is made of steel and has 24 arches. "
    "When the old ferry sank, the town had no other way to cross the water, and so the council paid for it."
)
DOCUMENT = Document("d", "The bridge", TEXT)


class Scripted:
    """Answers with what a function makes of the prompt's text."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.asked = answer, 0

    @property
    def fingerprint(self) -> str:
        return fingerprint({"scripted": 2})

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()) -> list[str]:
        self.asked += len(prompts)
        return [self.answer(p if isinstance(p, str) else p[-1]["content"]) for p in prompts]


@pytest.mark.parametrize(
    ("question", "answer", "kind", "reason"),
    [
        ("Who built the bridge over the river?", "Ada Lind", "simple", ""),
        ("Who built the bridge over the river?", "the ada LIND.", "simple", ""),
        ("Why did the council pay for the bridge?", "the old ferry sank and the town had no other way", "complex", ""),
        ("Why did the council pay for the bridge?", "the old ferry sank and the town had no other way", "simple",
         "answer-not-in-document"),
        ("Why did the council pay for the bridge?", "because rich people wanted to drive", "complex",
         "answer-not-in-document"),
        ("Who built the bridge over the river?", "Ada Berg", "simple", "answer-not-in-document"),
        ("Who built the bridge over the river?", "", "simple", "no-answer"),
        ("Who built the bridge over the river?", "the", "simple", "no-answer"),
        ("Who?", "Ada Lind", "simple", "too-short"),
        ("Who built " + "a bridge " * 40 + "?", "Ada Lind", "simple", "too-long"),
        ("Who built the bridge over the river?", TEXT, "simple", "long-answer"),
        ("Name the builder of the bridge.", "Ada Lind", "simple", "not-a-question"),
        ("It is made of steel and has 24 arches?", "steel", "simple", "copied-sentence"),
        ("Who built the bridge in this passage?", "Ada Lind", "simple", "refers-to-passage"),
        ("Was the bridge built by Ada Lind herself?", "Ada Lind", "simple", "answer-in-question"),
        ("Wer hat die Brücke über den Fluss in der Stadt gebaut?", "Ada Lind", "simple", "other-language"),
        ("It is made of steel and has _____ arches.", "24", "cloze", ""),
        ("It is made of steel and has 24 arches.", "24", "cloze", "not-a-question"),
        ("It is made of _____ and has _____ arches.", "24", "cloze", "not-a-question"),
        ("It is made of steel and has _____ arches.", "23", "cloze", "answer-not-in-document"),
    ],
)  # fmt: skip
def test_rules_of_questions(question: str, answer: str, kind: str, reason: str) -> None:
    pair = Pair(question, (answer,) if answer else ())
    assert QuestionRules().question(pair, kind, DOCUMENT.content) == reason


PARAPHRASE = (
    "Ada Lind built the steel bridge with its 24 arches in 1912. The council of the town paid, because after the "
    "ferry had sunk there was no way left over the river."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PARAPHRASE, ""),
        (f"Paraphrase: {PARAPHRASE}", ""),
        (Generated(f"{PARAPHRASE} And then", finished=False), ""),
        (Generated("Ada Lind built the steel bridge with its", finished=False), "cut-off"),
        ("", "empty"),
        ("I'm sorry, I cannot do that.", "refusal"),
        ("Ada Lind built it.", "too-short"),
        (PARAPHRASE + " " + " ".join(f"w{i}" for i in range(100)), "too-long"),
        ("Ada Lind built a steel bridge. " * 6, "repetitive"),
        (TEXT, "copied"),
        (TEXT.upper(), "copied"),
        (TEXT.replace("built by", "made by"), "copied"),
        (PARAPHRASE.replace("24", "27"), "invented-number"),
        ("Die Brücke über den Fluss ist von Ada Lind und aus Stahl, und die Stadt hat sie bezahlt, weil die Fähre "
         "nicht mehr da war.", "other-language"),
        ("Gardens need plenty of sunlight and fresh compost, while orchards prefer colder winters and a gentle slope "
         "towards southern valleys with deeper soil.", "unrelated"),
    ],
)  # fmt: skip
def test_rules_of_paraphrases(text: str, reason: str) -> None:
    assert QuestionRules().paraphrase(text, TEXT)[1] == reason


def json_lines(*rows: tuple[str, str]) -> str:
    return "\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows)


def test_a_document_and_its_kinds() -> None:
    answers = {
        "short questions": json_lines(
            ("Who built the bridge over the river?", "Ada Lind"),
            ("WHO built a bridge over the river?", "Ada Lind"),
            ("When was the bridge opened?", "1913"),
            ("How many arches has the bridge?", "24"),
            ("When was the bridge built?", "1912"),
        ),
        "two or more facts": "I have no idea.",
        "in other words": PARAPHRASE,
    }
    script = Scripted(lambda prompt: next(text for part, text in answers.items() if part in prompt))
    writer = QuestionGenerator(script, load_prompts(["simple", "complex", "paraphrase"]), per_document=2)
    made, empty = writer.generate([DOCUMENT, Document("e", "Title only", " ")])
    assert [(row["kind"], row["question"], row["answers"]) for row in made.rows] == [
        ("simple", "Who built the bridge over the river?", ["Ada Lind"]),
        ("simple", "How many arches has the bridge?", ["24"]),
        ("paraphrase", INSTRUCTION, [PARAPHRASE]),
    ]
    assert made.rejects == {"duplicate": 1, "answer-not-in-document": 1, "surplus": 1, "unparsed": 1}
    assert (empty.rows, empty.rejects) == ([], {"empty-document": 1})
    assert script.asked == 3


class Reader(Scripted):
    """Answers questions on the bridge, one of them otherwise than it was answered before."""

    replies: ClassVar[dict[str, str]] = {
        "Who built": "It was built by ada Lind, in 1912.",
        "When was": "unknown",
        "How many": "24 arches",
        "Why did": "since the ferry sank the town had no way to cross",
        "Why was": "for the money",
    }

    def __init__(self) -> None:
        super().__init__(lambda prompt: next(told for part, told in self.replies.items() if part in prompt))

    @property
    def fingerprint(self) -> str:
        return fingerprint({"reader": 1})


def test_what_is_answered_otherwise_is_rejected() -> None:
    answers = {
        "short questions": json_lines(
            ("When was the bridge built?", "1912"),
            ("Who built the bridge over the river?", "Ada Lind"),
            ("How many arches has the bridge?", "24"),
        ),
        "two or more facts": json_lines(
            ("Why did the council pay for the bridge?", "the ferry sank, the town had no other way"),
            ("Why was the ferry replaced by a bridge?", "the old ferry sank"),
        ),
        "in other words": PARAPHRASE,
    }
    script = Scripted(lambda prompt: next(text for part, text in answers.items() if part in prompt))
    prompts, reader = load_prompts(["simple", "complex", "paraphrase"]), Reader()
    writer = QuestionGenerator(script, prompts, per_document=2, verifier=Verifier(reader))
    made, empty = writer.generate([DOCUMENT, Document("e", "Title only", " ")])
    assert [(row["kind"], row["question"]) for row in made.rows] == [
        ("simple", "Who built the bridge over the river?"),
        ("simple", "How many arches has the bridge?"),  # it takes the place of the one that was rejected
        ("complex", "Why did the council pay for the bridge?"),
        ("paraphrase", INSTRUCTION),
    ]
    assert made.rejects == {"answered-otherwise": 2}
    assert (reader.asked, empty.rejects) == (5, {"empty-document": 1})
    assert writer.verifications(3) == 3 * 2 * 2
    without = QuestionGenerator(script, prompts, per_document=2)
    assert [len(drafts.rows) for drafts in without.generate([DOCUMENT])] == [5]
    assert without.verifications(3) == 0
    other = QuestionGenerator(script, prompts, per_document=2, verifier=Verifier(script))
    assert len({fingerprint(made.made_by) for made in (writer, without, other)}) == 3
    assert writer.written_by == without.written_by == other.written_by == without.made_by


@pytest.mark.parametrize(
    ("kind", "answer", "reply", "agrees"),
    [
        ("simple", "1912", "It was built by Ada Lind in 1912.", True),
        ("simple", "24", "It was built by Ada Lind in 1912 and it has 24 arches.", False),  # as good as the passage
        ("simple", "the old ferry", "Ferry.", True),
        ("simple", "the old ferry", "unknown", False),
        ("simple", "the bank of England", "of", False),
        ("simple", "the unknown soldier", "unknown", False),
        ("simple", "the unknown soldier", "The unknown soldier.", True),
        ("simple", "1912", "Unknown, not in 1912.", False),
        ("simple", "Ada Lind", "Not Ada Lind, but Ada Berg", False),
        ("simple", "not by rail", "by rail", False),
        ("simple", "Ada Lind", "I cannot answer, Ada Lind", False),
        ("simple", "5 %", "3.5 %", False),
        ("simple", "912", "1,912 dollars", False),
        ("simple", "3.5 %", "It rose to 3.5 %.", True),
        ("complex", "the old ferry sank and no other way was left", "way", False),
        ("complex", "the old ferry sank and no other way was left", "the old ferry sank, no way left", True),
        ("simple", "the old ferry", "", False),
        ("simple", "the old ferry", "the", False),
        ("simple", "1912", "1913", False),
        ("simple", "1912", "<think>It says 1912.</think>unknown", False),
        ("simple", "1912", f"<think>{'It says so. ' * 9}</think>1912", True),
        ("simple", "Ada Lind", "Lind, Ada", False),
        ("complex", "Ada Lind from steel", "of steel by Ada Lind", False),  # three of four words: below .8
        ("complex", "Ada Lind of steel and iron", "iron and steel, Ada Lind", True),
        ("complex", "Ada Lind of steel", "the town paid for it", False),
    ],
)
def test_when_a_reply_agrees(kind: str, answer: str, reply: str, agrees: bool) -> None:
    asked = [(DOCUMENT, TEXT, "What is it about the bridge?", kind, [answer])]
    assert Verifier(Scripted(lambda _: reply)).agrees(asked, QuestionRules()) == [agrees]


def test_what_was_written_is_kept_where_the_verifier_changes(folder: Path) -> None:
    dataset, script, prompts = Dataset.load(folder), Scripted(asked), load_prompts(["simple"])

    class Dying(Scripted):
        def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[str]:
            if self.asked:
                raise KeyboardInterrupt
            return super().generate(prompts, **how)

    def verified(by: Verifier | None) -> Mapping[str, Any]:
        return annotate(dataset, QuestionGenerator(script, prompts, verifier=by), limit=12, chunk=4)["counts"]

    nobody = Dying(lambda _: "unknown")
    with pytest.raises(KeyboardInterrupt):
        verified(Verifier(nobody))
    assert (script.asked, nobody.asked, names(folder)) == (12, 4, [])
    counts = verified(None)
    assert script.asked == 12
    assert counts["kept-simple"] > 4
    assert "answered-otherwise" not in counts
    with pytest.raises(InputError, match="nothing was made, and a column of something else is there"):
        verified(Verifier(Scripted(lambda _: "unknown")))
    assert Column.load(folder, "questions").rows


def test_a_question_is_asked_again_with_as_much_as_its_writer_saw() -> None:
    seen: list[str] = []
    script = Scripted(lambda prompt: json_lines(("Who crosses the river there?", "bridge")))
    reader = Scripted(lambda prompt: seen.append(prompt) or "the bridge")
    writer = QuestionGenerator(script, load_prompts(["simple"]), document_words=5, verifier=Verifier(reader))
    assert [len(drafts.rows) for drafts in writer.generate([DOCUMENT])] == [1]
    assert "Passage: The bridge over the river\n" in seen[0]
    assert "Title: The bridge\n" in seen[0]
    assert "Question: Who crosses the river there?\n" in seen[0]


def test_a_long_document_is_shown_in_part() -> None:
    seen: list[str] = []
    writer = QuestionGenerator(
        Scripted(lambda prompt: seen.append(prompt) or ""), load_prompts(["simple"]), document_words=5
    )
    assert writer.generate([DOCUMENT])[0].rejects == {"empty": 1}
    assert "Passage: The bridge over the river\n" in seen[0]
    assert "Title: The bridge\n" in seen[0]


def asked(prompt: str) -> str:
    """A question of its own for each text; for bees always the same one."""
    text = prompt.partition("Passage: ")[2].partition("\n")[0]
    animal, thing = text.split()[1], text.split()[-1].strip(".")
    about = (
        "a very small animal with wings" if animal == "bee" else f"{' '.join(text.split()[:-1])} or not {thing[::-1]}"
    )
    return json_lines((f"Which is it of {about} in the garden?", thing))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from lodesmith.testing import tiny_dataset

    return tiny_dataset().save(tmp_path / "tiny")


def test_near_duplicates_across_documents_are_dropped(folder: Path) -> None:
    dataset = Dataset.load(folder)
    bees = [key for key, document in dataset.documents.items() if document.title == "bee"]
    meta = annotate(dataset, QuestionGenerator(Scripted(asked), load_prompts(["simple"])), chunk=6)
    rows = Column.load(folder, "questions").rows
    assert len(bees) > 1
    assert len(rows) > 20
    assert [key for key in bees if key in rows] == bees[:1]
    assert meta["counts"]["near-duplicate"] == len(bees) - 1
    assert meta["counts"]["kept-simple"] == sum(map(len, rows.values()))
    assert names(folder) == ["questions"]
    left = [
        path.name
        for path in (folder / "columns").iterdir()
        if {"drafts", "verified"} & set(path.name.replace(".", "-").split("-"))
    ]
    assert left == []


def test_split_limit_and_the_maker(folder: Path) -> None:
    dataset = Dataset.load(folder)
    relevant = {d for documents in dataset.split("dev").values() for d in documents}
    meta = annotate(dataset, QuestionGenerator(Scripted(asked), load_prompts(["simple"])), split="dev", name="dev")
    assert meta["counts"]["done"] == len(relevant)
    script = Scripted(asked)
    for per_document, expected in ((3, 5), (3, 5), (2, 10)):
        writer = QuestionGenerator(script, load_prompts(["simple"]), per_document=per_document)
        annotate(dataset, writer, limit=5)
        assert script.asked == expected


def test_another_prompt_is_another_maker(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Passage: {text}\n")
    prints = {
        annotate(Dataset.load(folder), QuestionGenerator(Scripted(asked), load_prompts(["simple"], path)), limit=2)[
            "fingerprint"
        ]
        for path in (None, tmp_path / "prompt.txt")
    }
    assert len(prints) == 2


KILLED = """
import json, os, signal, sys
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Dataset
from lodesmith.data.questions import QuestionGenerator, annotate, load_prompts

class Slow:
    asked = 0
    fingerprint = fingerprint({"slow": 1})
    def generate(self, prompts, *, max_new_tokens=256, stop=()):
        with open(sys.argv[2], "a") as log:
            for prompt in prompts:
                text = prompt[-1]["content"].partition("Passage: ")[2].partition("\\n")[0]
                log.write(text + "\\n")
                self.asked += 1
                if self.asked > int(sys.argv[3]):
                    log.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        rows = []
        for prompt in prompts:
            text = prompt[-1]["content"].partition("Passage: ")[2].partition("\\n")[0]
            question = f"What is it that the {text.split()[1]} of this tale {text.split()[2]}?"
            rows.append(json.dumps({"question": question, "answer": text.split()[-1].strip(".")}))
        return rows

annotate(Dataset.load(sys.argv[1]), QuestionGenerator(Slow(), load_prompts(["simple"])), chunk=8)
"""


def test_a_killed_run_goes_on_after_its_last_chunk(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "asked.txt"

    def run(most: int) -> int:
        command = [sys.executable, "-c", KILLED, str(folder), str(log), str(most)]
        return subprocess.run(command, env=dict(os.environ), check=False, timeout=60).returncode

    assert run(20) == -signal.SIGKILL
    assert names(folder) == []
    assert len(log.read_text().splitlines()) == 21
    log.write_text("")
    assert run(1000) == 0
    assert len(log.read_text().splitlines()) == 40 - 16  # two chunks of eight were written down
    killed = (folder / "columns/questions.jsonl").read_bytes()
    (folder / "columns/questions.jsonl").unlink()
    assert run(1000) == 0
    assert (folder / "columns/questions.jsonl").read_bytes() == killed


def test_kinds_and_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no kind of questions is called 'simpel'") as raised:
        load_prompts(["simpel"])
    assert "'simple'" in raised.value.do
    with pytest.raises(ConfigError, match="one prompt file cannot ask for simple, complex"):
        load_prompts(["simple", "complex"], tmp_path / "prompt.txt")
    (tmp_path / "prompt.txt").write_text("Ask about {document}")
    with pytest.raises(InputError, match=r"unknown placeholder \{document\}"):
        load_prompts(["simple"], tmp_path / "prompt.txt")
    with pytest.raises(ConfigError, match="0 questions"):
        QuestionGenerator(Scripted(str), load_prompts(["simple"]), per_document=0)
    with pytest.raises(InputError, match="not in a folder"):
        annotate(Dataset.of([DOCUMENT]), QuestionGenerator(Scripted(str), load_prompts(["simple"])))

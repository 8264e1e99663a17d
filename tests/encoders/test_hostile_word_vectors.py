"""A training of word vectors that is asked for too much, fails in a thread, or finds its state damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, LodesmithError
from lodesmith.encoders import Vocabulary
from lodesmith.encoders.word_vectors import Settings, Trainer, speed, train_word_vectors

pytest.importorskip("gensim")

TEXTS = ["the cat eats the fish", "the dog eats the bone"] * 20
SMALL: dict[str, Any] = {"dimension": 4, "epochs": 2, "min_count": 1}


@pytest.mark.parametrize(
    "name_and_value",
    [("dimension", 10**12), ("window", 10**11), ("negatives", 10**11), ("workers", 10**8), ("subsample", float("inf"))],
)
def test_settings_that_do_not_fit_into_a_machine_are_refused(name_and_value: tuple[str, Any]) -> None:
    name, value = name_and_value
    with pytest.raises(ConfigError, match=f"^{name} is .*\nat most"):
        Settings(**{name: value})


def test_the_speed_of_no_words_is_refused() -> None:
    with pytest.raises(InputError, match="no word of the texts is frequent enough"):
        speed([""], Vocabulary.build([""], min_count=1), Settings(**SMALL))


@pytest.mark.parametrize("workers", [1, 3])
def test_what_fails_in_a_thread_ends_the_training(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from gensim.models import Word2Vec

    def fail(*_: Any) -> None:
        raise MemoryError("a thread has none")

    monkeypatch.setattr(Word2Vec, "_do_train_job", fail)
    texts = [f"{text} {number % 50}" for number, text in enumerate(TEXTS * 100)]  # more jobs than the queue holds
    trainer = Trainer(lambda: texts, Vocabulary.build(texts, min_count=1), Settings(**SMALL, workers=workers))
    with pytest.raises(MemoryError, match="a thread has none"):
        list(trainer)


def test_a_corpus_that_cannot_be_read_on_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from lodesmith.encoders.word_vectors import training

    def broken(_: Any) -> Iterator[list[str]]:
        yield ["the", "cat"]
        raise OSError("the disk is gone")

    monkeypatch.setattr(training._Corpus, "__iter__", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(Trainer(lambda: TEXTS, Vocabulary.build(TEXTS, min_count=1), Settings(**SMALL)))


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (lambda told: [], InputError),
        (lambda told: {"identity": told["identity"]}, IntegrityError),
        (lambda told: told | {"files": "none"}, IntegrityError),
        (lambda told: told | {"files": {"state.json": 3}}, IntegrityError),
    ],
)
def test_a_damaged_manifest_of_a_state_is_named(tmp_path: Path, harm: Any, error: type[LodesmithError]) -> None:
    vocabulary, state = Vocabulary.build(TEXTS, min_count=1), tmp_path / "state"
    list(Trainer(lambda: TEXTS, vocabulary, Settings(**SMALL), checkpoint=state))
    told = json.loads((state / "manifest.json").read_text())
    (state / "manifest.json").write_text(json.dumps(harm(told)))
    with pytest.raises(error, match=str(state)):
        list(Trainer(lambda: TEXTS, vocabulary, Settings(**SMALL), checkpoint=state))


def test_a_vocabulary_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    digests = set()
    for number in range(6):
        (folder := tmp_path / str(number)).mkdir()
        Vocabulary.build(TEXTS, min_count=1).save(folder)
        digests.add(hashlib.sha256((folder / "vocabulary.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_vocabulary_of_the_first_layout_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    vocabulary = Vocabulary.build(TEXTS, min_count=1)
    vocabulary.save(tmp_path)
    counts = {"counts": vocabulary.counts, "documents": vocabulary.documents}
    seen = {key: str(number) for key, number in vocabulary.seen.items()}
    save_file(counts, tmp_path / "vocabulary.safetensors", seen)
    assert Vocabulary.load(tmp_path).fingerprint == vocabulary.fingerprint


def test_nothing_is_left_where_a_thread_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gensim.models import Word2Vec

    whole = train_word_vectors(TEXTS, tmp_path / "whole", **SMALL)
    real, calls = Word2Vec._do_train_job, []

    def second_fails(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(self, *given)

    monkeypatch.setattr(Word2Vec, "_do_train_job", second_fails)
    with pytest.raises(MemoryError):
        train_word_vectors(TEXTS, tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    assert not (tmp_path / "words").exists()
    again = train_word_vectors(TEXTS, tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    assert again.fingerprint == whole.fingerprint

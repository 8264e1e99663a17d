"""Train word vectors on a corpus: skip-gram or CBOW with negative sampling and sub-sampling (Mikolov et al. 2013).

gensim does the training. Here are the words (those of our tokenizer), a corpus that is tokenised once and read from
disk, and a state after every epoch that makes a killed training go on with the same bits.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, MissingExtraError, ResumeError
from lodesmith.core.files import atomic_folder, read_json, read_object, sha256_folder, verify_files, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import tell
from lodesmith.encoders._words import UNKNOWN, Vocabulary
from lodesmith.encoders.word_vectors.vectors import WordVectors

__all__ = ["Epoch", "Settings", "Trainer", "require_gensim", "speed", "train_word_vectors"]

_SENTENCE = 10_000
"""gensim ignores what stands behind so many words of a sentence, so longer texts are cut into several."""
_CHUNK = 1024
"""Texts tokenised at once."""
_FIRST_RATE, _LAST_RATE = 0.025, 0.0001


MOST = {"dimension": 16_384, "window": _SENTENCE, "negatives": 1000, "workers": 256, "subsample": 1.0}
"""The largest settings that make sense; far beyond them a number does not fit into gensim."""


@dataclass(frozen=True)
class Settings:
    """How word vectors are trained; the defaults are those of word2vec, but for `min_count`."""

    dimension: int = 128
    window: int = 5
    epochs: int = 5
    model: Literal["skip_gram", "cbow"] = "skip_gram"
    negatives: int = 5
    subsample: float = 1e-3
    min_count: int = 2
    max_size: int | None = 200_000
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.model not in ("skip_gram", "cbow"):
            raise ConfigError(f"no model is called {self.model!r}", "choose skip_gram or cbow")
        if min(self.dimension, self.window, self.epochs, self.negatives, self.workers) < 1 or self.subsample < 0:
            raise ConfigError("dimension, window, epochs, negatives and workers are at least 1, subsample at least 0")
        for name, most in MOST.items():
            if not getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"at most {most:,}")


def train_word_vectors(
    texts: Callable[[], Iterable[str]] | Iterable[str],
    out: Path | str,
    *,
    checkpoint: Path | str | None = None,
    vocabulary: Vocabulary | None = None,
    **settings: Any,
) -> WordVectors:
    """Train word vectors and write them to a folder.

    The texts are tokenised once, into a temporary file of four bytes a word; memory holds the vocabulary and the
    model (8 bytes × words × dimension), whatever the corpus. With `workers` 1 the same texts and settings give the
    same bits; more are faster and differ from run to run.

    A killed training leaves `out` as it was. With `checkpoint`, its state after each epoch is kept there, and the next
    call goes on from it, to the same bits (with one worker): an epoch is what a kill can cost.

    Args:
        texts: read twice: give a list, or a function that makes a new iterator.
        out: folder of the result, see `WordVectors.save`.
        checkpoint: folder of the state; removed when the training is done.
        vocabulary: words to train; None to count those of the texts by `min_count` and `max_size`.
        settings: of `Settings`.

    Returns:
        The vectors, most frequent word first. `info` has the settings, counts, and `losses`, the mean loss of a word in
        each epoch, see `Epoch`.

    Raises:
        MissingExtraError: gensim is not installed.
        InputError: the texts have no word that is frequent enough, or can be read only once.
        ConfigError: a setting is unknown or out of range.
        ResumeError: the checkpoint is of other texts or settings.
        IntegrityError: the checkpoint is damaged.
    """
    try:
        plan = Settings(**settings)
    except TypeError as error:
        raise ConfigError(
            f"a setting of word vectors is unknown: {error}", "see word_vectors.training.Settings"
        ) from None
    if not callable(texts) and iter(texts) is texts:
        raise InputError("the texts can be read only once", "give a list, or a function that makes an iterator")
    read = texts if callable(texts) else lambda: texts
    if vocabulary is None:
        vocabulary = Vocabulary.build(read(), min_count=plan.min_count, max_size=plan.max_size)
    trainer = Trainer(read, vocabulary, plan, checkpoint=None if checkpoint is None else Path(checkpoint))
    for _ in trainer:
        pass
    trainer.result.save(out)
    if checkpoint is not None:
        _State(Path(checkpoint), "").clear()
    return trainer.result


@dataclass(frozen=True)
class Epoch:
    """An epoch that is done.

    Args:
        number: from 1.
        loss: the mean of a word, taken before each update: it may rise at the end, when the rate is too low for the
            model to follow the text at hand, while the same loss with the weights held still falls.
        rate: the learning rate at its end.
        throughput: words a second.
        restored: it was done before, and a checkpoint had it.
    """

    number: int
    loss: float
    rate: float
    throughput: float = 0.0
    restored: bool = False


class Trainer:
    """A training of word vectors, epoch by epoch: iterate over it, then take `result`.

    Args:
        texts: a function that makes a new iterator.
        vocabulary: words to train.
        settings: how.
        checkpoint: folder of the state after the last epoch, from which the next call goes on.
        scratch: folder for the tokenised corpus while it is trained on; a temporary one where None.

    Raises:
        InputError: the vocabulary has no word.
    """

    def __init__(
        self,
        texts: Callable[[], Iterable[str]],
        vocabulary: Vocabulary,
        settings: Settings,
        *,
        checkpoint: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        _check_words(vocabulary)
        self.texts, self.vocabulary, self.settings = texts, vocabulary, settings
        self.checkpoint, self.scratch = checkpoint, scratch
        self._result: WordVectors | None = None

    @property
    def result(self) -> WordVectors:
        """The vectors, once all epochs are done.

        Raises:
            RuntimeError: they are not.
        """
        if self._result is None:
            raise RuntimeError("the training has not ended: iterate to its last epoch first")
        return self._result

    def __iter__(self) -> Iterator[Epoch]:
        """Train; of the epochs that a checkpoint has, the last alone is given again."""
        model = _model(self.settings, self.vocabulary)
        with _folder(self.scratch) as place:
            corpus = _Corpus.write(place, self.texts(), self.vocabulary)
            state = self._state(corpus)
            losses = [] if state is None else state.restore(model)
            if losses:
                yield Epoch(len(losses), losses[-1], self._rate(len(losses)), restored=True)
            for number in range(len(losses) + 1, self.settings.epochs + 1):
                started = time.perf_counter()
                losses.append(self._epoch(model, corpus, number))
                seconds = time.perf_counter() - started
                if state is not None:
                    state.keep(model, losses)
                yield Epoch(number, losses[-1], self._rate(number), len(corpus.ids) / seconds)
            self._result = self._vectors(model, corpus, losses)

    def _state(self, corpus: _Corpus) -> _State | None:
        if self.checkpoint is None:
            return None
        return _State(self.checkpoint, fingerprint([corpus.label, asdict(self.settings)]))

    def _rate(self, done: int) -> float:
        """The learning rate after so many epochs."""
        return _FIRST_RATE - (_FIRST_RATE - _LAST_RATE) * done / self.settings.epochs

    def _epoch(self, model: Any, corpus: _Corpus, number: int) -> float:
        """One pass over the corpus; the mean loss of a word."""
        corpus.epoch = f"{number} of {self.settings.epochs}"
        model.loss = 0.0
        model.train(
            corpus,
            total_examples=corpus.sentences,
            total_words=len(corpus.ids),
            epochs=1,
            start_alpha=self._rate(number - 1),
            end_alpha=self._rate(number),
            compute_loss=True,
        )
        return float(model.loss) / max(1, len(corpus.ids))

    def _vectors(self, model: Any, corpus: _Corpus, losses: list[float]) -> WordVectors:
        words = self.vocabulary.words[UNKNOWN + 1 :]
        order = [model.wv.key_to_index[word] for word in words]
        info = {"settings": asdict(self.settings), "vocabulary": self.vocabulary.report, "losses": losses}
        info["corpus"] = corpus.label
        return WordVectors(words, np.asarray(model.wv.vectors[order], np.float32), info)


def _check_words(vocabulary: Vocabulary) -> None:
    if len(vocabulary) <= UNKNOWN + 1:
        raise InputError("no word of the texts is frequent enough", "lower min_count, or give more texts")


def speed(texts: Iterable[str], vocabulary: Vocabulary, settings: Settings) -> float:
    """Words that are trained in a second, measured on a sample of texts; 0.0 where it has no known word.

    Raises:
        InputError: the vocabulary has no word.
    """
    _check_words(vocabulary)
    model = _model(settings, vocabulary)
    with tempfile.TemporaryDirectory(prefix="lodesmith-words-") as place:
        corpus = _Corpus.write(Path(place), texts, vocabulary)
        started = time.perf_counter()
        model.train(corpus, total_examples=corpus.sentences, total_words=len(corpus.ids), epochs=1)
        return len(corpus.ids) / (time.perf_counter() - started)


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    """A folder that is empty and ends with the block; what a killed training left in it is removed first."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="lodesmith-words-") as place:
            yield Path(place)
        return
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Corpus:
    """Texts as ids, on disk. Iterating gives sentences of words, unknown ones left out."""

    def __init__(self, folder: Path, words: tuple[str, ...], label: str) -> None:
        self.words, self.label = words, label
        self.ids = np.memmap(folder / "ids", "<i4", "r") if (folder / "ids").stat().st_size else np.zeros(0, "<i4")
        self.offsets: NDArray[np.int64] = np.fromfile(folder / "offsets", "<i8")
        self.epoch = ""
        self._listeners = copy_context()  # gensim iterates in a thread of its own, which knows none

    @classmethod
    def write(cls, folder: Path, texts: Iterable[str], vocabulary: Vocabulary) -> _Corpus:
        """Tokenise a corpus."""
        tokenizer, source = vocabulary.tokenizer(), iter(texts)
        label, total, done = fingerprint([vocabulary.fingerprint]), 0, 0
        with (folder / "ids").open("wb") as ids, (folder / "offsets").open("wb") as offsets:
            offsets.write(np.zeros(1, "<i8").tobytes())
            while part := list(islice(source, _CHUNK)):
                made = tokenizer(part)
                known = made.ids > UNKNOWN
                counts = np.add.reduceat(np.append(known, False), np.cumsum(made.lengths) - made.lengths)
                ends = total + np.cumsum(np.where(made.lengths > 0, counts, 0))
                raw = made.ids[known].astype("<i4").tobytes()
                ids.write(raw)
                offsets.write(ends.astype("<i8").tobytes())
                total, done = int(ends[-1]), done + len(part)
                label = fingerprint([label, _digest(raw), _digest(ends.tobytes())])
                tell("tokenise", done, None, "texts")
        return cls(folder, vocabulary.words, label)

    def __iter__(self) -> Iterator[list[str]]:
        words, count = self.words, len(self.offsets) - 1
        for at in range(count):
            for start in range(int(self.offsets[at]), int(self.offsets[at + 1]), _SENTENCE):
                end = min(start + _SENTENCE, int(self.offsets[at + 1]))
                yield [words[word] for word in self.ids[start:end].tolist()]
            if at % _CHUNK == 0:
                self._listeners.run(tell, f"train word vectors, epoch {self.epoch}", at, count, "texts")
        self._listeners.run(tell, f"train word vectors, epoch {self.epoch}", count, count, "texts")

    @property
    def sentences(self) -> int:
        """How many sentences an iteration gives."""
        return int((-(-np.diff(self.offsets) // _SENTENCE)).sum())


def _digest(raw: bytes) -> str:
    import hashlib

    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def require_gensim() -> None:
    """Do nothing where gensim is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("gensim") is None:
        raise MissingExtraError("gensim", "words")


def _model(plan: Settings, vocabulary: Vocabulary) -> Any:
    """gensim's model, its vocabulary ours."""
    require_gensim()
    from lodesmith.encoders.word_vectors._gensim import SummedLoss

    model = SummedLoss(
        vector_size=plan.dimension,
        window=plan.window,
        sg=int(plan.model == "skip_gram"),
        hs=0,
        negative=plan.negatives,
        sample=plan.subsample,
        min_count=1,
        seed=plan.seed + 1,  # gensim's 0 would not be a seed of its own
        workers=plan.workers,
    )
    counts = vocabulary.counts.tolist()
    model.build_vocab_from_freq({word: max(1, counts[at]) for at, word in enumerate(vocabulary.words) if at > UNKNOWN})
    return model


class _State:
    """What a training is after an epoch: both matrices, the random state and the losses."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def keep(self, model: Any, losses: list[float]) -> None:
        """Write the state; it takes the place of the last, whole or not at all."""
        from safetensors.numpy import save_file

        name, keys, *rest = model.random.get_state()
        with atomic_folder(self.folder) as new:
            tensors = {"vectors": model.wv.vectors, "hidden": model.syn1neg, "random": keys}
            save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, new / "state.safetensors")
            write_json(new / "state.json", {"losses": losses, "random": [name, *rest]})
            write_json(new / "manifest.json", {"identity": self.identity, "files": sha256_folder(new)})

    def restore(self, model: Any) -> list[float]:
        """Put a saved state into a model; the losses of the epochs that are done, none where nothing is saved."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (self.folder / "manifest.json").exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise InputError("holds something else than a checkpoint", "choose another folder", path=self.folder)
            return []
        manifest = read_object(self.folder / "manifest.json")
        if manifest.get("identity") != self.identity:
            raise ResumeError(
                f"{self.folder}: this training was begun with other texts or settings", "give the same, or delete it"
            )
        verify_files(self.folder, manifest.get("files"))
        try:
            tensors = load_file(self.folder / "state.safetensors")
            saved = read_json(self.folder / "state.json")
            model.wv.vectors[:], model.syn1neg[:] = tensors["vectors"], tensors["hidden"]
            name, *rest = saved["random"]
            model.random.set_state((name, tensors["random"], *rest))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise IntegrityError(f"{self.folder}: the checkpoint is damaged: {error}", "delete it") from None
        return list(saved["losses"])

    def clear(self) -> None:
        """Remove the state: whole or, after a kill, under a name that nobody reads."""
        if (self.folder / "manifest.json").exists():
            gone = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.old")
            self.folder.rename(gone)
            shutil.rmtree(gone)

"""Word vectors: every format there and back, hostile files, and a training that goes on with the same bits."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower_worlds import flip

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, MissingExtraError, ResumeError
from lodesmith.core.progress import Progress, listen
from lodesmith.encoders import Vocabulary
from lodesmith.encoders.word_vectors import WordVectors, read_word_vectors, train_word_vectors, write_word_vectors
from lodesmith.encoders.word_vectors import training as training_module
from lodesmith.encoders.word_vectors.formats import Format

FORMATS: list[Format] = ["word2vec", "word2vec-binary", "glove"]
VECTORS = WordVectors(("the", "cat", "café", "東"), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))


def file(folder: Path, raw: bytes) -> Path:
    """A file of these bytes."""
    (folder / "vectors").write_bytes(raw)
    return folder / "vectors"


# ------------------------------------------------------------------------ formats


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_bits_back(tmp_path: Path, kind: Format, packed: bool) -> None:
    path = write_word_vectors(VECTORS, tmp_path / "vectors", kind)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    found = read_word_vectors(path)
    assert found.words == VECTORS.words
    np.testing.assert_array_equal(found.values, VECTORS.values)
    assert found.info == {"source": "vectors", "rows": 4, "kept": 4, "repeated": 0}
    assert found.fingerprint == VECTORS.fingerprint


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=6))
def test_nine_digits_are_enough(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    vectors = WordVectors(("w",), np.array([numbers], np.float32))
    path = write_word_vectors(vectors, tmp_path_factory.mktemp("words") / "v", "glove")
    np.testing.assert_array_equal(read_word_vectors(path).values, vectors.values)


@pytest.mark.parametrize("kind", FORMATS)
def test_gensim_reads_what_is_written_and_writes_what_is_read(tmp_path: Path, kind: Format) -> None:
    models = pytest.importorskip("gensim.models", reason="pip install 'lodesmith[words]'")
    path = write_word_vectors(VECTORS, tmp_path / "ours", kind)
    binary = kind == "word2vec-binary"
    theirs = models.KeyedVectors.load_word2vec_format(str(path), binary=binary, no_header=kind == "glove")
    assert theirs.index_to_key == list(VECTORS.words)
    np.testing.assert_array_equal(theirs.vectors, VECTORS.values)
    theirs.save_word2vec_format(str(tmp_path / "theirs"), binary=binary, write_header=kind != "glove")
    np.testing.assert_allclose(read_word_vectors(tmp_path / "theirs").values, VECTORS.values, rtol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_only_the_wanted_words_are_kept(tmp_path: Path, kind: Format) -> None:
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    cased = WordVectors(("Cat", "CAT", "dog", "Dog", "zebra"), rows)
    path = write_word_vectors(cased, tmp_path / "vectors", kind)
    found = read_word_vectors(path, only={"cat", "dog", "bee"})
    assert dict(zip(found.words, found.values.tolist(), strict=True)) == {"dog": [4, 5], "cat": [0, 1]}
    assert read_word_vectors(path, only={"cat", "dog"}, fold=False).words == ("dog",)
    assert read_word_vectors(path, limit=2).words == ("Cat", "CAT")
    folder = read_word_vectors(path).save(tmp_path / "folder")  # the same rules
    assert read_word_vectors(folder, only={"cat", "dog", "bee"}).words == found.words
    assert read_word_vectors(folder, only={"cat", "dog"}, fold=False).words == ("dog",)
    with pytest.raises(InputError, match="none of the wanted words is among its 5"):
        read_word_vectors(path, only={"bee"})


def test_rows_of_unwanted_words_are_not_parsed(tmp_path: Path) -> None:
    path = file(tmp_path, b"a 1 2\nb x y\n")
    assert read_word_vectors(path, only={"a"}).words == ("a",)
    with pytest.raises(InputError, match=r"vectors:2: 'x' is not a finite number"):
        read_word_vectors(path)


def test_words_with_spaces_and_repeated_words(tmp_path: Path) -> None:
    found = read_word_vectors(file(tmp_path, b"a 1 2\n. . . 3 4\na 5 6\r\n"))
    assert found.words == ("a", ". . .")
    assert found.values.tolist() == [[1, 2], [3, 4]]
    assert found.info["repeated"] == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "holds no word vectors"),
        (b"word\n", "its first line has 1 fields"),
        (b"a 1 2\nb 1\n", r"vectors:2: a word and 2 numbers are wanted, there are 2 fields"),
        (b"a 1 2\nb 1 nan\n", r"vectors:2: 'nan' is not a finite number"),
        (b"a 1 2\nb 1 1e39\n", r"vectors:2: '1e39' is not a finite number"),
        (b"a 1 2\n\xff 1 2\n", r"vectors:2: not UTF-8"),
        (b"a 1 2\n\nb 3 4\n", r"vectors:2: a word and 2 numbers are wanted"),
        (b"3 2\na 1 2\nb 1 2\n", "announces 3 words of 2 dimensions, at least 15 bytes; 12 follow"),
        (b"2 2\na 1 2\nb 1 2\nc 1 2\n", "announces 2 words, there are 3"),
        (b"2 2\na 1.5 2.5\n\n", r"vectors:3: a word and 2 numbers are wanted"),
        (b"2 3\na 10 20\nb 1 2 3\n", r"vectors:2: a word and 3 numbers are wanted, there are 3 fields"),
        (b"2 2\na 1 2\nb 1 z\n", r"vectors:3: 'z' is not a finite number"),
        (b"1 0\na\n", r"vectors:1: the header announces 0 dimensions"),
        (b"1 99999999\na 1\n", "announces 99999999 dimensions"),
        (b"999999999999 300\na 1\n", r"at least 600,999,999,999,399 bytes; 4 follow"),
        (b"a " + b"9" * 30 + b"\n" + b"b " + b"1 " * 600_000, r"vectors:2: the line has"),
    ],
)
def test_broken_text_is_located(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_word_vectors(file(tmp_path, raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"9 2\na " + bytes(8), "announces 9 words of 2 dimensions, at least 90 bytes; 10 follow"),
        (b"1 2\na " + b"\0\0\xc0\x7f" * 2, "row 1: a number is NaN or infinite"),
        (b"2 2\na " + b"\1\0\0\x80" * 2 + b"\nbbbbbb " + b"\1\0\0", "row 2 of 2: the file ends"),
        (b"1 2\na " + b"\1\0\0\x80" * 2 + b"\nb " + bytes(8), "1: the header announces 1 words, more follow"),
        (b"1 2\n" + b"\x80" * 5000 + b" ", "row 1: the word does not end"),
    ],
)
def test_broken_binaries_are_located(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_word_vectors(file(tmp_path, raw))


def test_a_compressed_file_that_is_cut_or_damaged(tmp_path: Path) -> None:
    write_word_vectors(VECTORS, tmp_path / "vectors")
    raw = gzip.compress((tmp_path / "vectors").read_bytes())
    for harmed in (raw[:-9], raw[:20] + b"\xff" * 8 + raw[28:]):
        with pytest.raises(InputError, match="cannot be read"):
            read_word_vectors(file(tmp_path, harmed))


def test_a_compressed_header_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="announces 999999999999 words, there are 1"):
        read_word_vectors(file(tmp_path, gzip.compress(b"999999999999 2\na 1 2\n")))


def test_words_that_a_file_cannot_carry_are_refused(tmp_path: Path) -> None:
    for word in ("two words", "", "line\n"):
        with pytest.raises(InputError, match="cannot be written"):
            write_word_vectors(WordVectors((word,), np.ones((1, 2), np.float32)), tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_vectors_that_make_no_sense_are_refused() -> None:
    for words, values in ((("a",), np.ones((2, 2))), (("a", "a"), np.ones((2, 2))), (("a",), np.full((1, 2), np.nan))):
        with pytest.raises(InputError):
            WordVectors(words, values.astype(np.float32))


def test_the_nearest_words() -> None:
    vectors = WordVectors(("a", "b", "c"), np.array([[1, 0], [2, 1], [0, -3]], np.float32))
    assert [word for word, _ in vectors.nearest("a")] == ["b", "c"]
    assert vectors.nearest("a", 1)[0][1] == pytest.approx(2 / 5**0.5)
    with pytest.raises(InputError, match="no vector of 'z'"):
        vectors.nearest("z")


# --------------------------------------------------------------------- our folder


def test_a_folder_there_and_back(tmp_path: Path) -> None:
    folder = WordVectors(VECTORS.words, VECTORS.values, {"made": "by hand"}).save(tmp_path / "words")
    found = read_word_vectors(folder)
    assert (found.words, found.info) == (VECTORS.words, {"made": "by hand"})
    np.testing.assert_array_equal(found.values, VECTORS.values)
    assert read_word_vectors(folder, only={"cat"}).words == ("cat",)
    assert read_word_vectors(folder, limit=2).words == VECTORS.words[:2]
    VECTORS.save(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds no word vectors"):
        VECTORS.save(tmp_path / "other")
    with pytest.raises(InputError, match="holds no word vectors"):
        WordVectors.load(tmp_path / "other")


@pytest.mark.parametrize("name", ["words.json", "word_vectors.safetensors"])
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    folder = VECTORS.save(tmp_path / "words")
    flip(folder / name)
    with pytest.raises(IntegrityError, match="the manifest says"):
        read_word_vectors(folder)


# ----------------------------------------------------------------------- training

needs_gensim = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("gensim"), reason="pip install 'lodesmith[words]'"
)


def corpus(texts: int = 120) -> list[str]:
    """Texts about animals and texts about ships; the words of each kind stand together."""
    rng = np.random.default_rng(0)
    kinds = (["cat", "dog", "owl", "purrs", "eats"], ["ship", "sail", "mast", "harbour", "sinks"])
    return [" ".join(rng.choice(kinds[at % 2], 12)) + " the" for at in range(texts)]


SMALL = {"dimension": 16, "epochs": 4, "window": 3, "subsample": 0.0}


@needs_gensim
@pytest.mark.parametrize("model", ["skip_gram", "cbow"])
def test_words_of_a_kind_become_near(tmp_path: Path, model: str) -> None:
    texts = corpus(400)
    found = train_word_vectors(texts, tmp_path / "words", model=model, **(SMALL | {"epochs": 20}))
    assert {word for word, _ in found.nearest("cat", 4)} == {"dog", "owl", "purrs", "eats"}
    assert {word for word, _ in found.nearest("ship", 4)} == {"sail", "mast", "harbour", "sinks"}
    losses = found.info["losses"]
    assert (len(losses), losses[-1] < losses[0]) == (20, True)
    assert found.words == Vocabulary.build(texts).words[2:]
    assert WordVectors.load(tmp_path / "words").fingerprint == found.fingerprint


@needs_gensim
def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    found = [train_word_vectors(corpus(), tmp_path / "words", **SMALL, seed=seed).fingerprint for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@needs_gensim
def test_the_loss_is_summed_in_double_precision_and_the_weights_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sum that begins far up loses what single precision cannot add; ours begins anew with each job."""
    from gensim.models import Word2Vec

    from lodesmith.encoders.word_vectors import _gensim

    def far_up(job: object) -> object:
        def begun(self: Word2Vec, *arguments: object) -> object:
            self.running_training_loss += 2.0**26
            return job(self, *arguments)  # type: ignore[operator]

        return begun

    plain = train_word_vectors(corpus(), tmp_path / "a", **SMALL)
    monkeypatch.setattr(_gensim.SummedLoss, "_do_train_job", far_up(_gensim.SummedLoss._do_train_job))
    again = train_word_vectors(corpus(), tmp_path / "b", **SMALL)
    assert again.info["losses"] == plain.info["losses"]
    assert again.fingerprint == plain.fingerprint
    theirs = type("Theirs", (Word2Vec,), {"loss": 0.0})
    monkeypatch.setattr(_gensim, "SummedLoss", theirs)
    gensim_alone = train_word_vectors(corpus(), tmp_path / "c", **SMALL)
    np.testing.assert_array_equal(gensim_alone.values, plain.values)


@needs_gensim
def test_the_rate_falls_from_epoch_to_epoch_without_a_jump(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lodesmith.encoders.word_vectors import _gensim

    rates, train = [], _gensim.SummedLoss.train

    def watched(self: object, *arguments: object, **settings: object) -> object:
        rates.append((settings["start_alpha"], settings["end_alpha"]))
        return train(self, *arguments, **settings)

    monkeypatch.setattr(_gensim.SummedLoss, "train", watched)
    train_word_vectors(corpus(), tmp_path / "words", **SMALL)
    assert (rates[0][0], rates[-1][1]) == pytest.approx((0.025, 0.0001))
    assert [end for _, end in rates[:-1]] == [start for start, _ in rates[1:]]
    assert all(end < start for start, end in rates)


@pytest.mark.slow
@needs_gensim
def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    expected = train_word_vectors(corpus(), tmp_path / "words", **SMALL, seed=1).fingerprint
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]; from test_word_vectors import *;"
        "print(train_word_vectors(corpus(), sys.argv[1], **SMALL, seed=1).fingerprint)"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", program, str(tmp_path / "other"), str(here), str(here.parent)]
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == expected


class KilledError(Exception):
    """Instead of a kill."""


@needs_gensim
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_killed_training_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    whole = train_word_vectors(corpus(), tmp_path / "whole", **SMALL)
    keep = training_module._State.keep

    def then_die(self: training_module._State, model: object, losses: list[float]) -> None:
        keep(self, model, losses)
        if len(losses) == epochs:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training_module._State, "keep", then_die)
        with pytest.raises(KilledError):
            train_word_vectors(corpus(), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    assert not (tmp_path / "words").exists()
    with pytest.raises(ResumeError, match="other texts or settings"):
        train_word_vectors(corpus(), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL, negatives=3)
    with pytest.raises(ResumeError, match="other texts or settings"):
        train_word_vectors(corpus(121), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    resumed = train_word_vectors(corpus(), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.info["losses"] == whole.info["losses"]
    assert not (tmp_path / "state").exists()


@needs_gensim
def test_a_damaged_checkpoint_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training_module._State, "clear", lambda self: None)
        train_word_vectors(corpus(), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)
    flip(tmp_path / "state" / "state.safetensors")
    with pytest.raises(IntegrityError, match="the manifest says"):
        train_word_vectors(corpus(), tmp_path / "words", checkpoint=tmp_path / "state", **SMALL)


@needs_gensim
def test_texts_are_streamed_and_long_ones_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "_SENTENCE", 5)
    monkeypatch.setattr(training_module, "_CHUNK", 2)
    calls = []

    def texts() -> Iterator[str]:
        calls.append(1)
        yield from ["one two three four five six seven", "", "zzz", "one two three", "one one rare words"]

    seen: list[Progress] = []
    with listen(seen.append):
        found = train_word_vectors(texts, tmp_path / "words", **SMALL)
    assert len(calls) == 2
    assert found.words == ("one", "three", "two")
    assert {progress.label.partition(",")[0] for progress in seen} == {"count words", "tokenise", "train word vectors"}
    whole = training_module._Corpus.write(_made(tmp_path), texts(), Vocabulary.build(texts(), min_count=1))
    assert [" ".join(words) for words in whole] == [
        "one two three four five",
        "six seven",
        "zzz",
        "one two three",
        "one one rare words",
    ]
    assert whole.sentences == 5


def _made(folder: Path) -> Path:
    (folder / "corpus").mkdir()
    return folder / "corpus"


@pytest.mark.parametrize(
    ("texts", "settings_", "error", "message"),
    [
        (["a b"], {"windw": 3}, ConfigError, "unexpected keyword argument 'windw'"),
        (["a b"], {"model": "glove"}, ConfigError, "no model is called 'glove'"),
        (["a b"], {"epochs": 0}, ConfigError, "at least 1"),
        (["a b"], {}, InputError, "no word of the texts is frequent enough"),
        ([], {}, InputError, "no word of the texts is frequent enough"),
        (iter(["a a", "b b"]), {}, InputError, "can be read only once"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, texts: list[str], settings_: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_word_vectors(texts, tmp_path / "words", **settings_)
    assert not (tmp_path / "words").exists()


def test_without_gensim_the_message_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.delitem(sys.modules, "gensim.models", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[words\]'"):
        train_word_vectors(["a a b b"], tmp_path / "words")

"""Each text tokenised once and as the tokenizer does it, whatever happens to the process or the files."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_worlds import TEXTS, lists, numbers, plain, store

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.progress import Progress, listen
from lodesmith.data.tokens import PlainTokenizer, Tokenised, TokenStore, _Index, tokenizer_of

PROGRAM = Path(__file__).with_name("token_worlds.py")


@pytest.fixture(scope="module")
def bert() -> Any:
    import tiny_models

    return tiny_models._tokenizer()


def the_files(root: Path) -> Path:
    (folder,) = (root / "tokens").iterdir()
    return max(path for path in folder.iterdir() if path.name.isdigit())


# ------------------------------------------------------------------ tokenizers


def test_tokens_are_those_of_the_tokenizer_special_ones_and_cut_included(tmp_path: Path, bert: Any) -> None:
    from tiny_models import TEXTS as WORDS

    tokens = TokenStore(tmp_path, tokenizer_of(bert, 20)).tokens(WORDS)
    expected = bert(WORDS, truncation=True, max_length=20)["input_ids"]
    assert lists(tokens) == expected
    assert lists(tokens)[0] == [2, 3]  # the empty text has special tokens
    whole = [len(ids) for ids in bert(WORDS)["input_ids"]]
    assert tokens.cut.tolist() == [length > 20 for length in whole]
    assert tokens.report["cut"] == 2
    assert tokens.report["truncated"] == pytest.approx(2 / 9)
    assert tokens.report["distinct"] == 8
    assert tokens.pad == bert.pad_token_id


def test_the_tokenizer_given_keeps_its_settings_and_side(tmp_path: Path, bert: Any) -> None:
    bert.backend_tokenizer.enable_truncation(7)
    bert.truncation_side = "left"
    try:
        tokens = TokenStore(tmp_path, tokenizer_of(bert, 5)).tokens(["the cat eats apples in the barn"])
        assert lists(tokens) == bert(["the cat eats apples in the barn"], truncation=True, max_length=5)["input_ids"]
        bert.backend_tokenizer.enable_truncation(7)
        tokenizer_of(bert, 5)
        assert bert.backend_tokenizer.truncation["max_length"] == 7
    finally:
        bert.backend_tokenizer.no_truncation()
        bert.truncation_side = "right"


def test_a_long_text_is_read_no_further_than_it_matters(tmp_path: Path, bert: Any) -> None:
    tokenizer = tokenizer_of(bert, 8)
    read: list[int] = []
    backend = tokenizer._backend  # type: ignore[attr-defined]

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(backend, name)

        def encode_batch_fast(self, texts: list[str]) -> Any:
            read.extend(map(len, texts))
            return backend.encode_batch_fast(texts)

    tokenizer._backend = Watched()  # type: ignore[attr-defined]
    text = "a cat " * 10_000 + "x" * 500
    odd = "y" * 3_000 + " cat"
    made = tokenizer([text, odd])
    assert made.ids.tolist() == [i for t in (text, odd) for i in bert([t], truncation=True, max_length=8).input_ids[0]]
    assert read == [128, len(odd)]
    assert made.cut.tolist() == [True, False]  # one unknown word, and a cat


def test_lone_surrogates_prompts_and_settings(tmp_path: Path, bert: Any) -> None:
    assert lists(TokenStore(tmp_path, bert).tokens(["cat \ud800"])) == bert(["cat ?"])["input_ids"]
    assert lists(TokenStore(tmp_path, tokenizer_of(bert, prompt="the ")).tokens(["cat"])) == bert(["the cat"]).input_ids
    prints = {tokenizer_of(bert, *how).fingerprint for how in ((), (20,), (21,), (20, "the "))}
    assert len(prints | {plain().fingerprint, plain(max_length=3).fingerprint, plain(prompt="1 ").fingerprint}) == 7
    assert len(list((tmp_path / "tokens").iterdir())) == 2
    with pytest.raises(ConfigError, match="beside the 2 special ones"):
        tokenizer_of(bert, 2)
    with pytest.raises(InputError, match="no fast tokenizer"):
        TokenStore(tmp_path, numbers)


def test_a_function_is_a_tokenizer_too(tmp_path: Path) -> None:
    tokens = TokenStore(tmp_path, plain(max_length=2, prompt="7 ")).tokens(["1 2 3", "4"])
    assert lists(tokens) == [[7, 1], [7, 4]]
    assert tokens.cut.tolist() == [True, False]
    with pytest.raises(InputError, match="gave 0 lists of ids for 1 texts"):
        TokenStore(tmp_path, PlainTokenizer(lambda _: [], "none")).tokens(["a"])


@pytest.mark.parametrize(("vocabulary", "dtype"), [(None, "<i4"), (1 << 16, "<u2"), ((1 << 16) + 1, "<i4")])
def test_ids_are_as_narrow_as_the_vocabulary_allows(tmp_path: Path, vocabulary: int | None, dtype: str) -> None:
    opened = TokenStore(tmp_path, plain(vocabulary=vocabulary))
    assert lists(opened.tokens(["65535 0"])) == [[65535, 0]]
    assert (the_files(tmp_path) / "ids.bin").stat().st_size == 2 * np.dtype(dtype).itemsize
    with pytest.raises(InputError, match="ids from -1 to -1"):
        opened.tokens(["-1"])
    with pytest.raises(InputError, match="ids from"):
        opened.tokens([str(1 << 31) if dtype == "<i4" else "65536"])
    assert len(opened) == 1


# ----------------------------------------------------------------------- store


def test_a_text_is_tokenised_once_for_all(tmp_path: Path) -> None:
    seen: list[str] = []

    def call(texts: Sequence[str]) -> list[list[int]]:
        seen.extend(texts)
        return numbers(texts)

    tokenizer = PlainTokenizer(call, "numbers", 5000)
    first = TokenStore(tmp_path, tokenizer, chunk=10).tokens([*TEXTS[:25], *TEXTS[:25]])
    again = TokenStore(tmp_path, tokenizer, chunk=7).tokens(iter(reversed(TEXTS)))
    assert sorted(seen) == sorted(TEXTS)
    assert lists(first) == numbers([*TEXTS[:25], *TEXTS[:25]])
    assert lists(again) == numbers(TEXTS[::-1])
    assert first.same.tolist() == [*range(25), *range(25)]
    assert first.lengths().tolist() == [3] * 50
    assert first.lengths(np.array([4])).tolist() == [3]
    assert first.rows.dtype == np.int32
    assert first.report["tokens"] == 150


def test_numbers_of_equal_texts_say_nothing_about_the_stores_history(tmp_path: Path) -> None:
    store(tmp_path / "a").tokens(TEXTS[::-1])
    texts = ["3 3 9", "0 0 0", "3 3 9", "1 1 1"]
    same = [store(tmp_path / name).tokens(texts).same.tolist() for name in "ab"]
    assert same == [[0, 1, 0, 3], [0, 1, 0, 3]]


def test_tokens_travel_to_another_process_as_paths(tmp_path: Path) -> None:
    tokens = store(tmp_path).tokens(TEXTS)
    raw = pickle.dumps(tokens)
    assert len(raw) < 1500
    assert lists(pickle.loads(raw)) == numbers(TEXTS)


def test_taking_none_and_taking_any(tmp_path: Path) -> None:
    tokens = store(tmp_path).tokens(["5", "", "6 7"])
    ids, offsets = tokens.take([2, 1, 0, 2])
    assert (ids.tolist(), offsets.tolist()) == ([6, 7, 5, 6, 7], [0, 2, 2, 3, 5])
    assert ids.dtype == offsets.dtype == np.int64
    assert [part.tolist() for part in tokens.take([])] == [[], [0]]
    empty = store(tmp_path / "empty").tokens([])
    assert len(empty) == 0
    assert empty.report["truncated"] == 0


def test_what_is_no_text_is_refused_and_progress_is_told(tmp_path: Path) -> None:
    opened = store(tmp_path)
    with pytest.raises(InputError, match="text 11 is a int, not a string"):
        opened.tokens([*TEXTS[:11], 5])  # type: ignore[list-item]
    told: list[Progress] = []
    with listen(told.append):
        opened.tokens(TEXTS[:25])
    assert [(p.done, p.total) for p in told] == [(10, 25), (20, 25), (25, 25)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=40), max_size=8))
def test_the_index_finds_what_a_dictionary_finds(parts: list[list[bytes]]) -> None:
    index, known = _Index(), dict[bytes, int]()
    count = 0
    for part in parts:
        new = list(dict.fromkeys(key for key in part if key not in known))
        index.extend(np.array(new, "S16"))
        known |= {key: count + at for at, key in enumerate(new)}
        count += len(new)
    asked = [key for part in parts for key in part] + [bytes(16), bytes(15) + b"\1"]
    assert index.find(np.array(asked, "S16")).tolist() == [known.get(key, -1) for key in asked]


def test_the_index_merges_its_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodesmith.data.tokens._SMALL", 4)
    index = _Index()
    keys = np.array([f"{number * 7919 % 1000:016d}" for number in range(1000)], "S16")
    for start in range(0, 1000, 3):
        index.extend(keys[start : start + 3])
    assert index.find(keys).tolist() == list(range(1000))
    assert len(index._tiers[1][0]) < 300


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("number", [0, 3, 4, 7, 14, 24])
def test_a_killed_writer_loses_its_last_chunk_at_most(tmp_path: Path, number: int) -> None:
    dead = subprocess.run([sys.executable, PROGRAM, str(tmp_path), "kill", str(number)], check=False)
    assert dead.returncode == -signal.SIGKILL
    opened = store(tmp_path)
    assert len(opened) == number // 5 * 10  # five files are flushed a chunk
    assert lists(opened.tokens(TEXTS)) == numbers(TEXTS)
    assert lists(store(tmp_path).tokens(TEXTS)) == numbers(TEXTS)
    assert the_files(tmp_path).name == "0001"


def test_what_a_kill_left_behind_is_overwritten(tmp_path: Path) -> None:
    store(tmp_path).tokens(TEXTS[:20])
    for name in ("ids.bin", "offsets.bin", "keys.bin", "cut.bin", "journal.jsonl"):
        with (the_files(tmp_path) / name).open("ab") as handle:
            handle.write(b"[30, 90, " + b"1" * 1000)
    opened = store(tmp_path)
    assert len(opened) == 20
    assert lists(opened.tokens(TEXTS)) == numbers(TEXTS)
    assert lists(store(tmp_path).tokens(TEXTS)) == numbers(TEXTS)
    assert (the_files(tmp_path) / "cut.bin").stat().st_size == 60
    assert the_files(tmp_path).name == "0001"


def test_a_wrong_number_in_the_journal_is_noticed_at_once(tmp_path: Path) -> None:
    store(tmp_path).tokens(TEXTS)
    journal = the_files(tmp_path) / "journal.jsonl"
    journal.write_text(journal.read_text().replace("[40, 120,", "[40, 119,"))
    assert len(store(tmp_path, verify=False)) == 30


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(tmp_path)
    opened.tokens(TEXTS[:20])
    flush, calls = os.fsync, iter(range(100))

    def full(handle: int) -> None:
        if next(calls) == 8:
            raise OSError(28, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        opened.tokens(TEXTS)
    monkeypatch.setattr(os, "fsync", flush)
    assert len(opened) == 30
    assert lists(opened.tokens(TEXTS)) == numbers(TEXTS)
    assert len(store(tmp_path)) == 60


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "keys.bin", "cut.bin", "journal.jsonl"])
@pytest.mark.parametrize("truncate", [False, True])
def test_damage_is_found_and_mended_under_the_eyes_of_a_reader(
    tmp_path: Path, name: str, truncate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = store(tmp_path)
    reading = before.tokens(TEXTS)
    old = lists(reading)
    path = the_files(tmp_path) / name
    raw = bytearray(path.read_bytes())
    if truncate:
        os.truncate(path, len(raw) - 5)
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        opened = store(tmp_path)
    torn = truncate and name == "journal.jsonl"  # cannot be told from a kill, and needs no new generation
    assert ("is damaged after" in caplog.text) == (not torn)
    assert len(opened) == (50 if truncate else 30 if name == "journal.jsonl" else len(opened))
    assert len(opened) < 60
    assert lists(opened.tokens(TEXTS)) == numbers(TEXTS)
    if not torn:
        with pytest.raises(IntegrityError, match="open the store again"):
            before.tokens(["1 2"])
    if not truncate and name in ("keys.bin", "journal.jsonl"):
        assert lists(reading) == old
    assert lists(store(tmp_path).tokens(TEXTS)) == numbers(TEXTS)


def test_without_verification_lengths_are_still_checked(tmp_path: Path) -> None:
    store(tmp_path).tokens(TEXTS)
    os.truncate(the_files(tmp_path) / "ids.bin", 100)
    with pytest.raises(IntegrityError, match="shorter than what was written"):
        store(tmp_path, verify=False)


def test_two_writers_add_to_one_store(tmp_path: Path) -> None:
    commands = [[sys.executable, PROGRAM, str(tmp_path), "wait", start] for start in ("0", "30")]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    opened = store(tmp_path)
    assert len(opened) == 60
    assert lists(opened.tokens(TEXTS)) == numbers(TEXTS)


def test_a_store_that_is_open_takes_in_what_others_add(tmp_path: Path) -> None:
    mine, other = store(tmp_path), store(tmp_path)
    other.tokens(TEXTS[:30])
    tokens = mine.tokens(TEXTS)  # the other's texts are found once the lock is held
    assert len(mine) == 60
    assert lists(tokens) == numbers(TEXTS)
    assert lists(other.tokens(TEXTS[::-1])) == numbers(TEXTS[::-1])


def test_tokenised_keeps_the_wanted() -> None:
    made = Tokenised.of([[1, 2], [], [3]], [True, False, False])
    kept = made.only(np.array([True, False, True]))
    assert (kept.ids.tolist(), kept.lengths.tolist(), kept.cut.tolist()) == ([1, 2, 3], [2, 1], [True, False])

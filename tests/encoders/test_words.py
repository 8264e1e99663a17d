"""Words: the rule, the fast tokenizer against Hugging Face's, the vocabulary and what bounds it."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.progress import Progress, listen
from lodesmith.data.tokens import TokenStore
from lodesmith.encoders import Vocabulary
from lodesmith.encoders import _words as words_module
from lodesmith.encoders._counting import Counts, count
from lodesmith.encoders._splitting import blocks_of
from lodesmith.encoders._words import PAD, SPECIAL, UNKNOWN, WordTokenizer, backend_of

CORPUS = ["The cat eats 3.14 apples.", "the dog eats; the owl sleeps", "a cat", "Ünïcode café 東京"]

PIECES = [
    *("cat", "The", "a" * 16, "b" * 17, "word" * 20, "3.14", "1,000", "1.", ".5", "x2.5y", "-", "_", "’s", "\0", "?"),
    *(" ", "\n", "\t", "\u00a0", "\u3000", "é", "e\u0301", "\u0301", "ﬁ", "½", "²", "ß", "İ", "Σ", "٣.٤", "中", "กำ"),
    *("日本", "ー", "😀", "ก.", "Å", "≠", "=\u0338", "[PAD]", "[UNK]", "\ud800", "ㄱ", "д", "\x85", "\u2028"),
]

texts_of_pieces = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=6)


def spelled(text: str) -> list[str]:
    """The words of a text by the backend."""
    backend = backend_of(SPECIAL)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def lists(tokenizer: WordTokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text."""
    made = tokenizer(texts)
    bounds = np.concatenate([[0], np.cumsum(made.lengths)]).tolist()
    return [made.ids[start:end].tolist() for start, end in pairwise(bounds)]


# ------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The CAT's self-made c++", ["the", "cat", "s", "self", "made", "c"]),
        ("3.14 1,000 12.5mg .5 7. 1.2.3", ["3.14", "1,000", "12.5mg", "5", "7", "1.2.3"]),
        ("a.b 1.b a.1", ["a", "b", "1", "b", "a", "1"]),
        ("Café ﬁne ½", ["café", "fine", "1", "2"]),
        ("東京 tower กรุง", ["東", "京", "tower", "ก", "รุ", "ง"]),
        ("Привет, мир! سلام", ["привет", "мир", "سلام"]),
        ("हिन्दी", ["हिन्दी"]),
        ("[PAD] [UNK] 😀 __", ["pad", "unk"]),
        ("", []),
    ],
)
def test_what_a_word_is(text: str, words: list[str]) -> None:
    assert spelled(text) == words


@settings(max_examples=300, deadline=None)
@given(texts_of_pieces, texts_of_pieces, st.sampled_from([None, 1, 3]))
def test_the_fast_way_gives_the_ids_of_the_backend(corpus: list[str], texts: list[str], limit: int | None) -> None:
    tokenizer = Vocabulary.build(corpus, min_count=1).tokenizer(limit)
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    expected = [encoding.ids for encoding in tokenizer.backend.encode_batch(clean)]
    assert lists(tokenizer, texts) == expected
    assert lists(tokenizer, texts) == expected  # from the memory of pieces


@settings(max_examples=100, deadline=None)
@given(texts_of_pieces)
def test_counting_knows_every_word_of_what_it_counted(corpus: list[str]) -> None:
    clean = [text.encode("utf-8", "replace").decode() for text in corpus]
    spellings = [spelled(text) for text in clean]
    vocabulary = Vocabulary.build(corpus, min_count=1, max_size=None)
    for word, number, texts in zip(vocabulary.words, vocabulary.counts, vocabulary.documents, strict=True):
        if word not in SPECIAL:
            assert number == sum(words.count(word) for words in spellings)
            assert texts == sum(word in words for words in spellings)
    assert vocabulary.seen["tokens"] == sum(map(len, spellings))
    long = {word for words in spellings for word in words if len(word.encode()) > 64}
    assert {word for words in spellings for word in words} - long == set(vocabulary.words[2:])


def test_texts_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choice(PIECES) + " " for _ in range(rng.randint(0, 40))) for _ in range(60)]
    whole = Vocabulary.build(texts)
    expected = lists(whole.tokenizer(5), texts)
    monkeypatch.setattr(words_module, "_BLOCK", 100)
    in_blocks = Vocabulary.build(texts)
    assert in_blocks.fingerprint == whole.fingerprint
    assert lists(in_blocks.tokenizer(5), texts) == expected


def test_blocks_cover_everything_and_are_never_empty() -> None:
    texts = [bytes(size) for size in (5, 0, 90, 3, 3, 3, 200, 1)]
    cuts = blocks_of(texts, 10)
    assert [at for first, end in cuts for at in range(first, end)] == list(range(8))
    assert all(first < end for first, end in cuts)
    assert blocks_of([], 10) == []


def test_colliding_words_find_their_places() -> None:
    rng = np.random.default_rng(0)
    known = sorted({"".join(map(chr, 97 + rng.integers(0, 26, rng.integers(1, 20)))) for _ in range(20_000)})
    tokenizer = WordTokenizer([*SPECIAL, *known])
    assert lists(tokenizer, [" ".join(known)])[0] == list(range(2, len(known) + 2))
    others = [word + "0" for word in known]
    assert set(lists(tokenizer, [" ".join(others)])[0]) == {UNKNOWN}


# --------------------------------------------------------------- maximum length


def test_cuts_are_reported() -> None:
    vocabulary = Vocabulary.build(CORPUS, min_count=1)
    made = vocabulary.tokenizer(3)(["the cat", "the cat eats", "the cat eats apples", ""])
    assert made.lengths.tolist() == [2, 3, 3, 0]
    assert made.cut.tolist() == [False, False, True, False]
    kept = made.only(np.array([False, True, False, True]))
    assert (kept.lengths.tolist(), len(kept.ids)) == ([3, 0], 3)
    with pytest.raises(ConfigError, match="at least 1"):
        vocabulary.tokenizer(0)


@pytest.mark.parametrize("filler", ["the ", "-" * 500 + " ", "the" * 300, "é" * 200 + " "])
def test_very_long_texts_are_read_as_far_as_needed(filler: str) -> None:
    tokenizer = Vocabulary.build(CORPUS, min_count=1).tokenizer(4)
    texts = ["cat", filler * 50 + " the cat the cat the cat", "", "the " * 4, "the " * 5]
    expected = [encoding.ids for encoding in tokenizer.backend.encode_batch(texts)]
    assert lists(tokenizer, texts) == expected
    assert tokenizer(texts).cut.tolist() == [False, True, False, False, True]


def test_a_token_store_takes_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = Vocabulary.build(CORPUS, min_count=1).tokenizer(3)
    store = TokenStore(tmp_path, tokenizer)
    texts = ["the cat eats apples", "", "the cat eats apples", "zebra"]
    tokens = store.tokens(texts)
    ids, offsets = tokens.take(range(4))
    assert [ids[start:end].tolist() for start, end in pairwise(offsets.tolist())] == lists(tokenizer, texts)
    assert tokens.cut.tolist() == [True, False, True, False]
    assert (tokens.pad, store.folder.name) == (PAD, tokenizer.fingerprint[:32])


# -------------------------------------------------------------- the vocabulary


def test_frequent_words_come_first_and_ties_by_alphabet() -> None:
    vocabulary = Vocabulary.build(CORPUS, min_count=1)
    assert vocabulary.words[:6] == ("[PAD]", "[UNK]", "the", "cat", "eats", "3.14")
    assert vocabulary.counts[:5].tolist() == [0, 0, 3, 2, 2]
    assert vocabulary.documents[:5].tolist() == [0, 0, 2, 2, 2]
    assert (PAD, UNKNOWN) == (0, 1)
    assert Vocabulary.build(CORPUS[::-1], min_count=1).fingerprint == vocabulary.fingerprint


def test_rare_words_and_words_beyond_the_size_are_left_out() -> None:
    assert Vocabulary.build(CORPUS, min_count=2).words[2:] == ("the", "cat", "eats")
    vocabulary = Vocabulary.build(CORPUS, min_count=1, max_size=4)
    assert vocabulary.words[2:] == ("the", "cat")
    report = vocabulary.report
    assert (report["words"], report["types"], report["texts"], report["undercount"]) == (2, 13, 4, 0)
    assert report["tokens_known"] == 5 / report["tokens"]
    assert report["types_known"] == 2 / 13


def test_coverage_of_other_texts() -> None:
    vocabulary = Vocabulary.build(CORPUS, min_count=2)
    found = vocabulary.coverage(["the cat", "the zebra", ""])
    assert found == {"texts": 3, "tokens": 4, "types": 3, "types_known": 2 / 3, "tokens_known": 3 / 4}
    assert vocabulary.coverage([])["tokens_known"] == 0


def test_counts_stay_below_the_ceiling_and_say_what_they_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "_BLOCK", 200)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.3, 30) % 5000) for _ in range(300)]
    true = Vocabulary.build(texts, min_count=1, max_size=None)
    sizes: list[int] = []
    shrink = Counts.shrink

    def measured(self: Counts, ceiling: int) -> None:
        shrink(self, ceiling)
        sizes.append(len(self.words))

    monkeypatch.setattr(Counts, "shrink", measured)
    bounded = Vocabulary.build(texts, min_count=1, max_size=None, ceiling=200)
    assert max(sizes) <= 200
    undercount = bounded.seen["undercount"]
    assert undercount > 0
    for word, number in zip(bounded.words[2:], bounded.counts[2:], strict=True):
        assert true.counts[true.ids[word]] - undercount <= number <= true.counts[true.ids[word]]
    frequent = {word for word, number in zip(true.words, true.counts, strict=True) if number > undercount}
    assert frequent <= set(bounded.words)


def test_idf_is_positive_rises_with_rarity_and_averages_one() -> None:
    vocabulary = Vocabulary.build(["the cat", "the dog", "the the owl"], min_count=1)
    idf = vocabulary.idf()
    assert (idf > 0).all()
    assert idf[vocabulary.ids["the"]] < idf[vocabulary.ids["cat"]] == idf[vocabulary.ids["owl"]]
    assert np.average(idf[2:], weights=vocabulary.counts[2:]) == pytest.approx(1)
    expected = np.log1p((3 - 3 + 0.5) / (3 + 0.5)) / np.log1p((3 - 1 + 0.5) / (1 + 0.5))
    assert idf[vocabulary.ids["the"]] / idf[vocabulary.ids["cat"]] == pytest.approx(expected)
    assert Vocabulary.build([]).idf().tolist() == [1, 1]


@pytest.mark.parametrize("settings", [{"min_count": 0}, {"max_size": 2}, {"ceiling": 0}])
def test_limits_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Vocabulary.build(CORPUS, **settings)  # type: ignore[arg-type]


def test_only_texts_are_counted() -> None:
    with pytest.raises(InputError, match="text 1 is a int"):
        Vocabulary.build(["a", 3])  # type: ignore[list-item]


def test_counting_reports_its_progress() -> None:
    seen: list[Progress] = []
    with listen(seen.append):
        count(CORPUS, backend_of(SPECIAL), 10, 100)
    assert [progress.done for progress in seen] == [1, 2, 4]


def test_a_saved_vocabulary_comes_back_and_loads_elsewhere(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    vocabulary = Vocabulary.build(CORPUS, min_count=1)
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert loaded.fingerprint == vocabulary.fingerprint
    assert loaded.tokenizer(7).fingerprint == vocabulary.tokenizer(7).fingerprint != loaded.tokenizer(8).fingerprint
    elsewhere = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert elsewhere.encode("The CAT, zebra").ids == [2, 3, 1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "vocabulary.safetensors").write_bytes(b"\xff" * 40),
        lambda folder: (folder / "vocabulary.safetensors").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}})),
    ],
)
def test_a_damaged_vocabulary_is_noticed(tmp_path: Path, harm: object) -> None:
    Vocabulary.build(CORPUS).save(tmp_path)
    harm(tmp_path)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match="vocabulary is damaged"):
        Vocabulary.load(tmp_path)

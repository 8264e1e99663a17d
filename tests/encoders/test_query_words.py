"""The tokens of a query as words that tokenizers of any kind have alike."""

from __future__ import annotations

from typing import Any

import pytest

from lodesmith.encoders._query_words import query_words

TEXT = ["Owls see the café"]


def made(kind: str) -> Any:
    """A small tokenizer that knows the text, with the prompt `Query:` of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<end>"]
    if kind == "wordpiece":
        words = ["[UNK]", "owl", "##s", "Owl", "see", "the", "caf", "##é", "Query", ":", *special]
        own = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
        own.pre_tokenizer, own.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "bytes":
        own = Tokenizer(models.BPE())
        own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, show_progress=False, initial_alphabet=alphabet
        )
        own.train_from_iterator([*TEXT * 50, *["Query: the"] * 50], trainer)
    else:
        own = Tokenizer(models.BPE(unk_token="<unk>"))
        own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
        own.train_from_iterator([*TEXT * 50, *["Query: the"] * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", additional_special_tokens=["<end>"])


def words(tokenizer: Any, text: str) -> list[str]:
    labels, prompt = (tokenizer.tokenize(f"Query: {own}<end><end>") for own in (text, ""))
    found = query_words(tokenizer, labels, prompt)
    assert len(found) == len(labels)
    return found


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_whole_words_are_alike(kind: str) -> None:
    found = words(made(kind), TEXT[0])
    assert [word for word in found if word] == ["owls", "see", "the", "café"]
    assert found[-2:] == ["", ""]
    assert found[0] == ""


def test_the_pieces_of_words() -> None:
    found = words(made("wordpiece"), TEXT[0])
    assert [word for word in found if word] == ["owl", "s", "see", "the", "caf", "é"]
    assert [word for word in words(made("wordpiece"), "Query : the") if word] == ["query", ":", "the"]


def test_parts_of_characters_and_unknown_words_spell_nothing() -> None:
    assert words(made("bytes"), "see \u0416")[-5:] == ["", "", "", "", ""]  # a space, its two bytes, the prompt's end
    assert words(made("wordpiece"), "zebra the") == ["", "", "", "the", "", ""]
    assert not any(words(made("wordpiece"), ""))

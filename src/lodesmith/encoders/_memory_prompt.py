"""What a generator reads, in pieces: the beginning of the prompt, documents, and the rest with the question in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.encoders._passages import clip

__all__ = ["PROMPT", "PromptPieces", "check_prompt"]

PROMPT = "Background:\n{documents}\n\nQuestion: {question}\nAnswer:"
_DOCUMENTS, _QUESTION = "{documents}", "{question}"
_SLICE = 1024
"""Texts tokenised at once."""


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that does not say once where the documents stand, and behind them where the question does.

    Raises:
        ConfigError: it does not.
    """
    for place in (_DOCUMENTS, _QUESTION):
        if (count := prompt.count(place)) != 1:
            raise ConfigError(f"the prompt has {place} {count} times", "give it once")
    if prompt.index(_DOCUMENTS) > prompt.index(_QUESTION):
        raise ConfigError("the prompt has {question} before {documents}", "put the documents first")


class PromptPieces:
    """Tokenises documents, questions and answers as they stand in a prompt.

    A piece is tokenised by itself, and once. Where the tokenizer has a chat template, the prompt is the user's message;
    otherwise the token that begins texts stands at its start. What documents, questions and answers spell like special
    tokens is text.

    Args:
        tokenizer: of transformers, fast.
        prompt: with {documents} and {question}.
        separator: between two documents.
        end: the id that ends an answer.

    Raises:
        ConfigError: the prompt does not say where documents and question stand.
        InputError: the chat template loses one of them, or cannot be filled.
    """

    def __init__(self, tokenizer: Any, prompt: str, separator: str, end: int) -> None:
        from tokenizers import Tokenizer

        check_prompt(prompt)
        self._plain, self._end = tokenizer.backend_tokenizer, end
        self._plain.no_truncation()
        self._plain.no_padding()
        self._marked: Any = Tokenizer.from_str(self._plain.to_str())
        self._plain.encode_special_tokens, self._marked.encode_special_tokens = True, False
        self._special = [str(word) for word in tokenizer.all_special_tokens]
        begin = tokenizer.bos_token_id
        self._begin = [] if begin is None else [int(begin)]
        chat = bool(getattr(tokenizer, "chat_template", None))
        text = _message(tokenizer, prompt) if chat else prompt
        first, _, rest = text.partition(_DOCUMENTS)
        self._before, _, self._after = rest.partition(_QUESTION)
        self.head = torch.tensor(([] if chat else self._begin) + self._pieces(first), dtype=torch.int64)
        """int64 ids [l] before the documents."""
        self.separator = torch.tensor(self.tokens([separator])[0], dtype=torch.int64)
        """int64 ids [l] between two documents."""
        self._space = "" if chat or self._after[-1:].isspace() or not self._after else " "

    def tokens(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """The ids of texts, without special tokens.

        Args:
            texts: clean ones.
            most: one more than so many tells that a text is longer; not all of it is tokenised then.
        """
        found: list[list[int]] = []
        for start in range(0, len(texts), _SLICE):
            part = list(texts[start : start + _SLICE])
            if most is not None:
                part = [clip(text, most + 3, self._plain) for text in part]  # clip counts special tokens too
            found += [list(own.ids) for own in self._plain.encode_batch(part, add_special_tokens=False)]
        return found

    def question(self, text: str) -> Tensor:
        """The rest of the prompt, with a question in it: int64 ids [l]."""
        if any(word in text for word in self._special):
            ids = [*self._pieces(self._before), *self.tokens([text])[0], *self._pieces(self._after)]
        else:
            ids = self._pieces(self._before + text + self._after)
        return torch.tensor(ids, dtype=torch.int64)

    def answer(self, text: str, most: int | None = None) -> Tensor:
        """An answer with the token that ends it: int64 ids [l].

        Args:
            text: the answer.
            most: ids of it, the end among them.
        """
        ids = self.tokens([self._space + text.strip()])[0]
        return torch.tensor([*(ids if most is None else ids[: max(0, most - 1)]), self._end], dtype=torch.int64)

    def _pieces(self, text: str) -> list[int]:
        """A part of the prompt; special tokens that it spells are such."""
        return list(self._marked.encode(text, add_special_tokens=False).ids) if text else []


def _message(tokenizer: Any, prompt: str) -> str:
    """The prompt as the user's message, up to where the answer begins."""
    from jinja2 import TemplateError

    settings: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        text = str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **settings))
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(
            f"the chat template cannot be filled: {error}", "correct it, or choose another model"
        ) from None
    if any(text.count(place) != 1 for place in (_DOCUMENTS, _QUESTION)):
        raise InputError("the chat template does not leave the user's message as it is", "choose another model")
    return text

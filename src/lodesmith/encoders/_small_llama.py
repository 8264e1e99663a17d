"""A small language model of random weights, to be trained from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["LONGEST", "small_llama", "tokenizer_of", "word_tokenizer"]

PAD, BEGIN, END = "<pad>", "<s>", "</s>"
LONGEST = 4096
"""Tokens that it reads at most."""


def word_tokenizer(words: Mapping[str, int], unknown: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words between blanks.

    Args:
        words: word → id, `<pad>`, `<s>` and `</s>` among them.
        unknown: the word that stands for all others.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(dict(words), unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer_of(made, unk_token=unknown)


def tokenizer_of(made: Any, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the package tokenizers as transformers has it, with `<pad>`, `<s>` and `</s>`."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, bos_token=BEGIN, eos_token=END, **special)


def small_llama(
    tokenizer: PreTrainedTokenizerFast, *, width: int = 128, layers: int = 4, heads: int = 4, longest: int = LONGEST
) -> LlamaForCausalLM:
    """A Llama (arXiv 2302.13971) of torch's random state, whose words are read and written by the same vectors.

    Args:
        tokenizer: whose tokens it knows.
        width: of its states; the feed-forward layers have three times as many.
        layers: of the transformer.
        heads: of attention.
        longest: tokens that it reads at most.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=longest,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

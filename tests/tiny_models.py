"""Tiny random models of several architectures, as sentence-transformers folders, built in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [
    *("the", "a", "of", "cat", "dog", "owl", "bee", "whale", "eats", "likes", "fears", "sleeps", "in", "apples"),
    *("rivers", "thunder", "moon", "barn", "music", "and", "far"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

TEXTS = [
    "",
    "cat",
    "the cat eats apples",
    "a dog fears thunder and likes the moon",
    "the owl sleeps in a barn",
    "the cat eats apples",
    "zebra 👋 xyzzy",
    "the whale likes rivers and music of the moon " * 4,
    "bee " * 150,
]
"""Texts of many lengths, with a duplicate, an empty one, unknown words, and one beyond the tiny maximum length."""


def build(
    folder: Path, kind: str = "bert", *, pooling: str = "mean", dense: int | None = None, layers: int = 2, **model: Any
) -> Path:
    """Write a random model with a few layers of width 32 into a folder.

    Args:
        folder: where.
        kind: bert, modernbert, roberta, mpnet, qwen or gemma.
        pooling: of sentence-transformers.
        dense: width of a dense layer after the pooling.
        layers: of the transformer.
        model: further arguments of `SentenceTransformer`, such as prompts.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    raw = folder.with_name(folder.name + "-raw")
    _transformer(kind, layers).save_pretrained(raw)
    _tokenizer().save_pretrained(raw)
    transformer = Transformer(str(raw), max_seq_length=96)
    modules: list[Any] = [transformer, Pooling(32, pooling_mode=pooling)]
    if dense:
        modules.append(Dense(32, dense))
    made = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", **model)
    made.save_pretrained(str(folder), create_model_card=False)
    return folder


def _transformer(kind: str, layers: int) -> Any:
    import transformers as t

    shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 128, "pad_token_id": 0}
    shape |= {"initializer_range": 0.5}  # large enough that attention matters
    if kind == "bert":
        return t.BertModel(t.BertConfig(**shape), add_pooling_layer=False)
    if kind == "modernbert":
        ids = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        return t.ModernBertModel(t.ModernBertConfig(**shape, **ids, local_attention=16, global_attn_every_n_layers=2))
    if kind == "roberta":
        ids = {"bos_token_id": 2, "eos_token_id": 3}
        return t.RobertaModel(t.RobertaConfig(**shape, **ids, type_vocab_size=1), add_pooling_layer=False)
    if kind == "mpnet":
        return t.MPNetModel(t.MPNetConfig(**shape, bos_token_id=2, eos_token_id=3), add_pooling_layer=False)
    causal = shape | {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "qwen":
        return t.Qwen3Model(t.Qwen3Config(**causal))
    if kind == "gemma":
        return t.Gemma2Model(t.Gemma2Config(**causal, attn_logit_softcapping=50.0, sliding_window=64))
    raise ValueError(kind)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )

"""A tiny random cross-encoder, as a sentence-transformers folder, built in milliseconds."""

from __future__ import annotations

from pathlib import Path

import tiny_models


def build(folder: Path, *, labels: int = 1) -> Path:
    """Write a random two-layer `BertForSequenceClassification` with a pair template into a folder."""
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from tokenizers import processors

    torch.manual_seed(1)
    words = len(tiny_models.SPECIAL) + len(tiny_models.WORDS)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=words,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.5,
        num_labels=labels,
    )
    tokenizer = tiny_models._tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.model_max_length = 64
    raw = folder.with_name(folder.name + "-raw")
    transformers.BertForSequenceClassification(config).save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    CrossEncoder(str(raw), device="cpu").save_pretrained(str(folder))
    return folder

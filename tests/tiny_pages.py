"""Tiny random models of page images, one of each class, as model folders; and page images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = ("ColIdefics3", "ColPaliForRetrieval", "ColQwen2ForRetrieval", "ColModernVBertForRetrieval")
WIDTH = 12
_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_VISION = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **_SIZES}
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_WORDS = [*"abcdefghijklmnopqrstuvwxyz.:", "Describe", "the", "image", "Query", "Question", "User", "Assistant"]
_WORDS += ["cat", "dog", "owl", "moon"]
_CHAT = (
    "{% for m in messages %}<|im_start|>User:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
)


def build(folder: Path, kind: str = "ColIdefics3", seed: int = 0) -> Path:
    """Write a random model of a class into a folder."""
    import torch

    torch.manual_seed(seed)
    model, processor = globals()[f"_{kind.lower().removesuffix('forretrieval')}"]()
    folder.mkdir(parents=True)
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def page(path: Path, seed: int = 0, size: tuple[int, int] = (40, 50)) -> Path:
    """Write a page of random colours, of (width, height) pixels."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(colours).save(path)
    return path


def _tokenizer(*extra: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys(["<unk>", "<pad>", "<s>", "</s>", *extra, *_WORDS])
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    named = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=list(extra), **named)


def _tiles() -> Any:
    from transformers import Idefics3ImageProcessorPil

    return Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})


def _colidefics3() -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3Processor

    from lodesmith.encoders._page_models import ColIdefics3

    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>",
                           *_TILES)  # fmt: skip
    tokenizer.chat_template = _CHAT
    text = {"model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(tokenizer), "pad_token_id": 1, **_SIZES}
    config = Idefics3Config(
        vision_config={key: value for key, value in _VISION.items() if key != "model_type"},
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return ColIdefics3(config, WIDTH), Idefics3Processor(_tiles(), tokenizer, image_seq_len=4, chat_template=_CHAT)


def _colpali() -> tuple[Any, Any]:
    import transformers as t

    tokenizer = _tokenizer("<image>")
    images = t.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    text = {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 1200, "pad_token_id": 1}
    config = t.PaliGemmaConfig(
        vision_config={**_VISION, "projection_dim": 16, "vision_use_head": False},
        text_config={**text, **_SIZES},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=16,
        hidden_size=16,
    )
    whole = t.ColPaliConfig(vlm_config=config, embedding_dim=WIDTH)
    return t.ColPaliForRetrieval(whole), t.ColPaliProcessor(images, tokenizer)


def _colqwen2() -> tuple[Any, Any]:
    import transformers as t

    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _tokenizer(*special, "<|endoftext|>")
    numbers = tokenizer.convert_tokens_to_ids(special)
    text = {
        "num_key_value_heads": 1,
        "vocab_size": len(tokenizer),
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2], "rope_type": "default"},
        **_SIZES,
    }
    sizes = {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
    config = t.Qwen2VLConfig(
        text_config=text,
        vision_config={**sizes, "patch_size": 14, "spatial_merge_size": 2},
        image_token_id=numbers[0],
        video_token_id=numbers[1],
        vision_start_token_id=numbers[2],
        vision_end_token_id=numbers[3],
    )
    whole = t.ColQwen2Config(vlm_config=config, embedding_dim=WIDTH)
    images = t.Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=3136, patch_size=14, merge_size=2)
    return t.ColQwen2ForRetrieval(whole), t.ColQwen2Processor(images, tokenizer)


def _colmodernvbert() -> tuple[Any, Any]:
    import transformers as t

    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|begin_of_text|>")
    tokenizer = _tokenizer(*special, *_TILES)
    known = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 1}
    text = {"model_type": "modernbert", "vocab_size": len(tokenizer), "global_attn_every_n_layers": 1, **known}
    config = t.ModernVBertConfig(
        vision_config=_VISION,
        text_config={**text, **_SIZES},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=2,
    )
    whole = t.ColModernVBertConfig(vlm_config=config, embedding_dim=WIDTH)
    return t.ColModernVBertForRetrieval(whole), t.ColModernVBertProcessor(_tiles(), tokenizer, image_seq_len=4)

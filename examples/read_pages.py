"""A model that learns to read page images from nothing: pages of a few words in large type, two of them the question.

    python examples/read_pages.py OUT [--pages 4000] [--epochs 12] [--test 250]

It writes a dataset of page images in ViDoRe's form (questions and the page of each), a small ColIdefics3 of random
weights, trains that with the recipe `pages`, and measures it on pages that it has not seen, beside chance and the
untrained model.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import lodesmith as lode
from lodesmith.core.events import Step
from lodesmith.core.records import Dataset, Document, Query

SIDE, LINES, WORDS = 96, 3, 60
_SIZES = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 256}
_CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}"
)


def vocabulary(seed: int = 0) -> list[str]:
    """Words of two syllables."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    draw = random.Random(seed)
    return sorted({"".join(draw.sample(syllables, 2)) for _ in range(2 * WORDS)})[:WORDS]


def write_pages(folder: Path, count: int, others: int, seed: int = 0) -> Path:
    """The dataset: `count` pages to train on, and `others`; the question of a page is two of its words."""
    from PIL import Image, ImageDraw, ImageFont

    font, words, draw = ImageFont.load_default(size=24), vocabulary(), random.Random(seed)
    documents, queries = [], []
    judged: dict[str, dict[str, dict[str, int]]] = {"train": {}, "test": {}}
    folder.joinpath("images").mkdir(parents=True, exist_ok=True)
    for number in range(count + others):
        chosen = draw.sample(words, LINES)
        page = Image.new("RGB", (SIDE, SIDE), "white")
        for line, word in enumerate(chosen):
            place = (draw.randint(2, 4), line * SIDE // LINES + draw.randint(0, 1))
            ImageDraw.Draw(page).text(place, word, fill="black", font=font)
        page.save(folder / f"images/{number}.png")
        documents.append(Document(f"p{number}", "", " ".join(chosen), f"images/{number}.png"))
        queries.append(Query(f"q{number}", " ".join(draw.sample(chosen, 2))))
        judged["train" if number < count else "test"][f"q{number}"] = {f"p{number}": 1}
    held_out = {f"p{number}" for number in range(count, count + others)}
    Dataset.of(documents, queries, {"train": judged["train"]}, name="pages").save(folder / "train")
    test = [document for document in documents if document.id in held_out]
    Dataset.of(test, queries[count:], {"test": judged["test"]}, name="new pages").save(folder / "test")
    for part in ("train", "test"):
        (folder / part / "images").symlink_to((folder / "images").resolve())
    return folder


def write_model(folder: Path, seed: int = 0) -> Path:
    """A small ColIdefics3 of random weights, with a tokenizer that knows the words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Idefics3Config, Idefics3ImageProcessorPil, Idefics3Processor, PreTrainedTokenizerFast

    from lodesmith.encoders._page_models import ColIdefics3

    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    marks += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    known = ["<unk>", "<pad>", *marks, "Query", ":", "Describe", "the", "image", ".", *vocabulary()]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=marks
    )
    tokenizer.chat_template = _CHAT
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    config = Idefics3Config(
        vision_config={**_SIZES, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8},
        text_config={
            **_SIZES,
            "model_type": "llama",
            "num_hidden_layers": 1,
            "num_key_value_heads": 4,
            "vocab_size": len(tokenizer),
            "pad_token_id": 1,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ColIdefics3(config, 64).save_pretrained(folder)
    Idefics3Processor(images, tokenizer, image_seq_len=36, chat_template=_CHAT).save_pretrained(folder)
    return folder


def main() -> None:
    """Write, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pages", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data, base = (
        write_pages(given.out / "data", given.pages, given.test, given.seed),
        write_model(given.out / "base", given.seed),
    )
    settings: dict[str, Any] = {
        "data": str(data / "train"),
        "base": str(base),
        "seed": given.seed,
        "data.validation": None,
        "evaluation.split": "none",
        "encoder.lora": None,
        "stages.0.batch_size": 64,
        "stages.0.chunk": None,
        "stages.0.epochs": given.epochs,
        "stages.0.optim.lr": 5e-4,
    }
    for event in lode.train("pages", out=given.out / "run", **settings):
        if isinstance(event, Step) and event.step % 20 == 0:
            print(f"step {event.step}: loss {event.total:.3f}", flush=True)
    test = Dataset.load(data / "test")
    for system in ("random", str(base), str(given.out / "run")):
        measured = lode.evaluate(system, test).measures["nDCG@5"]
        print(f"{Path(system).name}: nDCG@5 {measured.mean:.3f} [{measured.low:.3f}, {measured.high:.3f}]", flush=True)


if __name__ == "__main__":
    main()

"""Answers from compressed documents against the same documents as text, on one model: time and memory of the prompt.

    python -m benchmarks.context [--quick]

A Llama of random weights with 24 million parameters (8 layers of 512; what weights say changes no time), 5 documents of
512 tokens, rates 4 and 16. Text is read by the language model alone, memory with its adapter. Prefill is the time until
the first token; memory is made beforehand, as an index has it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, medians, peak_memory, write
from lodesmith.encoders._small_llama import small_llama, word_tokenizer

DOCUMENTS = 5
RATES = (4, 16)
WORDS = 2000
Prompt = tuple[Any, list[Any], str | None]


def base(folder: Path, *, width: int, layers: int, heads: int = 8) -> Path:
    """A language model of random weights whose every word is a token."""
    words = {word: at for at, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{n}" for n in range(WORDS))])}
    tokenizer = word_tokenizer(words, "<pad>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    small_llama(tokenizer, width=width, layers=layers, heads=heads, longest=8192).save_pretrained(folder)
    return folder


def prompt(folder: str, rate: int | None, length: int) -> Prompt:
    """A model with what it reads of 5 documents: texts, or memory at a rate."""
    from lodesmith.encoders.memory import MemoryEncoder

    encoder = MemoryEncoder(folder, rate=rate or RATES[0], document_length=length, lora={"rank": 16, "alpha": 32})
    draw = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in draw.integers(0, WORDS, length)) for _ in range(DOCUMENTS)]
    made = encoder.encode(texts, "document").values.reshape(DOCUMENTS, encoder.count, encoder.dimension)
    encoder.answer(["w1"], [["w2 w3"]], adapter=None, max_new_tokens=1)  # whatever is loaded once
    return (encoder, texts, None) if rate is None else (encoder, list(made), "decoder")


def first_token(given: Prompt) -> Any:
    """The prompt read, and one token written."""
    encoder, documents, adapter = given
    return encoder.answer(["w1 w2 w3 w4"], [documents], adapter=adapter, max_new_tokens=1)


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/context.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and short documents: does it work?")
    quick = parser.parse_args(argv).quick
    length = 64 if quick else 512
    with tempfile.TemporaryDirectory() as place:
        folder = str(base(Path(place), width=64 if quick else 512, layers=2 if quick else 8))
        cases = {"text": None, **{f"rate {rate}": rate for rate in RATES}}
        given = {name: prompt(folder, rate, length) for name, rate in cases.items()}
        seconds, _ = interleaved(
            {name: (lambda own=own: first_token(own)) for name, own in given.items()}, repeats=2 if quick else 7
        )
        tokens = {name: DOCUMENTS * (length if rate is None else given[name][0].count) for name, rate in cases.items()}
        given.clear()
        memory = {name: peak_memory(prompt, first_token, folder, rate, length) for name, rate in cases.items()}
    middle = medians(seconds)
    ratios = {name: middle["text"] / value for name, value in middle.items()}
    write(
        "context",
        "prompts/s",
        1 / middle[f"rate {RATES[-1]}"],
        {"text": 1 / middle["text"]},
        packages=("torch", "transformers", "peft"),
        quick=quick,
        documents=DOCUMENTS,
        document_tokens=length,
        context_tokens=tokens,
        prefill_seconds=middle,
        all_seconds=seconds,
        ratios=ratios,
        memory_mib=memory,
        threads=torch.get_num_threads(),
    )
    for name in cases:
        print(
            f"{name}: {tokens[name]} tokens, {1000 * middle[name]:.0f} ms, {ratios[name]:.1f} times as fast, "
            f"{memory[name]['extra']} MiB more while it reads"
        )


if __name__ == "__main__":
    main()

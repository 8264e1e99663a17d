"""A training step of a memory model whose questions on a document read it once, against one that reads it for each.

    python -m benchmarks.reading [--quick]

A Llama of random weights with a million parameters (4 layers of 128), 16 documents of 150 tokens, rates 4, 16 and 64,
8 and 16 questions a document: forward and backward pass of the first stage, compression included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved, medians, write
from benchmarks.context import base

LENGTH = 160
SIZES = {"width": 128, "layers": 4, "heads": 4}


def packed(sizes: list[int], draw: torch.Generator) -> Mapping[str, torch.Tensor]:
    """Texts of so many random tokens."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return {"ids": torch.randint(3, 2000, (int(offsets[-1]),), generator=draw), "offsets": offsets}


def step(folder: str, rate: int, questions: int, *, documents: int, once: bool) -> Callable[[], None]:
    """Compress, read and go back, for one batch."""
    from lodesmith.encoders import MemoryEncoder, MemoryTower

    encoder = MemoryEncoder(folder, rate=rate, document_length=LENGTH, lora={"rank": 32, "alpha": 64, "dropout": 0.0})
    tower = MemoryTower(encoder).train()
    if not once:

        class Each:
            compress, answer_losses = encoder.model.compress, encoder.model.answer_losses

            def answer_losses_of(self, *given: Any) -> None:
                """Never: each prompt by itself."""

        tower = MemoryTower(encoder, Each()).train()
    draw = torch.Generator().manual_seed(0)
    texts = packed([150] * documents, draw)
    of = torch.arange(documents).repeat_interleave(questions)[:, None]
    asked, answers = (packed([size] * len(of), draw) for size in (9, 2))

    def work() -> None:
        tower.losses(tower.compress(texts).memory, of, asked, answers).mean().backward()
        tower.zero_grad()

    work()
    return work


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/reading.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few documents and questions: does it work?")
    quick = parser.parse_args(argv).quick
    documents, cases = (2, [(4, 2)]) if quick else (16, list(product((4, 16, 64), (8, 16))))
    middle: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = str(base(Path(place), **SIZES))
        for rate, questions in cases:
            ways = {"once": True, "each": False}
            works = {n: step(folder, rate, questions, documents=documents, once=once) for n, once in ways.items()}
            seconds, _ = interleaved(works, repeats=2 if quick else 5)
            middle |= {f"rate {rate}, {questions}, {name}": value for name, value in medians(seconds).items()}
    names = [f"rate {rate}, {questions}" for rate, questions in cases]
    first = names[-1]
    write(
        "reading",
        "steps/s",
        1 / middle[f"{first}, once"],
        {"each": 1 / middle[f"{first}, each"]},
        packages=("torch", "transformers", "peft"),
        quick=quick,
        documents=documents,
        step_seconds=middle,
        ratios={name: middle[f"{name}, each"] / middle[f"{name}, once"] for name in names},
        threads=torch.get_num_threads(),
    )
    for name in names:
        once, each = middle[f"{name}, once"], middle[f"{name}, each"]
        print(
            f"{name} questions a document: {once:.2f} s, each by itself {each:.2f} s: {each / once:.1f} times as fast"
        )


if __name__ == "__main__":
    main()

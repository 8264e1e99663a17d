"""Bag and recurrent towers against sentence-transformers' own modules: documents/s encoded, pairs/s trained.

python -m benchmarks.towers [--quick] [--documents N] [--pairs N] [--batches N,N] [--epochs N] [--repeats N]

The same texts, vocabulary, sizes and batch; the cases in turn. Training is measured with batches of each size, and the
figure of its file is that of the last, which is the bag recipe's; the recurrent towers train with the first alone.
MedQuAD where LODESMITH_DATA has it. The peers are StaticEmbedding (with our tokenizer), WordEmbeddings + Pooling and
WordEmbeddings + LSTM + Pooling (with its own WhitespaceTokenizer, the quicker of the two it has) and the library's
trainer with MultipleNegativesRankingLoss. Ours train by the loop of the recipes, tokenising included. Building models
and trainers counts for nobody, and all of them keep freed memory (`core.memory`).
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _peers, common
from lodesmith.core.events import Step
from lodesmith.core.memory import keep_freed
from lodesmith.core.records import Dataset
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import TokenStore
from lodesmith.encoders import Bag, Recurrent, Vocabulary
from lodesmith.objectives.contrast import Contrast
from lodesmith.training import Stage, fit
from lodesmith.training.engine import TorchEngine
from lodesmith.training.optim import OptimSettings

WIDTH, HIDDEN = 256, 128
LONGEST = 256
"""Words of a text that any tower reads."""
TEMPERATURE = 0.05

Pairs = list[tuple[str, str]]


def texts(documents: int, pairs: int) -> tuple[str, list[str], Pairs]:
    """Name, documents, and (query, document) pairs."""
    root = os.environ.get("LODESMITH_DATA", str(Path(__file__).parent.parent.parent / "shared" / "data"))
    folder = Path(root) / "medquad"
    rng = np.random.default_rng(0)
    if folder.is_dir():
        dataset = Dataset.load(folder)
        keys = list(dataset.documents)
        chosen = [dataset.documents[keys[at]].content for at in rng.permutation(len(keys))[:documents]]
        judged = [(q, d) for q, found in dataset.split("train").items() for d, grade in found.items() if grade > 0]
        order = rng.permutation(len(judged))[:pairs]
        found = [(dataset.queries[judged[at][0]].text, dataset.documents[judged[at][1]].content) for at in order]
        return "medquad", chosen, found
    words = [f"word{at}" for at in range(20_000)]
    draw: Callable[[int], str] = lambda size: " ".join(words[at] for at in rng.zipf(1.2, size) % len(words))  # noqa: E731
    return "synthetic", [draw(200) for _ in range(documents)], [(draw(10), draw(200)) for _ in range(pairs)]


# ------------------------------------------------------------------------- peers


def static_model(vocabulary: Vocabulary, width: int = WIDTH) -> Any:
    """The bag as sentence-transformers has it: one embedding bag."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    backend = vocabulary.backend()
    backend.enable_truncation(LONGEST)
    return _sentence_model([StaticEmbedding(backend, embedding_weights=_rows(vocabulary, width))])


def averaged(vocabulary: Vocabulary) -> Any:
    """The bag of padded word embeddings and mean pooling."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    return _sentence_model([_word_embeddings(vocabulary, WIDTH), Pooling(WIDTH)])


def recurrent(vocabulary: Vocabulary) -> Any:
    """Word embeddings, a bidirectional LSTM and mean pooling."""
    from sentence_transformers.sentence_transformer.modules import LSTM, Pooling

    return _sentence_model([_word_embeddings(vocabulary, HIDDEN), LSTM(HIDDEN, HIDDEN), Pooling(2 * HIDDEN)])


def _word_embeddings(vocabulary: Vocabulary, width: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    rows = _rows(vocabulary, width)
    tokenizer = WhitespaceTokenizer(vocabulary.words, stop_words=[], do_lower_case=True)
    return WordEmbeddings(tokenizer, rows, update_embeddings=True, max_seq_length=LONGEST)


def _rows(vocabulary: Vocabulary, width: int) -> np.ndarray:
    """First vectors as ours have them: of about unit length."""
    return np.random.default_rng(0).normal(0, width**-0.5, (len(vocabulary), width)).astype(np.float32)


def _sentence_model(modules: list[Any]) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=modules, device="cpu")


PEERS: dict[str, dict[str, Callable[[Vocabulary], Any]]] = {
    "bag": {"StaticEmbedding": static_model, "WordEmbeddings + Pooling": averaged},
    "rnn": {"WordEmbeddings + LSTM + Pooling": recurrent},
}
OURS: dict[str, Callable[[Vocabulary], Bag | Recurrent]] = {
    "bag": lambda vocabulary: Bag(vocabulary, WIDTH, max_length=LONGEST),
    "rnn": lambda vocabulary: Recurrent(vocabulary, cell="lstm", words=HIDDEN, hidden=HIDDEN, max_length=LONGEST),
}


# ---------------------------------------------------------------------- encoding


def encoding(kind: str, vocabulary: Vocabulary, documents: list[str]) -> dict[str, Callable[[], Any]]:
    """What to time: documents → vectors, from their texts and from their words."""
    from lodesmith.encoders._tower import _forward

    ours = OURS[kind](vocabulary).eval()
    made = ours.tokenizer(documents)
    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.encode(documents).values,
        "ours, tokenised before": lambda: _forward(ours, made),
        "ours, tokenising alone": lambda: ours.tokenizer(documents),
    }
    for name, build in PEERS[kind].items():
        model = build(vocabulary).eval()
        cases[name] = lambda model=model: model.encode(documents, batch_size=32, show_progress_bar=False)
        batches = [model.preprocess(batch) for batch in _by_length(documents, 32)]
        cases[f"{name}, tokenised before"] = lambda model=model, batches=batches: _through(model, batches)
    return cases


def _by_length(documents: list[str], size: int) -> Iterator[list[str]]:
    """As sentence-transformers batches them."""
    ordered = sorted(documents, key=len, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _through(model: Any, batches: list[dict[str, torch.Tensor]]) -> int:
    with torch.inference_mode():
        return sum(len(model(dict(batch))["sentence_embedding"]) for batch in batches)


# ---------------------------------------------------------------------- training


def train_ours(kind: str, vocabulary: Vocabulary, pairs: Pairs, batch: int, epochs: int) -> tuple[float, float]:
    """Epochs with in-batch negatives by the loop that recipes run: seconds and mean loss."""
    torch.manual_seed(0)
    tower = OURS[kind](vocabulary).train()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        store = TokenStore(folder, tower.tokenizer)
        sides = [store.tokens(side) for side in zip(*pairs, strict=True)]
        numbers = np.repeat(np.arange(len(pairs))[:, None], 2, 1)
        batches = TextBatches(*sides, numbers, batch_size=batch, noise=10.0, apart=False)
        objective = Contrast(tower, temperature=TEMPERATURE, known=batches.known)
        optim = OptimSettings(lr=1e-3, schedule="linear", warmup=0.0, lazy=True)
        stage = Stage(name="contrast", objective=objective, batches=batches, optim=optim, epochs=epochs)
        told = fit([stage], engine=TorchEngine(seed=0))
        losses = [float(event.total or 0) for event in told if isinstance(event, Step)]
        return time.perf_counter() - begun, float(np.mean(losses))


def train_peer(
    build: Callable[[Vocabulary], Any], vocabulary: Vocabulary, pairs: Pairs, batch: int, epochs: int
) -> tuple[float, float]:
    """The same by sentence-transformers' trainer."""
    return _peers.trained(
        build(vocabulary),
        pairs,
        TEMPERATURE,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        use_cpu=True,
    )


def trained(
    kind: str, vocabulary: Vocabulary, pairs: Pairs, batch: int, epochs: int, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Pairs a second (the median of the rounds; a first one does not count) and mean loss of each case."""
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in PEERS[kind]}}
    losses: dict[str, float] = {}
    for number in range(-1, rounds):
        for name, taken in seconds.items():
            own = name == "ours"
            took, losses[name] = (
                train_ours(kind, vocabulary, pairs, batch, epochs)
                if own
                else train_peer(PEERS[kind][name], vocabulary, pairs, batch, epochs)
            )
            if number >= 0:
                taken.append(took)
    return {name: epochs * len(pairs) / took for name, took in common.medians(seconds).items()}, losses


# ---------------------------------------------------------------------- the whole


def report(name: str, unit: str, rates: dict[str, dict[str, float]], **extra: Any) -> None:
    """Write results/NAME.json; the figure of the file is the bag's."""
    shown = [kind for kind in rates if kind.startswith("bag")][-1]
    peers = {case: rate for case, rate in rates[shown].items() if case in PEERS["bag"]}
    ratios = {
        kind: {peer: found["ours"] / found[peer] for peer in PEERS[kind.partition(",")[0]]}
        for kind, found in rates.items()
    }
    packages = ("torch", "sentence-transformers", "transformers", "tokenizers", "datasets")
    common.write(name, unit, rates[shown]["ours"], peers, packages=packages, rates=rates, ratios=ratios, **extra)
    for kind, found in rates.items():
        print(f"  {kind}: " + ", ".join(f"{case} {rate:,.0f}" for case, rate in found.items()))


def main(argv: list[str] | None = None) -> int:
    """Measure and write results/towers_encoding.json and results/towers_training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts, one round")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=6144)
    parser.add_argument("--batches", type=lambda told: [int(size) for size in told.split(",")], default=[128, 512])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    if options.quick:
        options.documents, options.pairs, options.repeats = 256, 256, 1
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    keep_freed()
    corpus, documents, pairs = texts(options.documents, options.pairs)
    vocabulary = Vocabulary.build([*documents, *(text for pair in pairs for text in pair)])
    described = {
        "corpus": corpus,
        "words": len(vocabulary),
        "longest": LONGEST,
        "threads": torch.get_num_threads(),
        "quick": options.quick,
    }
    share = {"bag": 1, "rnn": 4}  # the recurrent towers take longer
    rates = {}
    for kind, part in share.items():
        some = documents[: len(documents) // part]
        seconds, _ = common.interleaved(encoding(kind, vocabulary, some), options.repeats)
        rates[kind] = {case: len(some) / took for case, took in common.medians(seconds).items()}
    report("towers_encoding", "documents/s", rates, **described)
    rates, losses = {}, {}
    for kind, part in share.items():
        for size in options.batches if kind == "bag" else options.batches[:1]:
            some_pairs = pairs[: max(size, len(pairs) // part)]
            rates[f"{kind}, batches of {size}"], losses[f"{kind}, batches of {size}"] = trained(
                kind, vocabulary, some_pairs, size, options.epochs, options.repeats
            )
    report("towers_training", "pairs/s", rates, losses=losses, epochs=options.epochs, pairs=len(pairs), **described)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

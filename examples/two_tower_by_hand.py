"""A retriever trained from scratch, by hand: what `lode train two_tower_bag data=DATASET` does, on one page.

    python examples/two_tower_by_hand.py DATASET [OUT]

DATASET is a folder in BEIR layout with the splits train, dev and test. OUT gets the model, and every figure: on a CPU
those of the recipe, to the last bit. The recipe adds checkpoints, health checks, baselines, trackers, processes, GPUs.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lodesmith.core.records import Dataset
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import TokenStore
from lodesmith.encoders import Bag, Vocabulary, load_tower
from lodesmith.encoders.corpus import default_cache
from lodesmith.evaluation.measures import parse, score
from lodesmith.indexes.flat import Flat
from lodesmith.losses.infonce import infonce
from lodesmith.losses.triplet import triplet
from lodesmith.similarity.cosine import cosine
from lodesmith.training.gradients import LazyAdam, clip
from lodesmith.training.optim import OptimSettings, rate

# The settings of the recipe (`lode recipes two_tower_bag`); a test holds the two together.
SEED = 0
VOCABULARY: dict[str, Any] = {"min_count": 2, "max_size": 200_000}
TOWER: dict[str, Any] = {"dimension": 512, "weights": "learned"}
STEADY = {"lr": 5e-3, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.05, "clip": 1.0, "lazy": True}
STAGES: list[Any] = [  # name, settings of the loss, of the optimiser, batch size, epochs, patience
    # First the coarse order: a query's document must be nearer than one wrong document, by a margin.
    ("triplet", {"margin": 0.2, "negatives": "semi_hard"}, STEADY, 128, 1, None),
    # Then the fine one: it must be the nearest of all documents in a large batch.
    ("contrast", {"temperature": 0.05}, STEADY | {"schedule": "cosine"}, 512, 10, 3),
]
LOSSES: dict[str, Any] = {"triplet": triplet, "contrast": infonce}
MEASURES, MONITOR = ("nDCG@10", "RR@10", "R@1", "R@5", "R@10", "R@100"), "nDCG@10"


def compare(tower: Bag, batch: dict[str, Any], known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [n, n] of n queries and n documents, each query's own at [i, i]; and which of the others are right too."""
    queries, documents = batch["queries"], batch["documents"]
    # Texts are packed, one after another without padding. The sides share the tower, so they go through it at once.
    ids = torch.cat([queries["ids"], documents["ids"]])
    offsets = torch.cat([queries["offsets"], documents["offsets"][1:] + len(queries["ids"])])
    asked, stored = tower({"ids": ids, "offsets": offsets}).chunk(2)
    return cosine(asked, stored), torch.isin(batch["query_ids"][:, None] * 2**32 + batch["document_ids"], known)


def measure(tower: Any, dataset: Dataset, split: str) -> dict[str, float]:
    """Every query of a split against every document, by exact search: a few candidates would flatter any model."""
    asked = {key: dataset.queries[key].content for key in dataset.split(split)}
    stored = {key: document.content for key, document in dataset.documents.items()}
    index, drop = Flat(metric="cosine"), dataset.drop_same_id
    index.add(tower.encode(list(stored.values()), "document", list(stored)))
    run = index.search(tower.encode(list(asked.values()), "query", list(asked)), 100 + drop)
    return score(run, dataset.split(split), [parse(name) for name in MEASURES], drop_same_id=drop).means


def main(folder: Path, out: Path = Path("by-hand")) -> None:
    """From texts to a model, and its figures on the test split."""
    # Pairs: every positive judgement of the training split, as (number of the query, number of the document).
    dataset = Dataset.load(folder)
    texts = {key: dataset.queries[key].content for key in dataset.split("train")}
    query_of, document_of = ({key: at for at, key in enumerate(keys)} for keys in (texts, dataset.documents))
    judged = ((query, *pair) for query, grades in dataset.split("train").items() for pair in grades.items())
    pairs = np.array([(query_of[query], document_of[document]) for query, document, grade in judged if grade > 0])

    # Vocabulary: words of the documents and the training queries. Those of dev and test stay unseen, as in use.
    contents = [document.content for document in dataset.documents.values()]
    vocabulary = Vocabulary.build([*contents, *texts.values()], **VOCABULARY)
    torch.manual_seed(SEED)
    tower = Bag(vocabulary, **TOWER)
    tower.embedding.sparse = True  # a gradient is of the words that a batch has, and only they move

    # Words become numbers once, on disk. A text without any could teach nothing.
    store = TokenStore(default_cache(), tower.tokenizer)
    queries, documents = store.tokens(texts.values()), store.tokens(contents)
    pairs = pairs[(queries.lengths()[pairs[:, 0]] > 0) & (documents.lengths()[pairs[:, 1]] > 0)]
    history: dict[str, Any] = {"losses": [], "validations": []}
    torch.manual_seed(SEED)  # again, so that what training draws does not depend on what the first weights took
    for name, loss_settings, optim_settings, size, epochs, patience in STAGES:
        # Lengths are mixed: batches of like lengths teach less. What may meet in a batch is left to the mask.
        batches = TextBatches(queries, documents, pairs, batch_size=size, seed=SEED, noise=10.0, apart=False)
        known = torch.from_numpy(batches.known @ [2**32, 1])  # a pair as one number, as `compare` makes them
        optim = OptimSettings.model_validate(optim_settings)
        matrices, others = ([p for p in tower.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
        groups = [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = LazyAdam(groups, [tower.embedding.weight], lr=optim.lr, decoupled_weight_decay=True)
        step, best, stale = 0, -1.0, 0
        for epoch in range(epochs + 1):  # epoch 0 trains nothing: a stage that only harms leaves nothing behind
            for batch in batches if epoch else ():
                # A document of another row that is right for this query too is masked, and not pushed away.
                scores, mask = compare(tower, batch, known)
                loss = LOSSES[name](scores, mask=mask, **loss_settings)
                optimizer.zero_grad()
                loss.backward()
                clip([list(tower.parameters())], optim.clip)  # no step is a leap
                for group in optimizer.param_groups:  # the rate rises, then follows the schedule
                    group["lr"] = optim.lr * rate(optim, step, epochs * len(batches))
                optimizer.step()
                history["losses"].append(loss.item())
                step += 1
            history["validations"].append(measure(tower, dataset, "dev"))
            reached = history["validations"][-1][MONITOR]
            loss_now = f"loss {np.mean(history['losses'][-len(batches) :]):.4f}, " if epoch else ""
            print(f"{name}, epoch {epoch}: {loss_now}dev {MONITOR} {reached:.4f}")
            stale += 1
            if reached > best:
                best, stale, weights = reached, 0, deepcopy(tower.state_dict())
            if stale == patience:
                break
        tower.load_state_dict(weights)  # of the best epoch, not the last

    # What is measured is what was saved, read back: no figure of a model that nobody has.
    history["test"] = measure(load_tower(tower.save(out / "model")), dataset, "test")
    (out / "history.json").write_text(json.dumps(history))
    print("test:", ", ".join(f"{name} {value:.4f}" for name, value in history["test"].items()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:])) if len(sys.argv) in (2, 3) else sys.exit(__doc__)

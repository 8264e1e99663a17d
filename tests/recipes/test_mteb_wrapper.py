"""The wrapper for mteb: sides, similarities, and a small retrieval task run by mteb itself where it is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lodesmith as lode
from lodesmith.core.errors import InputError
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.mteb import MtebEncoder, wrap
from lodesmith.testing import HashEncoder, tiny_dataset

QUERY, DOCUMENT = SimpleNamespace(value="query"), SimpleNamespace(value="document")


class Sided(HashEncoder):
    """Notes what it is asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def encode(self, texts: Any, side: Any = "document", ids: Any = None) -> Vectors:
        self.seen.append((side, list(texts)))
        return super().encode(texts, side, ids)


@pytest.mark.parametrize(
    ("kind", "side"), [(QUERY, "query"), (DOCUMENT, "document"), ("document", "document"), (None, "query")]
)
def test_the_side_of_mteb_is_the_side_of_the_encoder(kind: Any, side: str) -> None:
    encoder = Sided()
    found = MtebEncoder(encoder, "x").encode(
        [{"text": ["a cat"]}, {"text": ["a dog", "an owl"]}], prompt_type=kind, task_metadata=None, hf_split="test"
    )
    assert encoder.seen == [(side, ["a cat", "a dog", "an owl"])]
    assert np.array_equal(found, HashEncoder().encode(["a cat", "a dog", "an owl"]).values)


def test_prompts_of_a_model_reach_the_right_side(tmp_path: Path, cache: Path) -> None:
    from tiny_models import build

    folder = build(tmp_path / "m", prompts={"query": "the cat ", "document": "a whale "})
    plain, wrapped = lode.load(folder), wrap(folder)
    asked = wrapped.encode([{"text": ["thunder"]}], prompt_type=QUERY)
    stored = wrapped.encode([{"text": ["thunder"]}], prompt_type=DOCUMENT)
    assert np.array_equal(asked, plain.encode(["thunder"], side="query").values)
    assert np.array_equal(stored, plain.encode(["thunder"], side="document").values)
    assert not np.allclose(asked, stored)


def test_what_cannot_be_encoded_is_refused() -> None:
    wrapped = MtebEncoder(HashEncoder(), "x")
    with pytest.raises(InputError, match="no texts"):
        wrapped.encode([{"image": []}])
    with pytest.raises(InputError, match="prompt type is 'passage'"):
        wrapped.encode([{"text": ["a"]}], prompt_type="passage")
    assert wrapped.encode([]).shape == (0, 64)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_similarities_are_those_of_the_metric(metric: Any) -> None:
    encoder = HashEncoder()
    encoder.metric = metric
    wrapped = wrap(encoder)
    a, b = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    expected = {
        "cosine": a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1),
        "dot": a @ b.T,
        "euclidean": -np.square(a[:, None] - b).sum(-1),
    }[metric]
    assert np.allclose(wrapped.similarity(a, b), expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(wrapped.similarity_pairwise(a, b), np.diag(expected), rtol=1e-4, atol=1e-4)
    assert wrapped.similarity(a[0], b).shape == (1, 5)


def test_names_get_an_owner() -> None:
    assert wrap(HashEncoder()).name == "lodesmith/HashEncoder"
    assert wrap(HashEncoder(), "ours/hash").name == "ours/hash"


TASK = """
import sys, json
import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
import lodesmith as lode
from lodesmith.recipes.mteb import wrap

data = lode.Dataset.load(sys.argv[2])

class Own(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="Own", description="-", reference=None, dataset={"path": "-", "revision": "-"}, type="Retrieval",
        category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score="ndcg_at_10",
        date=("2020-01-01", "2020-01-02"), domains=[], task_subtypes=[], license="cc0-1.0",
        annotations_creators="derived", dialect=[], sample_creation="found", bibtex_citation="",
    )

    def load_data(self, *args, **kwargs):
        judged = {q: dict(found) for q, found in data.split("test").items()}
        self.dataset = {"default": {"test": {
            "corpus": Dataset.from_list([vars(d) for d in data.documents.values()]),
            "queries": Dataset.from_list([{"id": q, "text": data.queries[q].text} for q in judged]),
            "relevant_docs": judged, "top_ranked": None,
        }}}
        self.data_loaded = True

model = wrap(sys.argv[1])
meta = model.mteb_model_meta
found = mteb.evaluate(model, Own(), cache=None, show_progress_bar=False, co2_tracker=False)
scores = found.task_results[0].scores["test"][0]
told = {"name": meta.name, "revision": meta.revision, "similarity": str(meta.similarity_fn_name.value)}
print(json.dumps({"scores": scores, **told}))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed: pip install mteb")
def test_mteb_runs_a_task_and_agrees_with_evaluate(tmp_path: Path, cache: Path) -> None:
    """In a process of its own: importing mteb takes many seconds and warns."""
    import json

    from tiny_models import build

    folder = build(tmp_path / "tiny", prompts={"query": "the cat ", "document": "a whale "})
    data = tiny_dataset(200).save(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", TASK, str(folder), str(data)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ours = lode.evaluate(str(folder), data)
    assert 0.01 < ours.measures["nDCG@10"].mean < 0.99
    assert found["scores"]["ndcg_at_10"] == pytest.approx(ours.measures["nDCG@10"].mean, abs=1e-4)
    assert found["scores"]["recall_at_100"] == pytest.approx(ours.measures["R@100"].mean, abs=1e-4)
    assert (found["name"], found["similarity"]) == ("lodesmith/tiny", "cosine")
    assert found["revision"] == lode.load(folder).fingerprint

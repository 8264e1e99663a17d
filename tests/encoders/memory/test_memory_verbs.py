"""A memory model in the verbs of every encoder: encoded, indexed, searched, loaded from its run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from memory_models import QUESTIONS, TEXTS, stir

import lodesmith as lode
from command_line import lode as command
from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import sha256_file, write_json
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import MemoryEncoder, VectorCache
from lodesmith.recipes.systems import load_encoder, resolve
from lodesmith.similarity.aligned import aligned_rows

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    documents = [Document(f"d{n}", "", text) for n, text in enumerate(TEXTS) if text]
    judged = {"test": {"q0": {"d0": 1}, "q1": {"d2": 1}, "q2": {"d3": 1}}}
    queries = [Query(f"q{n}", text) for n, text in enumerate(QUESTIONS)]
    return Dataset.of(documents, queries, judged, name="small").save(tmp_path / "small")


def test_it_is_searched_by_the_cosine_of_all_its_vectors(
    encoder: MemoryEncoder, saved: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(lode.load(saved), MemoryEncoder)
    loaded = Dataset.load(dataset)
    system = resolve(str(saved), loaded)
    texts = [document.content for document in loaded.documents.values()]
    found = encoder.encode(texts, ids=list(loaded.documents))
    half = Vectors(found.values.astype(np.float16), found.offsets, found.ids)
    asked = encoder.encode([QUESTIONS[0]] * len(texts), "query")
    scores = dict(zip(found.ids, aligned_rows(asked, half).tolist(), strict=True))
    run = system.retriever.search({"q": QUESTIONS[0]}, 9)
    assert list(run["q"]) == sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
    evaluation = lode.evaluate(str(saved), loaded)
    assert 0 < evaluation.measures["nDCG@10"].mean <= 1
    assert evaluation.cost["parameters"] == encoder.parameters_total
    whole = ["--out", tmp_path / "vectors", "--dtype", "float32"]
    code, out, _ = command(capsys, "encode", saved, dataset, *whole, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 4 * len(texts))
    np.testing.assert_allclose(Vectors.load(tmp_path / "vectors").values, found.values, atol=1e-5)
    assert command(capsys, "index", "build", saved, dataset, "--out", tmp_path / "index")[0] == 0
    code, out, _ = command(capsys, "search", tmp_path / "index", QUESTIONS[0], "-k", 1, "--json")
    assert code == 0
    assert next(iter(run["q"]))[0] in out


def test_vectors_are_kept_in_half_the_room(encoder: MemoryEncoder) -> None:
    items = [(f"d{n}", text) for n, text in enumerate(TEXTS)]
    kept = VectorCache(dtype="float16").vectors(encoder, items, "document")
    assert kept.values.dtype == np.float16
    whole = encoder.encode(TEXTS)
    np.testing.assert_array_equal(kept.offsets, whole.offsets)
    np.testing.assert_allclose(kept.values, whole.values, rtol=1e-3, atol=1e-4)
    stored = Vectors(kept.values.astype(np.float32), kept.offsets, kept.ids)
    assert aligned_rows(stored, whole).min() > 1 - 1e-6
    read = [[stored.values[4 * n : 4 * n + 4]] for n in range(3)]
    assert encoder.answer(QUESTIONS, read, max_new_tokens=4)


def test_a_run_folder_gives_its_model(encoder: MemoryEncoder, saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    with pytest.raises(InputError, match="no model yet"):
        load_encoder(str(run))
    shutil.copytree(saved, run / "model")
    files = {file.relative_to(run / "model").as_posix(): sha256_file(file) for file in (run / "model").rglob("*.*")}
    write_json(run / "manifest.json", {"model_files": files})
    assert load_encoder(str(run)).fingerprint == encoder.fingerprint
    stir(encoder, seed=5).save(run / "model")
    with pytest.raises(IntegrityError, match="SHA-256"):
        load_encoder(str(run))

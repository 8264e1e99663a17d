"""`lode geometry` over a tiny model: its figures, its files, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lodesmith.cli.main import main
from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json
from lodesmith.core.protocols import Side
from lodesmith.core.records import Dataset, Document
from lodesmith.core.vectors import Vectors
from lodesmith.evaluation.geometry import measure
from lodesmith.recipes import geometry as room
from lodesmith.recipes.geometry import geometry
from lodesmith.recipes.systems import load_encoder
from lodesmith.testing import HashEncoder, tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_dataset().save(tmp_path / "data")


def test_it_is_the_geometry_of_the_models_vectors(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    found = geometry(str(tiny_model), folder, out=tmp_path / "out")
    encoder, dataset = load_encoder(str(tiny_model)), Dataset.load(folder)
    documents = encoder.encode([d.content for d in dataset.documents.values()], "document").values
    asked = dataset.queries_of("test")
    queries = encoder.encode([query.content for query in asked.values()], "query").values
    places = {key: at for at, key in enumerate(dataset.documents)}
    relevant = documents[[places[next(iter(dataset.split("test")[query]))] for query in asked]]
    assert found.geometry.measures == pytest.approx(
        measure(documents, (queries, relevant), metric=encoder.metric).measures, rel=1e-4
    )
    written = read_json(tmp_path / "out" / "geometry.json")
    assert written["sigreg"] == found.geometry.sigreg
    assert len(written["picture"]["documents"]) == 40
    assert written["fingerprints"] == {"model": encoder.fingerprint, "dataset": dataset.fingerprint}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"Geometry of {tiny_model.name} on tiny" in page
    assert "10 of the split test" in page


def test_a_sample_has_positives_outside_itself(tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_POSITIVES", 7)
    found = geometry(str(tiny_model), folder, split="train", limit=5)
    assert (found.geometry.items, found.documents, found.split) == (5, 40, "train")
    assert found.geometry.positives is not None
    assert found.geometry.positives.pairs == 7
    assert any("a random sample of 40" in note for note in found.notes)
    assert geometry(str(tiny_model), folder, split="train", limit=5).geometry == found.geometry


class Mirrored(HashEncoder):
    """Queries point away from documents of the same words."""

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        found = super().encode(texts, side, ids)
        return Vectors.dense(-found.values if side == "query" else found.values, found.ids)


def test_queries_are_encoded_as_queries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "load_encoder", lambda _: Mirrored())
    found = geometry("mirrored", folder)
    assert found.model == "mirrored"
    assert found.geometry.positives is not None
    assert found.geometry.positives.cosine < -0.3


def test_without_judgements_there_are_no_positives(tiny_model: Path, tmp_path: Path) -> None:
    bare = Dataset.of([Document(f"d{i}", "", f"the cat likes {i} apples") for i in range(6)], name="bare")
    found = geometry(str(tiny_model), bare.save(tmp_path / "bare"))
    assert found.geometry.positives is None
    assert found.split == ""
    assert any("no judgements" in note for note in found.notes)


def test_what_cannot_be_measured_is_refused(tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no split 'dove'"):
        geometry(str(tiny_model), folder, split="dove")
    with pytest.raises(InputError, match="1 documents"):
        geometry(str(tiny_model), folder, limit=1)
    several = Vectors(np.ones((3, 2), np.float32), np.array([0, 2, 3]), ("a", "b"))
    monkeypatch.setattr(room, "document_vectors", lambda *_: several)
    with pytest.raises(InputError, match="several vectors a document"):
        geometry(str(tiny_model), folder)


def test_the_verb(tiny_model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lode(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return int(ended.value.code or 0), capsys.readouterr().out

    code, out = lode("geometry", tiny_model, folder, "--json", "--limit", 30)
    value = json.loads(out)
    assert code == 0
    assert (value["items"], value["documents"], value["dataset"]) == (30, 40, "tiny")
    assert value["positives"]["pairs"] == 10
    code, out = lode("geometry", tiny_model, folder)
    assert code == 0
    assert "IsoScore" in out
    assert lode("geometry", tiny_model, folder, "--split", "dove")[0] == 2
    assert lode("geometry", tiny_model, folder / "none")[0] == 2

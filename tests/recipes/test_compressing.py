"""Codecs measured: encoded once, a row each, files that `compare` reads, and the verb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import lode
from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.evaluation.significance import holm
from lodesmith.recipes.compressing import compressed, compressed_datasets
from lodesmith.recipes.evaluating import evaluate_system
from lodesmith.recipes.systems import resolve
from lodesmith.reports.codec_table import codec_table
from lodesmith.testing import tiny_dataset

pytestmark = pytest.mark.usefixtures("cache")
CODECS = ["int8", "binary:rescore=2", "matryoshka:m=8,then=int8"]


@pytest.fixture
def data() -> Dataset:
    return tiny_dataset(60)


@pytest.fixture
def folder(tmp_path: Path, data: Dataset) -> Path:
    return data.save(tmp_path / "data")


def test_a_row_a_codec_and_float32_first(tiny_model: Path, data: Dataset) -> None:
    found = compressed(str(tiny_model), data, [*CODECS, "int8"])
    assert [e.system for e in found] == ["model", *(f"model@{codec}" for codec in CODECS)]
    system = resolve(str(tiny_model), data)
    plain, _ = evaluate_system(system, data)
    assert found[0].per_query == plain.per_query
    assert system.vectors is not None
    d = system.vectors.dimension
    assert [e.cost["bytes_per_document"] for e in found] == [4 * d, d, -(-d // 8), 8]
    assert [e.cost["shared_bytes"] for e in found] == [0, 4 * d, 8 * d, 32]
    assert [e.cost["index_bytes"] for e in found] == [
        len(data.documents) * float(e.cost["bytes_per_document"] or 0) + float(e.cost["shared_bytes"] or 0)
        for e in found
    ]
    assert len({json.dumps(dict(e.fingerprints), sort_keys=True) for e in found}) == len(found)


def test_nothing_is_encoded_twice(tiny_model: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = TransformerEncoder.encode

    def noted(self, texts, side="document", ids=None):  # type: ignore[no-untyped-def]
        seen.extend(f"{side} {text}" for text in texts)
        return real(self, texts, side, ids)

    monkeypatch.setattr(TransformerEncoder, "encode", noted)
    compressed(str(tiny_model), data, CODECS)
    assert len(seen) == len(set(seen))
    assert sum(text.startswith("query") for text in seen) == len({q.content for q in data.queries_of("test").values()})


def test_windows_of_a_document_are_counted(tiny_model: Path) -> None:
    data = tiny_dataset(60)
    long = [replace(doc, text=f"{doc.text} " * (1 + 5 * (at % 2))) for at, doc in enumerate(data.documents.values())]
    data = Dataset.of(long, list(data.queries.values()), data.judgements, name="long")
    whole, int8 = compressed(str(tiny_model), data, ["int8"], passages=8)
    rows = float(whole.cost["index_bytes"] or 0) / float(whole.cost["bytes_per_document"] or 1) * 1.0
    assert rows == len(data.documents)
    assert whole.cost["bytes_per_document"] == 4 * float(int8.cost["bytes_per_document"] or 0)
    vectors = resolve(str(tiny_model), data, 8).vectors
    assert vectors is not None
    assert float(int8.cost["bytes_per_document"] or 0) > vectors.dimension


@pytest.mark.parametrize("system", ["bm25", "random", "bm25+{model}"])
def test_what_has_no_vectors_is_refused(system: str, tiny_model: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="not one model"):
        compressed(system.format(model=tiny_model), data, ["int8"])


def test_a_mistake_shows_before_anything_is_encoded(
    tiny_model: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodesmith.recipes.compressing.resolve", lambda *_: pytest.fail("resolved"))
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        compressed(str(tiny_model), data, ["float16", "int9"])


def test_pq_needs_more_documents(tiny_model: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="256 centres, and there are 60 vectors") as caught:
        compressed(str(tiny_model), data, ["pq"])
    assert not isinstance(caught.value, NotFiniteError)


def test_comparisons_are_with_float32_alone_and_corrected_over_these(tiny_model: Path, tmp_path: Path) -> None:
    folders = [replace(tiny_dataset(60, at), info={"name": name}).save(tmp_path / name) for at, name in enumerate("ab")]
    found = compressed_datasets(str(tiny_model), folders, CODECS, out=tmp_path / "out", run=tmp_path / "runs")
    pairs = found.comparison.pairs
    assert len(pairs) == 2 * len(CODECS)
    assert {pair.b for pair in pairs} == {"model"}
    assert [pair.p_holm for pair in pairs] == holm([pair.p for pair in pairs])
    names = ["model", "model@int8", "model@binary_rescore=2", "model@matryoshka_m=8,then=int8"]
    for at, name in enumerate("ab"):
        files = [tmp_path / "out" / name / f"{file}.json" for file in names]
        assert [Evaluation.load(file) for file in files] == list(found.evaluations[4 * at : 4 * at + 4])
        assert all((tmp_path / "runs" / name / f"{file}.trec").is_file() for file in names)
    table = codec_table(found.evaluations, found.comparison)
    assert [len(block.rows) for block in table.blocks] == [4, 4, 4]
    assert table.blocks[2].title == "average of 2 datasets"
    with pytest.raises(InputError, match="two datasets are called"):
        compressed_datasets(str(tiny_model), [folders[0], folders[0] / ".." / "a" / ".", _copy(folders[0])], ["int8"])


def _copy(folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, folder.with_name("again")))


def test_the_table_says_what_is_where(tiny_model: Path, data: Dataset, folder: Path) -> None:
    found = compressed_datasets(str(tiny_model), [folder], ["binary:rescore=0", "float16"])
    table = codec_table(found.evaluations, found.comparison)
    rows = {row.system: [cell.text for cell in row.cells] for row in table.blocks[0].rows}
    assert table.columns[3:] == ("bytes/document", "share", "shared")
    d = int(float(found.evaluations[0].cost["bytes_per_document"] or 0)) // 4
    assert rows["model"][1:] == ["baseline", "–", f"{4 * d}", "100.0%", "0 B"]
    assert rows["model@float16"][3:] == [f"{2 * d}", "50.0%", "0 B"]
    assert rows["model@binary:rescore=0"][3:5] == [f"{d // 8}", "3.1%"]
    pair = found.comparison.pair("model@binary:rescore=0", "model")
    shown = rows["model@binary:rescore=0"][1].replace("−", "-")
    assert float(shown) == pytest.approx(pair.difference, abs=6e-4)


def test_the_verb(capsys: pytest.CaptureFixture[str], tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    asked = ("evaluate", tiny_model, folder, "--codec", "int8", "--codec", "binary", "--out", tmp_path / "out")
    code, out, err = lode(capsys, *asked, "--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert [each["system"] for each in value["evaluations"]] == ["model", "model@int8", "model@binary"]
    assert len(value["comparison"]["pairs"]) == 2
    assert "| model@int8 |" in (tmp_path / "t.md").read_text()
    assert "model@binary" in (tmp_path / "t.tex").read_text()
    files = sorted((tmp_path / "out").glob("*.json"))
    code, out, _ = lode(capsys, "compare", *files, "--baseline", tmp_path / "out" / "model.json")
    assert code == 0
    assert "model@binary" in out
    code, out, _ = lode(capsys, *asked)
    assert "bytes/document" in out


def test_the_verb_refuses_in_a_line(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("{}")
    for extra, told in (
        (("--codec", "int9"), "did you mean 'int8'"),
        (("--codec", "int8"), "not one model"),
        (("--codec", "int8", "--out", tmp_path / "file.json"), "no folder"),
    ):
        code, _, err = lode(capsys, "evaluate", "bm25", folder, *extra)
        assert code == 2
        assert told in err
        assert len(err.strip().splitlines()) <= 3

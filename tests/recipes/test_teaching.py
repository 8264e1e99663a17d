"""`lode data teach`: a store of vectors that is shared and resumable, and scores of candidate lists."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import tiny_cross
from command_line import lode
from lodesmith.core.columns import Column, names
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Side
from lodesmith.core.records import Dataset, Document
from lodesmith.core.vectors import Vectors
from lodesmith.encoders.corpus import VectorCache
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.recipes import teaching
from lodesmith.recipes.mining import Rules, mine_dataset
from lodesmith.recipes.teaching import Part, Teacher, teach_scores, teach_vectors, teaching_text
from lodesmith.testing import HashEncoder, tiny_dataset


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross.build(tmp_path_factory.mktemp("cross") / "cross")


@pytest.fixture
def prompted(tmp_path: Path) -> Path:
    import tiny_models

    return tiny_models.build(tmp_path / "prompted", prompts={"query": "the cat ", "document": "a dog "})


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the teacher encodes, in their order."""
    texts: list[str] = []
    real = TransformerEncoder.encode

    def encode(self: TransformerEncoder, batch: list[str], side: str = "document", ids: object = None) -> object:
        texts.extend(batch)
        return real(self, batch, side, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformerEncoder, "encode", encode)
    return texts


def test_vectors_of_every_document_and_query_with_their_prompts(folder: Path, prompted: Path) -> None:
    info = teach_vectors(folder, str(prompted), dtype="float32")
    dataset, encoder = Dataset.load(folder), TransformerEncoder(prompted)
    teacher = Teacher.load(folder)
    documents = [(key, document.content) for key, document in dataset.documents.items()]
    queries = [(key, query.content) for key, query in dataset.queries_of("train").items()]
    for side, items in (("document", documents), ("query", queries)):
        found = teacher.vectors(items, side)  # type: ignore[arg-type]
        assert found.ids == tuple(key for key, _ in items)
        np.testing.assert_allclose(found.values, encoder.encode([t for _, t in items], side).values, atol=1e-6)
    assert not np.allclose(encoder.encode(["owl"], "query").values, encoder.encode(["owl"], "document").values)
    assert info["counts"]["document"]["items"] == 40
    assert info["counts"]["query"]["items"] == 20
    assert info["made_by"]["model"] == encoder.fingerprint
    assert names(folder) == []


def test_float16_takes_half_the_disk_and_says_what_it_took(folder: Path, tiny_model: Path) -> None:
    info = teach_vectors(folder, str(tiny_model))
    found = Teacher.load(folder).stores["document"]
    assert found.values.dtype == np.float16
    assert isinstance(found.values, np.memmap)
    assert 0 < info["rounding"]["mean"] <= info["rounding"]["largest"] < 1e-6
    assert info["rounding"]["texts"] == 40
    wide = teach_vectors(folder, str(tiny_model), dtype="float32", name="wide")
    assert wide["rounding"]["texts"] == 0
    size = [entry["stores"]["document"]["bytes"] - 128 for entry in (info, wide)]
    assert size[1] == 2 * size[0]


def test_a_text_is_encoded_once_for_all_datasets_and_types(
    folder: Path, tiny_model: Path, tmp_path: Path, encoded: list[str]
) -> None:
    teach_vectors(folder, str(tiny_model), dtype="float32")
    assert len(encoded) == 40 + 16  # two queries in ten have the words of another
    other = tiny_dataset(60).save(tmp_path / "other")
    teach_vectors(other, str(tiny_model), dtype="float32")
    teach_vectors(folder, str(tiny_model), dtype="float32")
    known = {document.content for document in Dataset.load(folder).documents.values()}
    later = [text for text in encoded[56:] if text in known]
    assert later == []
    before = len(encoded)
    info = teach_vectors(folder, str(tiny_model), dtype="float16")
    assert len(encoded) == before + info["rounding"]["texts"]  # only the sample of the rounding


def test_float16_rounds_what_float32_has_and_encodes_the_rest(
    folder: Path, tiny_model: Path, cache: Path, encoded: list[str]
) -> None:
    encoder = TransformerEncoder(tiny_model)
    texts = [(str(at), text) for at, text in enumerate(["cat", "bee " * 200, "owl", "dog", "the moon"])]
    exact = VectorCache().vectors(encoder, texts[:3])
    encoded.clear()
    half, counts = VectorCache(dtype="float16").fill(encoder, [texts[4], texts[1], texts[0], texts[3], texts[1]])
    assert encoded == ["the moon", "dog"]
    assert list(half.ids) == [text_key(texts[at][1]) for at in (4, 1, 0, 3)]
    assert counts == {"items": 5, "texts": 4, "truncated": 1}
    np.testing.assert_array_equal(half.values[[2, 1]], exact.values[[0, 1]].astype(np.float16))
    np.testing.assert_allclose(half.values[3], encoder.encode(["dog"]).values[0], atol=1e-3)


class Plain(HashEncoder):
    """Counts its calls, and kills its process in the n-th."""

    source, parameters, fatal = "plain", 0, 0

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        CALLS.append(len(texts))
        if len(CALLS) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, side, ids)


CALLS: list[int] = []


def killed(work: Callable[[], object]) -> bool:
    """Work in a process of its own; whether it was killed."""
    if child := os.fork():
        return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    try:
        work()
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_teacher_goes_on(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodesmith.recipes.teaching.load_encoder", lambda _: Plain())
    for name, value in (("_FIRST", 8), ("_FEWEST", 8), ("_SECONDS", 0.0)):
        monkeypatch.setattr(f"lodesmith.encoders.corpus.stream.{name}", value)
    CALLS.clear()
    monkeypatch.setattr(Plain, "fatal", 4)
    assert killed(lambda: teach_vectors(folder, str(tiny_model)))
    assert not (folder / "columns/teacher.meta.json").exists()
    monkeypatch.setattr(Plain, "fatal", 0)
    info = teach_vectors(folder, str(tiny_model))
    assert sum(CALLS) == 56 - 3 * 8 + info["rounding"]["texts"]
    documents = [(key, document.content) for key, document in Dataset.load(folder).documents.items()]
    found = Teacher.load(folder).vectors(documents)
    expected = HashEncoder().encode([text for _, text in documents])
    np.testing.assert_array_equal(found.values, expected.values.astype(np.float16))


def test_a_limit_takes_what_its_queries_need(folder: Path, tiny_model: Path) -> None:
    assert teach_vectors(folder, str(tiny_model), Part(limit=3))["counts"]["document"]["items"] == 3
    mine_dataset(folder, "bm25", rules=Rules(2, relative=None))
    column = Column.load(folder, "negatives")
    keys = list(Dataset.load(folder).queries_of("train"))[:3]
    needed = {key for query in keys for key in column.rows[query][0]["ids"]}
    needed |= {key for query in keys for key in Dataset.load(folder).judgements["train"][query]}
    info = teach_vectors(folder, str(tiny_model), Part(limit=3))
    assert info["counts"]["document"]["items"] == len(needed) > 3
    assert info["counts"]["query"]["items"] == 3


class Huge(Plain):
    """Components beyond float16."""

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        found = super().encode(texts, side, ids)
        found.values[:, 0] = 65_600
        return found


def test_what_float16_cannot_hold_is_refused(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodesmith.recipes.teaching.load_encoder", lambda _: Huge())
    with pytest.raises(InputError, match="float16 cannot hold") as raised:
        teach_vectors(folder, str(tiny_model))
    assert "float32" in raised.value.do
    assert not (folder / "columns/teacher.meta.json").exists()
    assert teach_vectors(folder, str(tiny_model), dtype="float32")["dimension"] == 64


def test_a_store_of_ones_own_and_one_that_moved(
    folder: Path, tiny_model: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = teach_vectors(folder, str(tiny_model), store=tmp_path / "mine")
    assert Path(info["stores"]["document"]["folder"]).is_relative_to(tmp_path / "mine")
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    with pytest.raises(InputError, match="store is gone"):
        Teacher.load(folder)
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "moved"))
    assert len(Teacher.load(folder).stores["query"]) == 16


def test_what_the_teacher_lacks_is_named(folder: Path, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="has no teacher"):
        Teacher.load(folder)
    teach_vectors(folder, str(tiny_model))
    with pytest.raises(InputError, match="no vector of the query 'new'"):
        Teacher.load(folder).vectors([("new", "never seen")], "query")
    with pytest.raises(ConfigError, match="bfloat16"):
        teach_vectors(folder, str(tiny_model), dtype="bfloat16")


def lists(folder: Path) -> dict[str, list[str]]:
    column, judged = Column.load(folder, "negatives"), Dataset.load(folder).judgements["train"]
    return {query: [*judged[query], *rows[0]["ids"]] for query, rows in column.rows.items()}


def test_scores_of_a_dense_teacher(folder: Path, tiny_model: Path, prompted: Path) -> None:
    mine_dataset(folder, "bm25", rules=Rules(3, relative=None))
    info = teach_scores(folder, str(prompted))
    dataset, encoder, column = Dataset.load(folder), TransformerEncoder(prompted), Column.load(folder, "teacher_scores")
    wanted = lists(folder)
    assert {query: rows[0]["ids"] for query, rows in column.rows.items()} == wanted
    for query, keys in wanted.items():
        asked = encoder.encode([dataset.queries[query].content], "query").values
        documents = encoder.encode([dataset.documents[key].content for key in keys]).values
        np.testing.assert_allclose(column.rows[query][0]["scores"], (documents @ asked.T)[:, 0], atol=1e-5)
    assert info["counts"]["scores"] == sum(map(len, wanted.values()))
    assert info["made_by"]["teacher"] == encoder.fingerprint


def test_scores_of_a_cross_encoder(folder: Path, cross: Path) -> None:
    from sentence_transformers import CrossEncoder

    mine_dataset(folder, "bm25", rules=Rules(3, relative=None))
    teach_scores(folder, str(cross))
    import torch

    dataset, theirs = Dataset.load(folder), CrossEncoder(str(cross), device="cpu")
    for query, rows in list(Column.load(folder, "teacher_scores").rows.items())[:5]:
        pairs = [(dataset.queries[query].content, dataset.documents[key].content) for key in rows[0]["ids"]]
        raw = theirs.predict(pairs, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(rows[0]["scores"], raw, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_scores_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine_dataset(folder, "bm25", rules=Rules(3, relative=None))
    asked: list[str] = []
    fatal = 9

    def score(queries: Mapping[str, str], keys: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        asked.extend(queries)
        if len(asked) > fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return {query: {key: float(len(query + key)) for key in own} for query, own in keys.items()}

    monkeypatch.setattr(teaching, "_scorer", lambda *_: (score, "fingerprint"))
    monkeypatch.setattr(teaching, "_BATCH", 4)
    assert killed(lambda: teach_scores(folder, "any"))
    fatal = 100
    info = teach_scores(folder, "any")
    assert len(asked) == 20 - 8
    assert info["counts"]["rows"] == 20
    for query, rows in Column.load(folder, "teacher_scores").rows.items():
        assert rows[0]["scores"] == [len(query + key) for key in rows[0]["ids"]]
    assert teach_scores(folder, "any") == info
    assert len(asked) == 20 - 8


def test_new_candidates_make_new_scores(folder: Path, cross: Path) -> None:
    mine_dataset(folder, "bm25", limit=5, rules=Rules(3, relative=None))
    first = teach_scores(folder, str(cross))
    assert first["counts"]["rows"] == 5
    assert first["without_candidates"] == 15
    mine_dataset(folder, "bm25", limit=5, rules=Rules(2, relative=None))
    assert teach_scores(folder, str(cross))["fingerprint"] != first["fingerprint"]


def test_scores_need_candidates(folder: Path, cross: Path) -> None:
    with pytest.raises(InputError, match="no such column"):
        teach_scores(folder, str(cross))
    mine_dataset(folder, "bm25", rules=Rules(3, relative=None))
    with pytest.raises(InputError, match="no query of dev has candidates"):
        teach_scores(folder, str(cross), Part("dev"))
    with pytest.raises(ConfigError, match="take the place"):
        teach_scores(folder, str(cross), name="negatives")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "q0", "ids": 5}', r"negatives.jsonl:1: .*'ids' must be a list of ids"),
        ('{"query": "q0", "ids": "d1"}', r"negatives.jsonl:1: .*'ids' must be a list of ids"),
        ('{"query": "q0", "ids": ["d1", null]}', r"negatives.jsonl:1: .*'ids' must be a list of ids"),
        ('{"query": "q0"}', r"negatives.jsonl:1: .*'ids' must be a list of ids"),
        ('{"document": "q0", "ids": ["d1"]}', "belong to documents"),
    ],
)
def test_a_column_of_something_else_is_refused(line: str, says: str, folder: Path, tiny_model: Path) -> None:
    (folder / "columns").mkdir()
    (folder / "columns/negatives.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=says):
        teach_scores(folder, str(tiny_model))
    with pytest.raises(InputError, match=says):
        teach_vectors(folder, str(tiny_model), Part(limit=2))


def test_the_verb(capsys: pytest.CaptureFixture[str], folder: Path, tiny_model: Path, cross: Path) -> None:
    code, out, _ = lode(capsys, "data", "teach", folder, "--with", tiny_model, "--dtype", "float16", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((folder / "columns/teacher.meta.json").read_text())
    code, out, _ = lode(capsys, "data", "teach", folder, "--with", tiny_model, "--limit", "2")
    assert code == 0
    assert "2 queries, 2 distinct texts" in out
    assert "rounding: 1 − cosine is" in out
    mine_dataset(folder, "bm25", rules=Rules(3, relative=None))
    code, out, _ = lode(capsys, "data", "teach", folder, "--with", cross, "--scores", "--limit", "6")
    assert code == 0
    assert "scores for 6 queries" in out
    for wrong in (("--with", "nowhere"), ("--with", str(tiny_model), "--name", "a/b"), ("--with", str(cross))):
        code, out, err = lode(capsys, "data", "teach", folder, *wrong)
        assert (code, out) == (2, ""), wrong
        assert "Traceback" not in err


def test_a_text_that_is_cut_is_counted(folder: Path, tiny_model: Path) -> None:
    tiny = tiny_dataset(3)
    documents = [*tiny.documents.values(), Document("long", "", "bee " * 300), Document("again", "", "bee " * 300)]
    Dataset.of(documents, tiny.queries.values(), {"train": {"q0": {"d0": 1}}}).save(folder)
    info = teach_vectors(folder, str(tiny_model))
    assert info["counts"]["document"] == {"items": 5, "texts": 4, "truncated": 1}
    assert "1 of them cut to the model's length" in teaching_text(info)

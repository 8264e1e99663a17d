"""Answers to a dataset's questions: what each way reads, by hand, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_runs
import tiny_models
from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import read_object, write_json
from lodesmith.core.records import Dataset, Query
from lodesmith.core.results import Evaluation
from lodesmith.core.run import Run
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes import _answer_memory, _answer_ways
from lodesmith.recipes._answer_memory import PooledMemory, donors
from lodesmith.recipes._answer_pools import Kind, Pools, Questions
from lodesmith.recipes.answering import Plan, answer_dataset, answer_datasets, answers_page
from lodesmith.retrieval.bm25 import BM25
from lodesmith.similarity.aligned import aligned_rows

pytestmark = pytest.mark.usefixtures("cache")
TEXTS = [query[0] for query in memory_runs.ASKED.values()]


@pytest.fixture(autouse=True)
def one_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answer_ways, "_TIMED", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return memory_runs.run(tmp_path_factory.mktemp("memory") / "clara")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.load(memory_runs.dataset(tmp_path_factory.mktemp("data") / "beasts"))


def pools(data: Dataset, size: int, kind: Kind) -> Mapping[str, Sequence[str]]:
    return Pools(data, Questions.of(data, "test"), size, kind).orders


def measured(run: Path, data: Dataset, *ways: str, **settings: Any) -> dict[str, tuple[Evaluation, Run]]:
    found = answer_dataset(str(run), data, Plan(ways, documents=2, candidates=4, **settings))
    return {evaluation.system.split(", ")[1]: (evaluation, ranking) for evaluation, ranking in found}


# ------------------------------------------------------------------------------------------------------------ pools


def test_questions_are_the_judged_queries_that_have_answers(data: Dataset) -> None:
    asked = Questions.of(data, "test")
    assert list(asked.texts) == ["q0", "q1", "q2", "q4"]
    assert asked.relevant == {"q0": ("d0",), "q1": ("d1",), "q2": ("d2", "d7"), "q4": ("d4",)}
    assert asked.answers["q1"] == ("music", "the music")
    assert list(Questions.of(data, "test", 2).texts) == ["q0", "q1"]


def test_pools_are_the_column_with_negatives_behind_or_what_bm25_finds(tmp_path: Path) -> None:
    folder = memory_runs.dataset(
        tmp_path / "d", {"q0": ["d5", "d6", "d5"], "q2": ["d2", "d1", "d3", "d4"]}, q0=["d6", "d7", "d3"], q1=["d7"]
    )
    data = Dataset.load(folder)
    found = pools(data, 4, "normal")
    assert found["q0"] == ["d5", "d6", "d7", "d3"]
    assert found["q2"] == ["d2", "d1", "d3", "d4"]
    searched = BM25().build((key, document.content) for key, document in data.documents.items())
    for query in ("q1", "q4"):  # negatives alone are no pool
        ranking = searched.search({query: data.queries[query].text}, 4)[query]
        assert found[query] == [key for key, _ in ranking]
        assert found[query]


def test_oracle_puts_gold_first_and_others_lose_the_last_places(tmp_path: Path) -> None:
    pool = {"q0": ["d5", "d6", "d7"], "q1": ["d5", "d1", "d6"], "q2": ["d7", "d5", "d6"], "q4": ["d1"]}
    data = Dataset.load(memory_runs.dataset(tmp_path / "d", pool))
    assert pools(data, 3, "normal") == pool
    found = pools(data, 3, "oracle")
    assert found == {
        "q0": ["d0", "d5", "d6"],
        "q1": ["d1", "d5", "d6"],
        "q2": ["d7", "d2", "d5"],
        "q4": ["d4", "d1"],
    }
    with pytest.raises(ConfigError, match="'q2' has 2 gold documents, and a pool 1 places"):
        pools(data, 1, "oracle")


def test_a_pool_names_documents_of_the_corpus(tmp_path: Path) -> None:
    data = Dataset.load(memory_runs.dataset(tmp_path / "d", {"q1": ["d1", "gone"]}))
    with pytest.raises(InputError, match="'gone' of the query 'q1'"):
        pools(data, 4, "normal")


# ------------------------------------------------------------------------------------------------------- what is read


def test_text_ways_read_the_pools_order_by_the_language_model_alone(run: Path, data: Dataset) -> None:
    found = measured(run, data, "closed", "text", "text-truncated", pool="oracle")
    encoder = MemoryEncoder(run / "model")
    orders = pools(data, 4, "oracle")
    questions = [data.queries[key].text for key in orders]
    read = [[data.documents[key].content for key in order[:2]] for order in orders.values()]
    for way, documents, most in (
        ("closed", [[] for _ in read], None),
        ("text", read, None),
        ("text-truncated", read, encoder.count),
    ):
        expected = encoder.answer(questions, documents, adapter=None, text_tokens=most)
        evaluation, ranking = found[way]
        assert evaluation.answers == dict(zip(orders, expected, strict=True))
        sizes = [sum(len(encoder.tokens(text, most)) for text in own) for own in documents]
        assert evaluation.cost["context_tokens"] == sum(sizes) / 4
        assert list(ranking) == ([] if way == "closed" else list(orders))
        assert [[key for key, _ in ranking[query]] for query in ranking] == ([*orders.values()] if ranking else [])
    truncated = found["text-truncated"][0].cost["context_tokens"]
    assert truncated is not None
    assert truncated <= 2 * encoder.count
    closed = found["closed"][0]
    assert "R@1" not in closed.measures
    assert closed.cost["index_bytes"] == 0
    text = found["text"][0]
    assert text.per_query["q0"]["R@1"] == text.per_query["q2"]["R@3"] == 1
    assert text.per_query["q2"]["R@1"] == 0.5


def test_closed_book_does_not_depend_on_the_documents(run: Path, data: Dataset) -> None:
    other = Dataset(dict.fromkeys(data.documents, data.documents["d5"]), data.queries, data.judgements, data.info)
    assert measured(run, data, "closed")["closed"][0].answers == measured(run, other, "closed")["closed"][0].answers


@pytest.mark.parametrize(
    ("way", "place"), [("stage1", "stages/compress"), ("stage2", "stages/instruct"), ("full-given", "model")]
)
def test_given_ways_read_the_pool_as_it_stands(run: Path, data: Dataset, way: str, place: str) -> None:
    evaluation, ranking = measured(run, data, way, pool="oracle")[way]
    encoder = MemoryEncoder(run / place)
    for query, order in pools(data, 4, "oracle").items():
        assert [key for key, _ in ranking[query]] == list(order)
        made = encoder.encode([data.documents[key].content for key in order[:2]], "document").values
        states = made.astype(np.float16).reshape(-1, encoder.count, encoder.dimension)
        assert evaluation.answers[query] == str(encoder.answer([data.queries[query].text], [list(states)])[0])


@pytest.mark.parametrize(
    ("way", "place"),
    [("stage1-ranked", "stages/compress"), ("stage2-ranked", "stages/instruct"), ("full", "model")],
)
def test_memory_ways_rank_the_pool_and_read_its_best(run: Path, data: Dataset, way: str, place: str) -> None:
    evaluation, ranking = measured(run, data, way, pool="oracle")[way]
    encoder = MemoryEncoder(run / place)
    orders = pools(data, 4, "oracle")
    for query, order in orders.items():
        text = data.queries[query].text
        memory = encoder.encode([data.documents[key].content for key in order], "document", order)
        rows = memory.values.astype(np.float16)
        stored = type(memory)(rows, memory.offsets, memory.ids)
        pairs = np.stack([np.zeros(len(order), int), np.arange(len(order))], 1)
        scores = aligned_rows(encoder.encode([text], "query"), stored, pairs).tolist()
        expected = sorted(zip(scores, order, strict=True), reverse=True)
        assert [key for key, _ in ranking[query]] == [key for _, key in expected]
        np.testing.assert_allclose([score for _, score in ranking[query]], [score for score, _ in expected], atol=1e-5)
        states = rows.reshape(len(order), encoder.count, encoder.dimension)
        best = [states[order.index(key)] for _, key in expected[:2]]
        assert evaluation.answers[query] == str(encoder.answer([text], [best])[0])
        gold = set(memory_runs.ASKED[query][2]) - {"d3"}
        hits = {key for _, key in expected[:3]} & gold
        assert evaluation.per_query[query]["R@3"] == len(hits) / len(gold)
    assert evaluation.fingerprints["model"] == encoder.fingerprint
    assert evaluation.cost["context_tokens"] == 2 * encoder.count
    assert evaluation.cost["index_bytes"] == 8 * encoder.count * encoder.dimension * 2
    assert (evaluation.dataset, evaluation.system) == ("beasts, oracle pool", f"clara, {way}")


def test_the_measures_are_those_of_the_answers(run: Path, data: Dataset) -> None:
    first = measured(run, data, "full")["full"][0]
    queries = {key: Query(key, q.text, (first.answers.get(key) or "x",)) for key, q in data.queries.items()}
    right = Dataset(data.documents, queries, data.judgements, data.info, data.folder)
    again = measured(run, right, "full")["full"][0]
    kept = [key for key in first.answers if first.answers[key]]
    assert kept
    assert all(again.per_query[key][name] == 1 for key in kept for name in ("CoverEM", "EM", "F1", "Contiguous"))


def test_answers_do_not_depend_on_the_batch(run: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ("text", "full", "random", "shuffled")
    whole = measured(run, data, *ways)
    again = measured(run, data, *ways)
    monkeypatch.setattr(_answer_ways, "_CHUNK", 1)
    monkeypatch.setattr(_answer_memory, "_BLOCK", 2)
    alone = measured(run, data, *ways)
    for way in ways:
        assert whole[way][0].answers == again[way][0].answers == alone[way][0].answers
        assert whole[way][0].per_query == again[way][0].per_query == alone[way][0].per_query


def test_documents_are_compressed_once(run: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(run, data, "full", pool="oracle")
    compressed = MemoryEncoder.encode

    def queries_alone(self: MemoryEncoder, texts: Sequence[str], side: Any = "document", ids: Any = None) -> Any:
        assert side == "query"
        return compressed(self, texts, side, ids)

    monkeypatch.setattr(MemoryEncoder, "encode", queries_alone)
    assert len(measured(run, data, "full", "random", "shuffled", pool="oracle")) == 3


# ---------------------------------------------------------------------------------------------------------- controls


def test_noise_has_the_moments_of_the_memory(run: Path, data: Dataset) -> None:
    asked = Questions.of(data, "test")
    pooled = PooledMemory("x", MemoryEncoder(run / "model"), data, asked, Pools(data, asked, 8, "normal"))
    keys = pooled.vectors.ids
    rows = np.stack([pooled.memory(key) for key in keys]).astype(np.float64)
    mean, deviation = pooled._moments
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation, rows.std(0), atol=1e-5)
    np.testing.assert_array_equal(pooled.noise(keys[0], 1), pooled.noise(keys[0], 1))
    assert (pooled.noise(keys[0], 1) != pooled.noise(keys[1], 1)).any()
    assert (pooled.noise(keys[0], 1) != pooled.noise(keys[0], 2)).any()
    drawn = np.stack([pooled.noise(keys[0], seed) for seed in range(2000)])
    np.testing.assert_allclose(drawn.mean(0), mean, atol=6 * deviation.max() / 2000**0.5)


def test_random_reads_noise_in_the_order_of_full(run: Path, data: Dataset) -> None:
    found = measured(run, data, "full", "random")
    assert found["full"][1] == found["random"][1]
    assert found["full"][0].cost["context_tokens"] == found["random"][0].cost["context_tokens"]
    assert found["full"][0].fingerprints["reading"] != found["random"][0].fingerprints["reading"]
    encoder, asked = MemoryEncoder(run / "model"), Questions.of(data, "test")
    pooled = PooledMemory("x", encoder, data, asked, Pools(data, asked, 4, "normal"))
    for query, ranking in found["random"][1].items():
        read = [pooled.noise(key) for key, _ in ranking[:2]]
        assert found["random"][0].answers[query] == str(encoder.answer([asked.texts[query]], [read])[0])


def test_shuffled_reads_what_full_reads_for_another_question(run: Path, data: Dataset) -> None:
    found = measured(run, data, "full", "shuffled", seed=3)
    full, shuffled = found["full"][1], found["shuffled"][1]
    orders = {query: [key for key, _ in ranking] for query, ranking in full.items()}
    for query, ranking in shuffled.items():
        order = [key for key, _ in ranking]
        assert order in [own for other, own in orders.items() if other != query]
        assert orders[query] != order or list(orders.values()).count(order) > 1
    with pytest.raises(InputError, match="one question cannot read"):
        measured(run, data, "shuffled", limit=1)


def test_donors_avoid_a_questions_own_gold() -> None:
    read = {"a": ["1", "2"], "b": ["1"], "c": ["3"]}
    assert donors(["a", "b", "c"], read, {"a": ["1"], "b": ["9"], "c": ["2"]}) == {"a": "c", "b": "c", "c": "b"}
    assert donors(["a", "b"], read, {"a": ["1"], "b": ["2"]}) == {"a": "b", "b": "a"}


# ------------------------------------------------------------------------------------------------ files and comparison


def test_ways_are_compared_with_text_and_saved_with_their_answers(run: Path, data: Dataset, tmp_path: Path) -> None:
    assert data.folder is not None
    plan = Plan(("full", "closed", "text"), pool="oracle", documents=2, candidates=4)
    found = answer_datasets(str(run), [data.folder], plan, out=tmp_path / "out", run=tmp_path / "runs")
    assert [each.system for each in found.evaluations] == ["clara, full", "clara, closed", "clara, text"]
    assert (found.comparison.baseline, found.comparison.measure) == ("clara, text", "CoverEM")
    assert len(found.comparison.pairs) == 3
    loaded = {path.stem: Evaluation.load(path) for path in (tmp_path / "out").glob("*.json")}
    assert loaded["clara,_full"] == found.evaluations[0]
    assert loaded["clara,_full"].answers.keys() == {"q0", "q1", "q2", "q4"}
    assert len(list((tmp_path / "runs").glob("*.trec"))) == 3
    page = answers_page(found)
    for words in (
        "CoverEM",
        "R@5",
        "context tokens",
        "tokens of context a question",
        "milliseconds a query",
        "clara, full",
    ):
        assert words in page


def test_one_way_gives_one_file(run: Path, data: Dataset, tmp_path: Path) -> None:
    assert data.folder is not None
    plan = Plan(("full",), documents=2, limit=3)
    found = answer_datasets(str(run / "model"), [data.folder], plan, out=tmp_path / "a.json", run=tmp_path / "a.trec")
    assert found.comparison.pairs == ()
    assert Evaluation.load(tmp_path / "a.json") == found.evaluations[0]
    assert found.evaluations[0].queries == 3
    assert len(Run.load(tmp_path / "a.trec")) == 3
    assert "model, full" in answers_page(found)


# ------------------------------------------------------------------------------------------------------------- refused


def test_stages_are_found_and_missing_ones_refused(run: Path, data: Dataset, tmp_path: Path) -> None:
    two = memory_runs.run(tmp_path / "two", ["compress"])
    found = measured(two, data, "stage2-ranked", "full", limit=2)
    assert found["stage2-ranked"][0].answers == found["full"][0].answers
    one = memory_runs.run(tmp_path / "one", [])
    with pytest.raises(ConfigError, match=r"one has one stage, and stage 2 is asked for"):
        measured(one, data, "stage2")
    assert measured(one, data, "stage1", limit=2)["stage1"][0].queries == 2
    with pytest.raises(ConfigError, match="is one model"):
        measured(run / "model", data, "stage1")


def test_weights_that_training_did_not_write_are_refused(run: Path, data: Dataset, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    shutil.rmtree(other / "stages" / "compress")
    shutil.copytree(run / "model", other / "stages" / "compress")  # whole, and of another stage
    with pytest.raises(IntegrityError, match="SHA-256"):
        measured(other, data, "stage1")
    assert measured(other, data, "full", limit=2)
    shutil.rmtree(other / "model")
    shutil.copytree(run / "stages" / "instruct", other / "model")
    with pytest.raises(IntegrityError, match="SHA-256"):
        measured(other, data, "full")
    for part in ("model", "stages/compress"):
        with pytest.raises(IntegrityError, match="SHA-256"):
            measured(other / part, data, "full")
    write_json(other / "manifest.json", {"stage_files": read_object(run / "manifest.json")["stage_files"]})
    with pytest.raises(InputError, match="not finished"):
        measured(other, data, "full")


@pytest.mark.parametrize("stages", [None, ["compress"], {"../stages/compress": {}}])
def test_a_manifest_whose_stages_are_damaged(stages: Any, run: Path, data: Dataset, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    write_json(other / "manifest.json", read_object(run / "manifest.json") | {"stage_files": stages})
    with pytest.raises(IntegrityError, match="no list of stages"):
        measured(other, data, "stage1")


def test_no_memory_model(data: Dataset, tmp_path: Path) -> None:
    plain = tiny_models.build(tmp_path / "plain")
    with pytest.raises(InputError, match="is no memory model"):
        measured(plain, data, "full")
    with pytest.raises(InputError, match="is no memory model"):
        measured(plain, data, "text")


def test_no_answers_or_empty_ones(run: Path, data: Dataset) -> None:
    def answered(*answers: str) -> Dataset:
        queries = {key: Query(key, query.text, answers) for key, query in data.queries.items()}
        return Dataset(data.documents, queries, data.judgements, data.info, data.folder)

    with pytest.raises(InputError, match="no judged query of test has an answer"):
        measured(run, answered(), "full")
    with pytest.raises(InputError, match="no judged query of test has an answer"):
        measured(run, answered("the .", "…"), "full")
    (found, _) = measured(run, answered("apples", "the ."), "closed")["closed"]
    assert found.queries == len(data.queries)


def test_fewer_documents_than_are_read(run: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="beasts has 8 documents, and a question is to read 9"):
        list(answer_dataset(str(run), data, Plan(documents=9)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": ("fll",)}, "fll"),
        ({"ways": ()}, "no way to answer is named"),
        ({"ways": ("full", "full")}, "does not name each way once"),
        ({"pool": "orcale"}, "orcale"),
        ({"documents": 0}, "documents is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"documents": 21}, "21 documents cannot be read of 20 candidates"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_plan_is_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**settings)

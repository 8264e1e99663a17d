"""`lode data mine`, end to end: every kind of system, resumption, reports."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import tiny_cross
from command_line import lode
from lodesmith.core.columns import Column
from lodesmith.core.errors import BusyError, ConfigError, InputError
from lodesmith.core.files import locked
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.mine import Miner
from lodesmith.recipes import mining
from lodesmith.recipes.mining import Rules, mine_dataset, mining_text
from lodesmith.recipes.scoring import scored
from lodesmith.recipes.systems import Resolver, System, _parts
from lodesmith.testing import tiny_dataset

ANY = Rules(3, relative=None)


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross.build(tmp_path_factory.mktemp("cross") / "cross+model")


def test_a_column_of_negatives(folder: Path) -> None:
    info = mine_dataset(folder, "bm25", rules=ANY)
    column, dataset = Column.load(folder, "negatives"), Dataset.load(folder)
    assert column.info == info
    assert list(column.rows) == list(dataset.queries_of("train"))
    run = Resolver(dataset).resolve("bm25").retriever.search({k: q.text for k, q in dataset.queries.items()}, 50)
    for query in column.rows:
        row = column.one(query)
        assert row is not None
        same = [key for key, other in dataset.queries.items() if other.text == dataset.queries[query].text]
        known = {d for key in same for d in dataset.split("train").get(key, {})}
        expected = [hit for hit in run[query] if hit[0] not in known][:3]
        assert row["ids"] == [key for key, _ in expected]
        np.testing.assert_allclose(row["scores"], [score for _, score in expected], rtol=1e-6)
    assert info["counts"]["kept"] == sum(len(row[0]["ids"]) for row in column.rows.values()) > 30
    assert info["made_by"]["rules"]["negatives"] == 3


@pytest.mark.parametrize("spelling", ["random", "MODEL", "bm25+MODEL", "bm25+rerank:CROSS", "run.trec", "INDEX"])
def test_any_system_mines(spelling: str, folder: Path, tiny_model: Path, cross: Path, tmp_path: Path) -> None:
    spelling = spelling.replace("MODEL", str(tiny_model)).replace("CROSS", str(cross))
    if spelling == "run.trec":
        dataset = Dataset.load(folder)
        queries = {key: query.text for key, query in dataset.queries.items()}
        spelling = str(tmp_path / "run.trec")
        Resolver(dataset).resolve("random").retriever.search(queries, 9).save(spelling)
    if spelling == "INDEX":
        from lodesmith.recipes.storing import build_index

        spelling = str(tmp_path / "index")
        build_index(str(tiny_model), folder, Path(spelling))
    info = mine_dataset(folder, spelling, rules=ANY)
    assert info["counts"]["rows"] == info["counts"]["done"] == 20
    assert info["counts"]["kept"] > 20
    judged = Dataset.load(folder).judgements["train"]
    for query, rows in Column.load(folder, "negatives").rows.items():
        assert not set(rows[0]["ids"]) & set(judged[query])


def test_limit_split_and_name(folder: Path) -> None:
    info = mine_dataset(folder, "random", split="dev", limit=4, rules=ANY, name="easy")
    assert info["counts"]["done"] == 4
    assert list(Column.load(folder, "easy").rows) == list(Dataset.load(folder).queries_of("dev"))[:4]


def test_what_is_finished_is_not_made_again_unless_something_changed(folder: Path) -> None:
    first = mine_dataset(folder, "bm25", rules=ANY)
    assert mine_dataset(folder, "bm25", rules=ANY) == first
    assert mine_dataset(folder, "bm25", rules=Rules(2, relative=None))["fingerprint"] != first["fingerprint"]
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    assert mine_dataset(folder, "bm25", rules=ANY)["fingerprint"] != first["fingerprint"]


def killed_in_batch(number: int, folder: Path, rules: Rules) -> bool:
    """Mine in a process that is killed when it begins its n-th batch; whether it came to that."""
    if child := os.fork():
        return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    try:
        begun = 0
        real = Miner.mine

        def mine(self: Miner, queries: Mapping[str, str]) -> object:
            nonlocal begun
            begun += 1
            if begun == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, queries)

        Miner.mine = mine  # type: ignore[method-assign, assignment]
        mine_dataset(folder, "bm25", rules=rules)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_killed_miner_goes_on_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "_BATCH", 4)
    rules = Rules(3, relative=None, sampling="random")
    whole = tiny_dataset().save(tmp_path / "whole")
    mine_dataset(whole, "bm25", rules=rules)
    assert killed_in_batch(4, folder, rules)
    assert not (folder / "columns/negatives.jsonl").exists()
    info = mine_dataset(folder, "bm25", rules=rules)
    assert info["mined_now"] == 20 - 12
    assert (folder / "columns/negatives.jsonl").read_bytes() == (whole / "columns/negatives.jsonl").read_bytes()
    assert info["counts"] == mine_dataset(whole, "bm25", rules=rules)["counts"]


def test_two_at_a_time_are_refused(folder: Path) -> None:
    with locked(folder / "columns" / ".negatives.work"), pytest.raises(BusyError):
        mine_dataset(folder, "random", rules=ANY)


def exact(system: System, queries: dict[str, str], keys: list[str]) -> None:
    """The scores of pairs are those of the system's own ranking."""
    retriever, score = scored(system)
    assert score is not None
    run = retriever.search(queries, len(keys))
    found = score(queries, dict.fromkeys(queries, keys))
    for query in queries:
        ranked = dict(run[query])
        for key in keys:
            assert found[query][key] == pytest.approx(ranked.get(key, 0.0), abs=1e-5)
        assert max(found[query].values()) != min(found[query].values())


@pytest.mark.parametrize("spelling", ["bm25", "MODEL", "bm25+rerank:CROSS"])
def test_pairs_are_scored_as_a_search_does(spelling: str, folder: Path, tiny_model: Path, cross: Path) -> None:
    dataset = Dataset.load(folder)
    spelling = spelling.replace("MODEL", str(tiny_model)).replace("CROSS", str(cross))
    system = Resolver(dataset).resolve(spelling)
    queries = {key: query.text for key, query in list(dataset.queries.items())[:3]}
    if "rerank" in spelling:
        retriever, score = scored(system)
        assert score is not None
        for query, ranking in retriever.search(queries, 50).items():
            found = score(queries, {query: [key for key, _ in ranking]})[query]
            assert list(found.values()) == pytest.approx([value for _, value in ranking], abs=1e-5)
    else:
        exact(system, queries, list(dataset.documents))


def test_euclidean_and_passages_are_scored_as_they_are_searched(folder: Path) -> None:
    from lodesmith.indexes.flat import Flat
    from lodesmith.recipes.scoring import vector_scores
    from lodesmith.testing import HashEncoder

    encoder, dataset = HashEncoder(16), Dataset.load(folder)
    encoder.metric = "euclidean"
    texts = [document.text for document in dataset.documents.values()]
    rows = encoder.encode(texts)
    ragged = type(rows)(rows.values, np.arange(0, 41, 2), tuple(list(dataset.documents)[:20]))
    index = Flat("euclidean")
    index.add(ragged)
    run = index.search(encoder.encode(["cat apples"], "query", ["q"]), 20)
    keys = [key for key, _ in run["q"]]
    found = vector_scores(encoder, ragged)({"q": "cat apples"}, {"q": keys, "none": []})
    assert list(found["q"].values()) == [score for _, score in run["q"]]
    assert found["none"] == {}


def test_a_fused_system_does_not_score_pairs(folder: Path) -> None:
    assert scored(Resolver(Dataset.load(folder)).resolve("bm25+random"))[1] is None


def test_queries_are_encoded_once(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lodesmith.encoders.transformer import TransformerEncoder

    asked: list[str] = []
    real = TransformerEncoder.encode

    def encode(self: TransformerEncoder, texts: list[str], side: str = "document", ids: object = None) -> object:
        if side == "query":
            asked.extend(texts)
        return real(self, texts, side, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformerEncoder, "encode", encode)
    mine_dataset(folder, str(tiny_model), rules=Rules(1, 1, 1, relative=0.9))
    assert sorted(asked) == sorted(query.text for query in Dataset.load(folder).queries_of("train").values())


def test_the_filter_is_part_of_what_made_it(folder: Path, cross: Path) -> None:
    rules = Rules(2, relative=0.9)
    plain = mine_dataset(folder, "bm25", rules=rules)
    filtered = mine_dataset(folder, "bm25", rules=rules, judge=str(cross))
    assert filtered["fingerprint"] != plain["fingerprint"]
    assert filtered["counts"]["filtered"] > 0
    assert "margin-relative" not in filtered["counts"]
    with pytest.raises(ConfigError, match="by a margin"):
        mine_dataset(folder, "bm25", rules=ANY, judge=str(cross))


def test_rerank_takes_what_stands_before_it(folder: Path, cross: Path, tiny_model: Path) -> None:
    dataset = Dataset.load(folder)
    resolver = Resolver(dataset)
    system = resolver.resolve(f"bm25+{tiny_model}+rerank:7:{cross}")
    assert system.name == "bm25+model+rerank:7:cross+model"
    assert system.cost["rerank_depth"] == 7
    parts = [resolver.resolve(name) for name in ("bm25", str(tiny_model))]
    encoder = resolver._encoders[str(cross)]
    assert system.cost["parameters"] == encoder.parameters + parts[1].cost["parameters"]  # type: ignore[operator]
    assert encoder.fingerprint in system.fingerprints.values()
    fused = resolver.resolve(f"bm25+{tiny_model}").retriever.search({"q": "cat apples"}, 7)
    run = system.retriever.search({"q": "cat apples"}, 100)
    assert {key for key, _ in run["q"]} == {key for key, _ in fused["q"]}
    scores = encoder.score([("cat apples", dataset.documents[key].content) for key, _ in run["q"]])
    assert [score for _, score in run["q"]] == pytest.approx(scores.tolist(), abs=1e-5)
    mixed = resolver.resolve(f"bm25+rerank:{cross}+random")
    assert mixed.name == "bm25+rerank:cross+model+random"
    assert len(mixed.retriever.search({"q": "cat apples"}, 40)["q"]) == 40
    assert resolver.resolve(f"bm25+rerank:{cross}").fingerprints != system.fingerprints


def test_parts_keep_paths_whole(cross: Path) -> None:
    assert _parts(f"bm25+rerank:{cross}+random") == ["bm25", f"rerank:{cross}", "random"]
    assert _parts(f"bm25+rerank:20:{cross}") == ["bm25", f"rerank:20:{cross}"]
    assert _parts("a+rerank:b+c") == ["a", "rerank:b", "c"]


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("rerank:CROSS", "nothing to re-rank"),
        ("rerank:CROSS+bm25", "nothing to re-rank"),
        ("bm25+rerank:./nowhere", "no such model folder"),
        ("bm25+rerank:MODEL", "is no cross-encoder"),
        ("bm25+rerank:", "names no cross-encoder"),
    ],
)
def test_rerank_errors_are_typed(spelling: str, words: str, folder: Path, cross: Path, tiny_model: Path) -> None:
    spelling = spelling.replace("CROSS", str(cross)).replace("MODEL", str(tiny_model))
    with pytest.raises(InputError, match=words):
        Resolver(Dataset.load(folder)).resolve(spelling)


def test_rerank_is_evaluated_and_compared(
    capsys: pytest.CaptureFixture[str], folder: Path, cross: Path, tmp_path: Path
) -> None:
    for name, system in (("a", "bm25"), ("b", f"bm25+rerank:{cross}")):
        assert lode(capsys, "evaluate", system, folder, "--out", tmp_path / f"{name}.json")[0] == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["system"] == "bm25+rerank:cross+model"
    assert found["cost"]["query_ms_p50"] > 0
    assert found["cost"]["parameters"] > 10_000
    code, out, _ = lode(capsys, "compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert code == 0
    assert {"bm25", "bm25+rerank:cross+model"} == set(json.loads(out)["systems"])


def test_the_verb(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ("data", "mine", folder, "--with", "bm25", "--negatives", "2", "--ranks", "1-20")
    code, out, _ = lode(capsys, *arguments, "--margin-relative", "0", "--json")
    assert code == 0
    info = json.loads(out)
    assert info["made_by"]["rules"]["relative"] is None
    assert info["made_by"]["rules"]["last"] == 20
    code, out, _ = lode(capsys, *arguments, "--sampling", "random", "--seed", "3")
    assert code == 0
    assert f"{json.loads((folder / 'columns/negatives.meta.json').read_text())['counts']['kept']} negatives" in out
    assert "not needed: there were enough" in out


def test_the_report_accounts_for_every_candidate() -> None:
    counts = {"candidates": 1000, "kept": 70, "not-needed": 900, "margin-relative": 30, "rows": 10, "judged-0": 4}
    rules = {"negatives": 7, "first": 1, "last": 100}
    made_by = {"rules": rules, "split": "train", "system": "bm25"}
    info = {"column": "negatives", "counts": counts | {"short": 3}, "made_by": made_by, "seconds": 1.25}
    text = mining_text(info)
    assert "70 negatives for 10 queries of train, mined with bm25 in 1.2 s" in text
    assert "30    3.0%  too near" in text
    assert "4 negatives kept that were judged not relevant" in text
    assert "3 queries with fewer than 7 negatives" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--with", "nothing-of-this-name"),
        ("--with", "bm25", "--split", "nowhere"),
        ("--with", "bm25", "--ranks", "ten"),
        ("--with", "bm25", "--ranks", "5-2"),
        ("--with", "bm25", "--ranks", "1-3"),
        ("--with", "bm25", "--name", "../queries"),
        ("--with", "bm25", "--filter", "nowhere"),
        ("--with", "bm25", "--sampling", "best"),
        (),
    ],
)
def test_wrong_options_exit_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = lode(capsys, "data", "mine", folder, *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert not (folder / "columns").exists() or not list((folder / "columns").glob("*.jsonl"))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    dataset = Dataset.of([Document("d", "", "x")], [Query("q", "x")], {"train": {}})
    with pytest.raises(InputError, match="has no queries"):
        mine_dataset(dataset.save(tmp_path / "empty"), "bm25")

"""Examples out of queries and columns, without a leak, and the documents that they are asked among."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reading_worlds import column, saved

from lodesmith.core.columns import Column
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.joined import join
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.check import check
from lodesmith.data.importing import import_paths
from lodesmith.data.questions import INSTRUCTION
from lodesmith.data.supervision import INSTRUCTION_REPEAT, Example, examples, pools


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return saved(tmp_path_factory.mktemp("reading") / "world")


def test_the_examples_of_training(dataset: Dataset) -> None:
    found = examples(dataset, "train")
    assert found == [
        Example("simple", "What is 0?", ("answer 0", "Answer  0!"), ("d0",), "q0"),  # judged, and in the column
        Example("qa", "What is 1?", ("answer 1", "Answer  1!"), ("d1", "d2"), "q1"),
        Example("qa", "What is 2?", ("answer 2", "Answer  2!"), ("d3",), "q2"),
        Example("qa", "What is 5?", ("answer 5", "Answer  5!"), ("d5",), "q5"),
        Example("qa", "Which?", ("this",), (), "none"),
        Example("paraphrase", INSTRUCTION, ("a text, in other words",), ("d1",)),
        Example("cloze", "Of no judged document?", ("yes",), ("d20",)),
    ]
    assert [example.alone for example in found] == [False] * 5 + [True, False]


def test_another_split_has_its_judged_queries_alone(dataset: Dataset) -> None:
    assert [example.query for example in examples(dataset, "test")] == ["q6", "q7", "q8"]
    trained = examples(dataset, "test", training=True)
    assert [example.question for example in trained[3:]] == ["Of a test document?", "Of no judged document?"]


def test_kinds_are_chosen(dataset: Dataset) -> None:
    kinds = Counter(example.kind for example in examples(dataset, "train", ["simple", "paraphrase"]))
    assert kinds == {"simple": 1, "paraphrase": 1}
    plain = examples(dataset, "train", ["autoencode", "language"])
    assert Counter(example.kind for example in plain) == {"autoencode": 28, "language": 28}  # not d6, d7
    assert plain[0] == Example("autoencode", INSTRUCTION_REPEAT, ("title0 text 0",), ("d0",))
    assert plain[-1] == Example("language", "", ("title29 text 29",))
    assert not {"d6", "d7"} & {document for example in plain for document in example.relevant}
    with pytest.raises(ConfigError, match=r"'paraphrases'\ndid you mean 'paraphrase'"):
        examples(dataset, "train", ["paraphrases"])
    with pytest.raises(InputError, match=r"train has no example of these kinds\nit has: cloze 1, paraphrase 1, qa 4"):
        examples(dataset, "train", ["complex"])


def test_joined_datasets_have_each_its_columns(tmp_path: Path, dataset: Dataset) -> None:
    other = saved(tmp_path / "other")
    both = join([dataset, other])
    found = examples(both, "train")
    assert len(found) == 14
    asked = next(example for example in found if example.query == "other/q1")
    assert asked.relevant == ("other/d1", "other/d2")
    assert found[-1].relevant == ("other/d20",)
    pool = pools(both, [asked], 6)[0]
    assert pool[:5] == ("other/d1", "other/d2", "other/d10", "other/d11", "other/d12")
    assert pool[5] in both.documents


def test_a_dataset_without_judgements_has_its_column(tmp_path: Path) -> None:
    folder = Dataset.of([Document("a", "", "text")]).save(tmp_path / "plain")
    with pytest.raises(InputError, match=r"no example of train has an answer\n.*lode data questions DIR --with cloze"):
        examples(Dataset.load(folder), "train")
    column(folder, "questions", "document", {"a": [{"question": "What?", "answers": ["text"], "kind": "simple"}]})
    assert examples(Dataset.load(folder), "train") == [Example("simple", "What?", ("text",), ("a",))]
    with pytest.raises(InputError, match="no split 'dev'"):
        examples(Dataset.load(folder), "dev")


def test_a_misspelt_split_is_refused(dataset: Dataset) -> None:
    for training in (None, True):
        with pytest.raises(InputError, match="no split 'trian'"):
            examples(dataset, "trian", training=training)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answers": ["x"], "kind": "simple"}, r"questions.jsonl:1: .*'question' must be a text, not None"),
        ({"question": "What?", "answers": [3], "kind": "simple"}, r":1: .*'answers' must be a list"),
        ({"question": "What?", "kind": "simple"}, r":1: .*'answers' must be a list of texts, not None"),
        ({"question": "What?", "answers": ["x"], "kind": 5}, "'kind' must be a text, not 5"),
    ],
)
def test_rows_that_are_no_questions_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    folder = Dataset.of([Document("a", "", "text")]).save(tmp_path / "plain")
    column(folder, "questions", "document", {"a": [row]})
    with pytest.raises(InputError, match=said):
        examples(Dataset.load(folder), "train")


def test_columns_of_the_other_side_and_unknown_documents_are_refused(tmp_path: Path) -> None:
    queries = [Query("q", "What?", ("x",))]
    lost = Dataset.of([Document("a", "", "text")], queries, {"train": {"q": {"b": 1}}})
    with pytest.raises(InputError, match="gold document 'b' is not in the corpus"):
        examples(lost, "train")
    folder = Dataset.of([Document("a", "", "text")], queries, {"train": {"q": {"a": 1}}}).save(tmp_path / "plain")
    column(folder, "candidates", "query", {"q": [{"ids": ["c"]}]})
    dataset = Dataset.load(folder)
    with pytest.raises(InputError, match="document 'c' is not in the corpus"):
        pools(dataset, examples(dataset, "train"), 3)
    column(folder, "questions", "query", {"q": [{"question": "What?", "answers": ["x"]}]})
    with pytest.raises(InputError, match="belong to a query, not to a document"):
        examples(dataset, "train")
    (folder / "columns" / "questions.jsonl").write_text("")  # no row says whose they would be
    assert [example.question for example in examples(dataset, "train")] == ["What?"]


def test_pools_begin_with_gold_then_candidates_then_negatives_then_any(dataset: Dataset) -> None:
    found = examples(dataset, "train")
    made = pools(dataset, found, 8, seed=3)
    assert made[0][:2] == ("d0", "d13")
    assert made[1][:5] == ("d1", "d2", "d10", "d11", "d12")
    assert made[5] == ("d1",)  # a paraphrase
    for example, pool in zip(found, made, strict=True):
        assert len(set(pool)) == len(pool) == (1 if example.alone else 8)
    assert made == pools(dataset, found, 8, seed=3)
    assert made != pools(dataset, found, 8, seed=4)
    assert [pool[:4] for pool in pools(dataset, found, 4)][1] == ("d1", "d2", "d10", "d11")
    assert pools(dataset, found, 1)[1] == ("d1",)
    assert sorted(pools(dataset, found, 100)[2]) == sorted(dataset.documents)
    assert made[2][1:] != made[3][1:]
    with pytest.raises(ConfigError, match="0 documents"):
        pools(dataset, found, 0)


def test_random_documents_are_drawn_evenly() -> None:
    dataset = Dataset.of([Document(f"d{i}", "", "x") for i in range(12)])
    asked = [Example("qa", f"{i}?", ("x",), ("d0",)) for i in range(2000)]
    drawn = Counter(key for pool in pools(dataset, asked, 3) for key in pool[1:])
    assert "d0" not in drawn
    assert min(drawn.values()) > 300
    assert max(drawn.values()) < 430


@pytest.mark.data
def test_the_published_rows_of_clara_give_each_question_once(collections: Path, tmp_path: Path) -> None:
    import_paths([collections / "text" / "clara_pretrain_sample.jsonl.gz"], tmp_path / "clara")
    dataset = Dataset.load(tmp_path / "clara")
    found = examples(dataset, "train")
    rows = sum(map(len, Column.load(tmp_path / "clara", "questions").rows.values()))
    assert Counter(example.kind for example in found) == {"qa": len(dataset.judgements["train"])}
    assert rows > 0.9 * len(found)  # they are judged, and in the column too


@pytest.mark.parametrize("row", [{"ids": "17"}, {"ids": [1, 7]}, {}])
@pytest.mark.parametrize("name", ["candidates", "negatives"])
def test_ids_that_are_no_list_are_refused_with_their_line(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    """A text would give a document for each of its letters."""
    documents = [Document(str(at), "", f"text {at}") for at in range(20)]
    folder = Dataset.of(documents, [Query("q", "What?", ("x",))], {"train": {"q": {"3": 1}}}).save(tmp_path / "plain")
    column(folder, name, "query", {"q": [row]})
    dataset = Dataset.load(folder)
    with pytest.raises(InputError, match=rf"{name}.jsonl:1: .*'ids' must be a list of ids"):
        pools(dataset, [Example("qa", "What?", ("x",), ("3",), "q")], 4)
    assert "bad-field" in check(folder).to_text()

"""Queries made from documents alone: what is taken out, of which documents, and what stays hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.pseudo_queries import FEWEST_REST, Overlaid, pseudo_queries

COLOURS = ["red", "green", "blue", "amber", "violet", "ivory", "scarlet", "teal", "umber", "olive"]
METALS = ["iron", "copper", "silver", "nickel", "cobalt", "zinc", "lead", "platinum", "titanium", "chromium"]


def document(number: int, title: str | None = None) -> Document:
    colour, metal = COLOURS[number % 10], METALS[number // 10 % 10]
    text = (
        f"The {colour} alloy of {metal} was found in mine {'abcdefghij'[number % 10] * 3}. "
        f"Workers heated the {metal} until it turned {colour} in the old furnace. "
        f"Nobody knows how {metal} and {colour} pigments were bound together there. "
        f"Later the {colour} finish of the {metal} was sold in distant markets."
    )
    return Document(f"d{number}", title if title is not None else f"Notes about {colour} {metal} making", text)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.of(document(number) for number in range(80))


def test_both_splits_ask_for_one_document_each_and_share_none(dataset: Dataset) -> None:
    made = pseudo_queries(dataset, held_out=10)
    judged = {split: [next(iter(found)) for found in own.values()] for split, own in made.judgements.items()}
    assert set(judged) == {"train", "dev"}
    assert all(found == {key: 1} for own in made.judgements.values() for found in own.values() for key in found)
    assert not set(judged["train"]) & set(judged["dev"])
    assert len(judged["dev"]) == len(set(judged["dev"])) == 20
    assert made.info["pseudo_queries"]["dev"] == {"sentence": 10, "title": 10}
    assert set(made.queries) == {key for own in made.judgements.values() for key in own}


def test_held_out_documents_lose_their_query_and_no_other_document_changes(dataset: Dataset) -> None:
    made = pseudo_queries(dataset, held_out=10)
    changed = {}
    for name, found in made.judgements["dev"].items():
        (key,) = found
        assert made.queries[name].text in dataset.documents[key].content
        assert made.queries[name].text not in made.documents[key].content
        changed[key] = True
    assert list(made.documents) == list(dataset.documents)
    assert all(made.documents[key] == dataset.documents[key] for key in made.documents if key not in changed)


def test_a_document_is_asked_for_by_a_sentence_of_its_text_or_its_title(dataset: Dataset) -> None:
    made = pseudo_queries(dataset, trained=["sentence", "title"], limit=None)
    for name, found in made.judgements["train"].items():
        (key,) = found
        kind, asked = name.split(":")[1], dataset.documents[key]
        assert made.queries[name].text == asked.title if kind == "title" else made.queries[name].text in asked.text
    assert len(made.judgements["train"]) == 2 * (80 - len(made.judgements["dev"]))


def test_the_same_seed_makes_the_same_queries_and_another_makes_others(dataset: Dataset) -> None:
    first, again, other = (pseudo_queries(dataset, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert {q.text for q in first.queries.values()} != {q.text for q in other.queries.values()}


def test_what_is_trained_on_may_be_another_kind_than_what_chooses(dataset: Dataset) -> None:
    made = pseudo_queries(dataset, ["title"], trained=["sentence"], limit=None)
    assert made.info["pseudo_queries"] == {"train": {"sentence": 70}, "dev": {"title": 10}}


def test_labels_are_not_looked_at(dataset: Dataset) -> None:
    labelled = replace(
        dataset, queries={"q": Query("q", "which metal is red?")}, judgements={"train": {"q": {"d1": 1}}}
    )
    assert pseudo_queries(labelled).fingerprint == pseudo_queries(dataset).fingerprint


def test_copies_and_shared_titles_make_no_query() -> None:
    own = [document(number) for number in range(40)]
    copies = [replace(own[0], id="copy"), replace(own[1], id="other copy")]
    shared = [document(number, "The same title everywhere") for number in range(40, 60)]
    made = pseudo_queries(Dataset.of([*own, *copies, *shared]), limit=None)
    asked = {key for judged in made.judgements.values() for found in judged.values() for key in found}
    assert not asked & {"d0", "d1", "copy", "other copy"}
    assert "The same title everywhere" not in {query.text for query in made.queries.values()}
    assert asked & {d.id for d in shared}  # by their sentences


def test_a_title_that_the_text_repeats_is_no_query() -> None:
    repeated = [replace(d, text=f"{d.title}. {d.text}") for d in (document(number) for number in range(30))]
    made = pseudo_queries(Dataset.of(repeated), ["title", "sentence"])
    assert all(":sentence:" in name for name in made.queries)


def test_of_a_passage_s_title_the_last_heading_asks(dataset: Dataset) -> None:
    headed = [replace(d, title=f"Handbook — {d.title}") for d in dataset.documents.values()]
    made = pseudo_queries(Dataset.of(headed), ["title"])
    name, found = next(iter(made.judgements["dev"].items()))
    (key,) = found
    assert made.queries[name].text == dataset.documents[key].title
    assert made.documents[key].title == "Handbook"


def test_a_key_phrase_is_of_rare_words_that_others_have_too(dataset: Dataset) -> None:
    unique = replace(document(7), id="x", text=document(7).text.replace("Workers", "Zymurgists"))
    made = pseudo_queries(Dataset.of([*dataset.documents.values(), unique]), ["phrase"], trained=["phrase"], limit=None)
    texts = [query.text for query in made.queries.values()]
    assert all(3 <= len(text.split()) <= 4 for text in texts)
    assert not any("zymurgists" in text for text in texts)
    for text in texts:  # a word of every document is no key; a metal and a colour stand in few
        assert len(set(text.split()) & {*COLOURS, *METALS}) >= 1


def test_the_number_of_queries_is_limited(dataset: Dataset) -> None:
    made = pseudo_queries(dataset, held_out=3, limit=25)
    assert len(made.judgements["train"]) == 25
    assert len(made.judgements["dev"]) == 6
    small = pseudo_queries(dataset, held_out=1000)
    assert max(small.info["pseudo_queries"]["dev"].values()) == 10  # an eighth of the documents


def test_what_is_left_of_a_document_is_long_enough(dataset: Dataset) -> None:
    short = [Document(f"s{n}", "", f"A short sentence with number words {'xyz'[n % 3]}. Another.") for n in range(30)]
    made = pseudo_queries(Dataset.of([*dataset.documents.values(), *short]), limit=None)
    assert not any(key.startswith("s") for own in made.judgements.values() for found in own.values() for key in found)
    assert all(
        len(made.documents[key].text.split()) >= FEWEST_REST
        for found in made.judgements["dev"].values()
        for key in found
    )


@pytest.mark.parametrize("joint", [" . ", " "])
def test_texts_without_capitals_or_stops_are_cut_too(joint: str) -> None:
    words = [f"{colour}{metal}" for colour in COLOURS for metal in METALS]
    texts = [
        joint.join(" ".join(words[(7 * n + 9 * m + k) % 100] for k in range(9)) for m in range(4)) for n in range(40)
    ]
    made = pseudo_queries(Dataset.of(Document(f"d{n}", "", text) for n, text in enumerate(texts)), ["sentence"])
    lengths = {len(query.text.strip(" .").split()) for query in made.queries.values()}
    assert lengths <= ({9} if "." in joint else {12})


@pytest.mark.parametrize("texts", [[], ["word"] * 5, ["one two", "three four"]])
def test_documents_that_make_no_query_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="too few or too short"):
        pseudo_queries(Dataset.of(Document(str(n), "", text) for n, text in enumerate(texts)))


def test_an_unknown_kind_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="'spam'"):
        pseudo_queries(dataset, ["spam"])  # type: ignore[list-item]


def test_a_table_is_read_where_it_lies(dataset: Dataset) -> None:
    changed = Document("d3", "", "other")
    table = Overlaid(dataset.documents, {"d3": changed})
    assert len(table) == len(dataset.documents)
    assert table["d3"] is changed
    assert table["d4"] is dataset.documents["d4"]
    with pytest.raises(KeyError):
        table["nothing"]

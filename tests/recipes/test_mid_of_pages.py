"""A page model that mimics the attention of another, which has other patches and other tokens."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch

import tiny_pages
from lodesmith.core import events
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.records import Dataset, Document, PageImage, Query
from lodesmith.encoders._page_layout import Layout
from lodesmith.encoders.patches import PageEncoder, PageTower
from lodesmith.objectives.mid import Mid
from lodesmith.recipes.interactions import Interactions
from lodesmith.recipes.page_interactions import PageInteractions, _cells, _grid, page_interactions
from lodesmith.recipes.systems import load_encoder
from lodesmith.recipes.train import Training, forecast, plan

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore:.*")]

SOFTNESS, T = 0.12, 2.0
QUERIES = ["cat", "the dog . owl", "moon cat"]
PALI, QWEN, IDEFICS = "ColPaliForRetrieval", "ColQwen2ForRetrieval", "ColIdefics3"


@pytest.fixture
def pages(tmp_path: Path) -> list[PageImage]:
    return [PageImage(tiny_pages.page(tmp_path / f"drawn/{n}.png", n, (56, 56))) for n in range(3)]


def model(tmp_path: Path, kind: str, seed: int = 0) -> PageEncoder:
    folder = tmp_path / f"{kind}-{seed}"
    return PageEncoder(folder if folder.exists() else tiny_pages.build(folder, kind, seed))


# --------------------------------------------------------------------------------------------------- the whole formula


def by_hand(
    teacher: PageEncoder, student: PageEncoder, pair: tuple[str, PageImage], grid: int, top: int
) -> list[float]:
    """T² · KL of each word of a query, cell by cell of a square grid, and patch by patch."""
    query, page = pair
    shares = []
    for side in (teacher, student):
        asked, found, place = side.encode([query], "query").values, side.encode([page]).values, side.layout(page)
        labels = side.labels(query, "query")
        at = [labels.index(word) for word in query.split()]
        rows = np.zeros((len(at), grid * grid))
        for token, box in zip(place.tokens, place.boxes, strict=True):
            (cell,) = (
                row * grid + column
                for row in range(grid)
                for column in range(grid)
                if box[0] >= column / grid - 1e-9 and box[2] <= (column + 1) / grid + 1e-9
                and box[1] >= row / grid - 1e-9 and box[3] <= (row + 1) / grid + 1e-9
            )  # fmt: skip
            for number, word in enumerate(at):
                rows[number, cell] += math.exp(float(asked[word] @ found[token]) / SOFTNESS)
        shares.append(rows / rows.sum(1, keepdims=True))
    losses = []
    for theirs, own in zip(*shares, strict=True):
        kept = np.argsort(-theirs, kind="stable")[:top]
        apart = sum(theirs[cell] * math.log(theirs[cell] / own[cell]) for cell in kept)
        rest, others = 1 - theirs[kept].sum(), 1 - own[kept].sum()
        losses.append(T**2 * (apart + (rest * math.log(rest / others) if top < len(theirs) else 0.0)))
    return losses


@pytest.mark.parametrize("top", [3, 8])
@pytest.mark.parametrize(("teachers", "students"), [(PALI, QWEN), (PALI, IDEFICS), (IDEFICS, PALI), (QWEN, IDEFICS)])
def test_the_term_between_two_models(
    teachers: str, students: str, top: int, pages: list[PageImage], tmp_path: Path
) -> None:
    """Grids of 4 × 4, of 2 × 2, and of 2 × 2 tiles of 2 × 2 with an overview; the prompts are of different lengths."""
    teacher, student = model(tmp_path, teachers), model(tmp_path, students, 1)
    pairs = [(QUERIES[n], pages[n]) for n in (0, 1, 2)] + [(QUERIES[0], pages[1])]
    found = page_interactions(teacher, student, pairs, softness=SOFTNESS, top=top, cache=tmp_path / "cache")
    chosen = [3, 1, 0]
    queries, documents = PageTower(student, QUERIES, "query"), PageTower(student, pages, "document")
    objective = Mid(queries, documents, infonce=0.0, attention={"weight": 1, "temperature": T, "scale": SOFTNESS / T})
    rows = [torch.tensor([[float(own)] for own in side]) for side in ((0, 1, 0), (1, 1, 0))]
    taken = found.take(np.asarray(chosen))
    assert taken["lengths"].tolist() == [4, 4, 4]
    loss = objective({"queries": rows[0], "documents": rows[1], "interactions": taken})["attention"]
    expected = [own for at in chosen for own in by_hand(teacher, student, pairs[at], 2, top)]
    assert len(expected) == 1 + 4 + 1
    assert loss.item() == pytest.approx(np.mean(expected), rel=2e-3, abs=2e-5)  # shares are kept in float16


def test_the_teacher_encodes_each_page_once_and_is_not_asked_again(
    pages: list[PageImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = model(tmp_path, PALI), model(tmp_path, IDEFICS)
    settings: dict[str, Any] = {"softness": SOFTNESS, "top": 2, "cache": tmp_path / "own"}
    pairs = [(QUERIES[0], pages[0]), (QUERIES[1], pages[0]), (QUERIES[0], pages[1])]
    asked: list[str] = []
    encode = PageEncoder.encode
    monkeypatch.setattr(PageEncoder, "encode", lambda self, texts, *a: asked.extend(texts) or encode(self, texts, *a))
    made = page_interactions(teacher, student, pairs, **settings)
    first = {name: np.array(getattr(made, name)) for name in PageInteractions._files()}  # its files are damaged below
    assert sorted(asked) == sorted([*QUERIES[:2], *pages[:2]])
    again = page_interactions(teacher, student, pairs, **settings)
    assert len(asked) == 4
    (folder,) = (tmp_path / "own/interactions").iterdir()
    for damage in ("cells.npy", "manifest.json"):
        with (folder / damage).open("r+b") as file:
            file.truncate(90)
        healed = page_interactions(teacher, student, pairs, **settings)
        for name, expected in first.items():
            np.testing.assert_array_equal(getattr(healed, name), expected)
    assert again.bytes == sum(expected.nbytes for expected in first.values())
    for other in (model(tmp_path, IDEFICS, 5), model(tmp_path, QWEN)):
        page_interactions(teacher, other, pairs, **settings)
    assert len(list((tmp_path / "own/interactions").iterdir())) == 2  # other weights read alike, another class does not
    with pytest.raises(Exception, match="manifest"):
        Interactions.load(folder)
    assert page_interactions(teacher, student, [], **settings).take(np.asarray([], np.int64))["tokens"].shape == (0,)


def square(side: int, total: int = 0) -> Layout:
    edges = [(at / side, (at + 1) / side) for at in range(side)]
    boxes = np.asarray([(left, top, right, bottom) for top, bottom in edges for left, right in edges])
    return Layout(np.arange(side * side), boxes, total or side * side)


def test_the_cells_of_grids() -> None:
    assert _grid(square(6)) == (6, 6)
    assert _cells(square(4), (2, 2)).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert _cells(square(6), (3, 2)).reshape(6, 6)[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    tiled = Layout(np.arange(40), np.concatenate([square(6).boxes, square(2).boxes]), 50)
    assert _grid(tiled) == (2, 2)
    assert _cells(tiled, (2, 2))[-4:].tolist() == [0, 1, 2, 3]
    for side in range(1, 40):  # whatever is rounded
        assert _grid(square(side)) == (side, side)
        assert _cells(square(side), (side, side)).tolist() == list(range(side * side))


def test_grids_that_have_none_in_common(pages: list[PageImage], tmp_path: Path) -> None:
    teacher, student = model(tmp_path, QWEN), model(tmp_path, PALI)
    teacher.pages.processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 84 * 84}
    large = PageImage(tiny_pages.page(tmp_path / "large.png", 0, (84, 84)))
    pairs = [("cat", pages[0]), ("cat", large)]
    with pytest.raises(InputError, match=r"large\.png.*3 × 3 and one of 4 × 4 cannot be pooled"):
        page_interactions(teacher, student, pairs, softness=SOFTNESS, top=2, cache=tmp_path / "cache")


def test_tokenizers_that_have_no_token_in_common(
    pages: list[PageImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = model(tmp_path, PALI), model(tmp_path, IDEFICS)
    with pytest.raises(InputError, match="the tokenizers differ: of the query 'zebra' the teacher reads 'nothing'"):
        page_interactions(teacher, student, [("zebra", pages[0])], softness=SOFTNESS, top=2, cache=tmp_path / "cache")
    words = PageEncoder.words
    monkeypatch.setattr(PageEncoder, "words", lambda self, query: [own[:1] for own in words(self, query)]
                        if self is student else words(self, query))  # fmt: skip
    with pytest.raises(InputError, match="'the dog' the teacher reads 'the dog' and the student 't d'"):
        page_interactions(teacher, student, [("the dog", pages[0])], softness=SOFTNESS, top=2, cache=tmp_path / "cache")


def test_tokens_are_matched_by_what_they_spell(
    pages: list[PageImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `owl` and `moon` the teacher has pieces; the words before, between and behind have their rows."""
    teacher, student = model(tmp_path, PALI), model(tmp_path, IDEFICS)
    spelled = {id(teacher): ["", "the", "ow", "l", "cat", "mo", "on", "dog", ""], id(student): [*[""] * 5, "the", "owl",
               "cat", "moon", "dog", *[""] * 11]}  # fmt: skip
    monkeypatch.setattr(PageEncoder, "words", lambda self, query: spelled[id(self)])
    query = "the owl cat moon dog"
    found = page_interactions(teacher, student, [(query, pages[0])], softness=SOFTNESS, top=2, cache=tmp_path / "cache")
    assert found.tokens.tolist() == [5, 7, 9]
    assert found.offsets.tolist() == [0, 3]


# --------------------------------------------------------------------------------------------------- whole trainings


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Pages of random colours, and two letters that name each."""
    place = tmp_path / "noisy"
    words = [f"{a} {b}" for a in "abcd" for b in "efg"]
    documents = [Document(f"p{n}", "", "", f"images/{n}.png") for n in range(12)]
    queries = [Query(f"q{n}", word) for n, word in enumerate(words)]
    judged = {f"q{n}": {f"p{n}": 1} for n in range(12)}
    Dataset.of(documents, queries, {"train": judged, "dev": judged, "test": judged}, name="noisy").save(place)
    for n in range(12):
        tiny_pages.page(place / f"images/{n}.png", n, (56, 56))
    return place


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_pages.build(tmp_path / "base", IDEFICS, 1)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return tiny_pages.build(tmp_path / "teacher", PALI)


def training(
    dataset: Path, base: Path, teacher: Path | str | None, out: Path, recipe: str = "pages", **more: object
) -> Training:
    small = {"encoder.lora": None, "stages.0.objective.use": "mid", "stages.0.batch_size": 6, "stages.0.chunk": None}
    reported = bool(more.pop("reported", False))
    settings = small_runs.overrides(dataset, base, **{"teacher": teacher and str(teacher)}, **(small | more))
    found = plan(recipe, settings, out=out, resume="auto", reported=reported)
    assert isinstance(found, Training)
    return found


def test_a_student_of_pages_attends_as_its_teacher(dataset: Path, base: Path, teacher: Path, tmp_path: Path) -> None:
    alone = {"stages.0.objective.infonce": 0.0, "data.validation": None}
    more = alone | {"stages.0.epochs": 15, "stages.0.optim.lr": 3e-3}
    planned = training(dataset, base, teacher, tmp_path / "run", reported=True, **more)
    happened = list(planned.events())
    seen = [event.terms["attention"] for event in happened if isinstance(event, events.Step)]
    assert seen[-1] < 0.5 * seen[0]
    assert "_teacher" not in planned.learner.__dict__
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["teacher"] == load_encoder(str(teacher)).fingerprint
    assert json.loads((tmp_path / "run/teacher.json").read_text())["ceiling"] is None
    names = {path.stem for path in (tmp_path / "run/evaluations").iterdir()}
    assert {"random", "bm25", "teacher", "pages", "untrained"} <= names


def test_beside_the_other_terms_with_adapters_and_validation(
    dataset: Path, base: Path, teacher: Path, tmp_path: Path
) -> None:
    more = {"encoder.lora": {"rank": 2, "alpha": 4, "dropout": 0.0}, "stages.0.objective.hinge": 0.5}
    totals = []
    for chunk in (None, 2):
        planned = training(dataset, base, teacher, tmp_path / f"run-{chunk}", **more, **{"stages.0.chunk": chunk})
        happened = list(planned.events())
        steps = [event for event in happened if isinstance(event, events.Step)]
        assert all(event.terms.keys() == {"infonce", "hinge", "attention"} for event in steps)
        assert all("loss" in event.measures for event in happened if isinstance(event, events.Validation))
        totals.append([event.total for event in steps])
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


def test_pages_are_mimicked_with_the_same_bits_after_a_kill(
    dataset: Path, base: Path, teacher: Path, tmp_path: Path
) -> None:
    script = """
import sys, torch
torch.set_num_threads(1)
from lodesmith.recipes.train import plan
data, base, teacher, out = sys.argv[1:]
settings = {"data": data, "base": base, "teacher": teacher, "stages.0.objective.use": "mid", "encoder.lora.rank": 2}
settings |= {"stages.0.batch_size": 6, "stages.0.epochs": 3}
for event in plan("pages", settings, out=__import__("pathlib").Path(out), resume="auto", reported=False).events():
    print(type(event).__name__, flush=True)
print("end")
"""
    small_runs.killed_is_whole(script, (str(dataset), str(base), str(teacher)), tmp_path, 1)


def test_the_same_bits_twice_whatever_the_cache_holds(
    dataset: Path, base: Path, teacher: Path, tmp_path: Path, cache: Path
) -> None:
    for name in ("one", "two", "anew"):
        if name == "anew":
            shutil.rmtree(cache)
        list(training(dataset, base, teacher, tmp_path / name, **{"data.validation": None}).events())
    assert all(small_runs.equal(tmp_path / a, tmp_path / b) for a, b in pairwise(("one", "two", "anew")))


def test_another_teacher_does_not_go_on(dataset: Path, base: Path, teacher: Path, tmp_path: Path) -> None:
    planned = training(dataset, base, teacher, tmp_path / "run", **{"stages.0.epochs": 2})
    for event in planned.events():
        if isinstance(event, events.Checkpoint):
            break
    shutil.rmtree(teacher)
    tiny_pages.build(teacher, PALI, 7)
    with pytest.raises(ResumeError, match="the teacher is not what the run was begun with"):
        list(training(dataset, base, teacher, tmp_path / "run", **{"stages.0.epochs": 2}).events())


def test_the_recipe_mid_over_patches(dataset: Path, base: Path, teacher: Path, tmp_path: Path) -> None:
    more: dict[str, object] = {"encoder": {"use": "patches"}, "stages.0.epochs": 1, "data.validation": None}
    settings = small_runs.overrides(dataset, base, teacher=str(teacher), **more)
    planned = plan("mid", settings, out=tmp_path / "run", reported=False)
    assert isinstance(planned, Training)
    steps = [event for event in planned.events() if isinstance(event, events.Step)]
    assert steps[-1].terms.keys() == {"infonce", "attention", "hinge"}


def test_teachers_of_pages_that_are_refused(
    dataset: Path, base: Path, teacher: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    assert forecast(training(dataset, base, teacher, out))["training_seconds"] > 0
    for named, more, said in (
        (None, {}, "mimics a teacher"),
        (f"{teacher},minilm", {}, "several teachers"),
        (teacher, {"stages.0.objective.use": "interact"}, "no stage mimics it"),
        (teacher, {"stages.0.objective": {"use": "mimic", "similarity": "maxsim", "kl": 1.0}}, "interactions alone"),
    ):
        with pytest.raises(ConfigError, match=said):
            training(dataset, base, named, out, **more)
    late = {"encoder": {"use": "tokens", "dimension": 8}, "stages.0.objective.use": "interact", "stages.0.epochs": 1}
    list(training(dataset, tiny_model, None, tmp_path / "late", "late", **late, **{"data.validation": None}).events())
    for named, said in ((tiny_model, "one vector a text"), (tmp_path / "late", "the teacher reads texts")):
        for told in (forecast, lambda planned: list(planned.events())):
            with pytest.raises(InputError, match=said):
                told(training(dataset, base, named, tmp_path / f"y-{said}"))

"""Why a late-interaction model found what it found: token similarities whose best sum to the score, as pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import tiny_pages
from command_line import lode as command
from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, PageImage, Query
from lodesmith.encoders._page_layout import layout
from lodesmith.encoders.patches import PageEncoder
from lodesmith.encoders.tokens import LateInteractionEncoder
from lodesmith.recipes.matching import matches
from lodesmith.reports.heat import Matched, overlay, render, shrunk
from lodesmith.testing import tiny_dataset

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore:.*")]


@pytest.fixture
def late(tiny_model: Path, tmp_path: Path) -> Path:
    return LateInteractionEncoder(tiny_model, dimension=8, skip="punctuation").save(tmp_path / "late")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    documents = [Document(f"p{n}", "", "", f"images/{n}.png") for n in range(3)]
    place = Dataset.of(documents, [Query("q", "cat owl")], {"test": {"q": {"p1": 1}}}, name="paged").save(
        tmp_path / "p"
    )
    for n in range(3):
        tiny_pages.page(place / f"images/{n}.png", n)
    return place


def test_the_terms_of_a_text_sum_to_its_score(late: Path, tmp_path: Path) -> None:
    dataset = tiny_dataset(30)
    query = next(iter(dataset.queries))
    found = matches(str(late), dataset, query, k=4)
    assert len(found) == 4
    assert [own.score for own in found] == sorted((own.score for own in found), reverse=True)
    for own in found:
        assert own.similarities.shape == (len(own.tokens), len(own.words))
        assert float(own.similarities.max(1).sum()) == pytest.approx(own.score, abs=5e-3)  # of float16 vectors
        assert own.relevant in (True, False)
    assert matches(str(late), dataset, "a free text")[0].relevant is None


def test_the_command_writes_a_page_that_is_safe(late: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script> cat"
    data = Dataset.of([Document(evil, "", f"the cat {evil}"), Document("d", "", "the owl")]).save(tmp_path / "evil")
    out = tmp_path / "page.html"
    code, told, _ = command(capsys, "explain", late, data, evil, "--out", out, "--json")
    assert code == 0
    assert len(json.loads(told)["documents"]) == 2
    assert "<script>" not in out.read_text()
    code, _, error = command(capsys, "explain", "bm25", data, "cat", "--out", out)
    assert (code, "no late-interaction model" in error) == (2, True)


def test_pooled_tokens_have_no_words(tiny_model: Path, tmp_path: Path) -> None:
    pooled = LateInteractionEncoder(tiny_model, dimension=8, pool=2).save(tmp_path / "pooled")
    with pytest.raises(InputError, match="pools its tokens"):
        matches(str(pooled), tiny_dataset(10), "cat")


@pytest.mark.parametrize("kind", tiny_pages.KINDS)
def test_the_patches_of_a_page_cover_it(kind: str, pages: Path, tmp_path: Path) -> None:
    model = tiny_pages.build(tmp_path / "model", kind)
    encoder = PageEncoder(model)
    place = encoder.layout(PageImage(pages / "images/0.png"))
    labels = encoder.labels(PageImage(pages / "images/0.png"), "document")
    assert len({labels[at] for at in place.tokens}) == 1
    assert len(place.tokens) == len(place.boxes)
    areas = np.prod(place.boxes[:, 2:] - place.boxes[:, :2], axis=1)
    layers = 2 if kind in ("ColIdefics3", "ColModernVBertForRetrieval") else 1  # tiles, and the whole
    assert areas.sum() == pytest.approx(layers)
    assert place.boxes.min() == 0
    assert place.boxes.max() == 1
    found = matches(str(model), Dataset.load(pages), "q", k=2)
    assert [own.relevant for own in found].count(True) <= 1
    assert found[0].similarities.shape == (len(found[0].tokens), len(found[0].words))
    for own in found:
        assert float(own.similarities.max(1).sum()) == pytest.approx(own.score, abs=2e-2)  # of float16 vectors


def test_tiles_stand_where_they_were_cut_out(pages: Path, tmp_path: Path) -> None:
    encoder = PageEncoder(tiny_pages.build(tmp_path / "model"))
    page = PageImage(pages / "images/0.png")
    place = encoder.layout(page)
    tile = place.boxes[4:8]  # the second of 2 × 2 tiles: the right upper quarter, of 2 × 2 patches
    np.testing.assert_allclose(tile[:, :2], [[0.5, 0], [0.75, 0], [0.5, 0.25], [0.75, 0.25]])
    np.testing.assert_allclose(place.boxes[-4], [0, 0, 0.5, 0.5])


def test_an_overlay_is_red_where_the_value_is_highest(tmp_path: Path) -> None:
    from PIL import Image

    white = Image.new("RGB", (80, 40), "white")
    boxes = np.asarray([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    made = np.asarray(Image.open(io.BytesIO(overlay(white, boxes, np.asarray([0.1, 0.9])))))
    assert made.shape == (40, 80, 3)
    assert made[20, 10].tolist() == [255, 255, 255]
    assert made[20, 70, 0] > made[20, 70, 1] + 100


def test_a_page_of_pictures(pages: Path) -> None:
    from PIL import Image

    boxes, tokens = np.asarray([[0.0, 0.0, 1.0, 1.0]]), ["cat", "owl"]
    image = Image.open(pages / "images/0.png")
    place = np.asarray([0])
    own = Matched("p0", 1.0, True, tokens, np.ones((2, 1), np.float32), ["<image>"], image, place, boxes)
    page = render("model on pages", "cat owl", [own])
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")
    assert "judged relevant" in page


def test_foreign_words_are_escaped_and_a_query_may_have_no_token() -> None:
    evil = '"><script>alert(1)</script>'
    own = Matched(evil, 1.0, None, [evil], np.ones((1, 1), np.float32), [evil])
    assert "<script" not in render(evil, evil, [own])
    none = Matched("d", 0.0, None, [], np.ones((0, 2), np.float32), ["a", "b"])
    assert "The terms" not in render("x", "", [none])


def test_a_thin_page_stays_small() -> None:
    from PIL import Image

    assert shrunk(Image.new("RGB", (2, 4000))).size == (1, 1080)
    assert shrunk(Image.new("RGB", (4000, 2))).size == (360, 1)


def test_an_image_outside_its_dataset_is_not_shown(pages: Path, tmp_path: Path) -> None:
    model = tiny_pages.build(tmp_path / "model")
    tiny_pages.page(tmp_path / "secret.png")
    for image in ("../secret.png", str(tmp_path / "secret.png")):
        dataset = Dataset.of([Document("d", "", "", image)]).save(tmp_path / "evil")
        with pytest.raises(InputError, match="no path in the dataset's folder"):
            matches(str(model), Dataset.load(dataset), "cat")


def test_an_image_whose_tokens_are_no_grid(pages: Path, tmp_path: Path) -> None:
    encoder = PageEncoder(tiny_pages.build(tmp_path / "model", "ColPaliForRetrieval"))
    features = encoder.pages.features("cat")
    features["input_ids"][0, 1] = encoder.pages.processor.image_token_id
    features["input_ids"][0, 2] = encoder.pages.processor.image_token_id
    with pytest.raises(InputError, match="no grid"):
        layout(encoder.pages.processor, features)

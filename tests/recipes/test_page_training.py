"""A whole training on page images: what is saved, resume to the bit, adapters, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_runs

import lodesmith as lode
import tiny_pages
from lodesmith.core import events
from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.records import Dataset, Document, PageImage, Query
from lodesmith.encoders.patches import PageEncoder, PageTower
from lodesmith.recipes.train import Training, forecast, plan

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore:.*")]

WORDS = [a + b for a in "abcd" for b in "efgh"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Pages of one colour each, and queries of two letters that say which."""
    place = tmp_path / "coloured"
    documents = [Document(f"p{n}", "", "", f"images/{n}.png") for n in range(16)]
    queries = [Query(f"q{n}", f"{word[0]} {word[1]}") for n, word in enumerate(WORDS)]
    judged = {f"q{n}": {f"p{n}": 1} for n in range(16)}
    Dataset.of(documents, queries, {"train": judged, "dev": judged, "test": judged}, name="coloured").save(place)
    from PIL import Image

    (place / "images").mkdir()
    for n in range(16):
        colour = (255 * (n % 4) // 3, 255 * (n // 4) // 3, 128)
        Image.new("RGB", (32, 32), colour).save(place / f"images/{n}.png")
    return place


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_pages.build(tmp_path / "base")


def training(dataset: Path, base: Path, out: Path, *, reported: bool = False, **more: object) -> Training:
    small = {"encoder.lora": None, "stages.0.batch_size": 8, "stages.0.chunk": None, **more}
    found = plan("pages", small_runs.overrides(dataset, base, **small), out=out, resume="auto", reported=reported)
    assert isinstance(found, Training)
    return found


def test_it_learns_and_what_is_saved_is_what_it_learned(dataset: Path, base: Path, tmp_path: Path) -> None:
    more = {"stages.0.epochs": 30, "stages.0.optim.lr": 3e-3, "data.validation": None}
    planned = training(dataset, base, tmp_path / "run", reported=True, **more)
    losses = [event.total for event in planned.events() if isinstance(event, events.Step)]
    assert losses[-1] < 0.3 * losses[0]
    saved = lode.load(tmp_path / "run")
    assert isinstance(saved, PageEncoder)
    np.testing.assert_allclose(saved.encode(planned.learner._items).values, planned.learner.encoder.encode(
        planned.learner._items).values, atol=1e-6)  # fmt: skip
    assert (tmp_path / "run/report.html").is_file()
    before, after = (lode.evaluate(str(place), Dataset.load(dataset)) for place in (base, tmp_path / "run"))
    assert after.measures["nDCG@5"].mean > before.measures["nDCG@5"].mean + 0.2


def test_the_same_bits_again_and_after_a_kill(dataset: Path, base: Path, tmp_path: Path) -> None:
    script = """
import sys, torch
torch.set_num_threads(1)
from lodesmith.recipes.train import plan
data, base, out = sys.argv[1:]
settings = {"data": data, "base": base, "encoder.lora.rank": 2, "stages.0.batch_size": 8, "stages.0.epochs": 3}
for event in plan("pages", settings, out=__import__("pathlib").Path(out), resume="auto", reported=False).events():
    print(type(event).__name__, flush=True)
print("end")
"""
    small_runs.killed_is_whole(script, (str(dataset), str(base)), tmp_path, 1)


def test_adapters_are_merged_and_chunks_change_nothing(dataset: Path, base: Path, tmp_path: Path) -> None:
    lora = {"encoder.lora": {"rank": 2, "alpha": 4, "dropout": 0.0}, "data.validation": None}
    for name, chunk in (("whole", None), ("chunked", 3)):
        list(training(dataset, base, tmp_path / name, **lora, **{"stages.0.chunk": chunk}).events())
    one, two = (small_runs.weights(tmp_path / name) for name in ("whole", "chunked"))
    assert one.keys() == two.keys()
    assert not any("lora" in name for name in one)
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], atol=2e-5)
    planned = training(dataset, base, tmp_path / "x", **lora)
    groups = planned.learner.encoder.get_trainable_parameters()
    assert len(groups["projection"]) == 2
    assert sum(p.numel() for p in groups["base"]) < 0.5 * planned.learner.encoder.parameters_total
    frozen = training(dataset, base, tmp_path / "y", **{"encoder.freeze_base": True})
    assert frozen.learner.encoder.get_trainable_parameters()["base"] == []


def test_traces_go_behind_the_questions_of_pages(dataset: Path, base: Path, tmp_path: Path) -> None:
    with ColumnWriter(dataset, "traces", "query", {}) as column:
        for key in column.missing([f"q{n}" for n in range(16)]):
            column.add(key, [{"text": "cat owl"}])
        column.finish()
    planned = training(dataset, base, tmp_path / "run", reported=True, **{"traces": {"mode": "use"}})
    assert next(iter(planned.pairs.queries.values())) == "a e cat owl"
    list(planned.events())
    names = {path.stem for path in (tmp_path / "run/evaluations").iterdir()}
    assert {"pages", "pages, none", "pages, shuffle"} <= names


def test_pages_that_were_drawn_anew_are_other_data(dataset: Path, base: Path, tmp_path: Path) -> None:
    list(training(dataset, base, tmp_path / "run", **{"data.validation": None}).events())

    tiny_pages.page(dataset / "images/3.png", 7, (32, 32))
    with pytest.raises(ResumeError, match="images"):
        list(training(dataset, base, tmp_path / "run", **{"data.validation": None}).events())


def test_every_parameter_that_trains_has_a_gradient(dataset: Path, tmp_path: Path) -> None:
    """Else processes would wait for each other's."""
    import torch

    for kind in tiny_pages.KINDS:
        base = tiny_pages.build(tmp_path / kind, kind)
        for lora in (None, {"rank": 2}):
            encoder = PageEncoder(base, lora=lora)
            pages = PageTower(encoder, [PageImage(dataset / "images/0.png")], "document")
            queries = PageTower(encoder, ["a cat"], "query")
            number = torch.zeros(1, 1)
            (pages(number)["values"].sum() + queries(number)["values"].sum()).backward()
            without = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
            assert not without, (kind, lora, without)


def test_a_forecast_and_what_is_refused(dataset: Path, base: Path, tmp_path: Path) -> None:
    told = forecast(training(dataset, base, tmp_path / "run"))
    assert told["training_seconds"] > 0
    assert told["validation_seconds"] > 0
    for more, said in (
        ({"stages.0.pairs": "text"}, "is of texts"),
        ({"teacher": "minilm"}, "no stage mimics it"),
        ({"stages.0.objective.use": "contrast"}, "one vector a text"),
        ({"encoder.freeze_base": True, "encoder.lora": {"rank": 2}}, "the base is frozen"),
    ):
        with pytest.raises(ConfigError, match=said):
            _ = training(dataset, base, tmp_path / "x", **more).learner.encoder
    texts = Dataset.of([Document("d", "", "x")], [Query("q", "y")], {"train": {"q": {"d": 1}}}).save(tmp_path / "texts")
    with pytest.raises(InputError, match="has none"):
        list(training(texts, base, tmp_path / "z", **{"data.validation": None}).events())

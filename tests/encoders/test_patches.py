"""Page images through each vision-language class: its own forward, one item at a time, searched like anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lodesmith as lode
import tiny_pages
from command_line import lode as command
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.records import Dataset, Document, PageImage, Query
from lodesmith.encoders._page_models import is_pages
from lodesmith.encoders.patches import PageEncoder
from lodesmith.recipes.systems import load_encoder, resolve
from lodesmith.similarity.maxsim import maxsim_rows

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.*"),  # of the classes' own, about tiny configurations
]
QUERIES = ["cat", "the dog . owl", "moon"]


@pytest.fixture(scope="module", params=tiny_pages.KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pages.build(tmp_path_factory.mktemp("pages") / "model", request.param)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[PageImage]:
    place = tmp_path_factory.mktemp("images")
    sizes = [(40, 50), (64, 30), (20, 20), (40, 50)]
    return [PageImage(tiny_pages.page(place / f"{n}.png", n, size)) for n, size in enumerate(sizes)]


def own(folder: Path) -> tuple[Any, Any]:
    """The class's own model and processor."""
    import transformers
    from transformers import AutoProcessor

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, kind).from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_the_vectors_are_those_of_the_class(folder: Path, pages: list[PageImage]) -> None:
    from PIL import Image

    encoder = load_encoder(str(folder))
    assert isinstance(encoder, PageEncoder)
    found, asked = encoder.encode(pages), encoder.encode(QUERIES, "query")
    assert encoder.dimension == tiny_pages.WIDTH
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, atol=1e-5)
    if "ColIdefics3" in (folder / "config.json").read_text():
        return  # transformers has no such class: see below
    model, processor = own(folder)
    for number, page in enumerate(pages):
        batch = processor.process_images([Image.open(page.path).convert("RGB")])
        batch.pop("labels", None)
        with torch.no_grad():
            expected = model(**batch).embeddings[0]
        start, end = found.offsets[number : number + 2]
        np.testing.assert_allclose(found.values[start:end], expected.numpy(), atol=1e-6)
    with torch.no_grad():
        expected = model(**processor.process_queries([QUERIES[1]])).embeddings[0]
    np.testing.assert_allclose(asked.values[asked.offsets[1] : asked.offsets[2]], expected.numpy(), atol=1e-6)


def test_a_vector_does_not_depend_on_the_others(folder: Path, pages: list[PageImage]) -> None:
    encoder = PageEncoder(folder)
    for items, side in ((pages, "document"), (QUERIES, "query")):
        whole, backwards = encoder.encode(items, side), encoder.encode(items[::-1], side)
        for number, item in enumerate(items):
            alone = encoder.encode([item], side).values
            np.testing.assert_array_equal(alone, whole.values[whole.offsets[number] : whole.offsets[number + 1]])
            at = len(items) - 1 - number
            np.testing.assert_array_equal(alone, backwards.values[backwards.offsets[at] : backwards.offsets[at + 1]])


def test_it_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    import shutil

    encoder = PageEncoder(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert PageEncoder(tmp_path / "copy").fingerprint == encoder.fingerprint
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    other = tiny_pages.build(tmp_path / "other", kind, seed=1)
    assert PageEncoder(other).fingerprint != encoder.fingerprint
    (tmp_path / "saved").mkdir()
    encoder.pages.save(tmp_path / "saved")
    assert PageEncoder(tmp_path / "saved").fingerprint == encoder.fingerprint


# ------------------------------------------------------------------------------------------------------- datasets


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    documents = [Document(f"p{n}", "", f"page {n}", f"images/{n}.png") for n in range(6)]
    judged = {"test": {"q0": {"p1": 1}, "q1": {"p4": 1}, "q2": {"p0": 1}}}
    queries = [Query(f"q{n}", text) for n, text in enumerate(QUERIES)]
    place = Dataset.of(documents, queries, judged, name="paged").save(tmp_path / "paged")
    for n in range(6):
        tiny_pages.page(place / f"images/{n}.png", n)
    return place


@pytest.fixture
def idefics(tmp_path: Path) -> Path:
    return tiny_pages.build(tmp_path / "idefics")


def test_a_dataset_of_pages_is_searched_exactly(
    dataset: Path, idefics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = Dataset.load(dataset)
    system = resolve(str(idefics), loaded)
    run = system.retriever.search({"q": QUERIES[0]}, 6)
    encoder = PageEncoder(idefics)
    asked = encoder.encode([QUERIES[0]] * 6, "query")
    documents = encoder.encode([PageImage(dataset / f"images/{n}.png") for n in range(6)], ids=list(loaded.documents))
    half = type(documents)(documents.values.astype(np.float16), documents.offsets, documents.ids)
    scores = dict(zip(documents.ids, maxsim_rows(asked, half).tolist(), strict=True))
    assert list(run["q"]) == sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
    evaluation = lode.evaluate(str(idefics), loaded)
    assert 0 < evaluation.measures["nDCG@5"].mean <= 1
    assert evaluation.cost["parameters"] == encoder.parameters_total
    assert command(capsys, "index", "build", idefics, dataset, "--out", tmp_path / "index")[0] == 0
    code, out, _ = command(capsys, "search", tmp_path / "index", QUERIES[0], "-k", 1, "--json")
    assert code == 0
    assert next(iter(run["q"]))[0] in out


def test_an_image_that_changes_is_encoded_again(dataset: Path, idefics: Path) -> None:
    before = resolve(str(idefics), Dataset.load(dataset)).vectors
    assert before is not None
    first = np.array(before.values[: before.offsets[1]])
    tiny_pages.page(dataset / "images/0.png", 99)
    after = resolve(str(idefics), Dataset.load(dataset)).vectors
    assert after is not None
    assert not np.array_equal(first, after.values[: after.offsets[1]])


def test_what_is_no_page_is_refused(dataset: Path, idefics: Path, tmp_path: Path) -> None:
    encoder = PageEncoder(idefics)
    with pytest.raises(InputError, match="reads page images"):
        encoder.encode(["a text"])
    with pytest.raises(InputError, match="the document 'd' has none"):
        resolve(str(idefics), Dataset.of([Document("d", "", "a text")]))
    with pytest.raises(InputError, match="no such page image"):
        PageImage(tmp_path / "none.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((dataset / "images/0.png").read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read"):
        encoder.encode([PageImage(broken)])
    with pytest.raises(InputError, match="leave --passages out"):
        load_encoder(str(idefics), 64)
    wrong: Any = "float8"
    with pytest.raises(ConfigError, match="float8"):
        PageEncoder(idefics, precision=wrong)
    (idefics / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        PageEncoder(idefics)


def test_every_setting_that_moves_a_vector_is_in_the_fingerprint(idefics: Path, tmp_path: Path) -> None:
    import shutil

    seen = {PageEncoder(idefics).fingerprint}
    for name, old, new in (
        ("chat_template.jinja", "User", "Assistant"),
        ("tokenizer.json", "", ""),
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'),
        ("processor_config.json", '"longest_edge": 32', '"longest_edge": 16'),
    ):
        copy = tmp_path / name
        shutil.copytree(idefics, copy)
        text = (copy / name).read_text()
        if name == "tokenizer.json":
            settings = json.loads(text)
            words = settings["model"]["vocab"]
            words["cat"], words["owl"] = words["owl"], words["cat"]
            changed = json.dumps(settings)
        else:
            changed = text.replace(old, new)
        assert changed != text
        (copy / name).write_text(changed)
        seen.add(PageEncoder(copy).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"architectures": 5}),
        ("config.json", {"text_config": "x"}),
        ("processor_config.json", []),
        ("processor_config.json", {"processor_class": "Nope"}),
        ("chat_template.jinja", "{% for"),
        ("processor_config.json", None),
    ],
)
def test_a_damaged_folder_says_so(idefics: Path, file: str, content: Any) -> None:
    place = idefics / file
    if content is None:
        place.unlink()
    elif isinstance(content, dict) and file == "config.json":
        place.write_text(json.dumps(json.loads(place.read_text()) | content))
    else:
        place.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError):
        load_encoder(str(idefics))


def test_what_is_transparent_is_white_and_strange_formats_are_refused(idefics: Path, tmp_path: Path) -> None:
    from PIL import Image

    encoder = PageEncoder(idefics)
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    clear, white = (encoder.encode([PageImage(tmp_path / f"{name}.png")]).values for name in ("clear", "white"))
    np.testing.assert_array_equal(clear, white)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "program.eps")
    with pytest.raises(InputError, match="cannot be read"):
        encoder.encode([PageImage(tmp_path / "program.eps")])


def test_a_page_that_the_processor_refuses(tmp_path: Path) -> None:
    encoder = PageEncoder(tiny_pages.build(tmp_path / "model", "ColQwen2ForRetrieval"))
    with pytest.raises(InputError, match="refuses a page of 3000 × 1 pixels"):
        encoder.encode([PageImage(tiny_pages.page(tmp_path / "wide.png", size=(3000, 1)))])


def test_a_page_that_is_too_large(idefics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodesmith.encoders._page_image.MOST_PIXELS", 1999)
    with pytest.raises(InputError, match="40 × 50 pixels"):
        PageEncoder(idefics).encode([PageImage(tiny_pages.page(tmp_path / "large.png"))])


def test_a_published_adapter_over_its_base(idefics: Path, tmp_path: Path, pages: list[PageImage]) -> None:
    from peft import LoraConfig, get_peft_model

    model = PageEncoder(idefics).pages.model.requires_grad_(True)
    torch.manual_seed(5)
    wanted = LoraConfig(r=4, target_modules=r".*(q_proj|linear)$", init_lora_weights=False)
    adapted = get_peft_model(model, wanted)
    adapted.peft_config["default"].base_model_name_or_path = str(idefics)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert is_pages(tmp_path / "adapter")
    found = load_encoder(str(tmp_path / "adapter"))
    assert isinstance(found, PageEncoder)
    merged = adapted.merge_and_unload().eval().requires_grad_(False)
    base = PageEncoder(idefics)
    plain = base.encode(pages).values
    base.pages.model = merged
    expected = base.encode(pages).values
    np.testing.assert_allclose(found.encode(pages).values, expected, atol=1e-6)
    assert np.abs(found.encode(pages).values - plain).max() > 1e-3


def test_an_adapter_that_does_not_fit_or_is_a_pickle(idefics: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    adapted = get_peft_model(PageEncoder(idefics).pages.model, LoraConfig(r=2, target_modules=r".*q_proj$"))
    adapted.peft_config["default"].base_model_name_or_path = str(idefics)
    folder = tmp_path / "colsmol-adapter"
    adapted.save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    state = {name.replace("model.model.", "model.vlm."): value for name, value in load_file(weights).items()}
    save_file(state, weights)
    with pytest.raises(InputError, match="does not fit its base"):
        load_encoder(str(folder))
    torch.save(state, folder / "adapter_model.bin")
    weights.rename(folder / "decoy.safetensors")
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        load_encoder(str(folder))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/text-model"}))
    with pytest.raises(InputError, match="not a model folder"):
        load_encoder(str(folder))


def test_the_projection_of_idefics_states(idefics: Path, pages: list[PageImage]) -> None:
    """By hand: the states of transformers' own Idefics3Model, projected, scaled to length 1."""
    from PIL import Image

    encoder = PageEncoder(idefics)
    model: Any = encoder.pages.model
    features = encoder.pages.features(Image.open(pages[0].path).convert("RGB"))
    with torch.no_grad():
        states = model.model(**features).last_hidden_state[0]
        expected = torch.nn.functional.normalize(model.linear(states), dim=1)
    np.testing.assert_allclose(encoder.encode(pages[:1]).values, expected.numpy(), atol=1e-6)
    tokens = encoder.pages.processor.tokenizer.convert_ids_to_tokens(features["input_ids"][0])
    assert tokens.count("<image>") == 4 * (2 * 2 + 1)
    asked = encoder.pages.processor.tokenizer.convert_ids_to_tokens(encoder.pages.features("cat")["input_ids"][0])
    assert asked.count("<end_of_utterance>") == 10 + 1

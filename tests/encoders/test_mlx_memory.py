"""The memory model in MLX: what torch computes, from the same folders, and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import causal_models

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")
optimizers = pytest.importorskip("mlx.optimizers", reason="mlx has no wheel for this machine")

from lodesmith.core.errors import ConfigError, InputError, IntegrityError  # noqa: E402 - skipped above without mlx
from lodesmith.core.files import read_object, sha256_file, write_json  # noqa: E402
from lodesmith.encoders import MemoryEncoder  # noqa: E402
from lodesmith.encoders._memory_model import ADAPTERS  # noqa: E402
from lodesmith.encoders._mlx_language import Adapter  # noqa: E402
from lodesmith.encoders._mlx_memory import MLXMemoryModel  # noqa: E402

pytestmark = pytest.mark.usefixtures("cache")
SIZES: dict[str, Any] = {"rate": 8, "document_length": 32}
QUIET: dict[str, Any] = {**SIZES, "lora": {"dropout": 0.0}}
TEXTS = ["the cat eats apples", "", "a dog likes music and the moon . " * 3, "owl", "the whale fears thunder"]
QUESTIONS = ["what does the cat eats ?", "who likes music and the moon in the barn ?", "owl"]
ANSWERS = ["cat", "the dog in the barn", ""]
RATE = 5e-4
TRAINED = ("encoder", "decoder", "memory")


def stir(encoder: MemoryEncoder, seed: int = 0) -> MemoryEncoder:
    """As if all adapters had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in ADAPTERS:
            for weight in encoder.model.weights(adapter).values():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return encoder


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_models.build(tmp_path_factory.mktemp("causal") / request.param, request.param, bos=True)


@pytest.fixture
def encoder(base: Path) -> MemoryEncoder:
    torch.manual_seed(0)
    return stir(MemoryEncoder(base, **QUIET))


@pytest.fixture
def saved(encoder: MemoryEncoder, tmp_path: Path) -> Path:
    return encoder.save(tmp_path / "saved")


@pytest.fixture
def model(saved: Path) -> MLXMemoryModel:
    return MLXMemoryModel.load(saved)


def texts(encoder: MemoryEncoder, given: list[str]) -> list[Any]:
    return [encoder.text_ids(text).numpy() for text in given]


def memory(encoder: MemoryEncoder, given: list[str], side: Any = "document") -> Any:
    return encoder.encode(given, side).values.reshape(len(given), encoder.count, encoder.dimension)


def readings(encoder: MemoryEncoder, states: Any) -> list[list[torch.Tensor]]:
    """Two documents' memory, a text and a memory, nothing."""
    whole = [torch.from_numpy(own) for own in states]
    read: list[list[torch.Tensor]] = [[whole[0], whole[2]], [encoder.tokens(TEXTS[2]), whole[3]], []]
    return [encoder.reading(own, encoder.question_ids(q)) for own, q in zip(read, QUESTIONS, strict=True)]


def arrays(parts: list[list[torch.Tensor]]) -> list[list[Any]]:
    return [[part.numpy() for part in own] for own in parts]


# --------------------------------------------------------------------------------------------------------------- parity


def test_memory_is_that_of_torch(encoder: MemoryEncoder, model: MLXMemoryModel) -> None:
    assert (model.count, model.dimension, model.reasons) == (4, 32, True)
    for side, adapter in (("document", "encoder"), ("query", "query_reasoner")):
        found = model.compress(texts(encoder, TEXTS), adapter)
        np.testing.assert_allclose(np.array(found.memory), memory(encoder, TEXTS, side), atol=1e-4, rtol=0)
        with torch.no_grad():
            expected = encoder.model.compress([encoder.text_ids(text) for text in TEXTS], adapter).text
        np.testing.assert_allclose(np.array(found.text), expected, atol=1e-4, rtol=0)
    assert model.compress([]).memory.shape == (0, 4, 32)


def test_memory_does_not_depend_on_the_batch(encoder: MemoryEncoder, model: MLXMemoryModel) -> None:
    whole = np.array(model.compress(texts(encoder, TEXTS)).memory)
    for at, text in enumerate(TEXTS):
        np.testing.assert_allclose(np.array(model.compress(texts(encoder, [text])).memory)[0], whole[at], atol=1e-5)


def test_bfloat16_is_near(encoder: MemoryEncoder, saved: Path) -> None:
    rounded = MLXMemoryModel.load(saved, dtype="bfloat16")
    found = rounded.compress(texts(encoder, TEXTS)).memory
    assert (found.dtype, rounded.parameters["encoder"][min(rounded.parameters["encoder"])].dtype) == (mx.float32,) * 2
    rows = [np.array(own).ravel() for own in found]
    both = zip(rows, memory(encoder, TEXTS).reshape(len(rows), -1), strict=True)
    assert min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in both) > 0.98


@pytest.mark.parametrize("adapter", ["decoder", None])
def test_losses_are_those_of_torch(encoder: MemoryEncoder, model: MLXMemoryModel, adapter: str | None) -> None:
    parts, answers = readings(encoder, memory(encoder, TEXTS)), [encoder.answer_ids(own) for own in ANSWERS]
    with torch.no_grad():
        expected = encoder.model.answer_losses(parts, answers, adapter)
    given = [own.numpy() for own in answers]
    np.testing.assert_allclose(
        np.array(model.answer_losses(arrays(parts), given, adapter)), expected, atol=1e-4, rtol=0
    )
    alone = [model.answer_losses([own], [ids], adapter) for own, ids in zip(arrays(parts), given, strict=True)]
    np.testing.assert_allclose(np.array(mx.concatenate(alone)), expected, atol=1e-4, rtol=0)
    assert model.answer_losses([], [], adapter).shape == (0,)
    with pytest.raises(InputError, match="an answer has no token"):
        model.answer_losses(arrays(parts[:1]), [given[0][:0]], adapter)


@pytest.mark.parametrize("adapter", ["decoder", None])
def test_texts_are_those_of_torch(encoder: MemoryEncoder, model: MLXMemoryModel, adapter: str | None) -> None:
    parts = readings(encoder, memory(encoder, TEXTS))
    for most in (1, 12):
        how: dict[str, Any] = {"most": most, "ends": encoder.ends, "pad": encoder.ends[0]}
        expected = encoder.model.generate(parts, adapter, **how)
        found = model.generate(arrays(parts), adapter, **how)
        assert found == expected
        assert [model.generate([own], adapter, **how)[0] for own in arrays(parts)] == expected
    ends = {token for own in expected for token in own[2:4]}  # some are cut off in the middle
    cut = encoder.model.generate(parts, adapter, most=12, ends=sorted(ends), pad=0)
    assert cut != expected
    assert model.generate(arrays(parts), adapter, most=12, ends=sorted(ends), pad=0) == cut


# ------------------------------------------------------------------------------------------------------------- training


class Both:
    """A step of stage one in torch and in MLX: −log p of answers + .1 · (mean state of text − mean of memory)²."""

    def __init__(self, encoder: MemoryEncoder, model: MLXMemoryModel) -> None:
        self.encoder, self.model = encoder, model
        how: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
        self.torch = torch.optim.AdamW(encoder.model.parameters(), lr=RATE, **how)
        self.mlx = optimizers.AdamW(RATE, bias_correction=True, **how)
        self.asked = [encoder.question_ids(question) for question in QUESTIONS]
        self.answers = [encoder.answer_ids(answer) for answer in ANSWERS]

    def in_torch(self, given: list[str]) -> float:
        made = self.encoder.model.compress([self.encoder.text_ids(text) for text in given])
        parts = [self.encoder.reading([own], asked) for own, asked in zip(made.memory, self.asked, strict=True)]
        losses = self.encoder.model.answer_losses(parts, self.answers, "decoder")
        total = losses.mean() + 0.1 * nn.functional.mse_loss(made.text, made.memory.mean(1))
        self.torch.zero_grad()
        total.backward()
        self.torch.step()
        return float(total.detach())

    def in_mlx(self, given: list[str]) -> float:
        head, separator = self.encoder.pieces.head.numpy(), self.encoder.pieces.separator
        assert len(separator) == 0

        def loss() -> Any:
            made = self.model.compress(texts(self.encoder, given))
            parts = [[head, own, asked.numpy()] for own, asked in zip(made.memory, self.asked, strict=True)]
            losses = self.model.answer_losses(parts, [own.numpy() for own in self.answers], "decoder")
            return losses.mean() + 0.1 * (made.text - made.memory.mean(1)).square().mean()

        value, self.gradients = self.model.gradients(loss, TRAINED)
        own = {part: self.model.parameters[part] for part in TRAINED}
        self.model.parameters |= self.mlx.apply_gradients(self.gradients, own)
        mx.eval(self.model.parameters, self.mlx.state)
        return float(value.item())


def weights(encoder: MemoryEncoder) -> dict[str, Any]:
    found = {f"{part}.{name}": own for part in ADAPTERS for name, own in encoder.model.weights(part).items()}
    return found | {"memory": encoder.model.memory, "mark": encoder.model.mark}


def test_training_is_that_of_torch(encoder: MemoryEncoder, model: MLXMemoryModel, tmp_path: Path) -> None:
    encoder.train()
    both, start = Both(encoder, model), {name: own.detach().clone() for name, own in weights(encoder).items()}
    first = both.in_torch(TEXTS[:3]), both.in_mlx(TEXTS[:3])
    assert first[1] == pytest.approx(first[0], abs=1e-3)
    stepped = weights(MemoryEncoder(model.save(tmp_path / "stepped")))
    apart = []
    for name, own in weights(encoder).items():
        part, _, rest = name.partition(".")
        assert torch.equal(own, start[name]) == (part == "query_reasoner")
        if own.grad is not None:
            place = rest.removeprefix("base_model.model.").removesuffix(".weight")
            found = both.gradients[part][place] if place else both.gradients["memory"][name]
            np.testing.assert_allclose(np.array(found), own.grad, atol=1e-4, rtol=1e-3)
        apart.append((stepped[name] - own).detach().abs().flatten())
    whole = torch.cat(apart)  # a first step is as long as the rate, whichever sign a gradient near 0 has
    assert whole.max() < 2.02 * RATE
    assert (whole < 1e-4).float().mean() > 0.999
    batches = [TEXTS[1:4], TEXTS[2:], TEXTS[:3]] * 3
    losses = np.array([(both.in_torch(given), both.in_mlx(given)) for given in batches])
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-2)
    assert losses[-1].max() < min(first)


def test_dropout_leaves_out_while_it_trains(base: Path, tmp_path: Path) -> None:
    noisy = stir(MemoryEncoder(base, **SIZES))
    model = MLXMemoryModel.load(noisy.save(tmp_path / "noisy"))

    def made() -> Any:
        return np.array(model.compress(texts(noisy, TEXTS)).memory)

    np.testing.assert_allclose(made(), memory(noisy, TEXTS), atol=1e-4, rtol=0)
    model.training = True
    mx.random.seed(3)
    first, second = made(), made()
    assert np.abs(first - second).max() > 1e-2
    mx.random.seed(3)
    np.testing.assert_array_equal(made(), first)


def test_dropout_keeps_the_mean() -> None:
    factors = {"map.lora_A": mx.random.normal((2, 8)), "map.lora_B": mx.random.normal((3, 2))}
    x, made = mx.broadcast_to(mx.random.normal((8,)), (20_000, 8)), mx.zeros((20_000, 3))
    found = np.array(Adapter(factors, 2.0, 0.25)("map", x, made))
    expected = np.array(Adapter(factors, 2.0)("map", x[:1], made[:1]))[0]
    assert found.std(0).min() > 0.1
    np.testing.assert_allclose(found.mean(0), expected, atol=6 * found.std(0).max() / 20_000**0.5)
    assert Adapter(factors, 2.0)("other", x, made) is made


# -------------------------------------------------------------------------------------------------------------- folders


def test_what_is_loaded_is_what_was_saved(encoder: MemoryEncoder, model: MLXMemoryModel, tmp_path: Path) -> None:
    again = model.save(tmp_path / "again")
    found = MemoryEncoder(again)
    assert found.fingerprint == encoder.fingerprint
    for side in ("document", "query"):
        np.testing.assert_array_equal(memory(found, TEXTS, side), memory(encoder, TEXTS, side))
    np.testing.assert_allclose(
        np.array(model.compress(texts(found, TEXTS)).memory), memory(found, TEXTS), atol=1e-4, rtol=0
    )
    back = MLXMemoryModel.load(again)
    assert back.settings == model.settings
    for part, own in model.parameters.items():
        for name, weight in own.items():
            assert bool(mx.array_equal(back.parameters[part][name], weight))


def test_a_new_model_is_one_for_torch(base: Path, tmp_path: Path) -> None:
    """With adapters that change nothing, and for PEFT too."""
    from peft import PeftConfig

    mx.random.seed(0)
    model = MLXMemoryModel.load(base, lora={"rank": 4, "layers": ["q_proj", "down_proj"]}, **SIZES)
    assert not model.reasons
    found = MemoryEncoder(model.save(tmp_path / "saved"))
    assert found.settings == model.settings
    np.testing.assert_allclose(
        np.array(model.compress(texts(found, TEXTS)).memory), memory(found, TEXTS), atol=1e-4, rtol=0
    )
    words = found.model.embed(torch.arange(44)).norm(dim=1).mean()
    torch.testing.assert_close(found.model.memory.norm(dim=1), words.expand(4))
    told: Any = PeftConfig.from_pretrained(tmp_path / "saved" / "adapters" / "decoder")
    assert (told.r, told.lora_alpha, told.target_modules) == (4, 32, {"q_proj", "down_proj"})
    model.parameters["encoder"] |= {name: mx.ones_like(own) * 0.1 for name, own in model.parameters["encoder"].items()}
    model.copy_adapter("encoder", "query_reasoner")
    assert model.reasons
    assert MemoryEncoder(model.save(tmp_path / "saved")).model.reasons
    with pytest.raises(ConfigError, match="made with rate 8, not 4"):
        MLXMemoryModel.load(tmp_path / "saved", rate=4)


@pytest.mark.parametrize(
    "layers", ["all-linear", r".*layers\.1\..*_proj", ["v_proj"], ["model.layers.0.mlp.up_proj", "o_proj"]]
)
def test_the_maps_that_are_adapted_are_those_of_peft(base: Path, tmp_path: Path, layers: Any) -> None:
    encoder = stir(MemoryEncoder(base, lora={"layers": layers, "alpha": 7, "rank": 3}, **SIZES))
    model = MLXMemoryModel.load(encoder.save(tmp_path / "saved"))
    np.testing.assert_allclose(
        np.array(model.compress(texts(encoder, TEXTS)).memory), memory(encoder, TEXTS), atol=1e-4, rtol=0
    )
    assert MemoryEncoder(model.save(tmp_path / "again")).fingerprint == encoder.fingerprint


def test_a_quantised_base_trains(base: Path, tmp_path: Path) -> None:
    """Of mlx-lm: the gradient goes through its maps, and the model comes back with its base."""
    folder = causal_models.by_mlx(shutil.copytree(base, tmp_path / "base"), bits=8)
    model = MLXMemoryModel.load(folder, **QUIET)
    ids = [np.arange(2, 12), np.arange(20, 23)]

    def loss() -> Any:
        return model.answer_losses([[own] for own in model.compress(ids).memory], ids, "decoder").mean()

    optimiser, seen = optimizers.AdamW(1e-2), []
    for _ in range(5):
        value, gradients = model.gradients(loss, TRAINED)
        model.parameters |= optimiser.apply_gradients(gradients, {part: model.parameters[part] for part in TRAINED})
        seen.append(float(value.item()))
    assert seen[-1] < seen[0]
    back = MLXMemoryModel.load(model.save(tmp_path / "saved"))
    assert back.language_model.quantised
    np.testing.assert_array_equal(np.array(back.compress(ids).memory), np.array(model.compress(ids).memory))


@pytest.mark.parametrize("which", ["adapters/query_reasoner/adapter_model.safetensors", "memory.safetensors"])
def test_every_tensor_is_there_with_its_shape(saved: Path, which: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(saved / which)
    first = sorted(state)[0]
    for damaged, said in (
        ({name: tensor for name, tensor in state.items() if name != first}, f"{first} is missing"),
        (state | {"more": state[first].clone()}, "more has no place in the model"),
        (state | {first: state[first][:-1].contiguous()}, r"has the shape \["),
    ):
        save_file(damaged, saved / which)
        with pytest.raises(IntegrityError, match="SHA-256"):
            MLXMemoryModel.load(saved)
        told = read_object(saved / "memory.json")
        told["files"] = {name: sha256_file(saved / name) for name in told["files"]}
        write_json(saved / "memory.json", told)
        with pytest.raises(IntegrityError, match=said):
            MLXMemoryModel.load(saved)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"rnk": 2}, "no setting 'rnk'"),
        ({"rank": 0}, "rank 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"layers": ["lm_head"]}, "no map of the layers is called 'lm_head'"),
        ({"layers": "nowhere"}, "'nowhere'"),
        ({"layers": "("}, "does not fit the model"),
    ],
)
def test_settings_that_cannot_be(base: Path, lora: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MLXMemoryModel.load(base, lora=lora, **SIZES)

"""A memory model of MLX among torch's objectives, optimisers and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import causal_models

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")

from lodesmith.core import events  # noqa: E402 - skipped above where mlx is not there
from lodesmith.core.errors import ConfigError  # noqa: E402
from lodesmith.encoders import MemoryEncoder, MemoryTower  # noqa: E402
from lodesmith.encoders._memory_model import ADAPTERS  # noqa: E402
from lodesmith.encoders._mlx_memory import MLXMemoryModel  # noqa: E402
from lodesmith.encoders._mlx_module import MLXMemoryModule  # noqa: E402
from lodesmith.objectives.compress import Compress  # noqa: E402
from lodesmith.objectives.end_to_end import EndToEnd  # noqa: E402
from lodesmith.training import Group, OptimSettings, Stage, fit  # noqa: E402
from lodesmith.training.engine import TorchEngine  # noqa: E402

pytestmark = pytest.mark.usefixtures("cache")
SIZES: dict[str, Any] = {"rate": 8, "document_length": 32}
TEXTS = ["the cat eats apples", "", "a dog likes music and the moon . " * 3, "owl", "the whale fears thunder"]
QUESTIONS = ["what does the cat eats ?", "who likes music and the moon in the barn ?", "owl"]
ANSWERS = ["cat", "the dog in the barn", ""]


def saved(folder: Path, dropout: float = 0.0) -> Path:
    """A memory model whose adapters look trained."""
    base = causal_models.build(folder / "base", "llama", bos=True)
    torch.manual_seed(0)
    encoder = MemoryEncoder(base, lora={"dropout": dropout}, **SIZES)
    with torch.no_grad():
        for adapter in ADAPTERS:
            for weight in encoder.model.weights(adapter).values():
                weight.copy_(torch.randn(weight.shape) * 0.1)
    return encoder.save(folder / "saved")


def on_mlx(folder: Path) -> MemoryEncoder:
    """The encoder, with its model in MLX."""
    encoder: Any = MemoryEncoder(folder)
    encoder.model = MLXMemoryModule(MLXMemoryModel.load(folder))
    return encoder  # type: ignore[no-any-return]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[MemoryEncoder, MemoryEncoder]:
    folder = saved(tmp_path)
    return MemoryEncoder(folder), on_mlx(folder)


def packed(parts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"ids": torch.cat(parts), "offsets": torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)}


def batch(encoder: MemoryEncoder, start: int = 0) -> dict[str, Any]:
    texts = [TEXTS[(start + at) % len(TEXTS)] for at in range(3)]
    return {
        "documents": packed([encoder.text_ids(text) for text in texts]),
        "of": torch.tensor([[0, 1], [2, -1], [-1, -1]]),
        "questions": packed([encoder.question_ids(question) for question in QUESTIONS]),
        "answers": packed([encoder.answer_ids(answer) for answer in ANSWERS]),
        "examples": 3,
    }


class Batches:
    """Four batches an epoch."""

    def __init__(self, encoder: MemoryEncoder) -> None:
        self.all, self.at = [batch(encoder, start) for start in range(4)], 0

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Any]:
        for at in range(self.at, len(self.all)):
            self.at = (at + 1) % len(self.all)
            yield self.all[at]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at = int(state["at"])


def stage(encoder: MemoryEncoder, steps: int = 9) -> Stage:
    frozen = (Group(match="*.query_reasoner.*", freeze=True),)
    how = OptimSettings(lr=5e-4, warmup=2, groups=frozen)
    return Stage(
        name="compress",
        objective=Compress(MemoryTower(encoder)),
        batches=Batches(encoder),
        steps=steps,
        optim=how,
        checkpoint_every=3,
    )


def run(encoder: MemoryEncoder, until: int | None = None, **options: Any) -> list[events.Step]:
    seen = []
    torch.set_num_threads(1)
    for event in fit([stage(encoder)], engine=TorchEngine(seed=5, device="cpu"), log_every=1, **options):
        if isinstance(event, events.Step):
            seen.append(event)
            if event.step == until:
                break
    return seen


def state(encoder: MemoryEncoder) -> dict[str, torch.Tensor]:
    return {name: own.detach().clone() for name, own in encoder.model.named_parameters() if own.requires_grad}


# --------------------------------------------------------------------------------------------------------------- parity


def test_the_parameters_are_those_of_torch(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    theirs, ours = (dict(MemoryTower(encoder).named_parameters()) for encoder in pair)
    assert ours.keys() == {name for name, own in theirs.items() if own.requires_grad}
    for name, own in ours.items():
        assert torch.equal(own, theirs[name])
    for adapter in ADAPTERS:
        assert pair[0].model.weights(adapter).keys() == pair[1].model.weights(adapter).keys()


def test_terms_and_gradients_are_those_of_torch(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    found = []
    for encoder in pair:
        encoder.batch_tokens = 60  # several groups
        terms = Compress(MemoryTower(encoder))(batch(encoder))
        (terms["answer"] + 0.1 * terms["mse"]).backward()
        found.append(
            (terms, {name: own.grad for name, own in encoder.model.named_parameters() if own.grad is not None})
        )
    (theirs, wanted), (ours, gradients) = found
    for name, term in ours.items():
        torch.testing.assert_close(term, theirs[name], atol=1e-4, rtol=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-4, rtol=1e-3)


def test_the_model_as_it_was_gives_the_memory_its_gradient(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    made = []
    for encoder in pair:
        whole = batch(encoder)
        memory = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        losses = MemoryTower(encoder).losses(memory, whole["of"], whole["questions"], whole["answers"], None)
        losses.sum().backward()
        assert all(own.grad is None for own in encoder.model.parameters())
        made.append(memory.grad)
    torch.testing.assert_close(made[1], made[0], atol=1e-4, rtol=1e-3)


def test_what_is_written_is_that_of_torch(pair: tuple[MemoryEncoder, MemoryEncoder], tmp_path: Path) -> None:
    states = pair[0].encode(TEXTS).values.reshape(len(TEXTS), 4, 32)
    read = [[states[0], states[2]], [TEXTS[2], states[3]], []]
    expected, found = (encoder.answer(QUESTIONS, read, max_new_tokens=8) for encoder in pair)
    assert found == expected
    model: Any = pair[1].model
    with torch.no_grad():
        for own in model.weights("encoder").values():
            own.mul_(0.5)
    model.copy_adapter("encoder", "query_reasoner")
    back = MemoryEncoder(model.write().save(tmp_path / "written"))
    for adapter in ADAPTERS:
        for name, own in back.model.weights(adapter).items():
            assert torch.equal(own, model.weights(adapter)[name])


def test_it_stays_on_the_cpu(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    model: Any = pair[1].model.to("meta")
    with pytest.raises(ConfigError, match="not of meta"):
        model.compress([torch.tensor([1, 2])])


# ------------------------------------------------------------------------------------------------------------- training


def test_training_is_that_of_torch(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    before = state(pair[1])
    theirs, ours = (run(encoder) for encoder in pair)
    assert [step.step for step in ours] == list(range(1, 10))
    for own, expected in zip(ours, theirs, strict=True):
        assert own.terms == pytest.approx(expected.terms, rel=1e-3)
    after, wanted = state(pair[1]), state(pair[0])
    for name, own in after.items():
        torch.testing.assert_close(own, wanted[name], atol=5e-4, rtol=1e-2)
        assert torch.equal(own, before[name]) == (".query_reasoner." in name)


def test_a_training_that_is_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    folder = saved(tmp_path, dropout=0.2)
    whole = on_mlx(folder)
    steps = run(whole)
    broken = on_mlx(folder)
    run(broken, until=5, checkpoints=tmp_path / "checkpoints")
    mx.random.seed(99)
    resumed = on_mlx(folder)
    rest = run(resumed, checkpoints=tmp_path / "checkpoints", resume=True)
    assert [step.step for step in rest] == [4, 5, 6, 7, 8, 9]
    assert [step.terms for step in rest] == [step.terms for step in steps[3:]]
    for name, own in state(resumed).items():
        assert torch.equal(own, state(whole)[name])
    quiet = on_mlx(folder)
    quiet.model._model.dropout = 0.0  # type: ignore[union-attr]
    assert run(quiet)[0].terms != steps[0].terms


def test_the_third_stage_too(pair: tuple[MemoryEncoder, MemoryEncoder]) -> None:
    """Through the differentiable top-k, to reasoner and decoder."""
    found = []
    for encoder in pair:
        torch.manual_seed(0)
        objective = EndToEnd(MemoryTower(encoder), documents=2)
        own = batch(encoder)
        given = {
            "memory": torch.from_numpy(pair[0].encode(TEXTS).values.reshape(5, 4, 32)),
            "candidates": torch.tensor([[0, 1, 2, 3], [4, 2, 1, 0], [3, 4, 0, 2]]),
            "asked": packed([encoder.text_ids(question) for question in QUESTIONS]),
            "questions": own["questions"],
            "answers": own["answers"],
        }
        terms = objective(given)
        sum(terms[name] * weight for name, weight in objective.weights.items()).backward()
        found.append({name: p.grad for name, p in encoder.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(".query_reasoner." in name for name in found[1])
    for name, gradient in found[1].items():
        np.testing.assert_allclose(gradient, found[0][name], atol=1e-3, rtol=1e-2)

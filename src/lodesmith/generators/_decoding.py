"""Sampling and stopping, row by row, so that what a row becomes does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

__all__ = ["RowSampling", "RowStops", "nucleus", "uniforms"]

_TAIL = 16  # tokens beyond a stop string's own that are decoded to look for it


def uniforms(seed: int, prompts: Sequence[Sequence[int]], steps: int) -> NDArray[np.float64]:
    """One random number in [0, 1) for each prompt and step, float64 [n, steps]: drawn from the seed and the prompt's
    token ids, so the same prompt gets the same ones wherever it stands."""
    return np.stack([np.random.default_rng([seed, *ids]).random(steps) for ids in prompts])


def nucleus(logits: Tensor, temperature: float, top_p: float, draws: Tensor) -> Tensor:
    """A token for each row, by inverting the distribution function of the nucleus.

    The nucleus is the smallest set of most probable tokens that together have at least `top_p` (Holtzman et al.,
    "The curious case of neural text degeneration", 2020).

    Args:
        logits: float32 [rows, vocabulary].
        temperature: above 0.
        top_p: above 0, at most 1.
        draws: float64 [rows], in [0, 1).

    Returns:
        int64 [rows].
    """
    ranked, tokens = torch.sort((logits.double() / temperature).softmax(-1), descending=True, stable=True)
    total = ranked.cumsum(-1)
    inside = total - ranked < top_p  # what stood before a token had not yet reached top_p
    mass = torch.where(inside, ranked, 0.0).sum(-1)
    chosen = (total <= (draws * mass)[:, None]).sum(-1)
    last = inside.sum(-1) - 1
    return tokens.gather(-1, torch.minimum(chosen, last)[:, None])[:, 0]


class RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Leaves each row one token, drawn with its own random numbers; greedy decoding then takes it.

    Args:
        draws: float64 [rows, steps], see `uniforms`.
        width: tokens of the padded prompts.
        temperature: above 0.
        top_p: above 0, at most 1.
    """

    def __init__(self, draws: NDArray[np.float64], width: int, temperature: float, top_p: float) -> None:
        self.draws, self.width = torch.from_numpy(draws), width
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores with all but one token of each row at −∞."""
        draws = self.draws[:, input_ids.shape[1] - self.width].to(scores.device)
        tokens = nucleus(scores, self.temperature, self.top_p, draws)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens[:, None], 0.0)


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Ends a row once its text holds a stop string.

    Args:
        tokenizer: decodes.
        stop: the strings.
        width: tokens of the padded prompts.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], width: int) -> None:
        self.tokenizer, self.stop, self.width = tokenizer, tuple(stop), width
        self.tail = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in self.stop) + _TAIL

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """bool [rows]: the rows that have ended."""
        new = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = [any(end in text for end in self.stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)

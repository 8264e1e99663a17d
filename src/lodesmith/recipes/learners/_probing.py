"""What shows whether a text's vector depends on its neighbours in a batch, for encoders of packed token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.data.tokens import Tokens

__all__ = ["probe_texts", "together"]

SAMPLE = 256
"""Documents among which a short and a long one are looked for."""

Text = NDArray[np.int64]


def probe_texts(
    tokens: Tokens, usable: Callable[[Text], bool] = lambda ids: len(ids) > 0
) -> tuple[()] | tuple[Text, Text]:
    """The shortest and the longest of the first texts that are usable; none where none is."""
    ids, offsets = tokens.take(range(min(SAMPLE, len(tokens))))
    texts = [text for text in np.split(ids, offsets[1:-1]) if usable(text)]
    return (min(texts, key=len), max(texts, key=len)) if texts else ()


def together(tower: Any, texts: Sequence[Text]) -> Any:
    """The vectors of texts given as ids, as training makes them but without dropout, on the CPU: [n, d], or a list of
    [t · d] where a text has t of them."""
    import torch

    device, training = next(iter(tower.parameters())).device, tower.training
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    packed = {"ids": torch.from_numpy(np.concatenate(texts)), "offsets": torch.from_numpy(offsets)}
    tower.eval()
    try:
        with torch.no_grad():
            found = tower({name: tensor.to(device) for name, tensor in packed.items()})
        if isinstance(found, torch.Tensor):
            return found.float().cpu()
        counts = found["offsets"].diff().tolist()
        return [own.flatten().float().cpu() for own in found["values"].split(counts)]
    finally:
        tower.train(training)

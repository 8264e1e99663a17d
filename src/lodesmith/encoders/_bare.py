"""An encoder's tensor part alone: what is left of encoding once the texts are tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lodesmith.core.protocols import Encoder
from lodesmith.encoders._pair import TowerPair
from lodesmith.encoders._reading import clean
from lodesmith.encoders._tower import Tower
from lodesmith.encoders._tower import _forward as tower_values
from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["tensors_alone"]


def tensors_alone(encoder: Encoder, texts: Sequence[str]) -> Callable[[], object] | None:
    """A function that computes the documents' vectors from tokens that are made now, by the same batches as `encode`.

    Returns:
        The function; None where the encoder tokenises while it computes.
    """
    if isinstance(encoder, TowerPair):
        encoder = encoder.document
    if isinstance(encoder, Tower):
        tower, made = encoder, encoder.tokenizer(clean(texts))
        tower.train(False)
        return lambda: tower_values(tower, made)
    if isinstance(encoder, TransformerEncoder) and encoder.packed:
        parts, _ = encoder.reader.passages(clean(texts), encoder.passages, "document")
        reading, transformer = encoder.reader.read(parts, "document"), encoder
        return lambda: transformer.values(reading, "document")
    return None

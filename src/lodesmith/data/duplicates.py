"""Near-duplicate texts: MinHash signatures, locality-sensitive banding, and an exact check of what they propose.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", chapter 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError

__all__ = ["Duplicates", "near_duplicates"]

_WORD = re.compile(r"\w+")
_PERMUTATIONS = 64
_WINDOW = 50  # a bucket up to this size proposes all its pairs
_BATCH = 4096  # pairs that are verified at a time
_CHUNK = 1 << 18  # values at a time: what fits into the cache is hashed fastest
_BITS = np.uint64(40)  # of a shingle's hash; the other 24 count texts
_SHIFT = np.uint64(64) - _BITS
_MASK = (np.uint64(1) << _BITS) - np.uint64(1)


@dataclass(frozen=True)
class Duplicates:
    """Which texts nearly agree.

    Args:
        groups: positions of texts that hang together by near-duplication, each sorted, two or more in a group.
        representatives: int64 [n]: for each text the first position of its group, or its own.
    """

    groups: tuple[tuple[int, ...], ...]
    representatives: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.bool_]:
        """bool [n]: the texts that remain when each group keeps its first."""
        return np.equal(self.representatives, np.arange(len(self.representatives)))


def near_duplicates(texts: Sequence[str], threshold: float = 0.8, *, shingle: int = 3, seed: int = 0) -> Duplicates:
    """Group the texts whose sets of word `shingle`s have a Jaccard similarity of at least `threshold`.

    Case and punctuation do not count; texts shorter than a shingle agree when their words do. Every pair that is
    joined has been verified exactly; a pair at the threshold is missed with a probability below 0.1 %
    (more often where over 50 texts agree in a whole band of their signatures).

    Args:
        texts: n texts.
        threshold: from 0.3 to 1.
        shingle: words in a shingle.
        seed: of the hash functions.

    Raises:
        ConfigError: the threshold or the shingle is out of range.
    """
    if not 0.3 <= threshold <= 1 or shingle < 1:
        raise ConfigError(
            f"threshold {threshold} and shingle {shingle} cannot be used", "0.3 ≤ threshold ≤ 1, shingle ≥ 1"
        )
    if len(texts) >= 1 << 24:
        raise ConfigError(f"{len(texts):,} texts are too many for one call", "at most 16,777,215")
    shingles, offsets = _shingles(texts, shingle)
    twin = _identical(shingles, offsets)
    unique = np.flatnonzero((twin == np.arange(len(texts))) & (np.diff(offsets) > 0))
    signatures = _signatures(shingles, offsets, unique, seed)
    left, right = _candidates(signatures, _rows_of_band(threshold))
    estimate = (signatures[left] == signatures[right]).mean(axis=1)
    order = np.argsort(-estimate, kind="stable")
    order = order[: int((estimate >= threshold - _slack(threshold)).sum())]
    forest = _Forest(twin)
    left, right = unique[left[order]], unique[right[order]]
    for start in range(0, len(order), _BATCH):
        a, b = left[start : start + _BATCH], right[start : start + _BATCH]
        apart = forest.apart(a, b)  # most pairs of a large group are joined already: nothing to verify
        a, b = a[apart], b[apart]
        agree = _jaccard(shingles, offsets, a, b) >= threshold
        forest.join(a[agree], b[agree])
    return forest.groups()


def _slack(threshold: float) -> float:
    """How far a signature's estimate may fall below the threshold: 3.3 standard deviations."""
    return float(3.3 * np.sqrt(threshold * (1 - threshold) / _PERMUTATIONS))


def _shingles(texts: Sequence[str], size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct shingle hashes of each text, sorted: uint64 [total] and offsets [n + 1]."""
    vocabulary: dict[str, int] = {}
    ids: list[int] = []
    counts = np.empty(len(texts), np.int64)
    for i, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        counts[i] = len(words)
        ids += [vocabulary.setdefault(word, len(vocabulary)) for word in words]
    hashes = _mix(np.asarray(ids, np.uint64) + np.uint64(1))
    rolled = np.zeros(len(hashes), np.uint64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # A text shorter than a shingle is one shingle: the words that it lacks are zeros.
    remaining = np.repeat(starts[1:], counts) - np.arange(len(hashes))
    for k in range(size):
        shifted = np.zeros_like(hashes)
        shifted[: max(0, len(hashes) - k)] = hashes[k:]
        rolled = _mix(rolled + np.where(remaining > k, shifted, np.uint64(0)))
    whole = (remaining >= size) | (np.arange(len(hashes)) == np.repeat(starts[:-1], counts))
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)[whole]
    keys = _sorted_keys(owner, rolled[whole] >> _SHIFT)
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    sizes = np.bincount((keys >> _BITS).astype(np.int64), minlength=len(texts))
    return keys & _MASK, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _sorted_keys(owner: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Owner and 40-bit value in one integer, sorted: one sort of integers is ten times faster than a lexsort."""
    keys = (owner << _BITS) | values
    keys.sort()
    return keys


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection that scatters neighbouring integers (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _identical(shingles: NDArray[np.uint64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each text the first one with the same set of shingles: int64 [n]. Texts without words stay alone."""
    first: dict[bytes, int] = {}
    twin = np.arange(len(offsets) - 1)
    for i, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        if end > start:
            twin[i] = first.setdefault(shingles[start:end].tobytes(), i)
    return twin


def _signatures(
    shingles: NDArray[np.uint64], offsets: NDArray[np.int64], rows: NDArray[np.int64], seed: int
) -> NDArray[np.uint32]:
    """MinHash signatures: uint32 [len(rows), 64], by multiply-add hashing on the upper 32 bits."""
    random = np.random.default_rng(seed)
    factors = random.integers(1, 2**63, _PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    terms = random.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64)
    signatures = np.empty((len(rows), _PERMUTATIONS), np.uint32)
    for part in _parts(np.diff(offsets)[rows]):
        chosen = rows[part]
        flat, starts = _gather(shingles, offsets, chosen)
        flat = _mix(flat)
        for k, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            high = (flat * factor + term) >> np.uint64(32)
            signatures[part, k] = np.minimum.reduceat(high, starts[:-1]).astype(np.uint32)
    return signatures


def _gather(
    values: NDArray[np.uint64], offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The values of some rows, flat, and their offsets."""
    counts = np.diff(offsets)[rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.arange(starts[-1]) + np.repeat(offsets[:-1][rows] - starts[:-1], counts)
    return values[index], starts


def _parts(counts: NDArray[np.int64]) -> Iterable[slice]:
    """Slices of consecutive items that hold about `_CHUNK` values each."""
    if len(counts) == 0:
        return
    part = (np.cumsum(counts) - 1) // _CHUNK
    bounds = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    for start, end in pairwise(bounds):
        yield slice(start, end)


def _rows_of_band(threshold: float) -> int:
    """The most rows a band can have while a pair at the threshold is missed in less than one of 1,000 cases."""
    fitting = [r for r in (1, 2, 4, 8) if (1 - threshold**r) ** (_PERMUTATIONS // r) < 1e-3]
    return max(fitting, default=1)


def _candidates(signatures: NDArray[np.uint32], rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of positions that share at least one band of `rows` minima: two int64 [pairs], left < right."""
    n = len(signatures)
    keys = [_band(signatures[:, start : start + rows]) for start in range(0, _PERMUTATIONS, rows)]
    found = [np.empty(0, np.int64)]
    for band, key in enumerate(keys):
        # In a bucket that is too large for all its pairs, the next band brings the most similar side by side.
        order = np.lexsort((keys[(band + 1) % len(keys)], key))
        bounds = [0, *(np.flatnonzero(np.diff(key[order])) + 1).tolist(), n]
        found += [_pairs(order[start:end], n) for start, end in pairwise(bounds) if end - start > 1]
    flat = np.unique(np.concatenate(found))
    return flat // max(n, 1), flat % max(n, 1)


def _band(minima: NDArray[np.uint32]) -> NDArray[np.uint64]:
    key = np.zeros(len(minima), np.uint64)
    for column in minima.T:
        key = _mix(key + column + np.uint64(1))
    return key


def _pairs(bucket: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The pairs of a bucket as low·n + high: those at most `_WINDOW` apart, which is all of a small bucket."""
    near = [(bucket[:-step], bucket[step:]) for step in range(1, min(len(bucket), _WINDOW))]
    return np.concatenate([np.minimum(a, b) * n + np.maximum(a, b) for a, b in near])


def _jaccard(
    shingles: NDArray[np.uint64], offsets: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The exact Jaccard similarity of pairs: float64 [pairs]."""
    sizes = np.diff(offsets)
    both = sizes[left] + sizes[right]
    shared = np.zeros(len(left), np.int64)
    for part in _parts(both):
        a, a_starts = _gather(shingles, offsets, left[part])
        b, b_starts = _gather(shingles, offsets, right[part])
        keys = _sorted_keys(np.concatenate([_owners(a_starts), _owners(b_starts)]), np.concatenate([a, b]))
        equal = keys[1:][keys[1:] == keys[:-1]] >> _BITS
        shared[part] = np.bincount(equal.astype(np.int64), minlength=part.stop - part.start)
    return shared / np.maximum(both - shared, 1)


def _owners(starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    return np.repeat(np.arange(len(starts) - 1, dtype=np.uint64), np.diff(starts))


class _Forest:
    """Disjoint sets of positions; a set is named by its first member."""

    def __init__(self, first: NDArray[np.int64]) -> None:
        self._parent: list[int] = first.tolist()

    def root(self, i: int) -> int:
        """The first position of the set of i."""
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def apart(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [pairs]: the pairs that are not joined yet."""
        pairs = zip(left.tolist(), right.tolist(), strict=True)
        return np.fromiter((self.root(a) != self.root(b) for a, b in pairs), np.bool_, len(left))

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        """Put both ends of each pair into one set."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low

    def groups(self) -> Duplicates:
        """The sets."""
        n = len(self._parent)
        representatives = np.fromiter((self.root(i) for i in range(n)), np.int64, n)
        members: dict[int, list[int]] = {}
        for i, first in enumerate(representatives.tolist()):
            members.setdefault(first, []).append(i)
        return Duplicates(tuple(tuple(m) for m in members.values() if len(m) > 1), representatives)

"""`gather`: the Python documentation found in this interpreter and its installed packages, as a dataset.

A passage is an object's docstring; its query is the docstring's first sentence, taken out of the passage. Source
files are parsed, never imported or executed (only compiled modules of the interpreter itself are looked at alive).
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data import _sources
from lodesmith.data.docstrings import clean, describe
from lodesmith.data.duplicates import near_duplicates

__all__ = ["gather"]

SPLITS = {"train": 0.70, "dev": 0.15, "test": 0.15}
MOST_QUERIES = 2_000  # of dev and of test
_FEWEST_WORDS = 8  # of a docstring that is worth a passage
_SPARE = 1.3  # how many more than the cap are compared for duplicates
_SOURCE_BYTES = 110  # of source to read a package, for each passage of the cap
_STDLIB_SHARE = 4  # the standard library counts as this many packages

_LICENCE = (
    "each docstring is under the licence of its package; the dataset is made on this machine from what is installed "
    "here and is not meant to be passed on"
)


@dataclass(frozen=True)
class _Entry:
    """A documented object: the package and the public module it belongs to, its public name, its docstring."""

    package: str
    module: str
    name: str
    doc: str

    @property
    def key(self) -> str:
        """What is kept in one split: the first two levels of the module."""
        return ".".join(self.module.split(".")[:2])


def gather(cap: int = 20_000, seed: int = 0, paths: Sequence[Path | str] | None = None) -> Dataset:
    """The documentation of the standard library and of every installed package as a dataset.

    Documents are named by the object's public name, such as `numpy.linalg.norm`. Splits are by module (its first
    two levels): no module is in two splits. Near-duplicate docstrings and queries are removed.

    Args:
        cap: the most passages. Each package has an equal share; what small ones leave goes to the large ones.
        seed: of the choice of passages, of the modules of each split and of the queries that are kept.
        paths: folders that hold packages or modules, instead of what is installed.

    Raises:
        InputError: there are too few documented modules to make three splits of them.
    """
    if cap < 1:
        raise InputError(f"a dataset of {cap} passages cannot be made", "give a cap of at least 1")
    entries = _choose(_entries(cap, paths), int(cap * _SPARE), seed)
    tell("remove near-duplicates", 0, len(entries), "passages")
    first = near_duplicates([entry.doc for entry in entries]).first
    entries = _choose([e for e, keep in zip(entries, first.tolist(), strict=True) if keep], cap, seed)
    tell("remove near-duplicates", len(entries), len(entries), "passages")
    return _dataset(entries, seed, cap)


def _entries(cap: int, paths: Sequence[Path | str] | None) -> list[_Entry]:
    """Every documented public object, by name."""
    packages = _sources.packages(None if paths is None else [_existing(path) for path in paths])
    room = cap * _SOURCE_BYTES
    chosen = [p.chosen(room * _STDLIB_SHARE if p.name == _sources.STDLIB else room) for p in packages]
    read = iter(_sources.read([file for files in chosen for file in files], min(4, os.cpu_count() or 1)))
    found: dict[str, _Entry] = {}
    for package, files in zip(packages, chosen, strict=True):
        for _ in files:
            for name, doc in next(read):
                if (public := package.public_name(name)) is not None:
                    _add(found, package.name, public, doc)
    for name, doc in _sources.compiled() if paths is None else ():
        library = next(p for p in packages if p.name == _sources.STDLIB)
        _add(found, _sources.STDLIB, library.public_name(name) or (name.partition(".")[0], name), doc)
    return [found[name] for name in sorted(found)]


def _existing(path: Path | str) -> Path:
    if not Path(path).is_dir():
        raise InputError("no such folder", "give folders that hold Python packages", path=path)
    return Path(path)


def _add(found: dict[str, _Entry], package: str, public: tuple[str, str], doc: str) -> None:
    module, name = public
    text = clean(doc)
    if name not in found and len(text.split()) >= _FEWEST_WORDS and name.isprintable():
        found[name] = _Entry(package, module, name, text)


def _choose(entries: Sequence[_Entry], cap: int, seed: int) -> list[_Entry]:
    """At most `cap` entries, an equal share of each package, short names before long ones."""
    members = defaultdict(list)
    for entry in entries:
        key = text_key(f"{seed} {entry.name}")
        part = int(key[:8], 16) % _STDLIB_SHARE if entry.package == _sources.STDLIB else 0
        members[entry.package, part].append((key, entry))
    share = _share([len(m) for m in members.values()], cap)
    kept = [entry for m in members.values() for _, entry in sorted(m, key=lambda pair: pair[0])[:share]]
    return sorted(kept, key=lambda entry: (entry.name.count("."), entry.name))


def _share(sizes: Iterable[int], cap: int) -> int:
    """The largest limit to each size with which the sum stays within `cap`, and at least 1."""
    left = sorted(sizes)
    for i, size in enumerate(left):
        if size * (len(left) - i) > cap:
            return max(1, cap // (len(left) - i))
        cap -= size
    return max(left, default=1)


# the dataset


def _dataset(entries: list[_Entry], seed: int, cap: int) -> Dataset:
    entries = sorted(entries[:cap], key=lambda entry: entry.name)
    described = [describe(entry.doc) for entry in entries]
    asked = _distinct([d.query for d in described])
    split_of = _split_modules(Counter(entries[i].key for i in asked), seed)
    with_query = set(asked)
    documents = [
        Document(e.name, e.name.removeprefix("builtins."), described[i].passage if i in with_query else e.doc)
        for i, e in enumerate(entries)
    ]
    judged = _judged([(entries[i], split_of[entries[i].key]) for i in asked], seed)
    texts = {entries[i].name: described[i].query for i in asked}
    queries = [Query(f"q:{name}", texts[name]) for names in judged.values() for name in names]
    judgements = {split: {f"q:{name}": {name: 1} for name in names} for split, names in judged.items()}
    return Dataset.of(documents, queries, judgements, **_info(entries, documents, split_of, seed))


def _distinct(queries: list[str]) -> list[int]:
    """The positions of queries that no other nearly repeats.

    An inherited summary ("Return the parameters of this estimator") fits several passages: judged for one of
    them, it would count the others as wrong.
    """
    positions = [i for i, query in enumerate(queries) if query]
    groups = near_duplicates([queries[i] for i in positions], shingle=2).groups
    repeated = {positions[member] for group in groups for member in group}
    return [i for i in positions if i not in repeated]


def _split_modules(counts: Mapping[str, int], seed: int) -> dict[str, str]:
    """Module key → split. The keys stand in an order by hash, and are cut where the shares of queries are reached."""
    if len(counts) < len(SPLITS):
        raise InputError(
            f"only {len(counts)} modules have docstrings that give queries: three splits need more",
            "install packages with documentation, or raise the cap",
        )
    order = sorted(counts, key=lambda key: text_key(f"{seed} {key}"))
    total = sum(counts.values())
    bounds = np.cumsum(list(SPLITS.values()))
    names = list(SPLITS)
    found, done, split = {}, 0, 0
    for left, key in zip(range(len(order), 0, -1), order, strict=True):
        middle = (done + counts[key] / 2) / total
        if split + 1 < len(names) and done and (middle > bounds[split] or left < len(names) - split):
            split += 1
        found[key] = names[split]
        done += counts[key]
    return found


def _judged(asked: Sequence[tuple[_Entry, str]], seed: int) -> dict[str, list[str]]:
    """Split → the names whose queries are kept: all of train, a seeded sample of dev and test."""
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for entry, split in asked:
        names[split].append(entry.name)
    for split in ("dev", "test"):
        names[split] = sorted(sorted(names[split], key=lambda n: text_key(f"{seed} {n}"))[:MOST_QUERIES])
    return names


def _info(
    entries: Sequence[_Entry], documents: Sequence[Document], split_of: Mapping[str, str], seed: int
) -> dict[str, Any]:
    words = np.asarray([len(d.content.split()) for d in documents] or [0])
    packages = Counter(entry.package for entry in entries)
    return {
        "name": "python-docs",
        "source": "docstrings of this Python's standard library and installed packages",
        "licence": _LICENCE,
        "queries_from": "the first sentence of a docstring, taken out of its passage",
        "seed": seed,
        "versions": _sources.versions(packages),
        "packages": dict(sorted(packages.items())),
        "modules": {split: sorted(k for k, s in split_of.items() if s == split) for split in SPLITS},
        "words": {"mean": round(float(words.mean()), 1), "p95": int(np.percentile(words, 95))},
    }

"""The documentation of installed packages: found without importing them, split by module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.data import _sources, pydocs
from lodesmith.data.check import check
from lodesmith.data.pydocs import gather

VERBS = ["Open", "Close", "Merge", "Split", "Rotate", "Invert", "Sample", "Encode", "Decode", "Measure"]
NOUNS = ["archive", "matrix", "stream", "graph", "tensor", "socket", "ledger", "palette", "cursor", "lattice"]


def rest(word: str, other: str) -> str:
    return f"The {word} is first checked and then handed over. " + " ".join(f"{word}{i} {other}{i}" for i in range(20))


def source(verb: str) -> str:
    """A module whose functions have docstrings of their own."""
    parts = [f'"""About how to {verb.lower()} several things at once."""\nraise SystemExit("imported!")\n']
    for noun in NOUNS:
        parts.append(
            f"def {verb.lower()}_{noun}():\n"
            f'    """{verb} the given {noun} for good.\n\n    {rest(noun, verb)}\n    """\n'
        )
    return "\n".join(parts)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for verb in VERBS:
        folder = tmp_path / verb.lower()
        (folder / "_impl").mkdir(parents=True)
        (folder / "tests").mkdir()
        (folder / "__init__.py").write_text(
            f"raise SystemExit('imported!')\nfrom ._impl.core import {verb}Box\nfrom .public import *\n"
        )
        (folder / "public.py").write_text(source(verb))
        (folder / "tests" / "test_x.py").write_text(source("Test"))
        (folder / "_impl" / "__init__.py").write_text("")
        (folder / "_impl" / "core.py").write_text(
            f'class {verb}Box:\n    """{verb} whatever a user hands over.\n\n    {rest("thing", verb)}\n    """\n'
            f'    def _private(self):\n        """{verb} secretly behind the back of all who may look."""\n'
            f'def internal():\n    """{verb} inside of the private part only, please, and nowhere else."""\n'
        )
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "empty.py").write_text("")
    return tmp_path


def test_passages_queries_and_names(packages: Path) -> None:
    data = gather(paths=[packages])
    document = data.documents["merge.merge_tensor"]  # a star import gives the short public name
    assert document.title == "merge.merge_tensor"
    assert data.queries["q:merge.merge_tensor"].text == "Merge the given tensor for good"
    assert document.text.startswith("The tensor is first checked")
    assert "for good" not in document.text
    assert data.queries["q:open.OpenBox"].text == "Open whatever a user hands over"
    assert len(data.documents) == len(VERBS) * (len(NOUNS) + 2), "functions, class and module; nothing private, no test"


def test_no_module_is_in_two_splits(packages: Path) -> None:
    data = gather(paths=[packages])
    modules = data.info["modules"]
    assert set(modules) == set(data.judgements) == {"train", "dev", "test"}
    for split, judgements in data.judgements.items():
        keys = {next(iter(documents)).partition(".")[0] for documents in judgements.values()}
        assert keys <= {key.partition(".")[0] for key in modules[split]}
        assert all(len(documents) == 1 for documents in judgements.values())
    assert sum(map(len, modules.values())) == len(set().union(*modules.values()))
    sizes = {split: len(j) for split, j in data.judgements.items()}
    assert sizes["train"] > sizes["test"] > 0 < sizes["dev"]


def test_the_same_seed_gives_the_same_bytes(packages: Path) -> None:
    first, again, other = gather(paths=[packages]), gather(paths=[packages]), gather(seed=1, paths=[packages])
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_the_cap_is_shared_equally(packages: Path) -> None:
    (packages / "huge").mkdir()
    for verb in VERBS:
        (packages / "huge" / f"{verb.lower()}s.py").write_text(source(f"{verb}s"))
    (packages / "huge" / "__init__.py").touch()
    data = gather(cap=60, paths=[packages])
    assert len(data.documents) <= 60
    counts = data.info["packages"]
    assert max(counts.values()) - min(counts.values()) <= 1
    small, large = set(gather(cap=40, paths=[packages]).documents), set(data.documents)
    assert small & large


def test_copies_are_removed_and_ambiguous_queries_are_not_asked(packages: Path) -> None:
    (packages / "copy.py").write_text((packages / "merge" / "public.py").read_text().replace("def merge", "def copied"))
    (packages / "twin.py").write_text(
        "".join(
            f'def f{i}():\n    """Apply the same summary to both.\n\n    {rest(noun, "twin" + noun)}\n    """\n'
            for i, noun in enumerate(NOUNS[:2])
        )
    )
    data = gather(paths=[packages])
    texts = [d.text for d in data.documents.values()]
    assert len(texts) == len(set(texts))
    copies = [key for key in data.documents if key.startswith(("copy.copied_", "merge.merge_"))]
    assert len(copies) == len(NOUNS)
    assert "twin.f0" in data.documents
    assert "q:twin.f0" not in data.queries
    assert data.documents["twin.f0"].text.startswith("Apply the same summary"), "without a query the passage is whole"


def test_the_dataset_is_clean(packages: Path, tmp_path: Path) -> None:
    folder = gather(paths=[packages]).save(tmp_path / "out" / "docs")
    assert check(folder).problems == {}
    info = Dataset.load(folder).info
    assert info["name"] == "python-docs"
    assert info["words"]["mean"] > 20
    assert "python" in info["versions"]


def test_registered_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "pack" / "_pack_docs.py"
    path.parent.mkdir()
    path.write_text(
        'add_docstr(pack.abs, r"""abs(x) -> y\n\nComputes it.\n\nArgs:\n    {input}\n""".format(**args))\n'
        'add_newdoc("pack.core", "array", """array(x)\n\nCreate an array.""")\n'
        'add_newdoc("pack", "cls", [("size", "The size."), ("_x", "no")])\n'
        'add_newdoc("pack", "cls", ("shape", "The shape."))\n'
        'add_docstr_all("add", "Adds it.")\n'
    )
    answer = subprocess.run(
        [sys.executable, "-m", "lodesmith.data._docstrings"],
        input=json.dumps([str(path), "pack._pack_docs"]) + "\n" + json.dumps(["/none", "none"]) + "\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert dict(json.loads(answer[0])) == {
        "pack.abs": "abs(x) -> y\n\nComputes it.\n\nArgs:",
        "pack.core.array": "array(x)\n\nCreate an array.",
        "pack.cls.size": "The size.",
        "pack.cls.shape": "The shape.",
        "torch.Tensor.add": "Adds it.",
    }
    assert json.loads(answer[1]) == []


def test_compiled_modules_of_the_interpreter() -> None:
    found = dict(_sources.compiled())
    assert found["math.hypot"].startswith("hypot(*coordinates)")
    assert "collections.deque.rotate" in found
    assert "builtins.str.split" in found
    assert not any("._" in name for name in found)


def test_a_share_fills_the_cap() -> None:
    assert pydocs._share([1, 2, 100, 100], 53) == 25
    assert pydocs._share([1, 2], 10) == 2
    assert pydocs._share([5, 5, 5], 2) == 1


def test_too_little_documentation(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(source("Open"))
    with pytest.raises(InputError, match="only 1 modules"):
        gather(paths=[tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        gather(paths=[tmp_path / "none"])
    with pytest.raises(InputError, match="at least 1"):
        gather(cap=0)


@pytest.mark.slow
def test_this_interpreter() -> None:
    """The real thing: public names, no leaks, the shares of the splits."""
    data = gather(cap=4000)
    assert 3500 < len(data.documents) <= 4000
    assert data.info["packages"]["stdlib"] > 100
    asked = sum(len(j) for j in data.judgements.values())
    for split, share in pydocs.SPLITS.items():
        assert abs(len(data.judgements[split]) / asked - share) < 0.05
    for query in data.queries.values():
        assert query.text not in data.documents[query.id.removeprefix("q:")].text
    assert not any(_sources.is_private(key) for key in data.documents)
    assert "lodesmith" not in data.info["packages"]

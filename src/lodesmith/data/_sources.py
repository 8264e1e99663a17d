"""Where Python's documentation lies: the source files of the standard library and of installed packages."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell, track
from lodesmith.data._docstrings import Entry, parse, reexports

log = logging.getLogger(__name__)

STDLIB = "stdlib"
_SKIPPED = {
    "__pycache__", "benchmarks", "compat", "ensurepip", "encodings", "examples", "externals", "idlelib", "lib2to3",
    "site-packages", "dist-packages", "test", "testing", "tests", "third_party", "turtledemo", "vendor", "vendored",
    "_vendor", "_vendored",
}  # fmt: skip
_REGISTERS = ("_docs.py", "_add_newdocs.py", "_add_newdocs_scalars.py")
_COMPILED = (
    "array", "atexit", "binascii", "builtins", "cmath", "fcntl", "gc", "grp", "itertools", "marshal", "math", "mmap",
    "posix", "pwd", "resource", "select", "sys", "time", "unicodedata", "zlib", "_collections", "_functools", "_io",
    "_operator", "_random", "_signal", "_struct", "_thread", "_weakref",
)  # fmt: skip


@dataclass
class Package:
    """The files of one package (or of the standard library), and the names that its `__init__`s re-export."""

    name: str
    modules: dict[str, Path]
    aliases: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """(module, name) → packages that re-export it; the name `*` stands for all of a module."""

    def public_name(self, name: str) -> tuple[str, str] | None:
        """The public module of an object and its shortest public name; None for what is private."""
        module = self._module_of(name)
        if not module:
            return None
        inner = name[len(module) + 1 :]
        found = [(m, f"{m}.{inner}" if inner else m) for m in self._homes(module, inner.partition(".")[0])]
        public = [pair for pair in found if not is_private(pair[1])]
        return min(public, key=lambda pair: (pair[1].count("."), pair[1]), default=None)

    def _module_of(self, name: str) -> str:
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name

    def _homes(self, module: str, name: str, depth: int = 6) -> Iterator[str]:
        """Modules in which an object of `module` can be found, by following re-exports."""
        yield module
        if name and depth:
            owner = module
            while owner:
                for package in self.aliases.get((owner, name), ()):
                    yield from self._homes(package, name, depth - 1)
                owner = owner.rpartition(".")[0] if is_private(owner) else ""
            for package in self.aliases.get((module, "*"), ()):
                yield from self._homes(package, name, depth - 1)

    def chosen(self, room: int) -> list[tuple[str, Path]]:
        """The modules to read within `room` bytes: those with registered docstrings, then those that the
        `__init__`s re-export from, then other public ones, shallow ones first."""
        reached = {m for owner, name in self.aliases for m in (owner, f"{owner}.{name}")}
        wanted = [
            (not path.name.endswith(_REGISTERS), module not in reached, module.count("."), text_key(module), module)
            for module, path in self.modules.items()
            if not is_private(module) or module in reached or path.name.endswith(_REGISTERS)
        ]
        files: list[tuple[str, Path]] = []
        for *_, module in sorted(wanted):
            path = self.modules[module]
            if (size := path.stat().st_size) <= room or not files:
                room -= size
                files.append((module, path))
        return files


def is_private(name: str) -> bool:
    """Whether a part of a dotted name begins with an underscore."""
    return name.startswith("_") or "._" in name


def packages(paths: Sequence[Path] | None = None) -> list[Package]:
    """The standard library and each installed package, or what lies in `paths` instead; sorted by name."""
    found = _installed() if paths is None else {p.name: p for path in paths for p in _in_folder(path)}
    kept = [package for _, package in sorted(found.items()) if package.modules]
    for package in track(kept, "find documentation", unit="packages"):
        _follow(package)
    return kept


def _installed() -> dict[str, Package]:
    library = Path(sysconfig.get_path("stdlib"))
    names = [n for n in sorted(sys.stdlib_module_names) if n not in _SKIPPED and not n.startswith("_")]
    standard = Package(STDLIB, {m: f for n in names for m, f in _modules(library, n)})
    found = {STDLIB: standard}
    for entry in sys.path:
        if Path(entry).name in ("site-packages", "dist-packages") and Path(entry).is_dir():
            for package in _in_folder(Path(entry)):
                found.setdefault(package.name, package)
    found.pop(__name__.partition(".")[0], None)  # a dataset that changes with this program measures nothing
    return found


def versions(names: Iterable[str]) -> dict[str, str]:
    """The installed distribution and version of each package that has one, and that of Python."""
    owners = metadata.packages_distributions()
    found = {owner: metadata.version(owner) for name in names for owner in owners.get(name, ())}
    return {"python": sys.version.partition(" ")[0], **dict(sorted(found.items()))}


def _in_folder(folder: Path) -> list[Package]:
    stems = {p.name.removesuffix(".py") for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    names = [s for s in sorted(stems) if s.isidentifier() and not s.startswith("_") and s not in _SKIPPED]
    return [Package(name, dict(_modules(folder, name))) for name in names]


def _modules(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Module name and file of everything in a package; tests, examples and vendored copies are left out."""
    if (folder / f"{name}.py").is_file():
        yield name, folder / f"{name}.py"
    for root, folders, files in os.walk(folder / name):
        folders[:] = sorted(f for f in folders if f.isidentifier() and f not in _SKIPPED)
        module = ".".join(Path(root).relative_to(folder).parts)
        for file in sorted(files):
            stem = file.removesuffix(".py")
            if file == "__init__.py":
                yield module, Path(root) / file
            elif stem != file and stem.isidentifier() and not stem.startswith(("test_", "__")) and stem != "conftest":
                yield f"{module}.{stem}", Path(root) / file


def _follow(package: Package) -> None:
    """Record what the `__init__`s re-export. Deep private packages export nothing that anyone should import."""
    for module, path in package.modules.items():
        if path.name == "__init__.py" and (not is_private(module) or module.count(".") == 1):
            tree = parse(path)
            for name, source, original in () if tree is None else reexports(tree, module):
                if name == original and not name.startswith("_"):
                    package.aliases[source, original].append(module)


def read(files: Sequence[tuple[str, Path]], processes: int) -> list[list[Entry]]:
    """The docstrings of files, in their order, read by child processes that share nothing with this one."""
    chunks = [files[start::processes] for start in range(processes)]
    children = [_child(chunk) for chunk in chunks]
    found: list[list[Entry]] = [[] for _ in files]
    for i in range(len(files)):
        child = children[i % processes]
        if child.stdout is None or not (answer := child.stdout.readline()):
            log.warning("the documentation in %s could not be read", files[i][1])  # its reader died there or before
            continue
        found[i] = [(name, doc) for name, doc in json.loads(answer)]
        if i % 200 == 0:
            tell("read documentation", i, len(files), "files")
    for child in children:
        if child.stdout is not None:
            child.stdout.close()
        child.wait()
    return found


def _child(files: Sequence[tuple[str, Path]]) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "lodesmith.data._docstrings"]
    with tempfile.TemporaryFile() as request:
        request.write("".join(json.dumps([str(path), module]) + "\n" for module, path in files).encode())
        request.seek(0)
        return subprocess.Popen(command, env=environment, stdin=request, stdout=subprocess.PIPE, encoding="utf-8")


def compiled() -> list[Entry]:
    """Docstrings of the interpreter's own compiled modules. These alone are looked at as live objects."""
    import importlib

    found: list[Entry] = []
    for module in _COMPILED:
        try:
            owner = importlib.import_module(module)
        except ImportError:
            continue  # not on this platform
        for name, value in sorted(vars(owner).items()):
            home = str(getattr(value, "__module__", None) or module).lstrip("_")
            home = "os" if home == "posix" else home
            if not name.startswith("_") and callable(value) and not isinstance(value, type(os)):
                found += _described(f"{home}.{name}", value)
    return found


def _described(name: str, value: object) -> Iterator[Entry]:
    doc = getattr(value, "__doc__", None)
    if isinstance(doc, str) and doc:
        yield name, doc
    if isinstance(value, type):
        for member, inner in sorted(vars(value).items()):
            text = getattr(inner, "__doc__", None)
            if not member.startswith("_") and isinstance(text, str) and text:
                yield f"{name}.{member}", text

"""Docstrings and re-exports of one source file, read from its syntax tree: nothing is imported or executed.

Run as a program it reads `[path, module]` pairs, one JSON array a line, and answers each with its docstrings.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

Entry = tuple[str, str]
"""The qualified name of an object, and its docstring."""

_BLOCKS = (ast.If, ast.Try, ast.With)


def parse(path: Path) -> ast.Module | None:
    """The syntax tree of a file; None where it has none in this version of Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the strings of others
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def docstrings(tree: ast.Module, module: str) -> list[Entry]:
    """The docstrings of a module, its public classes and functions, and those it registers for compiled objects."""
    found = [] if (doc := ast.get_docstring(tree)) is None else [(module, doc)]
    found += _members(tree.body, module)
    found += _registered(tree.body)
    return found


def _members(body: list[ast.stmt], prefix: str) -> Iterator[Entry]:
    for node in _flat(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            if doc := ast.get_docstring(node):
                yield name, doc
            if isinstance(node, ast.ClassDef):
                yield from _members(node.body, name)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, those inside `if`, `try` and `with` among them."""
    for node in body:
        yield node
        if isinstance(node, _BLOCKS):
            yield from _flat(node.body)
            yield from _flat(getattr(node, "orelse", []))


def _registered(body: list[ast.stmt]) -> Iterator[Entry]:
    """Docstrings given to compiled objects by calls: `add_docstr(obj, doc)`, `add_newdoc(place, obj, doc)` …"""
    for node in _flat(body):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = _dotted(node.value.func).rpartition(".")[2]
            if call in ("add_docstr", "_add_docstr") and len(node.value.args) == 2:
                name, doc = _dotted(node.value.args[0]), _text(node.value.args[1])
                if name and doc:
                    yield name, inspect.cleandoc(doc)
            elif call == "add_docstr_all" and len(node.value.args) == 2:
                if doc := _text(node.value.args[1]):
                    yield f"torch.Tensor.{_text(node.value.args[0])}", inspect.cleandoc(doc)
            elif call == "add_newdoc" and len(node.value.args) == 3:
                yield from _newdoc(*node.value.args)


def _newdoc(place: ast.expr, name: ast.expr, doc: ast.expr) -> Iterator[Entry]:
    owner = f"{_text(place)}.{_text(name)}"
    members = doc.elts if isinstance(doc, ast.List) else [doc]
    for member in members:
        if isinstance(member, ast.Tuple) and len(member.elts) == 2:
            attribute, text = _text(member.elts[0]), _text(member.elts[1])
            if text and not attribute.startswith("_"):
                yield f"{owner}.{attribute}", inspect.cleandoc(text)
        elif text := _text(member):
            yield owner, inspect.cleandoc(text)


def _text(node: ast.expr) -> str:
    """A literal string, with or without `.format(…)` behind it (whose fields are then left out); else ''."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _without_fields(_text(node.func.value))
    return ""


def _without_fields(template: str) -> str:
    lines = [line for line in template.split("\n") if not (line.strip().startswith("{") and line.strip().endswith("}"))]
    return "\n".join(lines).replace("{{", "{").replace("}}", "}")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def reexports(tree: ast.Module, package: str) -> Iterator[tuple[str, str, str]]:
    """What an `__init__` takes from elsewhere: (its own name for it, module, name there); `*` stands for all."""
    for node in _flat(tree.body):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                owner = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*owner, module] if module else owner)
            for alias in node.names:
                yield alias.asname or alias.name, module, alias.name


def main() -> None:
    """Answer pairs from standard input."""
    gc.disable()  # syntax trees have no cycles, and looking for them costs a third of the time
    for line in sys.stdin:
        path, module = json.loads(line)
        tree = parse(Path(path))
        sys.stdout.write(json.dumps([] if tree is None else docstrings(tree, module)) + "\n")


if __name__ == "__main__":
    main()

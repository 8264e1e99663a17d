"""Prompts: text files with named placeholders, shipped in `prompts/` and meant to be copied and edited.

```
## A comment; lines like this one are left out.
[system]
You write search questions.
[user]
Passage: {text}
Write {count} questions. Answer with JSON such as {{"question": "...", "answer": "..."}}.
```

`[system]` and `[user]` stand on lines of their own; a file without them is the user's message. A brace is doubled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lodesmith.core.errors import InputError
from lodesmith.core.registry import did_you_mean

__all__ = ["PromptFile", "shipped"]

_PART = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|\{|\}")
_ROLES = ("system", "user")


def shipped(name: str) -> Path:
    """The file of a prompt that comes with the package, such as `trace`."""
    return Path(__file__).parent / "prompts" / f"{name}.txt"


@dataclass(frozen=True)
class PromptFile:
    """A prompt with placeholders.

    Args:
        messages: role and template of each message.
        text: the file as it was read: part of the fingerprint of what is made with it.
    """

    messages: Sequence[tuple[str, str]]
    text: str

    @classmethod
    def load(cls, path: Path | str, allowed: Collection[str], required: Collection[str] = ()) -> PromptFile:
        """Read a prompt file and check its placeholders.

        Args:
            path: the file.
            allowed: the placeholders that will be filled.
            required: those of them that must occur.

        Raises:
            InputError: the file is missing or not UTF-8, a placeholder is unknown or missing, a brace stands alone,
                or there is no user's message; with file and line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise InputError("no such prompt file", "copy one of the package's and edit it", path=path) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", "save it as UTF-8", path=path) from None
        seen: set[str] = set()
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.startswith("##"):
                seen.update(_placeholders(line, allowed, path, number))
        if missing := sorted(set(required) - seen):
            raise InputError(
                f"the prompt has no placeholder {{{missing[0]}}}", "put it where its text belongs", path=path, line=1
            )
        return cls(tuple(_messages(text, path)), text)

    def fill(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The messages with each placeholder replaced; braces in the values stay as they are."""

        def put(match: re.Match[str]) -> str:
            return values[match[1]] if match[1] is not None else match[0][0]

        return [{"role": role, "content": _PART.sub(put, template)} for role, template in self.messages]


def _placeholders(line: str, allowed: Collection[str], path: Path | str, number: int) -> list[str]:
    found = []
    for match in _PART.finditer(line):
        name = match[1]
        if name is None and match[0] in ("{", "}"):
            raise InputError("a brace stands alone", "double it where it is meant as itself", path=path, line=number)
        if name is not None and name not in allowed:
            say = did_you_mean(name, sorted(allowed)) + " a brace that is meant as itself is doubled"
            raise InputError(f"unknown placeholder {{{name}}}", say, path=path, line=number)
        if name is not None:
            found.append(name)
    return found


def _messages(text: str, path: Path | str) -> list[tuple[str, str]]:
    parts: list[tuple[str, list[str], int]] = [("user", [], 1)]
    for number, line in enumerate(text.split("\n"), start=1):
        role = line.strip().removeprefix("[").removesuffix("]")
        if role in _ROLES and line.strip() == f"[{role}]":
            parts.append((role, [], number))
        elif not line.startswith("##"):
            parts[-1][1].append(line)
    found = [(role, "\n".join(lines).strip(), number) for role, lines, number in parts]
    found = [part for part in found if part[1]]
    if not any(role == "user" for role, _, _ in found):
        raise InputError("the prompt has no user's message", "write one, under [user]", path=path, line=1)
    if any(role == "system" for role, _, _ in found[1:]):
        late = next(number for role, _, number in found[1:] if role == "system")
        raise InputError("[system] must come first, once", "put it at the top", path=path, line=late)
    return [(role, template) for role, template, _ in found]

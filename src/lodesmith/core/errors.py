"""Typed errors: each says what is wrong, what was found and what to do.

The command line prints them in one or two lines and exits with code 2. Anything else that is raised is a defect.
"""

from __future__ import annotations

from pathlib import Path


class LodesmithError(Exception):
    """Something outside the program's control is wrong: input, configuration or environment.

    Args:
        what: what is wrong and what was found.
        do: what the user can do about it.
    """

    def __init__(self, what: str, do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.do = do

    def __str__(self) -> str:
        return f"{self.what}\n{self.do}" if self.do else self.what


class InputError(LodesmithError):
    """A file or argument of the user's cannot be used. `path` and `line` locate it, where they are known."""

    def __init__(self, what: str, do: str = "", *, path: Path | str | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + what, do)
        self.path = path
        self.line = line


class NotFiniteError(InputError):
    """Vectors have NaN or infinity: the model that gave them is damaged, or its training has diverged."""


class ConfigError(LodesmithError):
    """A recipe, an override or a component's name is wrong."""


class MissingExtraError(LodesmithError):
    """An optional dependency is not installed; the message carries the exact command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", f"pip install 'lodesmith[{extra}]'")
        self._given = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), self._given


class IntegrityError(LodesmithError):
    """Saved bytes are not those that were written, or belong to something else."""


class ResumeError(LodesmithError):
    """A run cannot be continued from what was saved."""


class BusyError(LodesmithError):
    """Another process holds the folder."""


class DivergedError(LodesmithError):
    """A loss or gradient became NaN or infinite; the message names the term and the step."""


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM) and has saved what it had. Left alone, it ends the process with 143."""

    def __init__(self) -> None:
        super().__init__(143)

    def __reduce__(self) -> tuple[type[Terminated], tuple[()]]:
        return type(self), ()

"""The entry point: verbs, and errors as exit codes.

0 done; 2 the user's input or environment is wrong; 1 a defect of ours; 130 interrupted; 143 terminated after saving.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

import typer

from lodesmith.cli import asking, data, doctor, evaluation, explain, export, geometry, hybrid, index, training
from lodesmith.cli.console import say
from lodesmith.core.errors import LodesmithError
from lodesmith.core.memory import keep_freed

app = typer.Typer(
    name="lode",
    help="Train, distil, compress, index, search and prove neural retrievers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(index.app, name="index")
for room in (training, evaluation, asking, explain, hybrid, geometry, export, doctor):
    for verb in room.VERBS:
        app.command()(verb)
app.command()(index.encode)
app.command()(index.search)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    _open_what_is_closed()
    _escape_what_the_terminal_cannot_show()
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "urllib3", "filelock", "sentence_transformers", "transformers", "bm25s", "bitsandbytes"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    keep_freed()
    sys.exit(_run(arguments, debug))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == 130:  # the command-line library turns Ctrl-C into this code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except LodesmithError as error:
        if debug:
            raise
        say(f"error: {error}")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        say("interrupted: what was finished is kept; run the same command again to go on")
        return 130
    except OSError as error:
        if debug or error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(f"error: {error}\n{'free the disk' if full else 'check the path'}, or choose another folder")
        return 2
    except Exception as error:
        code = _usage(error) or (None if debug else _out_of_memory(error) or _unwritten(error))
        if code is None:
            raise
        return code


def _open_what_is_closed() -> None:
    """Started without standard output or error (`>&-`), let what is printed go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end


def _escape_what_the_terminal_cannot_show() -> None:
    """Under an encoding such as ASCII, print escapes instead of failing on the first accent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_SMALLER = "lower dimension, batch_size or the like, or run it where there is more (lode train … --dry-run forecasts)"


def _out_of_memory(error: Exception) -> int | None:
    """Say that memory ran out: Python's and numpy's error, or torch's, which has a type for a GPU's memory alone."""
    told = str(error).partition("\n")[0] or "none was left"
    of_torch = isinstance(error, RuntimeError) and ("can't allocate memory" in told or "out of memory" in told)
    if not of_torch and not isinstance(error, MemoryError):
        return None
    say(f"error: not enough memory: {told}\n{_SMALLER}")
    return 2


def _unwritten(error: Exception) -> int | None:
    """Say that weights could not be written, as on a full disk; None where the error is something else.

    The writer of safetensors has an error of its own, with the system's inside as text.
    """
    if type(error).__name__ != "SafetensorError" or "os error" not in str(error):
        return None
    say(
        f"error: weights could not be written: {error}\nfree the disk, or choose another folder; what was saved is kept"
    )
    return 2


def _usage(error: Exception) -> int | None:
    """Print a mistake on the command line in click's own words; None where the error is something else."""
    show = getattr(error, "show", None)
    code = getattr(error, "exit_code", None)
    if show is None or not isinstance(code, int):
        return None
    show(file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

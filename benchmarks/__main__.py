"""Run every benchmark of this folder, one after another, each in a process of its own.

python -m benchmarks [--quick]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def names() -> list[str]:
    """The benchmarks, found by walking the folder."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_") and file.stem != "common")


def main(argv: list[str] | None = None) -> int:
    """Run them all with the same arguments; the exit code is the number of those that failed."""
    arguments = sys.argv[1:] if argv is None else argv
    failed = []
    for name in names():
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False).returncode:
            failed.append(name)
    print(f"{len(names())} benchmarks, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())

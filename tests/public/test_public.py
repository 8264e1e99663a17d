"""What others import, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import lodesmith


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_public_names() -> None:
    assert len(lodesmith.__all__) <= 20
    for name in lodesmith.__all__:
        assert getattr(lodesmith, name) is not None
    assert sorted(lodesmith.__all__) == lodesmith.__all__


def test_import_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "sentence_transformers", "faiss", "scipy", "bm25s", "accelerate", "pydantic"]
    loaded = run(f"import sys, lodesmith, lodesmith.core.registry; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_evaluation_needs_no_torch() -> None:
    loaded = run(
        "import sys; import lodesmith.evaluation.compare, lodesmith.evaluation.evaluate;"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert loaded.split() == ["False", "False"]


def test_command_starts_light() -> None:
    loaded = run(
        "import sys; import lodesmith.cli.main; print([m for m in ('torch', 'numba', 'bm25s') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_every_encoder_that_is_named_is_there() -> None:
    from lodesmith import encoders

    assert sorted(encoders.__all__) == sorted(encoders._HOMES)
    assert all(getattr(encoders, name) is not None for name in encoders.__all__)

"""The benchmarks' own tools: ratios, rounds, memory, and that every benchmark is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return common


def test_above_one_always_means_that_ours_is_better(common, tmp_path: Path) -> None:
    rates = common.write("speed", "queries/s", 30.0, {"a": 10.0, "b": 20.0}, packages=("numpy", "absent"), quick=True)
    assert rates["ratio"] == 1.5
    assert common.write("size", "MiB", 4.0, {"a": 6.0, "b": 10.0}, less_is_better=True)["ratio"] == 1.5
    assert common.write("alone", "s", 4.0, {})["ratio"] is None
    written = json.loads((tmp_path / "speed.json").read_text())
    keys = ["name", "unit", "ours", "peers", "ratio", "limit", "machine", "versions", "command", "quick"]
    assert list(written) == keys
    assert {"python", "numpy"} <= written["versions"].keys()
    assert written["machine"]["cores"] >= 1


def test_cases_take_turns_and_warm_up_first(common) -> None:
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) or len(calls) for name in ("a", "b")}
    seconds, returned = common.interleaved(cases, repeats=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert returned == {"a": 5, "b": 6}
    assert common.medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_peak_memory_is_that_of_the_work(common) -> None:
    used = common.peak_memory(int, "x".__mul__, 64 << 20)
    assert used["extra"] == pytest.approx(64, abs=8)
    assert used["peak"] == pytest.approx(used["before"] + used["extra"], abs=0.2)


def test_every_benchmark_has_a_main_of_its_own(common) -> None:
    from benchmarks.__main__ import names

    found = names()
    assert "measures" in found
    assert not {"common", "__main__", "__init__"} & set(found)
    for name in found:
        text = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert "def main(argv: " in text, name
        assert "--quick" in text, name

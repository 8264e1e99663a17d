"""What scripts rely on: exit codes, JSON on standard output, messages without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lodesmith
from command_line import lode
from lodesmith.cli.main import main
from lodesmith.testing import tiny_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny_dataset().save(tmp_path / "tiny")


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "bm25", "nowhere"),
        ("evaluate", "bm25"),
        ("evalute", "bm25"),
        ("compare", "nowhere.json"),
        ("train", "isotropc"),
        ("train", "isotropic", "sede=1"),
        ("train", "isotropic"),
        ("search", "nowhere", "x"),
        ("index", "build", "minilm", "nowhere", "--out", "x"),
        ("data", "import", "nowhere", "--out", "x"),
        ("recipes", "nothing"),
    ],
)
def test_wrong_input_exits_2_in_two_lines(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = lode(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.strip()


def test_without_standard_output() -> None:
    started = [sys.executable, "-c", "from lodesmith.cli.main import main; main(['recipes'])"]
    closed = subprocess.run(["sh", "-c", '"$0" "$@" >&-', *started], capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 25.5 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 bytes"),
    ],
)
def test_memory_that_ran_out_is_no_defect(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lodesmith.cli.main.app", fail)
    code, _, err = lode(capsys, "anything")
    assert code == 2
    assert err.startswith("error: not enough memory: ")
    assert len(err.splitlines()) == 2
    monkeypatch.setattr("lodesmith.cli.main.app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["anything"])


def test_evaluate_and_compare(capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path) -> None:
    for system in ("random", "bm25"):
        code, out, _ = lode(
            capsys, "evaluate", system, dataset, "--json", "--measures", "nDCG@3", "--out", tmp_path / f"{system}.json"
        )
        assert code == 0
        assert set(json.loads(out)["measures"]) >= {"nDCG@10", "nDCG@3", "Judged@10"}
    code, out, err = lode(
        capsys, "compare", tmp_path / "random.json", tmp_path / "bm25.json", "--json", "--report", tmp_path / "r.html",
        "--out", tmp_path / "c.json",
    )  # fmt: skip
    assert code == 0
    pair = json.loads(out)["pairs"][0]
    assert {"a", "b", "difference", "p", "p_t", "p_holm", "detectable"} <= set(pair)
    assert json.loads((tmp_path / "c.json").read_text())["pairs"][0] == pair
    assert "<html" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "wrote" in err


def test_a_run_file_is_a_system(capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path) -> None:
    _, first, _ = lode(capsys, "evaluate", "bm25", dataset, "--json", "--run", tmp_path / "bm25.trec")
    _, second, _ = lode(capsys, "evaluate", tmp_path / "bm25.trec", dataset, "--json")
    assert json.loads(first)["measures"] == json.loads(second)["measures"]


def test_unknown_measure_and_split(capsys: pytest.CaptureFixture[str], dataset: Path) -> None:
    code, _, err = lode(capsys, "evaluate", "bm25", dataset, "--measures", "nDGC@10")
    assert (code, "nDCG" in err) == (2, True)
    code, _, err = lode(capsys, "evaluate", "bm25", dataset, "--split", "tset")
    assert code == 2
    assert "train, dev, test" in err.replace("dev, test, train", "train, dev, test")


def test_a_defect_keeps_its_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("lodesmith.recipes.recipe.shipped", broken)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])
    capsys.readouterr()


def test_interrupt_exits_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lodesmith.recipes.recipe.shipped", interrupted)
    code, _, err = lode(capsys, "recipes")
    assert code == 130
    assert "again" in err


VERBS = [
    *("quickstart", "train", "recipes", "evaluate", "compare", "encode", "search"),
    *(
        "data check",
        "data import",
        "data pull",
        "data pairs",
        "data mine",
        "data teach",
        "data trace",
        "data questions",
    ),
    *("index build", "index add", "index delete", "index verify", "index compact"),
]


def test_help_of_every_verb_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        code, out, _ = lode(capsys, *verb.split(), "--help")
        assert code == 0
        assert f"Example: lode {verb}" in " ".join(out.split()), verb
        assert "--json" in out


def test_no_space_left_is_the_users_environment(
    capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lodesmith.core.results.write_json", full)
    code, _, err = lode(capsys, "evaluate", "random", dataset, "--out", tmp_path / "e.json")
    assert code == 2
    assert "No space left" in err


@pytest.mark.parametrize(
    "change",
    [
        {"per_query": None},
        {"dataset": ["x"]},
        {"queries": 3},
        {"measures": {"nDCG@10": {"mean": 0.123, "low": 0, "high": 1}}},
        {"per_query": {"q2": {"nDCG@10": 7.5}}, "queries": 1},
    ],
)
def test_altered_evaluation_files_are_refused(
    change: dict[str, object], capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path
) -> None:
    for system in ("random", "bm25"):
        lode(capsys, "evaluate", system, dataset, "--out", tmp_path / f"{system}.json")
    file = tmp_path / "bm25.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    code, out, err = lode(capsys, "compare", tmp_path / "random.json", file)
    assert (code, out) == (2, "")
    assert "bm25.json: not an evaluation file" in err
    assert "Traceback" not in err


def test_one_path_for_two_outputs_is_refused(capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path: Path) -> None:
    code, _, err = lode(capsys, "evaluate", "bm25", dataset, "--out", tmp_path / "x", "--run", tmp_path / "x")
    assert (code, "same path" in err) == (2, True)
    assert not (tmp_path / "x").exists()


ASCII = {"PATH": "/usr/bin:/bin", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STRICT = {"PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.parametrize(("as_json", "stream"), [(False, {}), (False, STRICT), (True, STRICT)])
def test_a_terminal_that_knows_only_ascii(tmp_path: Path, as_json: bool, stream: dict[str, str]) -> None:
    dataset = tiny_dataset()
    dataset.info["name"] = "caf\u00e9"
    folder = dataset.save(tmp_path / "caf\u00e9")
    command = [sys.executable, "-m", "lodesmith.cli.main", "evaluate", "bm25", str(folder)]
    tested = {"PYTHONPATH": str(Path(lodesmith.__file__).parent.parent)}  # the code at hand, not what is installed
    environment = ASCII | stream | tested
    done = subprocess.run(command + ["--json"] * as_json, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.isascii()
    if as_json:
        assert json.loads(done.stdout)["dataset"] == "caf\u00e9"
    else:
        assert b"bm25 \\xb7 caf\\xe9" in done.stdout


def test_weights_that_cannot_be_written_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lodesmith.recipes.evaluating.evaluate_system", full)
    monkeypatch.setattr("lodesmith.recipes.systems.Resolver.resolve", full)
    code, _, err = lode(capsys, "evaluate", "bm25", str(dataset))
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in err


def test_a_reader_that_has_gone_is_no_fault() -> None:
    begun = subprocess.Popen(
        [sys.executable, "-m", "lodesmith.cli.main", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert begun.stdout is not None
    assert begun.stderr is not None
    begun.stdout.close()
    told = begun.stderr.read()
    assert begun.wait() == 0
    assert told == b""

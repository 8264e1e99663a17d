"""`lode data pull` as its users meet it: dry runs, offline, gated sets, and a pull that is killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from command_line import lode
from lodesmith.core.records import Dataset
from lodesmith.data.check import check
from lodesmith.data.pulls import Web, forecast, pull
from lodesmith.data.pulls._errors import AbsentError, OfflineError, RefusedError, ServerError
from lodesmith.data.pulls._http import Patience
from mirrors import REVISION, Fault, Mirror

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

NAMES = [
    *("msmarco", "wikipedia", "wikipedia:de", "beir/scifact", "beir:quick", "beir:standard", "beir:full"),
    *("beir/cqadupstack", "vidore/arxivqa_test_subsampled", "vidore/esg_reports_v2", "squad", "nq", "hotpotqa"),
    "colpali_train_set",
]


def pull_command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    return lode(capsys, "data", "pull", *arguments)


# dry runs


@pytest.mark.parametrize("name", NAMES)
def test_dry_run_of_every_pull(name: str, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = pull_command(capsys, name, "--from", mirror.url, "--dry-run", "--json", "--out", tmp_path / "out")
    assert code == 0
    told = json.loads(out)
    members = told.get("members", [told])
    sizes = {p.stat().st_size for p in mirror.root.rglob("*") if p.is_file()}
    for member in members:
        assert member["download_bytes"] == sum(file["bytes"] for file in member["files"])
        assert all(file["bytes"] in sizes | {0} for file in member["files"])
        assert member["disk_free"] > 0
    assert told["download_bytes"] == sum(member["download_bytes"] for member in members)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
    assert not [r for r in mirror.requests if r[0] == "GET" and "resolve" in r[1]], "nothing is downloaded"


def test_dry_run_names_what_is_known_of_the_dataset(web: Web) -> None:
    one = forecast("wikipedia", web)[0]
    assert one.dataset == 4000
    assert one.to_json()["disk_bytes"] == (one.download or 0) + 4000
    assert forecast("vidore/esg_reports_v2", web)[0].dataset == 4150
    assert forecast("wikipedia", web, limit=5)[0].at_most
    german = forecast("wikipedia:de", web)[0]
    assert (german.dataset, german.to_json()["disk_bytes"]) == (None, None)
    assert "not known before" in german.to_text()


def test_dry_run_offline_says_what_is_not_known(waits: list[float]) -> None:
    nowhere = Web("http://127.0.0.1:1", Patience(sleep=waits.append))
    scifact = forecast("beir/scifact", nowhere)[0]
    assert scifact.download == 2_816_079
    assert scifact.files[0][2] == "published; its server cannot be reached"
    nq = forecast("nq", nowhere)[0]
    assert (nq.download, nq.to_json()["download_bytes"]) == (None, None)
    assert "a number of bytes not known" in nq.to_text()
    wiki = forecast("wikipedia", nowhere)[0]
    assert (wiki.download, wiki.files) == (None, ())
    assert "sizes are not known" in wiki.notes[0]
    before = len(waits)
    forecast("beir:full", nowhere)
    assert len(waits) - before == 2, "one server is not asked for each file"


def test_dry_run_of_a_folder_downloads_nothing(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = pull_command(capsys, "squad", "--from", published, "--dry-run")
    assert code == 0
    assert "would download 0 bytes" in out


# what a pull says


def test_the_report(mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = pull_command(capsys, "beir/trec-covid", "--from", mirror.url, "--out", tmp_path / "covid", "--json")
    told = json.loads(out)
    assert (code, told["name"], told["out"]) == (0, "beir/trec-covid", str(tmp_path / "covid"))
    assert told["counts"] == {"documents": 5, "queries": 4, "judgements": {"test": 5}}
    assert told["files"][0]["checked"] == "the mirror's SHA256SUMS"
    assert told["files"][0]["url"].startswith("https://public.ukp.informatik.tu-darmstadt.de/thakur/")
    code, out, _ = pull_command(capsys, "beir/trec-covid", "--from", mirror.url, "--out", tmp_path / "covid")
    assert "was there already: 5 documents" in out
    assert "1 negative-grade" in out
    info = json.loads((tmp_path / "covid/dataset.json").read_text())
    assert info["pull"] == {"name": "beir/trec-covid", "seed": 0, "limit": None, "from": mirror.url}


def test_default_folders_are_named_like_the_dataset(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    for name, folder in (("beir/scifact", "beir/scifact"), ("wikipedia:de", "wikipedia-de")):
        assert pull_command(capsys, name, "--from", mirror.url)[0] == 0
        assert check(folder).ok
    _code, out, _ = pull_command(capsys, "beir:quick", "--from", mirror.url, "--json")
    assert [m["out"] for m in json.loads(out)["members"]] == ["beir-quick/scifact", "beir-quick/nfcorpus"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("beir/scifcat",), "did you mean 'scifact'"),
        (("squad", "--from", "nowhere"), "neither a folder nor an http address"),
        (("wikipedia", "--split-ratio", ".5"), "does not take --split-ratio"),
        (("squad", "--from", "."), "bring it from https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json"),
        (("wikipedia", "--from", "."), "put them in one of: "),
    ],
)
def test_mistakes_end_in_two_lines(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = pull_command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2


# servers


def test_offline_says_what_is_missing_and_how_to_bring_it(patience: Patience, tmp_path: Path) -> None:
    nowhere = Web("http://127.0.0.1:1", patience)
    with pytest.raises(OfflineError) as raised:
        pull("squad", nowhere, tmp_path / "s")
    assert "squad: http://127.0.0.1:1" in raised.value.what
    for part in ("train-v1.1.json, dev-v1.1.json", "https://rajpurkar.github.io/SQuAD-explorer/dataset/", "--from"):
        assert part in raised.value.do
    with pytest.raises(OfflineError) as raised:
        pull("wikipedia:de", nowhere, tmp_path / "w")
    assert "Parquet files of wikipedia:de" in raised.value.do
    assert not (tmp_path / "s").exists()


def test_a_hub_client_that_may_not_connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patience: Patience) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set") as raised:
        pull("wikipedia", Web("", patience), tmp_path / "w")
    assert "--from" in raised.value.do


def test_gated_sets_name_the_variable(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patience: Patience
) -> None:
    mirror.token = "hf_secret"
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    hub = Web("", patience)
    with pytest.raises(RefusedError, match="is gated") as raised:
        pull("vidore/esg_reports_v2", hub, tmp_path / "v")
    assert "HF_TOKEN in the environment or in a .env file" in raised.value.do
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RefusedError, match="though HF_TOKEN is set"):
        pull("vidore/esg_reports_v2", hub, tmp_path / "v")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull("vidore/esg_reports_v2", hub, tmp_path / "v")[0].info["revision"] == REVISION
    monkeypatch.delenv("HF_ENDPOINT")
    mirror.requests.clear()
    with pytest.raises(RefusedError) as raised:
        pull("wikipedia:de", Web(mirror.url, patience), tmp_path / "w")
    assert f"HF_ENDPOINT={mirror.url}" in raised.value.do, "a token goes to no address but the hub's"
    assert all(r[3] != "Bearer hf_secret" for r in mirror.requests)


def test_a_mirror_is_not_given_the_token(
    web: Web, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("wikipedia:de", web, tmp_path / "w")
    assert len(mirror.requests) >= 3
    assert not any(r[3] for r in mirror.requests)


def test_settings_from_dotenv(mirror: Mirror, tmp_path: Path, patience: Patience) -> None:
    mirror.token = "hf_secret"
    (tmp_path / ".env").write_text(f"HF_TOKEN='hf_secret'\nexport HF_ENDPOINT={mirror.url}/\n")
    assert pull("vidore/esg_reports_v2", Web("", patience), tmp_path / "v")[0].info["counts"]["documents"] == 4


def test_what_the_hub_does_not_have(web: Web, tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match="there is no dataset vidore/nothing"):
        pull("vidore/nothing", web, tmp_path / "v")
    with pytest.raises(AbsentError) as raised:
        pull("wikipedia:en:20240101", web, tmp_path / "w")
    assert "20240101.en" in raised.value.what
    assert raised.value.do == "there are: 20231101.de, 20231101.en"


def test_a_busy_hub(web: Web, mirror: Mirror, tmp_path: Path, waits: list[float]) -> None:
    mirror.faults = [
        Fault("/api/datasets/wikimedia/wikipedia", 429, {"Retry-After": "3"}),
        Fault(f"/tree/{REVISION}/20231101.de", 503),
        Fault("train-00000-of-00001.parquet", 429, {"Retry-After": "2"}),
    ]
    assert pull("wikipedia:de", web, tmp_path / "w")[0].info["counts"]["documents"] == 6
    assert 3 in waits
    assert 2 in waits
    mirror.faults = [Fault("/api/datasets/wikimedia/wikipedia", 500, times=99)]
    with pytest.raises(ServerError, match="failed 4 times"):
        pull("wikipedia:de", web, tmp_path / "x")


def test_a_shard_cut_in_the_middle(web: Web, mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults = [Fault("train-00000-of-00001.parquet", cut=700)]
    assert pull("wikipedia:de", web, tmp_path / "w")[0].info["counts"]["documents"] == 6
    assert mirror.asked("train-00000-of-00001.parquet") == ["", "bytes=700-"]


# killed


def start(tmp_path: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """A real `lode data pull` in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "lodesmith.cli.main", "data", "pull", *map(str, arguments), "--json"]
    return subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_at(mirror: Mirror, tmp_path: Path, path: str, *arguments: str | Path) -> None:
    """Kill −9 a pull while the server has sent half of a file."""
    half, dead = threading.Event(), threading.Event()

    def wait() -> None:
        half.set()
        dead.wait(60)

    mirror.faults = [Fault(path, wait=wait)]
    process = start(tmp_path, *arguments)
    assert half.wait(60), "the file was not asked for"
    part_has_come(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    dead.set()
    assert process.returncode == -signal.SIGKILL
    mirror.faults = []
    mirror.requests.clear()


def part_has_come(tmp_path: Path) -> None:
    """Wait until the half that was sent is on the disk."""
    for _ in range(6000):
        if any(p.stat().st_size for p in tmp_path.rglob("*.part")):
            return
        threading.Event().wait(0.01)
    raise AssertionError("no part appeared")


def finish(tmp_path: Path, *arguments: str | Path) -> dict[str, Any]:
    process = start(tmp_path, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def test_killed_in_an_archive_then_again(mirror: Mirror, web: Web, tmp_path: Path) -> None:
    arguments = ("beir/scifact", "--from", mirror.url, "--out", tmp_path / "s")
    kill_at(mirror, tmp_path, "scifact.zip", *arguments)
    assert not (tmp_path / "s").exists()
    told = finish(tmp_path, *arguments)
    assert told["resumed"]["bytes"] > 0
    assert mirror.asked("scifact.zip")[0].startswith("bytes=")
    whole = pull("beir/scifact", web, tmp_path / "whole")[0].info
    assert told["fingerprints"] == whole["fingerprints"]
    assert [p.name for p in tmp_path.glob(".s*")] == []


def test_killed_between_shards_then_again(mirror: Mirror, web: Web, tmp_path: Path) -> None:
    arguments = ("colpali_train_set", "--from", mirror.url, "--out", tmp_path / "c", "--seed", "1")
    order = [f.name for f in pull_order(web)]
    kill_at(mirror, tmp_path, order[3], *arguments)
    told = finish(tmp_path, *arguments)
    assert told["resumed"]["steps"] == 3
    asked = [r[1].rpartition("/")[2] for r in mirror.requests if r[1].endswith(".parquet")]
    assert asked == order[3:], "shards that were converted are not downloaded again"
    assert mirror.asked(order[3])[0].startswith("bytes=")
    assert len(told["files"]) == 6, "dataset.json names the files of both processes"
    whole = pull("colpali_train_set", web, tmp_path / "whole", seed=1)[0].info
    assert told["fingerprints"] == whole["fingerprints"]
    assert told["counts"] == whole["counts"] == {"documents": 22, "queries": 22, "judgements": {"test": 2, "train": 20}}
    assert check(tmp_path / "c").ok
    data = Dataset.load(tmp_path / "c")
    assert all((tmp_path / "c" / data.documents[key].image).is_file() for key in data.documents)


def test_the_seed_fixes_the_order_of_shards(web: Web) -> None:
    orders = {tuple(f.name for f in pull_order(web, seed)) for seed in range(5)}
    assert len(orders) > 1
    assert all(order[0].startswith("test-") and len(order) == 6 for order in orders)


def pull_order(web: Web, seed: int = 1) -> list[Any]:
    from lodesmith.data.pulls._pulling import parse, source_of

    wanted = parse("colpali_train_set", {"seed": seed})
    return list(source_of("colpali_train_set").plan(wanted, web, "").files)


def test_the_revision_of_the_first_attempt_is_kept(mirror: Mirror, web: Web, tmp_path: Path) -> None:
    mirror.faults = [Fault("train-00002-of-00004.parquet", 403)]
    with pytest.raises(RefusedError):
        pull("wikipedia", web, tmp_path / "w")
    mirror.requests.clear()
    assert pull("wikipedia", web, tmp_path / "w")[0].resumed[1] == 2
    assert any(r[1].endswith(f"/revision/{REVISION}") for r in mirror.requests)
    assert len([r for r in mirror.requests if r[1].endswith(".parquet")]) == 2


def test_other_options_begin_anew(mirror: Mirror, web: Web, tmp_path: Path) -> None:
    mirror.faults = [Fault("train-00002-of-00004.parquet", 403)]
    with pytest.raises(RefusedError):
        pull("wikipedia", web, tmp_path / "w")
    done = pull("wikipedia", web, tmp_path / "w", words=3)[0]
    assert done.resumed[1] == 0
    assert done.info["words"] == 3


def test_two_pulls_into_one_folder(web: Web, tmp_path: Path) -> None:
    from lodesmith.core.errors import BusyError
    from lodesmith.core.files import locked

    with locked(tmp_path / ".w.pull"), pytest.raises(BusyError):
        pull("wikipedia:de", web, tmp_path / "w")


def test_an_endpoint_that_is_no_hub(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, patience: Patience
) -> None:
    """A captive portal answers everything with a page of its own."""
    monkeypatch.setenv("HF_ENDPOINT", mirror.url)
    mirror.faults = [Fault("vidore/x", 200, {"Content-Type": "text/html"})]
    with pytest.raises(ServerError, match="does not answer as the hub does"):
        pull("vidore/x", Web("", patience), tmp_path / "v")

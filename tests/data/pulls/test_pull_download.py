"""Downloads from a server that cuts, refuses, delays and lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from lodesmith.core.errors import InputError
from lodesmith.data.pulls import _ledger as ledger
from lodesmith.data.pulls import _settings as settings
from lodesmith.data.pulls import origin_of
from lodesmith.data.pulls._download import Download, ensure_space, remote_size
from lodesmith.data.pulls._errors import (
    AbsentError,
    DigestError,
    OfflineError,
    RefusedError,
    ServerError,
    SizeError,
    SpaceError,
)
from lodesmith.data.pulls._http import Patience
from lodesmith.data.pulls._origin import Folder, Web
from lodesmith.data.pulls._remote import Remote
from mirrors import Fault, Mirror, serve

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

DATA = bytes(range(256)) * 4000  # about a megabyte: several blocks
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Mirror]:
    """A server with one file."""
    (tmp_path / "site/a").mkdir(parents=True)
    (tmp_path / "site/a/data.bin").write_bytes(DATA)
    with serve(tmp_path / "site") as running:
        yield running


@pytest.fixture
def get(site: Mirror, tmp_path: Path, patience: Patience) -> Download:
    """A download of that file."""
    return Download(f"{site.url}/a/data.bin", tmp_path / "got/data.bin", patience=patience)


def test_a_whole_file(get: Download) -> None:
    got = get.fetch()
    assert got.path.read_bytes() == DATA
    assert (got.bytes, got.sha256, got.resumed) == (len(DATA), SHA256[7:], 0)
    assert sorted(p.name for p in got.path.parent.iterdir()) == ["data.bin"]


def test_a_connection_cut_in_the_middle_goes_on_by_range(get: Download, site: Mirror, waits: list[float]) -> None:
    site.faults = [Fault("data.bin", cut=300_000), Fault("data.bin", cut=200_000)]
    assert get.fetch().path.read_bytes() == DATA
    asked = site.asked("data.bin")
    assert asked[0] == ""
    assert 0 < int(asked[1][6:-1]) <= 300_000
    assert int(asked[2][6:-1]) > int(asked[1][6:-1])
    assert len(waits) == 2


def test_another_process_goes_on(get: Download, site: Mirror, tmp_path: Path, patience: Patience) -> None:
    site.faults = [Fault("data.bin", cut=400_000), Fault("data.bin", status=403)]
    with pytest.raises(RefusedError):
        get.fetch()
    kept = get.part.stat().st_size
    assert 0 < kept <= 400_000
    got = Download(get.url, get.target, patience=patience).fetch()
    assert got.path.read_bytes() == DATA
    assert got.resumed == kept
    assert site.asked("data.bin")[-1] == f"bytes={kept}-"
    assert site.conditions == [f'"{hashlib.md5(DATA).hexdigest()}"'] * 2


def test_a_server_without_ranges(get: Download, site: Mirror) -> None:
    site.ranges = False
    site.faults = [Fault("data.bin", cut=300_000)]
    assert get.fetch().path.read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_given_is_not_given_twice(get: Download, site: Mirror, ranges: bool) -> None:
    site.ranges = ranges
    site.faults = [Fault("data.bin", cut=300_000)]
    assert b"".join(get.blocks()) == DATA
    assert get.finish().sha256 == SHA256[7:]


def test_a_file_that_changed_meanwhile_starts_over(get: Download, site: Mirror, patience: Patience) -> None:
    site.faults = [Fault("data.bin", cut=400_000), Fault("data.bin", status=403)]
    with pytest.raises(RefusedError):
        get.fetch()
    (site.root / "a/data.bin").write_bytes(DATA[::-1])
    got = Download(get.url, get.target, patience=patience).fetch()
    assert got.path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changes_while_it_is_read_is_an_error(get: Download, site: Mirror, ranges: bool) -> None:
    site.ranges = ranges
    site.faults = [Fault("data.bin", cut=400_000)]
    blocks = get.blocks()
    next(blocks)
    (site.root / "a/data.bin").write_bytes(DATA[::-1])
    with pytest.raises(DigestError, match="changed while it was read"):
        list(blocks)
    assert not get.part.exists()


def test_without_a_validator_only_a_digest_allows_going_on(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    site.tags = False
    for digest, resumed in (("", False), (SHA256, True)):
        site.faults = [Fault("data.bin", cut=400_000), Fault("data.bin", status=403)]
        target = tmp_path / f"got{resumed}" / "data.bin"
        with pytest.raises(RefusedError):
            Download(f"{site.url}/a/data.bin", target, digest=digest, patience=patience).fetch()
        got = Download(f"{site.url}/a/data.bin", target, digest=digest, patience=patience).fetch()
        assert (got.path.read_bytes(), got.resumed > 0) == (DATA, resumed)


def test_a_wrong_checksum(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    for digest in ("sha256:" + "0" * 64, "md5:" + "0" * 32):
        get = Download(f"{site.url}/a/data.bin", tmp_path / "got/x", digest=digest, patience=patience)
        with pytest.raises(DigestError, match="expected was 000") as raised:
            get.fetch()
        assert raised.value.do
        assert list((tmp_path / "got").iterdir()) == []
    md5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
    assert Download(f"{site.url}/a/data.bin", tmp_path / "got/x", digest=md5, patience=patience).fetch().bytes


def test_a_damaged_part_is_replaced_once(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    get = Download(f"{site.url}/a/data.bin", tmp_path / "got/data.bin", digest=SHA256, patience=patience)
    get.part.parent.mkdir()
    get.part.write_bytes(b"x" * 1000)
    note = {"url": get.url, "validator": "", "total": len(DATA)}
    (tmp_path / "got/data.bin.part.json").write_text(json.dumps(note))
    assert get.fetch().path.read_bytes() == DATA


def test_a_damaged_finished_file_is_replaced(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got/data.bin").write_bytes(b"rubbish")
    get = Download(f"{site.url}/a/data.bin", tmp_path / "got/data.bin", digest=SHA256, patience=patience)
    assert get.fetch().path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (404, AbsentError, "no such file"),
        (410, AbsentError, "no such file"),
        (401, RefusedError, "access is refused"),
        (403, RefusedError, "access is refused"),
        (400, ServerError, "HTTP 400"),
    ],
)
def test_final_answers_are_not_tried_again(
    get: Download, site: Mirror, status: int, kind: type[Exception], says: str
) -> None:
    site.faults = [Fault("data.bin", status=status, times=9)]
    with pytest.raises(kind, match=says):
        get.fetch()
    assert len(site.requests) == 1


def test_retry_after_in_seconds_and_as_a_date(get: Download, site: Mirror, waits: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    site.faults = [Fault("data.bin", 429, {"Retry-After": "7"}), Fault("data.bin", 503, {"Retry-After": date})]
    assert get.fetch().bytes == len(DATA)
    assert waits[0] == 7
    assert 80 < waits[1] <= 90


def test_too_long_a_wait_is_refused(get: Download, site: Mirror, waits: list[float]) -> None:
    site.faults = [Fault("data.bin", 429, {"Retry-After": "86400"})]
    with pytest.raises(ServerError, match="asks to wait 86,400 s"):
        get.fetch()
    assert not waits


def test_503_then_success_backs_off_longer_each_time(get: Download, site: Mirror, waits: list[float]) -> None:
    site.faults = [Fault("data.bin", 503, times=3)]
    assert get.fetch().bytes == len(DATA)
    assert [0.25 <= waits[0] <= 0.5, 0.5 <= waits[1] <= 1, 1 <= waits[2] <= 2] == [True] * 3


def test_503_for_ever(get: Download, site: Mirror, waits: list[float]) -> None:
    site.faults = [Fault("data.bin", 503, times=99)]
    with pytest.raises(ServerError, match="failed 4 times"):
        get.fetch()
    assert len(waits) == 3


def test_progress_renews_patience(get: Download, site: Mirror) -> None:
    site.faults = [Fault("data.bin", cut=70_000, times=8)]
    assert get.fetch().path.read_bytes() == DATA
    assert len(site.requests) == 9, "more failures than attempts in a row, but each brought some bytes"


def test_no_server(tmp_path: Path, patience: Patience, waits: list[float]) -> None:
    with pytest.raises(OfflineError, match="cannot be reached"):
        Download("http://127.0.0.1:1/x", tmp_path / "x", patience=patience).fetch()
    assert len(waits) == 2, "nobody answers: three attempts are enough"


def test_a_larger_file_than_was_published(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    with pytest.raises(SizeError, match="at most 2,000 are taken"):
        Download(f"{site.url}/a/data.bin", tmp_path / "x", size=1000, patience=patience).fetch()


def test_a_full_disk_is_noticed_before(get: Download, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Usage:
        free = 100 << 20

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    ensure_space(tmp_path / "not/there/yet", 10 << 20, "x")
    assert get.fetch().bytes
    Usage.free = 64 << 20
    with pytest.raises(SpaceError, match="needs 10 bytes"):
        ensure_space(tmp_path, 10, "x")
    get.target.unlink()
    with pytest.raises(SpaceError, match=r"data\.bin needs"):
        Download(get.url, get.target, patience=get.patience).fetch()
    assert not get.target.exists()


def test_redirects(get: Download, site: Mirror, tmp_path: Path, patience: Patience) -> None:
    site.faults = [Fault("/here", 302, {"Location": f"{site.url}/a/data.bin"}, times=9)]
    headers = {"Authorization": "Bearer secret"}
    same = Download(f"{site.url}/here", tmp_path / "same", headers, patience=patience).fetch()
    assert same.bytes == len(DATA)
    assert site.requests[-1][3] == "Bearer secret"
    with serve(site.root) as other:
        site.faults = [Fault("/there", 302, {"Location": f"{other.url}/a/data.bin"}, times=9)]
        Download(f"{site.url}/there", tmp_path / "other", headers, patience=patience).fetch()
        assert other.requests[-1][3] == "", "a token is for the host that it was given to"
        assert remote_size(f"{site.url}/there", headers, patience) == len(DATA)
    site.faults = [Fault("/file", 302, {"Location": "file:///etc/passwd"}, times=9)]
    with pytest.raises(ServerError):
        Download(f"{site.url}/file", tmp_path / "file", patience=patience).fetch()


def test_redirects_into_a_private_network() -> None:
    import urllib.request
    from email.message import Message
    from io import BytesIO

    from lodesmith.data.pulls._http import _Redirects

    asked = urllib.request.Request("https://example.org/x")
    private = ("169.254.169.254", "localhost", "a.localhost.", "127.1", "0x7f000001", "2130706433", "[::ffff:10.0.0.1]")
    for place in ("http://example.org/y", "ftp://example.org/x", *(f"https://{host}/x" for host in private)):
        with pytest.raises(ServerError):
            _Redirects().redirect_request(asked, BytesIO(), 302, "Found", Message(), place)
    made = _Redirects().redirect_request(asked, BytesIO(), 302, "Found", Message(), "https://cdn.example.org/x")
    assert made is not None


def test_other_protocols_are_refused(tmp_path: Path, patience: Patience) -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"):
        with pytest.raises(ServerError, match="only http"):
            Download(url, tmp_path / "x", patience=patience).fetch()


@pytest.mark.parametrize("place", ["http://[bad/x", "http://.example.org/x", "http://[::1"])
def test_redirects_to_what_is_no_address(site: Mirror, tmp_path: Path, patience: Patience, place: str) -> None:
    site.faults = [Fault("/x", 302, {"Location": place})]
    with pytest.raises(ServerError):
        Download(f"{site.url}/x", tmp_path / "x", patience=patience).fetch()


def test_sizes_of_thousands_of_digits(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    size = "9" * 5000
    site.faults = [Fault("/x", 200, {"Content-Length": size})]
    assert remote_size(f"{site.url}/x", {}, patience) is None
    get = Download(f"{site.url}/a/data.bin", tmp_path / "x", digest=SHA256, patience=patience)
    site.faults = [
        Fault("data.bin", cut=1000),
        Fault("data.bin", 206, {"Content-Range": f"bytes 1000-{size}/{size}"}),
    ]
    with pytest.raises(ServerError, match="without saying which"):
        get.fetch()


# origins


def test_the_first_pull_is_recorded_and_later_ones_must_agree(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    web, remote = Web(site.url, patience), Remote("https://publisher.example/a/data.bin")
    first = web.fetch(remote, tmp_path / "one")
    assert first.checked.startswith("nothing")
    assert ledger.recorded(f"{site.url}/a/data.bin") == SHA256[7:]
    assert web.fetch(remote, tmp_path / "two").checked == "an earlier pull's SHA-256"
    (site.root / "a/data.bin").write_bytes(b"something else")
    with pytest.raises(DigestError, match="an earlier pull found") as raised:
        web.fetch(remote, tmp_path / "three")
    assert str(tmp_path / "cache") in raised.value.do


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LODESMITH_CACHE", "/proc/nowhere")
    assert ledger.verify("http://x", "0" * 64).startswith("nothing")


def test_a_mirrors_own_digests(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    remote = Remote("https://publisher.example/a/data.bin", len(DATA), "md5:" + "0" * 32)
    for origin in (Web(site.url, patience), Folder(site.root)):
        with pytest.raises(DigestError):
            origin.fetch(remote, tmp_path / "got")
    (site.root / "SHA256SUMS").write_text(f"{SHA256[7:]}  a/data.bin\n")
    for origin in (Web(site.url, patience), Folder(site.root)):
        assert "SHA256SUMS" in origin.fetch(remote, tmp_path / "got").checked


def test_a_folder_has_files_under_their_path_or_right_in_it(tmp_path: Path) -> None:
    remote = Remote("https://publisher.example/a/b/data.bin")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/data.bin").write_bytes(DATA)
    got = Folder(tmp_path / "flat").fetch(remote, tmp_path / "unused")
    assert (got.path, got.sha256) == (tmp_path / "flat/data.bin", SHA256[7:])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AbsentError, match=r"a/b/data\.bin or ") as raised:
        Folder(tmp_path / "empty").fetch(remote, tmp_path)
    assert "https://publisher.example/a/b/data.bin" in raised.value.do


def test_reading_while_it_comes_may_end_early(site: Mirror, tmp_path: Path, patience: Patience) -> None:
    remote = Remote("https://publisher.example/a/data.bin", digest=SHA256)
    web = Web(site.url, patience)
    early = web.read(remote, tmp_path / "got")
    assert early.read(10) == DATA[:10]
    result = early.result()
    assert (result.sha256, result.bytes < len(DATA)) == ("", True)
    site.requests.clear()
    rest = web.read(remote, tmp_path / "got")
    assert rest.read() == DATA
    assert rest.result().sha256 == SHA256[7:]
    assert site.asked("data.bin")[0].startswith("bytes="), "what had come was kept"
    site.requests.clear()
    assert web.read(remote, tmp_path / "got").read() == DATA
    assert site.asked("data.bin") == []


def test_origins_by_their_spelling(tmp_path: Path) -> None:
    assert isinstance(origin_of(None), Web)
    assert origin_of("http://mirror.example/x/").label == "http://mirror.example/x"
    assert origin_of(str(tmp_path)).label == str(tmp_path)
    with pytest.raises(Exception, match="neither a folder nor an http address"):
        origin_of("ftp://mirror")


@pytest.mark.parametrize(
    "place", ["http://[bad", "http://.example.org", "http://a b/", "http://me:secret@host/", "http://"]
)
def test_what_is_no_address(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--from: .* is no address") as raised:
        origin_of(place)
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("HF_ENDPOINT", place)
    with pytest.raises(InputError, match="HF_ENDPOINT"):
        settings.endpoint()

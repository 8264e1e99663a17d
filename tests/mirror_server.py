"""The HTTP server of the mirror: it answers as publishers and the hub do, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What happens to the next requests whose path ends so.

    Args:
        path: the end of the path.
        status: answered instead of the file; 0 for none.
        headers: of that answer.
        cut: bytes of the body after which the connection is cut; −1 for none.
        times: how many requests are hit.
        wait: called before the body's second half is sent.
    """

    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    times: int = 1
    wait: Callable[[], Any] | None = None


@dataclass
class Mirror:
    """A running server over a mirror's folder.

    Args:
        root: the folder.
        url: its address.
        ranges: whether range requests are answered.
        tags: whether files have an ETag.
        token: wanted for every request, if not ''.
        faults: what goes wrong.
        requests: (method, path, range, authorization) of each request.
        conditions: the If-Range header of each request that has one.
    """

    root: Path
    url: str = ""
    ranges: bool = True
    tags: bool = True
    token: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)

    def asked(self, end: str) -> list[str]:
        """The ranges ('' for none) that were asked for of the files whose path ends so."""
        return [r for method, path, r, _ in self.requests if method == "GET" and path.endswith(end)]


@contextmanager
def serve(root: Path) -> Iterator[Mirror]:
    """Serve a folder on a port of this machine."""
    mirror = Mirror(root)
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = (self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        self.mirror.requests.append(asked)
        self.mirror.conditions += [self.headers["If-Range"]] if "If-Range" in self.headers else []
        fault = self._fault(path)
        if fault and fault.status:
            self._send(fault.status, b"no", fault.headers)
        elif self.mirror.token and asked[3] != f"Bearer {self.mirror.token}":
            gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this dataset is restricted"}
            self._send(401, b"no", gated)
        elif path.startswith("/api/datasets/"):
            self._api(path.removeprefix("/api/datasets/"))
        else:
            self._file(path, fault)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.mirror.faults:
            if path.endswith(fault.path) and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _api(self, path: str) -> None:
        owner, name, *rest = path.strip("/").split("/")
        repo = self.mirror.root / "datasets" / owner / name
        if not repo.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = sorted(p for p in repo.rglob("*") if p.is_file())
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": p.relative_to(repo).as_posix()} for p in files]
            card = yaml.safe_load((repo / "README.md").read_text().split("---")[1])
            info = {"id": f"{owner}/{name}", "sha": REVISION, "siblings": siblings, "cardData": card, "tags": []}
            return self._json(info | {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0})
        below = repo / "/".join(rest[2:])
        if not below.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        recursive = parse_qs(urlsplit(self.path).query).get("recursive") in (["true"], ["True"], ["1"])
        found = [p for p in files if below in p.parents] if recursive else []
        return self._json([_entry(p, repo) for p in found])

    def _file(self, path: str, fault: Fault | None) -> None:
        head, _, tail = path.partition(f"/resolve/{REVISION}/")
        file = self.mirror.root / (f"{head}/{tail}" if tail else path).lstrip("/")
        if not file.is_file():
            return self._send(404, b"no such file", {})
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if self.mirror.tags else {}
        start, status = self._start(data, headers.get("ETag", ""))
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if status == 416:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return self._body(status, data[start:], headers, fault)

    def _start(self, data: bytes, tag: str) -> tuple[int, int]:
        wanted = self.headers.get("Range", "")
        if not wanted or not self.mirror.ranges:
            return 0, 200
        if self.headers.get("If-Range", tag) != tag:
            return 0, 200
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return (start, 206) if start < len(data) else (0, 416)

    def _body(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.wait:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            fault.wait()
            body = body[len(body) // 2 :]
        if fault and fault.cut >= 0:
            self.wfile.write(body[: fault.cut])
            self.wfile.flush()
            time.sleep(0.01)
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)


def _entry(path: Path, repo: Path) -> dict[str, Any]:
    data = path.read_bytes()
    entry: dict[str, Any] = {"type": "file", "path": path.relative_to(repo).as_posix(), "size": len(data), "oid": "0"}
    if path.suffix == ".parquet":
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry

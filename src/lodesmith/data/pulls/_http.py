"""HTTP requests that are repeated with patience: exponential back-off with jitter, and `Retry-After` obeyed."""

from __future__ import annotations

import http.client
import ipaddress
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from lodesmith.core.progress import tell
from lodesmith.data.pulls._errors import AbsentError, OfflineError, RefusedError, ServerError

__all__ = ["CONNECTION_ERRORS", "TOKEN_HINT", "Patience", "TryAgainError", "ask", "give_up", "refusal", "retrying"]

T = TypeVar("T")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
CONNECTION_ERRORS = (ConnectionError, TimeoutError, http.client.HTTPException, socket.gaierror)
TOKEN_HINT = "set HF_TOKEN in the environment or in a .env file, to a token of an account that was granted access"


class TryAgainError(Exception):
    """This attempt failed in a way that the next may not.

    Args:
        reason: for the message, if it was the last attempt.
        wait: seconds that the server asks to wait, where it does.
        unreachable: no server answered at all.
    """

    def __init__(self, reason: str, wait: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.unreachable = unreachable


@dataclass(frozen=True)
class Patience:
    """How often and how long to try.

    Args:
        attempts: in a row without a byte of progress; three at most where no server answers at all.
        first: seconds before the second attempt; doubled each time, and drawn between half of it and all of it.
        most: the longest such wait in seconds.
        longest: the longest wait in seconds that a server may ask for; a longer one ends the pull.
        timeout: seconds without a byte after which a connection counts as dead.
        sleep: called with seconds.
    """

    attempts: int = 6
    first: float = 0.5
    most: float = 30.0
    longest: float = 600.0
    timeout: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt, the first being 0."""
        drawn = min(self.most, self.first * 2**attempt) * (0.5 + random.random() / 2)
        return drawn if asked is None else max(asked, 0.0)


def retrying(action: Callable[[], T], what: str, patience: Patience) -> T:
    """Call `action` until it does not raise `TryAgainError`.

    Raises:
        OfflineError: no server answered, at the last attempt.
        ServerError: the server kept failing, or asked for too long a wait.
    """
    for attempt in range(patience.attempts):
        try:
            return action()
        except TryAgainError as failed:
            give_up(failed, attempt, what, patience)
    raise AssertionError("the last attempt returns or raises")


def give_up(failed: TryAgainError, attempt: int, what: str, patience: Patience) -> None:
    """Wait before the next attempt, or raise what the last one means."""
    if failed.wait is not None and failed.wait > patience.longest:
        raise ServerError(
            f"{what}: the server asks to wait {failed.wait:,.0f} s ({failed.reason})", "run the same command later"
        ) from None
    if attempt + 1 >= (min(patience.attempts, 3) if failed.unreachable else patience.attempts):
        if failed.unreachable:
            raise OfflineError(f"{what}: cannot be reached ({failed.reason})", "") from None
        raise ServerError(
            f"{what}: failed {attempt + 1} times in a row, lastly with: {failed.reason}",
            "run the same command later: what has come is kept",
        ) from None
    seconds = patience.wait(attempt, failed.wait)
    tell(f"waiting for the server ({failed.reason})", attempt + 1, patience.attempts, "attempts")
    patience.sleep(seconds)


def ask(url: str, headers: Mapping[str, str], patience: Patience, *, method: str = "GET") -> http.client.HTTPResponse:
    """One request; the caller closes the response.

    Raises:
        TryAgainError: it may succeed later.
        AbsentError, RefusedError, ServerError: it will not.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "lodesmith", **headers}, method=method)
    try:
        answer: http.client.HTTPResponse = _OPENER.open(request, timeout=patience.timeout)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            raise refusal(url, error.code, error.headers, error.reason) from None
    except urllib.error.URLError as error:
        raise _connection(error.reason) from None
    except CONNECTION_ERRORS as error:
        raise _connection(error) from None
    except ValueError as error:  # brackets that do not match, host names that no name server takes
        raise ServerError(f"{url}: no address that can be asked, or it redirects to one: {error}", "check it") from None


def _connection(reason: object) -> TryAgainError:
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    unreachable = isinstance(reason, socket.gaierror | ConnectionRefusedError) or not isinstance(
        reason, CONNECTION_ERRORS
    )
    return TryAgainError(text, unreachable=unreachable)


def refusal(url: str, status: int, headers: Mapping[str, str] | Message, reason: str = "") -> Exception:
    """What an HTTP status other than success means."""
    said = f"HTTP {status}{f' {reason}' if reason else ''}"
    if status in _AGAIN:
        return TryAgainError(said, _retry_after(headers.get("Retry-After")))
    if status in (401, 403):
        return RefusedError(f"{url}: access is refused ({said})", TOKEN_HINT)
    if status in (404, 410):
        return AbsentError(f"{url}: there is no such file ({said})", "check the name, or give a mirror with --from")
    return ServerError(f"{url}: {said}", "give another source with --from")


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which is a number or a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as a downloader may: no other protocol, no lesser protection, no token for another host."""

    max_redirections = 8

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme != "https"):
            raise ServerError(f"{req.full_url}: redirects to {newurl}, which is not followed", "report it to its owner")
        if _inner(new.hostname) and not _inner(old.hostname):
            raise ServerError(f"{req.full_url}: redirects into a private network ({new.hostname})", "report it")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            made.remove_header("Authorization")
        if made is not None and req.get_method() == "HEAD":
            made.method = "HEAD"
        return made


def _inner(host: str | None) -> bool:
    """Whether a host is this machine or a private address, by its spelling."""
    try:
        return not ipaddress.ip_address(host or "").is_global
    except ValueError:
        pass
    try:  # 127.1, 0x7f000001, 2130706433
        return not ipaddress.ip_address(socket.inet_aton((host or "").rstrip("."))).is_global
    except OSError:
        name = (host or "").rstrip(".").lower()
        return name == "localhost" or name.endswith(".localhost")


class _NoFiles(urllib.request.BaseHandler):
    """Refuses every protocol but HTTP."""

    handler_order = 1

    def default_open(self, request: urllib.request.Request) -> None:
        if request.type not in ("http", "https"):
            raise ServerError(f"{request.full_url}: only http and https addresses are fetched", "give such an address")


_OPENER = urllib.request.build_opener(_Redirects, _NoFiles)

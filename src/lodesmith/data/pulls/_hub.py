"""Datasets on the Hugging Face hub: revision, files, sizes and digests of a repository."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lodesmith.data.pulls import _settings as settings
from lodesmith.data.pulls._errors import AbsentError, OfflineError, RefusedError, ServerError
from lodesmith.data.pulls._http import TOKEN_HINT, Patience, TryAgainError, refusal, retrying
from lodesmith.data.pulls._remote import Remote

__all__ = ["Listing", "list_folder", "list_repository"]

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The files of a dataset repository below a folder.

    Args:
        repo: `owner/name`.
        revision: the commit, or '' for a folder on disk.
        files: path in the repository → file.
        card: the metadata of its README, as far as they were given.
    """

    repo: str
    revision: str
    files: Mapping[str, Remote]
    card: Mapping[str, Any]

    @property
    def licence(self) -> str:
        """The licence that the card names."""
        found = self.card.get("license") or "not stated on its card"
        return ", ".join(map(str, found)) if isinstance(found, list) else str(found)

    def parquet(self, prefix: str) -> tuple[Remote, ...]:
        """The Parquet files whose path begins so, by name."""
        return tuple(self.files[p] for p in sorted(self.files) if p.startswith(prefix) and p.endswith(".parquet"))

    def unpacked(self, config: str) -> int | None:
        """Bytes of a configuration once it is decoded, as the card says; None where it does not."""
        infos = self.card.get("dataset_info") or []
        for info in infos if isinstance(infos, list) else [infos]:
            size = info.get("dataset_size") if isinstance(info, Mapping) else None
            if isinstance(size, int | float) and math.isfinite(size) and info.get("config_name", "default") == config:
                return int(size)
        return None


def list_repository(repo: str, folder: str, endpoint: str, patience: Patience, revision: str = "") -> Listing:
    """List a repository as it is now, or at a revision.

    Args:
        repo: `owner/name`.
        folder: list what is below this folder; '' for all.
        endpoint: the hub's address, or a mirror's.
        patience: how often to try.
        revision: a commit, or '' for the newest.

    Raises:
        AbsentError: there is no such repository or folder; the message names the folders there are.
        RefusedError: it is gated or private.
        OfflineError, ServerError: the hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint, token=_token(endpoint) or False)
    what = f"{endpoint}/datasets/{repo}"
    info = _patient(lambda: api.dataset_info(repo, revision=revision or None), what, repo, patience)
    sha = info.sha or revision or "main"

    def tree() -> list[Any]:
        return list(api.list_repo_tree(repo, folder or None, recursive=True, revision=sha, repo_type="dataset"))

    try:
        found = _patient(tree, f"{what}/tree/{sha}/{folder}", repo, patience)
    except AbsentError as error:
        raise AbsentError(error.what, _choices(info.siblings or [], folder)) from None
    files = {entry.path: _remote(entry, repo, sha, endpoint) for entry in found if isinstance(entry, RepoFile)}
    return Listing(repo, sha, files, _plain(info.card_data))


def _token(endpoint: str) -> str:
    """The token, where it may go: to the hub that the user's settings name."""
    return settings.token() if endpoint == settings.endpoint() else ""


def _remote(entry: Any, repo: str, sha: str, endpoint: str) -> Remote:
    digest = f"sha256:{entry.lfs.sha256}" if entry.lfs else ""
    url = f"{endpoint}/datasets/{repo}/resolve/{sha}/{quote(entry.path)}"
    return Remote(url, entry.size, digest, hub=True)


def _choices(siblings: Iterable[Any], folder: str) -> str:
    """Which folders there are, nearest first."""
    folders = sorted({s.rfilename.rpartition("/")[0] for s in siblings if "/" in s.rfilename})
    stem = folder.partition(".")[0]
    near = [name for name in folders if stem and name.startswith(stem)] or folders
    return f"there are: {', '.join(near[:12])}{' …' if len(near) > 12 else ''}" if near else "check the name"


def _patient(action: Callable[[], T], what: str, repo: str, patience: Patience) -> T:
    """Call the hub client, with our retries and our errors."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    def attempt() -> T:
        try:
            return action()
        except OfflineModeIsEnabled:
            raise OfflineError(f"{what}: HF_HUB_OFFLINE is set, so the hub is not asked", "") from None
        except GatedRepoError:
            raise RefusedError(f"{what}: {repo} is gated", f"accept its terms on its page, then {TOKEN_HINT}") from None
        except RepositoryNotFoundError as error:
            raise _unknown(what, repo, error.response.status_code) from None
        except HfHubHTTPError as error:
            raise refusal(what, error.response.status_code, error.response.headers) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # what the client makes of other answers
            raise ServerError(
                f"{what}: does not answer as the hub does: {error or type(error).__name__}",
                "check HF_ENDPOINT, or --from",
            ) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise
            unreachable = type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError")
            raise TryAgainError(str(error) or type(error).__name__, unreachable=unreachable) from None

    return retrying(attempt, what, patience)


def _unknown(what: str, repo: str, status: int) -> Exception:
    """The hub does not tell strangers whether a private repository exists."""
    if status in (401, 403):
        return RefusedError(
            f"{what}: there is no public dataset {repo} (HTTP {status})", f"if it is private, {TOKEN_HINT}"
        )
    return AbsentError(f"{what}: there is no dataset {repo} (HTTP {status})", "check the name")


def list_folder(repo: str, folder: str, root: Path) -> Listing:
    """A repository that lies in a folder: `root/OWNER/NAME/…`, `root/datasets/OWNER/NAME/…`, `root/NAME/…` or `root`.

    Raises:
        AbsentError: none of these holds the folder that is looked for.
    """
    places = [root / "datasets" / repo, root / repo, root / repo.rpartition("/")[2], root]
    for place in places:
        if (place / folder).is_dir() and (folder or any(place.rglob("*.parquet"))):
            found = (p for p in (place / folder).rglob("*") if p.is_file())
            names = {p.relative_to(place).as_posix(): p for p in found}
            url = f"{settings.HUB}/datasets/{repo}/resolve/main/"
            files = {n: Remote(url + quote(n), p.stat().st_size, local=p) for n, p in names.items()}
            return Listing(repo, "", files, _card(place))
    looked = ", ".join(str(place / folder) for place in places)
    raise AbsentError(f"{repo}: no Parquet files below {root}", f"put them in one of: {looked}")


def _plain(card: Any) -> dict[str, Any]:
    """A card's metadata as a dictionary, whatever the client wraps them in."""
    found = card.to_dict() if hasattr(card, "to_dict") else card
    return dict(found) if isinstance(found, Mapping) else {}


def _card(place: Path) -> dict[str, Any]:
    """The metadata at the head of README.md."""
    import yaml

    try:
        text = (place / "README.md").read_text(encoding="utf-8")
        value = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError):  # ValueError: no UTF-8, no date
        return {}
    return value if isinstance(value, dict) else {}

"""The mirror, as a folder and served, and a pull that does not wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mirrors
from lodesmith.data.pulls import Web
from lodesmith.data.pulls._http import Patience


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mirror's folder; nobody changes it."""
    pytest.importorskip("pyarrow")
    return mirrors.build(tmp_path_factory.mktemp("published"))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, cache or `.env` of the user's, and a hub client that may connect."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mirror(published: Path) -> Iterator[mirrors.Mirror]:
    """The mirror, served."""
    with mirrors.serve(published) as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """The seconds that a pull waited, or would have."""
    return []


@pytest.fixture
def patience(waits: list[float]) -> Patience:
    """Tries again at once."""
    return Patience(attempts=4, timeout=5, sleep=waits.append)


@pytest.fixture
def web(mirror: mirrors.Mirror, patience: Patience) -> Web:
    """The served mirror as an origin."""
    return Web(mirror.url, patience)

"""Components by file name."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import pytest

import lodesmith
from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.core.registry import check_arguments, check_types, did_you_mean, find, names, parameters


def component(width: int, depth: int = 2) -> int:
    return width * depth


def test_every_file_of_a_family_is_a_component() -> None:
    folder = Path(lodesmith.__file__).parent / "losses"
    files = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    assert names("losses") == files
    assert files
    for name in files:
        assert callable(find("losses", name))


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'infonce'"):
        find("losses", "infonc")


def test_dotted_path_is_a_users_own() -> None:
    assert find("losses", "math.sqrt")(9) == 3
    with pytest.raises(ConfigError, match="cannot be imported"):
        find("losses", "math.nothing")


def test_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> object:
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")

    monkeypatch.setattr(
        "lodesmith.core.registry.importlib.import_module",
        lambda p: fail(p) if p.endswith("infonce") else __import__(p, fromlist=["x"]),
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[faiss\]'"):
        find("losses", "infonce")


def test_arguments_are_checked_before_anything_is_built() -> None:
    check_arguments(component, {"width": 1}, "x")
    check_arguments(component, {}, "x", supplied=("width",))
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        check_arguments(component, {"width": 1, "dept": 3}, "x")
    with pytest.raises(ConfigError, match="'width' is missing"):
        check_arguments(component, {}, "x")


class More(TypedDict, total=False):
    colour: str
    size: int


def shared(width: int, **more: Unpack[More]) -> int:
    return width + len(more)


def test_settings_that_components_share_are_known_by_name_and_type() -> None:
    assert list(parameters(shared)) == ["width", "colour", "size"]
    check_arguments(shared, {"width": 1, "size": 2}, "here")
    with pytest.raises(ConfigError, match=r"here: unknown setting 'color'\ndid you mean 'colour'"):
        check_arguments(shared, {"width": 1, "color": "red"}, "here")
    with pytest.raises(ConfigError, match=r"here\.size: wrong"):
        check_types(shared, {"size": "big"}, "here", lambda kind, value: "" if isinstance(value, kind) else "wrong")


def test_did_you_mean_lists_all_where_none_is_near() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of: a, b"


@pytest.mark.parametrize("name", ["../x", "..x", ".x", "x.", "a/b.c"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        find("codecs", name)

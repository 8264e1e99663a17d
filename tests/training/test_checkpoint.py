"""Checkpoint folders: whole, checked, few."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.training.checkpoint import Checkpoints, Snapshot, read, write


def snapshot(value: float = 1.0) -> Snapshot:
    tensors = {
        "model": {"a": torch.full((3, 2), value), "b": torch.tensor([1, -2]), "c": torch.ones(2, dtype=torch.bfloat16)},
        "rng": {"0.torch": torch.arange(9, dtype=torch.uint8)},
    }
    return Snapshot(tensors, {"best": 0.1 + 0.2, "nothing": None, "name": "σ"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "c", snapshot())
    found = read(tmp_path / "c")
    for stem, tensors in snapshot().tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[stem][name], tensor)
            assert found.tensors[stem][name].dtype == tensor.dtype
    assert {k: v for k, v in found.state.items() if k != "format"} == dict(snapshot().state)


def test_the_newest_are_kept_and_the_newest_good_one_is_found(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    assert kept.last() is None
    (tmp_path / ".step-000000009.x.tmp").mkdir()
    for step in (5, 10, 100):
        kept.save(step, snapshot(step))
    assert [path.name for path in kept.paths()] == ["step-000000010", "step-000000100"]
    assert not list(tmp_path.glob(".*"))
    last = kept.last()
    assert last is not None
    assert (last.path.name, last.damaged) == ("step-000000100", ())
    (last.path / "model.safetensors").unlink()
    earlier = kept.last()
    assert earlier is not None
    assert earlier.snapshot.tensors["model"]["a"][0, 0] == 10
    assert "model.safetensors" in earlier.damaged[0].what
    kept.drop_after(10)
    assert [path.name for path in kept.paths()] == ["step-000000010"]
    kept.save_best(snapshot())
    kept.clear()
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_was_rewritten_to_fit_does_not_help_a_bad_file(tmp_path: Path) -> None:
    write(tmp_path / "c", Snapshot({"model": {}}, {}))
    from lodesmith.core.files import sha256_folder, write_json
    from lodesmith.core.hashing import fingerprint

    (tmp_path / "c" / "model.safetensors").write_bytes((1 << 50).to_bytes(8, "little") + b"{}")
    files = sha256_folder(tmp_path / "c")
    write_json(tmp_path / "c" / "manifest.json", {"files": files, "fingerprint": fingerprint(files)})
    with pytest.raises(IntegrityError, match="not a good safetensors file"):
        read(tmp_path / "c")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", Snapshot({}, {"format": 99}))
    with pytest.raises(ResumeError, match="format 99"):
        read(tmp_path / "c")


def test_keep_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Checkpoints(tmp_path, keep=0)

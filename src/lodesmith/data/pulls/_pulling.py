"""From a name to a dataset folder: plan, download, convert, appear."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import locked, read_json, write_json
from lodesmith.core.records import refuse_foreign
from lodesmith.core.registry import did_you_mean, find, names
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._download import ensure_space
from lodesmith.data.pulls._errors import OfflineError, SpaceError
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Remote, Wanted
from lodesmith.data.pulls._source import Job, Source
from lodesmith.data.pulls._stage import Stage

__all__ = ["Pulled", "expand", "parse", "pull", "work_folder"]


@dataclass(frozen=True)
class Pulled:
    """A dataset that was pulled.

    Args:
        name: the dataset.
        out: its folder.
        info: its dataset.json.
        resumed: bytes that an earlier pull had downloaded, and steps that it had finished.
        seconds: how long it took.
        present: it was there already; nothing was done.
    """

    name: str
    out: Path
    info: dict[str, Any]
    resumed: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    present: bool = False

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        kept = ("source", "licence", "revision", "files", "counts", "fingerprints", "repairs", "notes", "drop_same_id")
        resumed = {"bytes": self.resumed[0], "steps": self.resumed[1]}
        head = {"name": self.name, "out": str(self.out), "present": self.present, "seconds": round(self.seconds, 3)}
        return head | {"resumed": resumed} | {key: self.info[key] for key in kept if key in self.info}

    def to_text(self) -> str:
        """The report for a reader."""
        counts = self.info.get("counts", {})
        splits = ", ".join(f"{s} {n:,}" for s, n in counts.get("judgements", {}).items()) or "no judgements"
        lines = [
            f"{self.name}{' was there already' if self.present else ''}: {counts.get('documents', 0):,} documents, "
            f"{counts.get('queries', 0):,} queries ({splits}) in {self.out}",
            f"  licence: {self.info.get('licence')}",
        ]
        if any(self.resumed):
            lines.append(f"  went on after {self.resumed[0]:,} bytes and {self.resumed[1]:,} steps of an earlier pull")
        if repairs := self.info.get("repairs"):
            lines.append("  left out or mended: " + ", ".join(f"{count:,} {kind}" for kind, count in repairs.items()))
        return "\n".join(lines + [f"  note: {note}" for note in self.info.get("notes", [])])


def expand(name: str) -> tuple[str, ...]:
    """The datasets of a name: those of a group (`beir:quick`, `beir/cqadupstack`), or itself.

    Raises:
        InputError: there is no such group.
    """
    if name.startswith("beir:"):
        group = name.removeprefix("beir:")
        if group not in catalogue.BEIR_GROUPS:
            raise InputError(f"BEIR has no group {group!r}", did_you_mean(group, list(catalogue.BEIR_GROUPS)))
        return tuple(m for set_ in catalogue.BEIR_GROUPS[group] for m in expand(f"beir/{set_}"))
    if name == "beir/cqadupstack":
        return tuple(f"{name}/{forum}" for forum in catalogue.CQADUPSTACK)
    return (name,)


def parse(name: str, options: dict[str, Any]) -> Wanted:
    """A dataset's name and the user's options, checked.

    Args:
        name: not a group.
        options: `limit`, `split_ratio`, `words` and `seed`; None where the user says nothing.

    Raises:
        InputError: there is no such source, an option is out of range, or the source does not take it.
    """
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|[.:/](?=[A-Za-z0-9]))*", name):
        raise InputError(f"{name!r} is no dataset's name", "for example beir/scifact")
    source, _, detail = (
        name.replace(":", "/", 1).partition("/") if name.startswith("wikipedia") else name.partition("/")
    )
    known = names("data.pulls")
    if source not in known:
        raise InputError(f"nothing is called {name!r}", did_you_mean(source, known))
    if detail == "" and source in ("beir", "vidore"):
        raise InputError(f"{name!r} names no dataset", f"for example {_EXAMPLES[source]}")
    if detail and source not in ("beir", "vidore", "wikipedia"):
        raise InputError(f"{source} has no part {detail!r}", f"pull it as {source}")
    given = {key: value for key, value in options.items() if value is not None}
    takes = source_of(source).options
    for key in given.keys() - takes - {"seed"}:
        option = f"--{key.replace('_', '-')}"
        takers = [s for s in known if key in source_of(s).options]
        raise InputError(f"{name} does not take {option}", f"{', '.join(takers)} do; leave it out here")
    _in_range(given)
    return Wanted(name, source, detail, **given)


_EXAMPLES = {"beir": "beir/scifact", "vidore": "vidore/arxivqa_test_subsampled"}


def _in_range(given: dict[str, Any]) -> None:
    for key in ("limit", "words"):
        if key in given and given[key] < 1:
            raise InputError(f"--{key} is {given[key]}", "give at least 1")
    if "split_ratio" in given and not 0 < given["split_ratio"] < 1:
        raise InputError(f"--split-ratio is {given['split_ratio']}", "give a share between 0 and 1, such as .5")


def source_of(name: str) -> Source:
    """The source that a file of this folder holds."""
    source: Source = find("data.pulls", name)()
    return source


def work_folder(out: Path) -> Path:
    """Where a pull keeps what it has not finished: beside its target."""
    return out.with_name(f".{out.name}.pull")


def folders(name: str, members: Sequence[str], out: Path | None) -> list[Path]:
    """The dataset folder of each member; `out` is that of the only one, or holds those of a group."""
    if members == (name,):
        return [out or Path(name.replace(":", "-"))]
    root = out or Path(name.replace(":", "-"))
    parts = [member.removeprefix(name if name.startswith("beir/") else "beir").lstrip("/") for member in members]
    return [root / part for part in parts]


def pull(name: str, origin: Origin, out: Path | None = None, **options: Any) -> list[Pulled]:
    """Pull a dataset, or each of a group.

    What was downloaded and converted before, by a pull that was interrupted or killed, is used. A folder that the
    same pull has finished is left as it is.

    Args:
        name: such as `msmarco`, `wikipedia:de`, `beir/scifact`, `beir:quick`.
        origin: where files come from.
        out: the dataset folder, or that of a group; by default named like the dataset, in the working directory.
        options: `limit`, `split_ratio`, `words`, `seed`.

    Raises:
        InputError: the name, an option or the folder cannot be used.
        LodesmithError: the files do not come, are damaged, or the disk is full; what has come is kept.
    """
    members = expand(name)
    wanted = [parse(member, options) for member in members]
    targets = folders(name, members, out)
    shared = targets[0] if len(targets) == 1 else (out or Path(name.replace(":", "-"))) / "group"
    work = work_folder(shared)
    done: list[Pulled] = []
    for position, (one, target) in enumerate(zip(wanted, targets, strict=True)):
        rest = {plan_url for later in wanted[position + 1 :] for plan_url in _static_urls(later)}
        done.append(_one(one, origin, target, work, rest))
    shutil.rmtree(work, ignore_errors=True)
    return done


def _static_urls(wanted: Wanted) -> set[str]:
    """The archive that a later member of a group reads too."""
    return {catalogue.BEIR[wanted.detail.partition("/")[0]].url} if wanted.source == "beir" else set()


def _one(wanted: Wanted, origin: Origin, out: Path, work: Path, needed: set[str]) -> Pulled:
    began = time.perf_counter()
    if (info := _present(wanted, origin, out)) is not None:
        return Pulled(wanted.name, out, info, present=True)
    interrupted = work.exists()
    with locked(work):
        if interrupted:
            _drop_halves(out)
        if (info := _present(wanted, origin, out)) is not None:  # by another process, meanwhile
            return Pulled(wanted.name, out, info, present=True)
        source = source_of(wanted.source)
        plan = _plan(source, wanted, origin, work)
        downloads = work / "downloads"
        _room(plan, origin, downloads)
        stage = Stage(work / "stage", _key(wanted, plan), remember=source.remember)
        stage.split_by(wanted.split_ratio, wanted.seed)
        job = Job(wanted, plan, origin, downloads, stage)
        try:
            extra = dict(source.convert(job))
            info = stage.publish(out, _info(job, extra), _meta(job, extra))
        except OfflineError as error:
            raise _how_to_provide(error, wanted, plan.files) from None
        finally:
            stage.close()
        _tidy(job, needed)
    resumed = sum(f.resumed for f in job.fetched.values() if f.path.is_relative_to(work))
    return Pulled(wanted.name, out, info, (resumed, len(stage.resumed)), time.perf_counter() - began)


def _drop_halves(out: Path) -> None:
    """Delete what a pull was about to put in place; the half of another folder, `.OUT.MORE.….tmp`, is not touched."""
    half = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]+\.tmp")
    for folder in out.parent.iterdir() if out.parent.is_dir() else ():
        if half.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _present(wanted: Wanted, origin: Origin, out: Path) -> dict[str, Any] | None:
    """The dataset.json of a folder that this very pull has made; None where there is no dataset.

    Raises:
        InputError: the folder holds something else, which would be lost.
    """
    refuse_foreign(out)
    if not out.exists() or not any(out.iterdir()):
        return None
    info = read_json(out / "dataset.json") if (out / "dataset.json").exists() else {}
    made = info.get("pull") if isinstance(info, dict) else None
    if isinstance(made, dict) and {**made, "from": ""} == {**_request(wanted, origin), "from": ""}:
        found: dict[str, Any] = info
        return found
    what = "another pull" if made else "a dataset that no pull has made"
    raise InputError(f"holds {what}", "choose another --out, or delete it", path=out)


def _request(wanted: Wanted, origin: Origin) -> dict[str, Any]:
    """What dataset.json says of the command."""
    takes = sorted(source_of(wanted.source).options)
    request = {"name": wanted.name, "seed": wanted.seed} | {option: getattr(wanted, option) for option in takes}
    return request | ({"from": origin.label} if origin.label else {})


def _key(wanted: Wanted, plan: Plan) -> dict[str, Any]:
    """What a stage may be taken up again for: the same wish for the same files."""
    files = [(f.path, f.size, f.digest) for f in plan.files]
    return {"wanted": vars(wanted), "revision": plan.revision, "files": files}


def _plan(source: Source, wanted: Wanted, origin: Origin, work: Path) -> Plan:
    """The plan, of the revision that an earlier process had begun with."""
    note = work / "revision.json"
    pinned = read_json(note) if note.exists() else {}
    same = isinstance(pinned, dict) and pinned.get("name") == wanted.name
    try:
        plan = source.plan(wanted, origin, str(pinned["revision"]) if same else "")
    except OfflineError as error:
        raise _how_to_provide(error, wanted, ()) from None
    if plan.revision:
        write_json(note, {"name": wanted.name, "revision": plan.revision})
    return plan


def _how_to_provide(error: OfflineError, wanted: Wanted, files: Sequence[Remote]) -> OfflineError:
    """The error, with what is missing and how to bring it."""
    if files:
        what = ", ".join(file.name for file in files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
        places = f"fetch {what} elsewhere (from {files[0].url.rpartition('/')[0]}/)"
    else:
        places = (
            f"fetch the Parquet files of {wanted.name} elsewhere, for example with `hf download --repo-type dataset`"
        )
    return OfflineError(
        f"{wanted.name}: {error.what}", f"connect, or {places} and give their folder, or a mirror, with --from"
    )


def _room(plan: Plan, origin: Origin, downloads: Path) -> None:
    """Refuse early what the disk cannot hold, as far as sizes are known: those that the origin itself tells."""
    told = [file for file in plan.files if file.local is None and (file.hub or not origin.label)]
    whole = sum(file.size or 0 for file in told) + (plan.unpacked or 0)
    if not plan.partial:
        have = sum(f.stat().st_size for f in downloads.rglob("*") if f.is_file()) if downloads.exists() else 0
        try:
            ensure_space(downloads, max(0, whole - have), "the download")
        except SpaceError as error:
            raise SpaceError(error.what, f"{error.do}; --dry-run shows what a pull needs") from None


def _info(job: Job, extra: dict[str, Any]) -> dict[str, Any]:
    """What dataset.json says besides counts and fingerprints."""
    plan, extra = job.plan, {key: value for key, value in extra.items() if key != "negatives"}
    came = job.files()
    files = [{"url": f.url} | came[f.url] for f in plan.files if f.url in came]
    head = {"name": _title(job.wanted), "source": plan.source, "licence": plan.licence}
    revision = {"revision": plan.revision} if plan.revision else {}
    notes = {"notes": list(plan.notes)} if plan.notes else {}
    return head | revision | notes | {"files": files, "pull": _request(job.wanted, job.origin)} | extra


def _title(wanted: Wanted) -> str:
    """What tables call the dataset: a part of it by another name, so that no figure passes for one of the whole."""
    return wanted.name if wanted.limit is None else f"{wanted.name} (limit {wanted.limit})"


def _meta(job: Job, extra: dict[str, Any]) -> dict[str, Any]:
    return {"source": job.plan.source, "what": extra.get("negatives", ""), "pull": job.wanted.name}


def _tidy(job: Job, needed: set[str]) -> None:
    """Delete what no later member of the group reads."""
    shutil.rmtree(job.stage.folder, ignore_errors=True)
    (job.downloads.parent / "revision.json").unlink(missing_ok=True)
    for url, got in job.fetched.items():
        if url not in needed and got.path.parent == job.downloads:
            got.path.unlink(missing_ok=True)
    if not needed & job.fetched.keys():
        shutil.rmtree(job.downloads, ignore_errors=True)

"""Wikipedia as the Wikimedia Foundation publishes it on the hub: passages of cleaned articles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.progress import tell
from lodesmith.core.records import Document
from lodesmith.data.outline import Outline, Section
from lodesmith.data.passages import passages
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._parquet import rows, seeded
from lodesmith.data.pulls._remote import Plan, Wanted
from lodesmith.data.pulls._source import Job

__all__ = ["Wikipedia", "clean", "outline"]

_REPO = "wikimedia/wikipedia"
_LANGUAGE, _DATE = "en", "20231101"
_COLUMNS = ("text", "title", "id")
_NAME = re.compile(r"([a-z][a-z0-9-]*)(?::(\d{8}))?")
_FEWEST = 5  # words of a passage
_HOLLOW = re.compile(r"[(\[]\s*(?:[,;:]\s*)*[)\]]")  # brackets whose content was a template
_SPACES = re.compile(r"[^\S\n]+")
_BEFORE = re.compile(r" +([,.;:!?)\]])(?=\s|$)")
_END = re.compile(r"[.!?…:;,\"”»。！？：；]\s*$")
_APPENDICES = """
references|notes|external links|see also|further reading|bibliography|sources|citations|footnotes
einzelnachweise|weblinks|literatur|siehe auch|anmerkungen|références|notes et références|liens externes
voir aussi|bibliographie|referencias|enlaces externos|véase también|bibliografía|note|collegamenti esterni
voci correlate|bibliografia|referências|ligações externas|ver também|referenties|externe links|zie ook
przypisy|linki zewnętrzne|zobacz też|примечания|ссылки|литература|см. также|脚注|外部リンク|関連項目|参考文献
"""
_APPENDIX = frozenset(_APPENDICES.strip().replace("\n", "|").split("|"))


class Wikipedia:
    """`wikipedia[:LANGUAGE[:DATE]]`: passages of at most `--words` words, named `ARTICLE#n`, under the article's
    title and section. `--limit` is a number of passages; they are then drawn shard by shard in an order that the
    seed fixes, and the pull ends with the shard that has enough.
    """

    options = frozenset({"limit", "words"})
    remember = False

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """The Parquet shards of one dump of one language."""
        match = _NAME.fullmatch(wanted.detail or _LANGUAGE)
        if not match:
            raise InputError(f"{wanted.name!r} is not wikipedia[:LANGUAGE[:DATE]]", "for example wikipedia:de:20231101")
        config = f"{match[2] or _DATE}.{match[1]}"
        listing = origin.listing(_REPO, config, revision)
        files = listing.parquet(f"{config}/")
        if wanted.limit is not None:
            files = tuple(seeded(files, wanted.seed, config))
        unpacked = listing.unpacked(config)
        source = f"hub dataset {_REPO}, {config}"
        return Plan(files, source, listing.licence, listing.revision, wanted.limit is not None, unpacked)

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Shard by shard."""
        stage, limit = job.stage, job.wanted.limit
        for shard in job.plan.files:
            order = None if limit is None else (job.wanted.seed, shard.name)
            if limit is not None and stage.counts["documents"] >= limit:
                break
            if shard.name in stage.steps:
                continue
            for row in rows(job.file(shard), _COLUMNS, order=order, required=3, texts=_COLUMNS[:2]):
                for document in _documents(row, job.wanted.words):
                    if stage.counts["documents"] == limit:
                        break
                    stage.document(document)
                tell("passages", stage.counts["documents"], limit, "passages")
                if stage.counts["documents"] == limit:
                    break
            job.commit(shard.name)
            job.forget(shard)
        return {"words": job.wanted.words}


def _documents(row: Mapping[str, Any], words: int) -> Iterator[Document]:
    found = passages(outline(row["title"] or "", row["text"] or ""), words)
    long_enough = ((title, text) for title, text in found if len(text.split()) >= _FEWEST)
    for number, (title, text) in enumerate(long_enough, start=1):
        yield Document(f"{row['id']}#{number}", title, text)


def clean(text: str) -> str:
    """A paragraph without what the removal of markup left behind: hollow brackets, doubled spaces, stray marks."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf") else " " for c in text)
    while (shorter := _HOLLOW.sub("", text)) != text:
        text = shorter
    return _BEFORE.sub(r"\1", _SPACES.sub(" ", text)).strip()


def outline(title: str, text: str) -> Outline:
    """The sections of an article as the dump has it: paragraphs between empty lines, headings on lines of their own.

    What stands under a heading such as `References` is left out.
    """
    sections: list[Section] = []
    heading: str = ""
    held: list[str] = []

    def close() -> None:
        if held and heading.lower() not in _APPENDIX:
            sections.append(Section((heading,) if heading else (), tuple(held)))
        held.clear()

    blocks = [found for block in text.split("\n\n") if (found := clean(block))]
    for position, block in enumerate(blocks):
        first, _, rest = block.partition("\n")
        if _is_heading(first, bool(rest) or position + 1 < len(blocks)) and (position or rest):
            close()
            heading = first.strip()
            held.extend([rest.strip()] if rest.strip() else [])
        else:
            held.append(block)
    close()
    return Outline(title, tuple(sections))


def _is_heading(line: str, followed: bool) -> bool:
    """Whether a line is a heading: short, without an end of sentence, with something under it."""
    return (followed or line.lower() in _APPENDIX) and 0 < len(line.split()) <= 8 and not _END.search(line)

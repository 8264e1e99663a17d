"""Natural Questions (Kwiatkowski et al. 2019), from Google's simplified files."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lodesmith.core.hashing import text_key
from lodesmith.core.lines import LineError, bounded_lines, decode_json
from lodesmith.core.progress import tell
from lodesmith.core.records import Document, Query
from lodesmith.data.pulls import _catalogue as catalogue
from lodesmith.data.pulls._errors import LayoutError, SizeError
from lodesmith.data.pulls._origin import Origin
from lodesmith.data.pulls._remote import Plan, Wanted
from lodesmith.data.pulls._source import DAMAGED, Job, plain

__all__ = ["NaturalQuestions"]

_LONGEST = 256 << 20  # bytes of a line: a whole Wikipedia page with a record for each token
_REVISION = re.compile(r"oldid=(\d+)")
_TAG = re.compile(r"</?[A-Za-z][^<>\s]*>")
_LOOSE = re.compile(r" (?=[,.;:!?%)\]](?: |$))|(?<=[(\[]) ")  # spaces that only separate tokens
_AGREE = 2  # of five annotators, for a development question to count, as in the official evaluation


class NaturalQuestions:
    """`nq`: the top-level candidates (paragraphs, tables, lists) of each question's Wikipedia page are documents,
    named `REVISION-n`; the annotated long answers are relevant, the short ones are the query's answers. A question
    without a long answer is left out and counted. `--limit` keeps the first questions of each split, and ends the
    download there; `--split-ratio` divides by article,
    so that no revision of a page in `test` is in `train`.
    """

    options = frozenset({"limit", "split_ratio"})
    remember = False

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """Two files of JSON lines, read while they come."""
        source = "https://ai.google.com/research/NaturalQuestions"
        return Plan(tuple(catalogue.NQ.values()), source, catalogue.LICENCES["nq"], partial=wanted.limit is not None)

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Question by question."""
        pages: set[str] = set()
        without = 0
        for split, remote in catalogue.NQ.items():
            with job.reading(remote) as raw:
                try:
                    with plain(raw) as file:
                        without += _split(job, split, file, pages)
                except DAMAGED as error:
                    raise SizeError(f"{remote.name}: {error}", "run again, or take it from its publisher") from None
        return {"questions_without_long_answer": without}


def _split(job: Job, split: str, file: Any, pages: set[str]) -> int:
    """Read a file up to the limit; how many questions have no long answer."""
    taken = without = 0
    for line in bounded_lines(file, _LONGEST):
        if taken == job.wanted.limit:
            break
        try:
            if _question(job, split, decode_json(line), pages):
                taken += 1
            else:
                without += 1
        except (LineError, KeyError, TypeError, IndexError, AttributeError) as error:
            name = catalogue.NQ[split].name
            raise LayoutError(f"{name}:{line.number}: {error}", "take the file from its publisher") from None
        tell(f"{split} questions", taken, job.wanted.limit, "questions")
    return without


def _question(job: Job, split: str, row: Mapping[str, Any], pages: set[str]) -> bool:
    """Add a question and, if it is new, its page; False where there is no long answer."""
    candidates = row["long_answer_candidates"]
    found = [a for a in row["annotations"] if a["long_answer"]["candidate_index"] >= 0]
    if len(found) < (_AGREE if len(row["annotations"]) > 1 else 1):
        return False
    tokens = _tokens(row)
    page = _page(row["document_url"])
    if page not in pages:
        pages.add(page)
        _add_page(job, page, row.get("document_title") or _title(tokens), tokens, candidates)
    key = str(row["example_id"])
    answers = dict.fromkeys(_short(tokens, annotation) for annotation in found)
    texts = tuple(text for group in answers for text in group)
    if job.stage.query(Query(key, row["question_text"].strip(), tuple(dict.fromkeys(texts)))):
        for annotation in found:
            index = _top(candidates, annotation["long_answer"]["candidate_index"])
            job.stage.judge(split, key, f"{page}-{index}", group=_article(row["document_url"]) or page)
    return True


def _tokens(row: Mapping[str, Any]) -> list[str]:
    """The tokens of a page: of the simplified text, or of the records that the development file has."""
    if "document_text" in row:
        return list(row["document_text"].split(" "))
    return [f"<{t['token'].strip('<>').split()[0]}>" if t["html_token"] else t["token"] for t in row["document_tokens"]]


def _page(url: str) -> str:
    """A page's id: its revision number, or a name made of its address."""
    found = _REVISION.search(html.unescape(url))
    return found[1] if found else text_key(url)[:16]


def _article(url: str) -> str:
    """The article, of which a page is one revision; '' where the address does not name it."""
    return (parse_qs(urlsplit(html.unescape(url)).query).get("title") or [""])[0]


def _title(tokens: Sequence[str]) -> str:
    """The title in the page's first heading, which the simplified files do not give otherwise."""
    if "<H1>" not in tokens:
        return ""
    start = tokens.index("<H1>")
    end = next((i for i in range(start, len(tokens)) if tokens[i] == "</H1>"), start)
    return _text(tokens[start:end]).removesuffix(" - wikipedia").removesuffix(" - Wikipedia")


def _add_page(job: Job, page: str, title: str, tokens: Sequence[str], candidates: Sequence[Mapping[str, Any]]) -> None:
    for index, candidate in enumerate(candidates):
        if candidate["top_level"]:
            text = _text(tokens[candidate["start_token"] : candidate["end_token"]])
            job.stage.document(Document(f"{page}-{index}", title, text))


def _top(candidates: Sequence[Mapping[str, Any]], index: int) -> int:
    """The top-level candidate around a candidate; those inside it come after it."""
    while index > 0 and not candidates[index]["top_level"]:
        index -= 1
    return index


def _short(tokens: Sequence[str], annotation: Mapping[str, Any]) -> tuple[str, ...]:
    """An annotator's short answers, or yes or no."""
    found = [_text(tokens[s["start_token"] : s["end_token"]]) for s in annotation["short_answers"]]
    verdict = annotation.get("yes_no_answer", "NONE").lower()
    return tuple(text for text in [*found, verdict if verdict in ("yes", "no") else ""] if text)


def _text(tokens: Sequence[str]) -> str:
    return _LOOSE.sub("", " ".join(token for token in tokens if token and not _TAG.fullmatch(token)))

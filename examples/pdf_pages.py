"""PDF files as a test set of page images in ViDoRe's form, each page asked for by the sentence that tells it apart.

    python examples/pdf_pages.py OUT FOLDER [--words N] [--model DIR ...]

It draws the pages of the PDF files in FOLDER (`lode data import FOLDER --pages`), takes of each page whose text has one
its most distinctive sentence as the query, and measures systems: chance, BM25 and MiniLM on the pages' text, and any
models. A sentence stands on its page word for word, so BM25 is near 1 by construction: that is the bound for a
model that reads the images. `--words N` leaves N words of it, the rarest that other pages have too, which is harder.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import lodesmith as lode
from lodesmith.core.records import Dataset, Query
from lodesmith.data.importing import Pages, import_paths
from lodesmith.data.passages import sentences

SHORTEST, LONGEST = 6, 30
_WHOLE = re.compile(r"[^\W\d_a-zß-öø-ÿ](?:(?![.!?] ).)*[.!?][\"'”’)]*")
_PLAIN = re.compile(r"[\"'“‘(]*[^\W\d_]+(?:[-’'][^\W\d_]+)*[,;:.!?\"'”’)]*")


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def is_sentence(text: str) -> bool:
    """Whether it reads as one: whole, nine of ten of its words plain ones, six of ten in lower case, so that rows of
    tables, formulas, labels of figures and lists of authors are none."""
    parts = text.split()
    if not SHORTEST <= len(parts) <= LONGEST or not _WHOLE.fullmatch(text):
        return False
    plain = [part for part in parts if _PLAIN.fullmatch(part)]
    return len(plain) >= 0.9 * len(parts) and sum(part[0].islower() for part in plain) >= 0.6 * len(parts)


def questions(pages: Mapping[str, str], rarest: int | None = None) -> Iterator[tuple[str, str]]:
    """(page, query): of the sentences that stand on that page alone the one whose words are on the fewest pages.

    Args:
        pages: the text of each.
        rarest: of the sentence only so many words, the rarest of those that other pages have too, in its order.
    """
    frequency = Counter(word for text in pages.values() for word in set(words(text)))
    flat = {page: f" {' '.join(words(text))} " for page, text in pages.items()}

    def rarity(sentence: str) -> float:
        own = words(sentence)
        return sum(math.log(len(pages) / frequency[word]) for word in own) / len(own)

    def fits(sentence: str) -> bool:
        run = f" {' '.join(words(sentence))} "
        common = sum(3 * frequency[word] >= len(pages) for word in words(sentence))
        return is_sentence(sentence) and common > 1 and sum(run in text for text in flat.values()) == 1

    for page, text in pages.items():
        if own := list(filter(fits, sentences(" ".join(text.split())))):
            query = max(own, key=rarity)
            if rarest is not None:
                shared = [word for word in dict.fromkeys(words(query)) if frequency[word] > 1]
                kept = sorted(shared, key=lambda word: (frequency[word], word))[:rarest]
                query = " ".join(word for word in shared if word in kept)
            if query:
                yield page, query


def write_set(folder: Path, out: Path, rarest: int | None = None) -> Dataset:
    """The dataset: page images with their text layer, and a query a page in the split `test`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as scratch:
        drawn = Path(scratch) / "pages"
        print(import_paths([folder], drawn, name=folder.resolve().name, pages=Pages(images=True)).to_text(), flush=True)
        data = Dataset.load(drawn)
        asked = dict(questions({key: page.text for key, page in data.documents.items()}, rarest))
        if not asked:
            raise SystemExit(f"{folder}: no page has a sentence of {SHORTEST} to {LONGEST} words in its text layer")
        queries = {f"q{number}": Query(f"q{number}", text) for number, text in enumerate(asked.values(), 1)}
        judged = {key: {page: 1} for key, page in zip(queries, asked, strict=True)}
        Dataset(data.documents, queries, {"test": judged}, data.info).save(out)
        (drawn / "images").rename(out / "images")
    return Dataset.load(out)


def main() -> None:
    """Write, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", type=int, help="only the rarest words of each sentence that other pages have too")
    parser.add_argument("--model", action="append", default=[], help="a model folder or a run; may be given again")
    given = parser.parse_args()
    data = write_set(given.folder, given.out, given.words)
    print(f"{len(data.documents)} pages, {len(data.queries)} queries", flush=True)
    for system in ("random", "bm25", "minilm", *given.model):
        measured = lode.evaluate(system, data).measures["nDCG@5"]
        print(f"{system}: nDCG@5 {measured.mean:.3f} [{measured.low:.3f}, {measured.high:.3f}]", flush=True)


if __name__ == "__main__":
    main()

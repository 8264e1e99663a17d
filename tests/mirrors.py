"""A mirror of the published collections, tiny and in their real layouts: as a folder, and served over HTTP.

`build` writes the folder: each file under the path of its published address, hub datasets under
`datasets/OWNER/NAME`. `serve` answers requests for it as publishers and the hub do, with faults on demand.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import yaml

from mirror_server import REVISION, Fault, Mirror, serve

__all__ = ["REVISION", "Fault", "Mirror", "build", "msmarco", "serve", "sums"]

FORUMS = [
    *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix"),
    *("webmasters", "wordpress"),
]
SETS = [
    *("arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus", "nq", "quora"),
    *("scidocs", "scifact", "trec-covid", "webis-touche2020"),
]
_BEIR = "thakur/BEIR/datasets"


# the folder


def build(root: Path) -> Path:
    """Write the mirror's folder."""
    for name in SETS:
        _write(root / _BEIR / f"{name}.zip", zipped(beir_files(name)))
    forums = {path: text for forum in FORUMS for path, text in beir_files(f"cqadupstack/{forum}").items()}
    _write(root / _BEIR / "cqadupstack.zip", zipped(forums))
    _msmarco(root / "msmarcoranking")
    _write(root / "SQuAD-explorer/dataset/train-v1.1.json", json.dumps(squad("train", 4)).encode())
    _write(root / "SQuAD-explorer/dataset/dev-v1.1.json", json.dumps(squad("dev", 2)).encode())
    _write(root / "datasets/hotpot/hotpot_train_v1.1.json", json.dumps(hotpotqa("train", 6)).encode())
    _write(root / "datasets/hotpot/hotpot_dev_distractor_v1.json", json.dumps(hotpotqa("dev", 2)).encode())
    _nq(root / "natural_questions/v1.0-simplified")
    sums(root)
    _wikipedia(root / "datasets/wikimedia/wikipedia")
    _vidore_first(root / "datasets/vidore/arxivqa_test_subsampled")
    _vidore_second(root / "datasets/vidore/esg_reports_v2")
    _colpali(root / "datasets/vidore/colpali_train_set")
    return root


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def _lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def beir_files(name: str) -> dict[str, str]:
    """The files of one set: 5 documents, 3 judged queries and one that is not, and what some sets have of their own."""
    documents = [
        {"_id": f"d{i}", "title": f"Title {i}", "text": f"{name} text number {i}", "metadata": {"url": f"u{i}"}}
        for i in range(5)
    ]
    queries = [{"_id": f"q{i}", "text": f"{name} question {i}?", "metadata": {}} for i in range(4)]
    rows = ["query-id\tcorpus-id\tscore", "q0\td0\t1", "q1\td1\t2", "q2\td2\t1", "q2\td3\t0"]
    if name == "trec-covid":
        rows.append("q0\td4\t-1")
    if name == "arguana":
        documents.append({"_id": "q0", "title": "", "text": "the argument that is asked about"})
    splits = {"msmarco": ("train", "dev", "test"), "hotpotqa": ("train", "dev", "test")}.get(name, ("test",))
    files = {f"{name}/corpus.jsonl": _lines(documents), f"{name}/queries.jsonl": _lines(queries)}
    return files | {f"{name}/qrels/{split}.tsv": "\n".join(rows) + "\n" for split in splits}


def _msmarco(folder: Path) -> None:
    """60 passages, 20 judged training queries of 25, 6 development queries, 12 triples a query (in turns)."""
    msmarco(
        folder,
        [f"Passage {i} says something." for i in range(60)],
        [(f"training question {i}", i if i < 20 else None) for i in range(25)],
        [(f"development question {i}", 30 + i) for i in range(6)],
    )


def sums(root: Path) -> None:
    """A mirror's list of its files and their checksums."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root).as_posix()}\n" for p in files]
    _write(root / "SHA256SUMS", "".join(lines).encode())


def msmarco(folder: Path, passages: list[str], train: list[tuple[str, int | None]], dev: list[tuple[str, int]]) -> None:
    """MS MARCO's files of these passages and queries with the number of their passage; 12 triples a judged query."""
    judged = [(number, passage) for number, (_, passage) in enumerate(train) if passage is not None]
    texts = {
        "collection.tsv": "".join(f"{i}\t{text}\n" for i, text in enumerate(passages)),
        "queries.train.tsv": "".join(f"{1000 + i}\t{text}\n" for i, (text, _) in enumerate(train)),
        "queries.dev.small.tsv": "".join(f"{2000 + i}\t{text}\n" for i, (text, _) in enumerate(dev)),
        "queries.dev.tsv": "9\tnot of the small set\n",
        "qrels.train.tsv": "".join(f"{1000 + i}\t0\t{passage}\t1\n" for i, passage in judged),
        "qrels.dev.small.tsv": "".join(f"{2000 + i}\t0\t{passage}\t1\n" for i, (_, passage) in enumerate(dev)),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    _write(folder / "collectionandqueries.tar.gz", packed.getvalue())
    triples = "".join(f"{1000 + i}\t{at}\t{at}\n" for i, at in judged)  # which names a positive: it happens
    spread = ((i, at, (at + 1 + n) % len(passages)) for n in range(12) for i, at in judged)
    triples += "".join(f"{1000 + i}\t{at}\t{other}\n" for i, at, other in spread)
    _write(folder / "qidpidtriples.train.full.2.tsv.gz", gzip.compress(triples.encode(), mtime=0))


def squad(split: str, articles: int) -> dict[str, Any]:
    """Articles of 2 paragraphs with 2 questions each."""

    def question(article: int, paragraph: int, n: int) -> dict[str, Any]:
        answers = [{"text": f"answer {n}", "answer_start": 0}] * 2
        return {
            "id": f"{split}{article}{paragraph}{n}",
            "question": f"Which {split} {article} {n}?",
            "answers": answers,
        }

    data = [
        {
            "title": f"{split}_article_{a}",
            "paragraphs": [
                {"context": f"The {split} context {a}.{p}: «ü» answer.", "qas": [question(a, p, n) for n in range(2)]}
                for p in range(2)
            ],
        }
        for a in range(articles)
    ]
    return {"data": data, "version": "1.1"}


def hotpotqa(split: str, count: int) -> list[dict[str, Any]]:
    """Questions with 2 supporting paragraphs and 3 distractors, the last of which all questions share."""

    def paragraph(name: str) -> list[Any]:
        return [name, [f"{name} begins here.", " It ends here."]]

    return [
        {
            "_id": f"{split}{i}",
            "question": f"What do A{i} and B{i} share?",
            "answer": "yes" if i % 2 else "a thing",
            "type": "comparison",
            "level": "hard",
            "supporting_facts": [[f"{split} A{i}", 0], [f"{split} B{i}", 1]],
            "context": [paragraph(f"{split} {x}{i}") for x in "CADB"] + [paragraph("Shared")],
        }
        for i in range(count)
    ]


def _nq(folder: Path) -> None:
    """Training: 5 questions on 4 pages, one without a long answer. Development: the layout with token records."""

    def page(n: int) -> tuple[str, list[dict[str, Any]]]:
        text = f"Page {n} - Wikipedia <H1> Page {n} </H1> <P> First paragraph of {n} . </P> "
        text += '<Table> <Tr> <Td_colspan="2"> cell </Td> </Tr> </Table>'
        words = text.split(" ")
        spans = [(words.index("<P>"), words.index("</P>") + 1), (words.index("<Table>"), len(words))]
        inner = (words.index("<Tr>"), words.index("</Tr>") + 1)
        candidates = [{"start_token": a, "end_token": b, "top_level": True} for a, b in spans]
        return text, [*candidates, {"start_token": inner[0], "end_token": inner[1], "top_level": False}]

    def row(i: int, n: int, index: int) -> dict[str, Any]:
        text, candidates = page(n)
        start = text.split(" ").index("First")
        long = {"candidate_index": index, "start_token": -1, "end_token": -1}
        short = [{"start_token": start, "end_token": start + 2}] if index == 0 else []
        return {
            "example_id": 5000 + i,
            "question_text": f"question {i} about page {n}",
            "document_text": text,
            "document_url": f"https://en.wikipedia.org//w/index.php?title=Page_{n}&amp;oldid=90{n}",
            "long_answer_candidates": candidates,
            "annotations": [{"long_answer": long, "short_answers": short, "yes_no_answer": "NONE"}],
        }

    train = [row(0, 0, 0), row(1, 1, 2), row(2, 2, -1), row(3, 3, 0), row(4, 0, 1)]
    dev = row(9, 7, 0) | {"document_title": "Page 7"}
    words = dev.pop("document_text").split(" ")
    dev["document_tokens"] = [{"token": w, "html_token": w.startswith("<")} for w in words]
    one = dev["annotations"][0]
    nothing = {"long_answer": {"candidate_index": -1}, "short_answers": [], "yes_no_answer": "NONE"}
    dev["annotations"] = [one, one, nothing, nothing, nothing]
    lonely = dev | {"example_id": 5010, "annotations": [one, nothing, nothing, nothing, nothing]}
    _write(folder / "simplified-nq-train.jsonl.gz", gzip.compress(_lines(train).encode(), mtime=0))
    _write(folder / "nq-dev-all.jsonl.gz", gzip.compress(_lines([dev, lonely]).encode(), mtime=0))


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def png(value: int, size: int = 4) -> bytes:
    """A gray PNG image whose bytes depend on `value`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    pixels = b"".join(b"\0" + bytes([(value * 7 + row) % 256] * size) for row in range(size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def image(value: int) -> dict[str, Any]:
    return {"bytes": png(value), "path": f"{value}.png"}


def _card(folder: Path, licence: Any, **sizes: int) -> None:
    infos = [{"config_name": name, "dataset_size": size} for name, size in sizes.items()]
    text = yaml.safe_dump({"license": licence, "dataset_info": infos})
    _write(folder / "README.md", f"---\n{text}---\n# Card\n".encode())


def _wikipedia(folder: Path) -> None:
    """Two languages; English in 4 shards of 3 articles."""
    body = (
        "{0} is an article ( ; ) about  things.\n\nHistory\nIt began long ago and went on for many years , it is said."
        "\n\nReferences\nA book that nobody reads is listed here."
    )
    for language, shards in (("en", 4), ("de", 1)):
        for shard in range(shards):
            rows = [
                {
                    "id": str(100 * shard + i),
                    "url": "u",
                    "title": f"{language} {shard}.{i}",
                    "text": body.format("This"),
                }
                for i in range(3)
            ]
            parquet(folder / f"20231101.{language}/train-{shard:05}-of-{shards:05}.parquet", rows)
    _card(folder, ["cc-by-sa-3.0", "gfdl"], **{"20231101.en": 4000})


def _vidore_first(folder: Path) -> None:
    """7 rows in 2 shards: 5 pages, one row without a question, one question asked twice (of different pages)."""
    pages, queries = [0, 1, 1, 2, 3, 4, 0], ["a?", "b?", "c?", None, "d?", "a?", "e?"]
    rows = [
        {"query": q, "image": image(p), "image_filename": f"images/{p}.png", "answer": f"['{q}']", "page": "1"}
        for p, q in zip(pages, queries, strict=True)
    ]
    parquet(folder / "data/test-00000-of-00002.parquet", rows[:4])
    parquet(folder / "data/test-00001-of-00002.parquet", rows[4:])
    _card(folder, "mit", default=5000)


def _vidore_second(folder: Path) -> None:
    """4 pages, two of them with the same picture, 3 queries, 4 judgements."""
    pages = [{"corpus-id": i, "image": image(i % 3), "doc-id": "report"} for i in range(4)]
    parquet(folder / "corpus/test-00000-of-00001.parquet", pages)
    queries = [{"query-id": i, "query": f"ESG question {i}?", "language": "english"} for i in range(3)]
    parquet(folder / "queries/test-00000-of-00001.parquet", queries)
    pairs = [(0, 0, 1), (0, 3, 2), (1, 1, 1), (2, 2, 1)]
    parquet(
        folder / "qrels/test-00000-of-00001.parquet", [{"query-id": q, "corpus-id": d, "score": s} for q, d, s in pairs]
    )
    _card(folder, "cc-by-3.0", corpus=4000, queries=100, qrels=50)


def _colpali(folder: Path) -> None:
    """5 training shards of 4 pairs and a test shard of 2."""

    def rows(shard: int, count: int) -> list[dict[str, Any]]:
        ids = [100 * shard + i for i in range(count)]
        return [
            {"image": image(n), "image_filename": f"images/{n}.jpg", "query": f"What is on page {n}?", "answer": "C"}
            for n in ids
        ]

    for shard in range(5):
        parquet(folder / f"data/train-{shard:05}-of-00005.parquet", rows(shard, 4))
    parquet(folder / "data/test-00000-of-00001.parquet", rows(9, 2))
    _card(folder, [], default=9000)


if __name__ == "__main__":  # python tests/mirrors.py FOLDER: build the mirror and serve it until Ctrl-C
    import sys

    with serve(build(Path(sys.argv[1]))) as served:
        print(served.url, flush=True)
        threading.Event().wait()

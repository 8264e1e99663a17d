"""The published collections: addresses, sizes in bytes, checksums and licences, and who says so.

Figures come from, as named in each row:
    [beir]   the table of the BEIR benchmark's wiki, https://github.com/beir-cellar/beir/wiki/Datasets-available
             (archive names and MD5)
    [irds]   the download index of ir_datasets 0.6.3, https://github.com/allenai/ir_datasets (sizes; it gives the
             same MD5 of the archives)
    [card]   the card of the dataset on https://huggingface.co/datasets (licences; sizes are listed by the hub at
             the time of a pull, with the SHA-256 of each file)
    [squad]  SHA-256 and sizes in the metadata that the `datasets` library published for SQuAD 1.1; ParlAI gives the
             same SHA-256, https://github.com/facebookresearch/ParlAI
    [hotpot] SHA-256 in ParlAI's build file of HotpotQA; sizes in the metadata that the `datasets` library published
A row without checksum has none that is published: the SHA-256 of the first pull is recorded, and later ones must
agree with it.
"""

from __future__ import annotations

from typing import NamedTuple

from lodesmith.data.pulls._remote import Remote

__all__ = [
    "BEIR", "BEIR_DROP_SAME_ID", "BEIR_GROUPS", "CQADUPSTACK", "HOTPOTQA", "LICENCES", "MSMARCO", "NQ", "SQUAD",
]  # fmt: skip


class Archive(NamedTuple):
    """One archive: bytes [irds] and MD5 [beir] [irds]."""

    bytes: int
    md5: str


_BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/"
_ARCHIVES = {
    "arguana": Archive(3_773_617, "8ad3e3c2a5867cdced806d6503f29b99"),
    "climate-fever": Archive(1_228_666_652, "8b66f0a9126c521bae2bde127b4dc99d"),
    "cqadupstack": Archive(5_343_728_040, "4e41456d7df8ee7760a7f866133bda78"),
    "dbpedia-entity": Archive(639_285_131, "c2a39eb420a3164af735795df012ac2c"),
    "fever": Archive(1_236_988_269, "5a818580227bfb4b35bb6fa46d9b6c03"),
    "fiqa": Archive(17_948_027, "17918ed23cd04fb15047f73e6c3bd9d9"),
    "hotpotqa": Archive(654_025_350, "f412724f78b0d91183a0e86805e16114"),
    "msmarco": Archive(1_082_258_632, "444067daf65d982533ea17ebd59501e4"),
    "nfcorpus": Archive(2_448_432, "a89dba18a62ef92f7d323ec890a0d38d"),
    "nq": Archive(498_307_926, "d4d3d2e48787a744b6f6e691ff534307"),
    "quora": Archive(15_853_968, "18fb154900ba42a600f84b839c173167"),
    "scidocs": Archive(142_471_588, "38121350fc3a4d2f48850f6aff52e4a9"),
    "scifact": Archive(2_816_079, "5f7d1de60b170fc8027bb7898e2efca1"),
    "trec-covid": Archive(73_876_720, "ce62140cb23feb9becf6270d0d1fe6d1"),
    "webis-touche2020": Archive(227_132_363, "46f650ba5a527fc69e0a6521c5a23563"),
}
BEIR = {name: Remote(f"{_BEIR}{name}.zip", a.bytes, f"md5:{a.md5}") for name, a in _ARCHIVES.items()}
"""The public sets of BEIR; four others (bioasq, robust04, signal1m, trec-news) may not be passed on."""

BEIR_DROP_SAME_ID = frozenset({"arguana", "quora"})
"""Sets whose queries are documents, so that a result with the query's own id is dropped."""

BEIR_GROUPS = {
    "quick": ("scifact", "nfcorpus"),
    "standard": ("scifact", "nfcorpus", "arguana", "fiqa", "trec-covid"),
    "full": tuple(sorted(BEIR)),
}

CQADUPSTACK = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
    "webmasters", "wordpress",
)  # fmt: skip
"""The forums of cqadupstack, each a dataset of its own; its score is the mean over them."""

_MICROSOFT = "https://msmarco.z22.web.core.windows.net/msmarcoranking/"
_AZURE = (("X-Ms-Version", "2019-12-12"),)  # without it the store answers no range requests [irds]
MSMARCO = {
    "collection": Remote(
        f"{_MICROSOFT}collectionandqueries.tar.gz", 1_057_717_952, "md5:31644046b18952c1386cd4564ba2ae69", _AZURE
    ),  # [irds]
    "triples": Remote(
        f"{_MICROSOFT}qidpidtriples.train.full.2.tsv.gz", 1_841_693_309, "md5:219083e80a0a751c08b968c2f31a4e0b", _AZURE
    ),  # [irds]
}

_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
SQUAD = {
    "train": Remote(
        f"{_SQUAD}train-v1.1.json",
        30_288_272,
        "sha256:3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
    ),  # [squad]
    "dev": Remote(
        f"{_SQUAD}dev-v1.1.json",
        4_854_279,
        "sha256:95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
    ),  # [squad]
}

_HOTPOT = "http://curtis.ml.cmu.edu/datasets/hotpot/"
HOTPOTQA = {
    "train": Remote(
        f"{_HOTPOT}hotpot_train_v1.1.json",
        566_426_227,
        "sha256:26650cf50234ef5fb2e664ed70bbecdfd87815e6bffc257e068efea5cf7cd316",
    ),  # [hotpot]
    "dev": Remote(
        f"{_HOTPOT}hotpot_dev_distractor_v1.json",
        46_320_117,
        "sha256:4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
    ),  # [hotpot]
}

_GOOGLE = "https://storage.googleapis.com/natural_questions/v1.0-simplified/"
NQ = {
    "train": Remote(f"{_GOOGLE}simplified-nq-train.jsonl.gz"),  # neither size nor checksum is published
    "dev": Remote(f"{_GOOGLE}nq-dev-all.jsonl.gz"),
}

LICENCES = {
    "beir": "CC BY-SA 4.0 as BEIR publishes it; each set keeps the terms of its own authors",  # [card] BeIR/*
    "msmarco": "non-commercial research only, https://microsoft.github.io/msmarco/",
    "squad": "CC BY-SA 4.0",  # https://rajpurkar.github.io/SQuAD-explorer/
    "nq": "CC BY-SA 3.0",  # [card] google-research-datasets/natural_questions
    "hotpotqa": "CC BY-SA 4.0",  # https://hotpotqa.github.io/
}
"""Of the collections that are no hub datasets; those carry their licence on their card."""

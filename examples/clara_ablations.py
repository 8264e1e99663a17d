"""What the first stage of CLaRa is trained on, taken apart: questions, paraphrases, both, and the distance of means.

    python examples/clara_ablations.py OUT QUICKSTART [--documents N] [--first N] [--seeds N] [--rate N]

QUICKSTART is a folder of `lode quickstart clara`, whose reader is taken; the world is made anew, with N documents for
the first stage, a third as many for the second, and the same to test on. Each way goes through the first two stages,
the first with 16 documents a step, and answers the test questions after either. Differences are paired by question.
What is finished is kept, so that two processes can share the seeds (`--first 1 --seeds 1` beside `--seeds 1`) once the
dataset is there, and `--seeds 3` afterwards compares all.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_object
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.evaluation.compare import compare
from lodesmith.recipes.answering import Plan, answer_dataset
from lodesmith.recipes.quickstart_clara import FULL, MEASURE, follow
from lodesmith.recipes.train import plan
from lodesmith.recipes.world import Sizes, write_world
from lodesmith.reports.tables import comparison_text

QUESTIONS = ["simple", "complex"]
WAYS: Mapping[str, Mapping[str, Any]] = {
    "questions": {"kinds": QUESTIONS, "mse": 0.1, "rows": 10},
    "questions, no distance": {"kinds": QUESTIONS, "mse": 0.0, "rows": 10},
    "questions and paraphrases": {"kinds": [*QUESTIONS, "paraphrase"], "mse": 0.1, "rows": 11},
    "paraphrases": {"kinds": ["paraphrase"], "mse": 0.1, "rows": 1},
}
"""What the first stage asks; `rows` examples has a document of it in the mean (one in three is half as long)."""
DOCUMENTS = 16
"""Documents of a step of the first stage, in the mean, so that every way takes as many steps."""
TOGETHER = 13
"""Examples that read a document together, at most: all that it has."""


def world(place: Path, documents: int) -> Dataset:
    """The dataset of a folder, made where it is not whole yet.

    Raises:
        InputError: there is one of another size.
    """
    if not (place / "columns" / "candidates.meta.json").is_file():  # what is written last
        return write_world(place, Sizes(documents, documents // 3))
    if (found := read_object(place / "dataset.json")["sizes"]["documents"]) != documents:
        raise InputError(f"the dataset there has {found} documents, not {documents}", "give another OUT", path=place)
    return Dataset.load(place)


def trained(folder: Path, data: Path, base: Path, rate: int, way: Mapping[str, Any], seed: int) -> Path:
    """A run in its folder, gone on with where it was; set as the quickstart sets it but for the way."""
    own = FULL.overrides(data, base, rate, seed)
    overrides = {name: value for name, value in own.items() if not name.startswith("stages.2.")} | {
        "stages.0.objective.kinds": way["kinds"],
        "stages.0.objective.mse": way["mse"],
        "stages.0.objective.together": TOGETHER,
        "stages.0.batch_size": DOCUMENTS * way["rows"],
    }
    source = str(Path(__file__).with_suffix(".yaml"))
    follow(plan(source, overrides, out=folder, resume="auto", reported=False).events())
    return folder


def answered(run: Path, data: Dataset, name: str) -> list[Evaluation]:
    """The run's answers after its first stage and after both, the right document given."""
    found = []
    for way, after in (("stage1", "stage 1"), ("stage2", "stages 1 and 2")):
        file = run / "evaluations" / f"{way}.json"
        if not file.is_file():
            ((evaluation, _),) = answer_dataset(str(run), data, Plan((way,), pool="oracle", documents=1))
            replace(evaluation, system=f"{name}, {after}").save(file)
        found.append(Evaluation.load(file))
    return found


def main() -> None:
    """Make the world, train each way with each seed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("--documents", type=int, default=3000, help="to train on (3,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each way (3)")
    parser.add_argument("--rate", type=int, default=16, help="of compression (16)")
    given = parser.parse_args()
    place = given.out / "dataset"
    data = world(place, given.documents)
    base = given.quickstart / "reader" / "model"
    over_seeds: dict[str, list[float]] = defaultdict(list)
    for seed in range(given.first, given.first + given.seeds):
        found: list[Evaluation] = []
        for name, way in WAYS.items():
            run = trained(given.out / f"{name}, seed {seed}", place, base, given.rate, way, seed)
            found += answered(run, data, name)
            print(f"seed {seed}, {name}: {[round(own.measures[MEASURE].mean, 3) for own in found[-2:]]}", flush=True)
        for after in ("stage 1", "stages 1 and 2"):
            own = [evaluation for evaluation in found if evaluation.system.endswith(f", {after}")]
            print(comparison_text(own, compare(own, measure=MEASURE, baseline=own[0].system)), flush=True)
        for evaluation in found:
            over_seeds[evaluation.system].append(evaluation.measures[MEASURE].mean)
    print(f"{MEASURE}, mean (standard deviation) of the seeds")
    for system, values in over_seeds.items():
        print(f"{system}: {mean(values):.3f} ({f'{stdev(values):.3f}' if len(values) > 1 else '–'})")


if __name__ == "__main__":
    main()

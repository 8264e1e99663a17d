"""Measures of a large run against pytrec_eval and ranx: 5,000 queries × 1,000 results, the same measures in one pass.

python -m benchmarks.measures [--quick]

What is timed: judgements (a mapping, as every tool takes them) and a finished run in each tool's own form → all values
of all queries. Ours is a `Run`, the flat arrays that every retriever here returns; pytrec_eval's is a mapping of
mappings; ranx's is its `Run`. The figures `… from mappings` add what ours and ranx's take to be built from such a
mapping. One of the measures has no cut-off, so that every tool must look at all 1,000 results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import interleaved, medians, peak_memory, write
from lodesmith.core.run import Run
from lodesmith.evaluation.measures import Scores, parse, score

OURS = ("nDCG@5", "nDCG@10", "AP@100", "R@1", "R@5", "R@10", "R@100", "P@10", "RR")
TREC = ("ndcg_cut_5", "ndcg_cut_10", "map_cut_100", "recall_1", "recall_5", "recall_10", "recall_100", "P_10")
RANX = ("ndcg@5", "ndcg@10", "map@100", "recall@1", "recall@5", "recall@10", "recall@100", "precision@10", "mrr")
JUDGED = 50

Mapped = dict[str, dict[str, float]]
Judgements = dict[str, dict[str, int]]


def ranking(queries: int, results: int) -> tuple[Run, Judgements]:
    """A seeded run of random rankings, without ties (ranx breaks them otherwise), and graded judgements for it."""
    random = np.random.default_rng(0)
    documents = 200 * results
    rows = np.concatenate([random.choice(documents, results, replace=False) for _ in range(queries)])
    scores = np.concatenate([random.permutation(results) for _ in range(queries)]) / results
    ids = [f"document-{number:06}" for number in range(documents)]
    names = [f"query-{number:04}" for number in range(queries)]
    judgements = {}
    for number, name in enumerate(names):
        found = random.choice(rows[number * results : (number + 1) * results], JUDGED // 2, replace=False)
        other = random.choice(documents, JUDGED // 2, replace=False)
        chosen = dict.fromkeys([*found.tolist(), *other.tolist()])
        grades = random.integers(0, 4, len(chosen)).tolist()
        judgements[name] = {ids[row]: grade for row, grade in zip(chosen, grades, strict=True)}
        judgements[name][ids[next(iter(chosen))]] = 1  # ranx refuses queries without a relevant document
    return Run.ranked(names, ids, rows, scores, np.arange(queries + 1) * results), judgements


def mapped(queries: int, results: int) -> tuple[Mapped, Judgements]:
    """The same as mappings."""
    run, judgements = ranking(queries, results)
    return {query: dict(found) for query, found in run.items()}, judgements


def by_ours(inputs: tuple[Run, Judgements]) -> Scores:
    """All values of all queries."""
    return score(*inputs, [parse(spelling) for spelling in OURS])


def by_ours_from_mappings(inputs: tuple[Mapped, Judgements]) -> Scores:
    """The same with the building of the run."""
    return by_ours((Run.of(inputs[0]), inputs[1]))


def by_pytrec_eval(inputs: tuple[Mapped, Judgements]) -> dict[str, dict[str, float]]:
    """All values of all queries."""
    import pytrec_eval

    asked = {"ndcg_cut.5,10", "map_cut.100", "recall.1,5,10,100", "P.10", "recip_rank"}
    found: dict[str, dict[str, float]] = pytrec_eval.RelevanceEvaluator(inputs[1], asked).evaluate(inputs[0])
    return found


def ranx_inputs(queries: int, results: int) -> tuple[Any, Any]:
    """ranx's own forms of the same."""
    from ranx import Qrels
    from ranx import Run as RanxRun

    run, judgements = mapped(queries, results)
    return RanxRun(run), Qrels(judgements)


def by_ranx(inputs: tuple[Any, Any]) -> dict[str, Any]:
    """All values of all queries."""
    from ranx import evaluate

    found: dict[str, Any] = evaluate(inputs[1], inputs[0], list(RANX), return_mean=False)
    return found


def by_ranx_from_mappings(inputs: tuple[Mapped, Judgements]) -> dict[str, Any]:
    """The same with the building of its run and judgements."""
    from ranx import Qrels
    from ranx import Run as RanxRun

    return by_ranx((RanxRun(inputs[0]), Qrels(inputs[1])))


def equal(ours: Scores, theirs: dict[str, dict[str, float]], ranx: dict[str, Any]) -> dict[str, float]:
    """The largest difference of any value of any query from each peer; asserted to be none but rounding."""
    trec = np.array([[theirs[query][name] for query in ours.query_ids] for name in (*TREC, "recip_rank")])
    mine = np.array([ours[spelling] for spelling in OURS])
    worst = {
        "pytrec_eval": float(np.abs(mine - trec).max()),
        "ranx": float(np.abs(mine - np.array([ranx[name] for name in RANX])).max()),
    }
    if worst["pytrec_eval"] > 1e-9 or worst["ranx"] > 1e-6:
        raise AssertionError(f"the tools disagree: {worst}")
    return worst


def main(argv: list[str] | None = None) -> None:
    """Measure and write benchmarks/results/measures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 × 200 and fewer rounds: does it work?")
    quick = parser.parse_args(argv).quick
    queries, results = (500, 200) if quick else (5000, 1000)
    run, judgements = ranking(queries, results)
    rankings = {query: dict(found) for query, found in run.items()}
    built = ranx_inputs(queries, results)
    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: by_ours((run, judgements)),
        "pytrec_eval": lambda: by_pytrec_eval((rankings, judgements)),
        "ranx": lambda: by_ranx(built),
        "ours from mappings": lambda: by_ours_from_mappings((rankings, judgements)),
        "ranx from mappings": lambda: by_ranx_from_mappings((rankings, judgements)),
    }
    seconds, returned = interleaved(cases, repeats=3 if quick else 5)
    worst = equal(returned["ours"], returned["pytrec_eval"], returned["ranx"])
    memory = {
        "ours": peak_memory(ranking, by_ours, queries, results),
        "pytrec_eval": peak_memory(mapped, by_pytrec_eval, queries, results),
        "ranx": peak_memory(ranx_inputs, by_ranx, queries, results),
    }
    middle = medians(seconds)
    rate = {name: queries / middle[name] for name in cases}
    write(
        "measures",
        "queries/s",
        rate["ours"],
        {"pytrec_eval": rate["pytrec_eval"], "ranx": rate["ranx"]},
        packages=("pytrec_eval-terrier", "ranx", "numba"),
        quick=quick,
        queries=queries,
        results=results,
        measures=list(OURS),
        ratios={name: middle[name] / middle["ours"] for name in cases if name != "ours"},
        from_mappings={
            "ours": rate["ours from mappings"],
            "ranx": rate["ranx from mappings"],
            "ratio_to_pytrec_eval": middle["pytrec_eval"] / middle["ours from mappings"],
        },
        median_seconds=middle,
        all_seconds=seconds,
        memory_mib=memory,
        largest_difference=worst,
    )


if __name__ == "__main__":
    main()

"""A few real steps of a training in a process of their own: how long one takes, and how much memory it needs.

A process of its own, since its peak is then that of these steps alone, and since one that needs too much is ended by
the system without harm to who asks. `recipes.auto` starts it as `python -m lodesmith.recipes._auto_probe JSON`, or
with the variables of torchrun, in several processes; each process writes what it measured into a file of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import LodesmithError
from lodesmith.core.files import write_json
from lodesmith.core.memory import keep_freed, return_freed
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.validating_elsewhere import datasets_of

if TYPE_CHECKING:
    from lodesmith.recipes.train import Training

__all__ = ["Probe", "Wanted", "file_of", "main"]

LOOKED_AT = 32
"""Batches among which the largest is looked for."""
LONG_ENOUGH, LEAST, MOST = 6.0, 3, 30
"""Seconds of timing after which it ends, and the least and the greatest number of steps."""
_SIDES = ("queries", "documents", "negatives")


@dataclass(frozen=True)
class Wanted:
    """What to try.

    Args:
        source: the recipe's name or path.
        overrides: its settings, the chunk among them.
        stage: number of the stage.
        steps: how many to time; None for as many as it takes to know, 0 to look at the memory alone.
        out: folder for the results.
    """

    source: str
    overrides: tuple[str, ...]
    stage: int
    steps: int | None
    out: str


@dataclass(frozen=True)
class Probe:
    """What a process measured.

    Args:
        seconds: of a step, the median of `steps`; None where none was timed.
        steps: that were timed.
        before: bytes in use before the first step.
        peak: bytes at most, over two steps of the largest batch and those that were timed.
        at_once: tokens whose activations are in memory at once, in the largest batch.
        tokens: of all texts in that batch.
        total: steps of the whole stage.
        held: bytes that validating holds in the memory of this process beside the training: vectors of all documents,
            twice while they are brought into an index. Of an accelerator's memory they take none.
    """

    seconds: float | None
    steps: int
    before: int
    peak: int
    at_once: int
    tokens: int
    total: int
    held: int = 0

    @property
    def needed(self) -> int:
        """Bytes that have to be free for a training with its validation, at most."""
        return self.peak + self.held


def file_of(out: Path | str, rank: int) -> Path:
    """Where a process writes what it measured."""
    return Path(out) / f"rank-{rank}.json"


def main(arguments: Sequence[str]) -> int:
    """Try what is wanted, and write what was measured, or what is wrong."""
    from lodesmith.recipes.launching import end_with_launcher

    end_with_launcher()
    asked = json.loads(arguments[0])
    wanted = Wanted(**asked | {"overrides": tuple(asked["overrides"])})
    file = file_of(wanted.out, ranks()[0])
    keep_freed()
    try:
        write_json(file, {"probe": asdict(_probe(wanted))})
    except LodesmithError as error:
        write_json(file, {"error": [error.what, error.do]})
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        write_json(file, {"memory": str(error).partition("\n")[0]})
        return 3
    return 0


def _of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch has a type of error for that of a GPU alone."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def _probe(wanted: Wanted) -> Probe:
    from lodesmith.recipes.train import Training, plan
    from lodesmith.training.engine import TorchEngine

    training = plan(wanted.source, wanted.overrides, out=Path(wanted.out) / "run", reported=False)
    assert isinstance(training, Training)
    stage = training.recipe.stages[wanted.stage]
    if any(own.chunk for own in training.recipe.stages):
        return_freed()
    made = training.stage(stage)
    batches = list(islice(iter(made.batches), LOOKED_AT))
    largest = max(batches, key=_tokens)
    tokens = _tokens(largest)
    before = _memory()
    with TorchEngine(seed=training.recipe.seed, **training.engine_settings) as engine:
        engine.prepare(made.objective, made.optim)
        if wanted.steps == 0 and stage.chunk:  # the other chunks take the same memory again
            largest = _longest(largest, 2 * stage.chunk, paired=stage.pairs != "none")
        _step(engine, largest)  # the optimiser's moments are there from the second on
        seconds, steps = _timed(engine, _step(engine, largest), batches, wanted.steps)
        peak = _memory(peak=True)
    at_once = _at_once(largest, stage.chunk)
    return Probe(seconds, steps, before, peak, at_once, tokens, _total(training, made), _held(training, made))


def _held(training: Training, made: Any) -> int:
    """Bytes of the vectors that the first process validates with, of the largest collection; 0 on an accelerator."""
    import torch

    if made.validate is None or ranks()[0] or torch.cuda.is_available():
        return 0
    sizes = [len(training.dataset.documents)] if training.pairs.validation else []
    sizes += [len(own.documents) for own in datasets_of(training.recipe).values()]
    return max(sizes) * training.learner.encoder.dimension * 4 * 2


def _step(engine: Any, batch: Any) -> float:
    """Seconds of one step, in all processes."""
    engine.wait()
    start = time.perf_counter()
    engine.read([engine.step([batch], 1e-3)])
    return time.perf_counter() - start


def _timed(engine: Any, first: float, batches: Sequence[Any], steps: int | None) -> tuple[float | None, int]:
    """Seconds of a step, and of how many: over the first batches in their own order, after one that took `first`
    seconds, which counts by itself where it is long enough. All processes make the same number."""
    if steps == 0:
        return None, 0
    each = [first]
    while not engine.any(len(each) >= steps if steps else _enough(each)):
        each.append(_step(engine, batches[(len(each) - 1) % len(batches)]))
    return median(each), len(each)


def _enough(each: Sequence[float]) -> bool:
    return (sum(each) > LONG_ENOUGH and (len(each) >= LEAST or each[0] > LONG_ENOUGH)) or len(each) >= MOST


def _longest(batch: Mapping[str, Any], examples: int, *, paired: bool) -> dict[str, Any]:
    """The examples of a batch of texts with the longest documents, and what was mined for them.

    Args:
        batch: packed texts, their ids and, where there are such, targets.
        examples: how many; of each side.
        paired: whether query i belongs to document i.
    """
    orders = {name: batch[name]["offsets"].diff().argsort(descending=True)[:examples] for name in _SIDES[:2]}
    found = {name: value for name, value in batch.items() if not name.startswith(("quer", "document", "negative"))}
    if paired:
        orders["queries"] = orders["documents"]
    if "negatives" in batch:
        ids = batch["negative_ids"]
        firsts = (ids >= 0).sum(1).cumsum(0) - (ids >= 0).sum(1)
        found["negative_ids"] = ids[orders["documents"]]
        counts = (found["negative_ids"] >= 0).sum(1)
        places = zip(firsts[orders["documents"]].tolist(), counts.tolist(), strict=True)
        orders["negatives"] = counts.new_tensor([at for first, count in places for at in range(first, first + count)])
    for name, order in orders.items():
        found[name] = _taken(batch[name], order)
        one = {"queries": "query", "documents": "document", "negatives": "negative"}[name]
        for key in (f"{one}_ids", f"{one}_targets"):
            if key in batch and key not in found:
                found[key] = batch[key][order]
    return found


def _taken(packed: Mapping[str, Any], order: Any) -> dict[str, Any]:
    """Some packed texts, in this order."""
    starts, ends = (packed["offsets"][side][order].tolist() for side in (slice(None, -1), slice(1, None)))
    texts = [packed["ids"][start:end].tolist() for start, end in zip(starts, ends, strict=True)]
    return {
        "ids": packed["ids"].new_tensor([token for text in texts for token in text]),
        "offsets": order.new_tensor([0, *map(len, texts)]).cumsum(0),
    }


def _total(training: Training, made: Any) -> int:
    return int(made.epochs) * -(-len(made.batches) // training.recipe.engine.accumulate)


def _tokens(batch: Mapping[str, Any]) -> int:
    return sum(len(batch[side]["ids"]) for side in _SIDES if side in batch)


def _at_once(batch: Mapping[str, Any], chunk: int | None) -> int:
    """Tokens whose activations are kept together: of sides that fit into a chunk all, and of the others one chunk."""
    whole, most = 0, 0
    for offsets in (batch[side]["offsets"].tolist() for side in _SIDES if side in batch):
        ends = [*range(0, len(offsets) - 1, chunk or len(offsets)), len(offsets) - 1]
        sizes = [offsets[end] - offsets[start] for start, end in pairwise(ends)]
        if len(sizes) > 1:
            most = max(most, *sizes)
        else:
            whole += sum(sizes)
    return whole + most


def _memory(*, peak: bool = False) -> int:
    """Bytes in use, or at most in use so far: of the accelerator where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() if peak else torch.cuda.memory_reserved()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "VmRSS"))}
        return int(found["VmHWM" if peak else "VmRSS"]) * 1024
    except (OSError, KeyError):  # elsewhere than on Linux: kilobytes but for macOS, and of the peak alone
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Where a teacher's query tokens look on a page, in cells that both sides' patches lie in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_interact import DOCUMENTS, QUERIES, Tokens, batch, value

from lodesmith.core.errors import InputError
from lodesmith.objectives.interact import Interact
from lodesmith.objectives.mid import Mid

# Of the documents' 4, 2 and 2 tokens; of the queries' 2, 1 and 3 tokens.
CELLS = ([0, 1, -1, 0], [0, 1], [-1, 0])
COUNTS = (2, 2, 1)
TOKENS = ([1], [0], [0, 2])
COLUMNS = torch.tensor([[1, 0], [0, -1], [0, -1], [0, -1]])
MASS = torch.tensor([[0.7, 0.3], [0.6, 0.0], [1.0, 0.0], [1.0, 0.0]])
SETTINGS = {"weight": 1.0, "temperature": 3.0, "scale": 0.1}


def told(**more: Any) -> dict[str, Any]:
    found = {
        "columns": COLUMNS,
        "mass": MASS,
        "offsets": torch.tensor([0, 1, 2, 4]),
        "lengths": torch.tensor(COUNTS),
        "tokens": torch.tensor([at for own in TOKENS for at in own]),
        "cells": {
            "values": torch.tensor([cell for own in CELLS for cell in own]),
            "offsets": torch.tensor([0, 4, 6, 8]),
        },
    }
    return {"interactions": found | more}


@pytest.fixture
def encoder() -> Tokens:
    torch.manual_seed(0)
    return Tokens()


def by_hand(encoder: Tokens) -> float:
    """The formula, one share after another."""
    table = torch.nn.functional.normalize(encoder.table.weight.detach().double(), dim=1)
    softness, total, row = 0.1 * 3.0, 0.0, 0
    for query, document, cells, count, tokens in zip(QUERIES, DOCUMENTS, CELLS, COUNTS, TOKENS, strict=True):
        for token in tokens:
            powers = [
                math.exp(float(table[query[token]] @ table[own]) / softness) if cell >= 0 else 0.0
                for own, cell in zip(document, cells, strict=True)
            ]
            shares = [
                sum(p for p, own in zip(powers, cells, strict=True) if own == c) / sum(powers) for c in range(count)
            ]
            kept = [(int(c), float(m)) for c, m in zip(COLUMNS[row], MASS[row], strict=True) if c >= 0]
            total += sum(mass * math.log(mass / shares[cell]) for cell, mass in kept)
            rest, others = 1 - sum(mass for _, mass in kept), 1 - sum(shares[cell] for cell, _ in kept)
            total += rest * math.log(rest / others) if rest > 1e-6 else 0.0
            row += 1
    return total / row * 3.0**2


def test_the_term_by_hand(encoder: Tokens) -> None:
    objective = Mid(encoder, attention=SETTINGS)
    terms = objective(batch(**told()))
    assert value(terms["attention"]) == pytest.approx(by_hand(encoder), rel=1e-5)
    assert value(terms["infonce"]) == value(Interact(encoder)(batch())["infonce"])


def test_the_attention_alone_teaches_where_on_the_page_to_look(encoder: Tokens) -> None:
    objective = Mid(encoder, infonce=0.0, attention=SETTINGS)
    steps = torch.optim.Adam(objective.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = objective(batch(**told()))["attention"]
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(value(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_a_rank_without_rows(encoder: Tokens) -> None:
    empty = {"ids": torch.zeros(0, dtype=torch.int64), "offsets": torch.zeros(1, dtype=torch.int64)}
    none, start = torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    interactions = told(
        columns=COLUMNS[:0], mass=MASS[:0], offsets=start, lengths=none, tokens=none,
        cells={"values": none, "offsets": start},
    )  # fmt: skip
    given = {"queries": empty, "documents": empty, "query_ids": none, "document_ids": none, **interactions}
    assert value(Mid(encoder, infonce=0.0)(given)["attention"]) == 0.0


@pytest.mark.parametrize(
    "other",
    [
        {"tokens": torch.tensor([1, 0, 0, 3])},
        {"cells": {"values": torch.zeros(8, dtype=torch.int64), "offsets": torch.tensor([0, 3, 6, 8])}},
    ],
)
def test_interactions_of_other_tokens(encoder: Tokens, other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="of other tokens than the student's"):
        Mid(encoder)(batch(**told(**other)))

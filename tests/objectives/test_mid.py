"""Where a teacher's query tokens look, as a term beside those of late interaction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_interact import Tokens, batch, value

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.losses.attention import attention
from lodesmith.objectives.interact import Interact
from lodesmith.objectives.mid import Mid, read_attention

LENGTHS = torch.tensor([4, 2, 2])
OFFSETS = torch.tensor([0, 2, 3, 6])


def told(**more: Any) -> dict[str, Any]:
    made = torch.Generator().manual_seed(1)
    mass, columns = torch.rand(6, 2, generator=made).softmax(1).sort(descending=True)
    found = {"columns": columns, "mass": mass * 0.9, "offsets": OFFSETS, "lengths": LENGTHS}
    return {"interactions": found | more}


@pytest.fixture
def encoder() -> Tokens:
    torch.manual_seed(0)
    return Tokens()


def test_its_terms_are_those_of_interact_and_the_attention(encoder: Tokens) -> None:
    objective = Mid(encoder, attention={"weight": 0.7, "temperature": 3.0, "scale": 0.1}, hinge=0.5)
    given = batch(**told())
    terms = objective(given)
    plain = Interact(encoder, hinge=0.5)(given)
    assert terms.keys() == {"infonce", "hinge", "attention"}
    assert objective.weights == {"infonce": 1.0, "hinge": 0.5, "attention": 0.7}
    assert value(terms["infonce"]) == value(plain["infonce"])
    assert value(terms["hinge"]) == value(plain["hinge"])
    queries, documents = encoder(given["queries"]), encoder(given["documents"])
    rows = []
    for at in range(3):
        q = queries["values"][queries["offsets"][at] : queries["offsets"][at + 1]]
        d = documents["values"][documents["offsets"][at] : documents["offsets"][at + 1]]
        rows += [torch.nn.functional.pad(row, (0, 4 - len(d))) for row in q @ d.T]
    found = given["interactions"]
    counts = LENGTHS.repeat_interleave(OFFSETS.diff())
    expected = attention(torch.stack(rows), counts, found["columns"], found["mass"], 0.1 * 3.0, 3.0)
    torch.testing.assert_close(terms["attention"], expected)


def test_the_attention_alone_teaches_where_to_look(encoder: Tokens) -> None:
    objective = Mid(encoder, infonce=0.0)
    assert objective(batch(**told())).keys() == {"attention"}
    assert objective.weights == {"attention": 1.0}
    steps = torch.optim.Adam(objective.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = objective(batch(**told()))["attention"]
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(value(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_a_validation_needs_no_teacher(encoder: Tokens) -> None:
    for terms in ({"hinge": 0.5}, {"infonce": 0.0}):
        objective = Mid(encoder, **terms).eval()
        found = objective(batch())
        assert "attention" not in found
        assert found.keys() <= objective.weights.keys()
    torch.testing.assert_close(found["infonce"], Interact(encoder).eval()(batch())["infonce"])


def test_without_attention_it_is_interact(encoder: Tokens) -> None:
    for none in (0, None, {"weight": 0.0}):
        objective = Mid(encoder, attention=none)
        assert value(objective(batch())["infonce"]) == value(Interact(encoder)(batch())["infonce"])
        assert objective.weights == {"infonce": 1.0}


def test_a_weight_that_changes(encoder: Tokens) -> None:
    objective = Mid(encoder, attention={"weight": 1.0, "begin": 0.0, "steps": 2})
    seen = []
    for _ in range(3):
        objective(batch(**told()))
        seen.append(objective.weights["attention"])
    assert seen == [0.0, 0.5, 1.0]


def test_what_does_not_fit_is_refused(encoder: Tokens) -> None:
    objective = Mid(encoder)
    with pytest.raises(InputError, match="no interactions of a teacher"):
        objective(batch())
    with pytest.raises(InputError, match="2 tokens of a query of which the teacher has 3"):
        objective(batch(**told(offsets=torch.tensor([0, 3, 4, 6]))))
    with pytest.raises(InputError, match="4 tokens of a document of which the teacher has 5"):
        objective(batch(**told(lengths=torch.tensor([5, 2, 2]))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention": {"weight": 1, "tempereture": 1}}, "tempereture"),
        ({"attention": {"weight": 1.0, "temperature": 0.0}}, "temperature"),
        ({"attention": -1.0}, "weight"),
        ({"attention": 0, "infonce": 0.0}, "no term"),
        ({"temperature": 0}, "temperature"),
        ({"negatives": "mine"}, "negatives"),
    ],
)
def test_settings_that_are_wrong(encoder: Tokens, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mid(encoder, **settings)


def test_the_settings_of_the_term() -> None:
    assert read_attention(2.0).weight == 2.0
    assert read_attention(None).off
    assert read_attention({"weight": 1.0, "temperature": 2.0, "scale": 0.05}).softness == pytest.approx(0.1)

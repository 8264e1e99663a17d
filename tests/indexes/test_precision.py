"""Products in few bits: the bounds hold, and the CPU is asked only for what it does exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError
from lodesmith.indexes import _precision
from lodesmith.indexes._precision import PRECISIONS, Product, choose, pack


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 300), seed=st.integers(0, 2**16), size=st.sampled_from([1e-30, 1e-3, 1.0, 1e12]))
def test_the_bound_of_a_product_holds(precision: str, d: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    y = torch.from_numpy((size * rng.standard_normal((9, d)) * 10.0 ** rng.uniform(-4, 0, d)).astype(np.float32))
    x = torch.from_numpy((rng.standard_normal((64, d)) * 10.0 ** rng.uniform(-4, 0, (64, 1))).astype(np.float32))
    queries, documents = pack(y, precision, shared=False), pack(x, precision, shared=True)
    product = Product(precision, d)
    found = product(queries.values, documents.values, None).double().numpy() * queries.scale[:, None] * documents.scale
    bound = (
        np.outer(queries.norm, documents.residual)
        + np.outer(queries.residual, documents.norm)
        + product.accumulation * np.outer(queries.norm, documents.norm)
        + product.rounding * np.abs(found)
    )
    assert (np.abs(found - (y.double() @ x.double().T).numpy()) <= bound).all()
    assert (np.linalg.norm(x.double().numpy(), axis=1) <= documents.norm).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_rounding_lost_is_bounded(precision: str) -> None:
    rows = torch.randn(50, 96, generator=torch.Generator().manual_seed(2))
    packed = pack(rows, precision, shared=True)
    lost = (rows.double() - packed.values[:, :96].double() * packed.scale[0]).norm(dim=1).numpy()
    assert (lost <= packed.residual).all()
    assert packed.residual.max() < {"int8": 0.12, "bfloat16": 0.03, "float32": 1e-5}[precision]


def test_limits_never_rise_past_what_they_stand_for() -> None:
    product = Product("int8", 4)
    assert product.limits(np.array([1.9, -1.1, -np.inf, np.inf]), torch.int32).tolist() == [1, -2, 1 - 2**31, 2**31 - 1]
    values = np.array([1.0 + 2.0**-9, -3.3])
    for dtype in (torch.bfloat16, torch.float32):
        reached = torch.from_numpy(values).to(dtype) >= product.limits(values, dtype)
        assert reached.all()


def test_auto_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, exact, expected in (
        ({"amx_tile"}, True, "bfloat16"),
        ({"avx512_bf16", "vnni"}, True, "bfloat16"),
        ({"vnni"}, True, "int8"),
        ({"vnni"}, False, "float32"),
        (set(), True, "float32"),
    ):
        monkeypatch.setattr(_precision, "_cpu_has", has.__contains__)
        monkeypatch.setattr(_precision, "int8_is_exact", lambda exact=exact: exact)
        _precision._fastest.cache_clear()
        assert choose("auto") == expected
    _precision._fastest.cache_clear()


def test_int8_is_refused_where_products_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_precision, "int8_is_exact", lambda: False)
    with pytest.raises(ConfigError, match="saturate"):
        choose("int8")
    assert choose("float32") == "float32"


def test_saturating_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-32768, 32767))
    assert not _precision.int8_is_exact.__wrapped__()

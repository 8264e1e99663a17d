"""Products in few bits, and how far from the truth they can be.

A row x is kept as scale · (x̂ + r): x̂ in int8, bfloat16 or float32, r what the rounding lost. For a query
y = unit · (ŷ + t) of the same make, Cauchy–Schwarz gives

    |y·x − unit·scale·ŷ·x̂| ≤ ‖y‖·‖scale·r‖ + ‖unit·t‖·‖x‖

and the machine's own rounding of ŷ·x̂ adds: nothing in int8 (integers below 2³¹ are exact), γ‖ŷ‖‖x̂‖ in float32 for any
order of d additions (Higham, Accuracy and Stability of Numerical Algorithms, §3.1), and 2⁻⁸ of the result in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError

Floats = NDArray[np.float64]

PRECISIONS = ("float32", "bfloat16", "int8")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_LARGEST = 127
MAX_INT8_DIMENSION = 1 << 15
"""With more, 127²·d and an offset of 2³⁰ could together leave 32 bits."""


def choose(precision: str) -> str:
    """The name of the precision to use: what the CPU multiplies fastest for `"auto"`, else what is asked for.

    Raises:
        ConfigError: the name is unknown, or the CPU cannot do it exactly.
    """
    if precision == "auto":
        return _fastest()
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision is called {precision!r}", f"choose one of: auto, {', '.join(PRECISIONS)}")
    if precision == "int8" and not int8_is_exact():
        raise ConfigError(
            "integer products saturate on this CPU, so int8 cannot be certified", "choose float32 or auto"
        )
    return precision


@cache
def _fastest() -> str:
    if _cpu_has("amx_tile") or _cpu_has("avx512_bf16"):
        return "bfloat16"
    return "int8" if _cpu_has("vnni") and int8_is_exact() else "float32"


def _cpu_has(feature: str) -> bool:
    """Whether torch finds an instruction set; False where this torch does not tell."""
    test = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return bool(test and test())


@cache
def int8_is_exact() -> bool:
    """Whether int8 products accumulate in 32 bits: older instructions add pairs in 16 bits, which saturate."""
    signs = torch.tensor([1, 1, -1, -1], dtype=torch.int8).repeat(64)
    rows = torch.stack([signs * _LARGEST, -signs * _LARGEST, torch.full_like(signs, _LARGEST)]).repeat(8, 1)
    wide = rows.to(torch.int64)
    try:
        return torch.equal(torch._int_mm(rows, rows.T).to(torch.int64), wide @ wide.T)
    except (AttributeError, RuntimeError):
        return False


@dataclass(frozen=True)
class Packed:
    """Rows in few bits.

    Args:
        values: [n, d], bfloat16 or float32; int8 with zeros up to a multiple of 4 columns.
        scale: what to multiply them by: one number a row for queries, one for the block for documents. [n] or [1].
        residual: [n], ‖x − scale·values‖, rounded up.
        norm: [n], ‖x‖ and ‖scale·values‖ are at most this.
    """

    values: torch.Tensor
    scale: Floats
    residual: Floats
    norm: Floats


def pack(rows: torch.Tensor, precision: str, *, shared: bool, least: float = 0.0) -> Packed:
    """Round float32 rows [n, d] to a precision.

    Args:
        rows: [n, d].
        precision: one of `PRECISIONS`.
        shared: one scale for all rows instead of one each.
        least: a lower limit of the scale.
    """
    largest = rows.abs().amax(dim=1).double().numpy() if len(rows) else np.zeros(0)
    if shared:
        largest = np.full(1, largest.max(initial=0.0))
    if precision == "int8":
        scale = np.maximum(largest / _LARGEST, least)
        scale = np.where(scale > 0, scale, 1.0)
        scaled = (rows.double() / torch.from_numpy(scale)[:, None]).float()
        values = scaled.round().clamp_(-_LARGEST, _LARGEST)
    else:
        # A power of two scales without rounding and keeps tiny and huge rows in the middle of the range.
        power = np.maximum(largest, least)
        scale = np.exp2(np.ceil(np.log2(np.where(power > 0, power, 1.0))))
        scaled = (rows.double() / torch.from_numpy(scale)[:, None]).float()
        values = scaled.to(_DTYPES[precision]).float()
    root = float(np.sqrt(rows.shape[1]))
    # float32 sums of d squares are within d·2⁻²⁴. What came before (the rounding of `rows`, of `scaled` and of numbers
    # near zero) is at most 2⁻²⁴ of the largest component, which is 127 or 1.
    slack = 1 + 1e-3 + rows.shape[1] * 2.0**-22
    lost = {"int8": 2.0**-16, "bfloat16": 2.0**-24, "float32": 2.0**-24}[precision] * root
    residual = torch.linalg.vector_norm(scaled - values, dim=1).double().numpy() * slack + lost
    norm = torch.linalg.vector_norm(values, dim=1).double().numpy() * slack + residual
    values = values.to(_DTYPES[precision])
    if precision == "int8":
        # torch's integer product is wrong for one column (seen in 2.13), and the instructions take four at a time.
        values = torch.nn.functional.pad(values, (0, -rows.shape[1] % 4))
    return Packed(values, scale, residual * scale, norm * scale)


class Product:
    """Multiplies packed queries with packed rows into a buffer that is used again and again.

    Args:
        precision: one of `PRECISIONS`.
        dimension: d.
    """

    def __init__(self, precision: str, dimension: int) -> None:
        self.precision = precision
        self.dtype = torch.int32 if precision == "int8" else _DTYPES[precision]
        self.lowest: float = -(2**31) if precision == "int8" else -float("inf")
        """What marks a row that must not be found."""
        self.accumulation = 0.0 if precision == "int8" else dimension * 2.0**-22
        """γ: the error of the sum, as a share of ‖ŷ‖‖x̂‖ (twice the bound for one rounding an addition, since some
        instructions round twice)."""
        self.rounding = 2.0**-8 if precision == "bfloat16" else 0.0
        """The error of the result, as a share of it."""
        self._buffer = torch.empty(0, dtype=self.dtype)

    def __call__(self, queries: torch.Tensor, rows: torch.Tensor, offset: torch.Tensor | None) -> torch.Tensor:
        """queries [q, d] · rows [n, d] (+ offset [n]) → [q, n], int32 or float; valid until the next call."""
        size = len(queries) * len(rows)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=self.dtype)
        out = self._buffer[:size].view(len(queries), len(rows))
        if self.precision == "int8":
            torch._int_mm(queries, rows.T, out=out)
        else:
            torch.mm(queries, rows.T, out=out)
        if offset is None:
            return out
        return out.add_(offset) if self.precision != "bfloat16" else out.float().add_(offset)

    def limits(self, values: Floats, dtype: torch.dtype) -> torch.Tensor:
        """Real thresholds [q] → [q] in the products' type, such that no product at or above one falls below it.

        Rounding is monotone, so the nearest float will do; integers are rounded down. `lowest` itself stays below.
        """
        if dtype == torch.int32:
            whole = np.floor(np.clip(values, self.lowest + 1, -self.lowest - 1))
            return torch.from_numpy(whole.astype(np.int32))
        finite = np.clip(values, -3.0e38, 3.0e38)
        return torch.from_numpy(finite).to(dtype)

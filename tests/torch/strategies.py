"""Gradients at the edges, for hypothesis: every dtype, magnitude, shape and place in memory.

A `Given` is one parameter with a gradient and a record of what the gradient was, so that a test can say what
became of it, to the bit, and whether memory around it was touched.
"""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*REAL, torch.complex64)
SHAPES = (
    *[(), (1,), (5,), (0,), (0, 3), (3, 0), (1, 7), (4, 3), (2, 3, 4), (2, 0, 2)],
    *[(2, 3, 2, 2), (2, 1, 2, 1, 3), (2, 1, 2, 1, 2, 2), (67,), (9, 33)],
)
MAGNITUDES = {
    torch.float64: (1.0, 1e-200, 1e-30, 1e30, 1e200),
    torch.float32: (1.0, 1e-40, 1e-30, 1e-10, 1e10, 1e20, 3e38),
    torch.bfloat16: (1.0, 1e-40, 1e-30, 1e-10, 1e10, 1e20, 3e38),
    torch.float16: (1.0, 1e-7, 1e-4, 300.0, 6.5e4),
    torch.complex64: (1.0, 1e-40, 1e-30, 1e-10, 1e10, 1e20, 3e38),
}
NORMS = (2.0, 0.5, 1.0, 3.0, math.inf, "rms")
THRESHOLDS = (0.0, -0.0, 5e-324, 1e-45, 1e-40, 1e-30, 1e-10, 1e-3, 1.0, 1e4, 1e30, math.inf)
DENSE = ("contiguous", "offset", "transposed", "stepped", "rows", "channels_last", "conjugated", "negated")
SHARED = ("expanded", "expanded number")  # several entries in one place: cannot be written where they are
SPARSE = ("sparse", "uncoalesced")
REPLACED = (*SHARED, "conjugated", "negated")  # what lies in memory is not what it says: may be copied first


def wide(gradient: Tensor) -> np.ndarray:
    """The entries in float64 or complex128, dense."""
    gradient = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    kind = torch.complex128 if gradient.is_complex() else torch.float64
    return gradient.to(kind).resolve_conj().resolve_neg().contiguous().numpy().copy()


def bits(gradient: Tensor) -> np.ndarray:
    """The stored bits of the entries, dense: tells -0 from 0 and one NaN from another."""
    gradient = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}[gradient.element_size()]
    return gradient.resolve_conj().resolve_neg().contiguous().view(whole).numpy().copy()


def lay_out(values: Tensor, layout: str) -> tuple[Tensor, Tensor | None]:
    """The values as a gradient that lies in memory as named, and the memory where some is not its own.

    A layout that does not go with the shape or dtype gives the nearest one that does. What is not the
    gradient's own is NaN: who reads it spoils a norm, who writes it is found out.
    """
    shape = tuple(values.shape)
    if layout == "transposed":
        turned = tuple(reversed(range(values.ndim)))
        return values.permute(turned).contiguous().permute(turned), None
    if layout == "channels_last" and values.ndim in (4, 5):
        name = torch.channels_last if values.ndim == 4 else torch.channels_last_3d
        return values.contiguous(memory_format=name), None
    if layout == "conjugated" and values.is_complex():
        return values.conj().resolve_conj().conj(), None
    if layout == "negated" and not values.is_complex():
        return torch._neg_view(values.neg()), None
    if layout in SHARED and values.numel() > 1:
        first = values[:1] if layout == "expanded" and shape[0] > 1 else values.reshape(-1)[0]
        return first.clone().expand(shape), None
    if layout in SPARSE and values.ndim:
        return _sparse(values, twice=layout == "uncoalesced"), None
    if layout == "rows" and values.ndim > 1:
        memory = values.new_full((2 * shape[0], *shape[1:]), math.nan)
        gradient = memory[::2]
    elif layout in ("rows", "stepped") and values.ndim:
        memory = values.new_full((*shape[:-1], 2 * shape[-1] + 1), math.nan)
        gradient = memory[..., 1::2]
    elif layout == "offset":
        memory = values.new_full((values.numel() + 5,), math.nan)
        gradient = memory[3:-2].view(shape)
    else:
        return values.clone(), None
    gradient.copy_(values)
    return gradient, memory


def _sparse(values: Tensor, twice: bool) -> Tensor:
    """The rows that are not all zero; ``twice``: each in two parts, in no order."""
    rows = values[:, None].flatten(1).ne(0).any(dim=1).nonzero().reshape(-1)
    kept = values[rows]
    if not twice:
        return torch.sparse_coo_tensor(
            rows[None], kept, values.shape, is_coalesced=True, check_invariants=True
        )
    half = kept / 2
    parts, places = torch.cat([half.flip(0), kept - half]), torch.cat([rows.flip(0), rows])
    return torch.sparse_coo_tensor(places[None], parts, values.shape, check_invariants=True)


class Given:
    """One parameter, its gradient (None: it has none), and what that was before anything touched it."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name, self.parameter = name, parameter
        self.give(None, "contiguous")

    def __repr__(self) -> str:
        values = "None" if self.gradient is None else self.values.tolist()
        shape = tuple(self.parameter.shape)
        return f"<{self.name}: {self.layout} {self.parameter.dtype} {shape} {values}>"

    def give(self, values: Tensor | None, layout: str) -> None:
        """Put a gradient in place."""
        self.layout, self.gradient, self.memory = layout, None, None
        if values is not None:
            self.gradient, self.memory = lay_out(values, layout)
            known = self.gradient.coalesce() if self.gradient.is_sparse else self.gradient
            self.values, self.bits = wide(known), bits(known)
            self.memory_before = None if self.memory is None else self.memory.clone()
        self.parameter.grad = self.gradient

    def after(self) -> Tensor:
        """The gradient as it is now; fails if it is not in place or something beside it was written."""
        now = self.parameter.grad
        assert now is not None
        assert (now.shape, now.dtype) == (self.parameter.shape, self.parameter.dtype)
        if now.is_sparse:
            return now.coalesce()
        if self.layout not in REPLACED:
            assert now.data_ptr() == self.gradient.data_ptr(), "not in place"
        if self.memory is not None:
            expected = self.memory_before.clone()
            place = expected.as_strided(
                self.gradient.shape, self.gradient.stride(), self.gradient.storage_offset()
            )
            place.copy_(self.gradient)
            assert np.array_equal(bits(expected), bits(self.memory)), "wrote beside the gradient"
        return now

    def unchanged(self) -> bool:
        """Whether the gradient is what it was, to the bit."""
        if self.gradient is None:
            return self.parameter.grad is None
        return np.array_equal(bits(self.after()), self.bits)


@st.composite
def entries(draw, shape, dtype, bad=False) -> Tensor:
    """Values of one magnitude, with a share of zeros and a few of another magnitude.

    ``bad``: with at least one NaN or Inf, where there is any entry.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    largest = torch.finfo(dtype).max
    flat = random.uniform(-1, 1, math.prod(shape)) * draw(st.sampled_from(MAGNITUDES[dtype]))
    flat[random.random(flat.size) < draw(st.sampled_from((0.0, 0.0, 0.5, 1.0)))] = 0.0
    for _ in range(draw(st.integers(0, 2)) if flat.size else 0):
        place = draw(st.integers(0, flat.size - 1))
        flat[place] = draw(st.sampled_from((-1.0, 1.0))) * draw(st.sampled_from(MAGNITUDES[dtype]))
    flat = flat.clip(-largest, largest)
    if dtype.is_complex:
        flat = flat * np.exp(1j * random.uniform(0, 2 * math.pi, flat.size))
    for _ in range(draw(st.integers(1, 3)) if bad and flat.size else 0):
        flat[draw(st.integers(0, flat.size - 1))] = draw(st.sampled_from((math.nan, math.inf, -math.inf)))
    return torch.from_numpy(flat).reshape(shape).to(dtype)


@st.composite
def parameters(draw, dtypes=DTYPES, least=0, most=4) -> list[Given]:
    """Parameters without gradients, all of one dtype or of several."""
    count = draw(st.integers(least, most))
    dtype = draw(st.sampled_from((None, *dtypes)))
    found = []
    for number in range(count):
        own = dtype or draw(st.sampled_from(dtypes))
        shape = draw(st.sampled_from(SHAPES))
        found.append(Given(f"p{number}", nn.Parameter(torch.zeros(shape, dtype=own))))
    return found


@st.composite
def gradients(draw, givens, missing=True, layouts=(*DENSE, *SHARED, *SPARSE)) -> list[Given]:
    """Fresh gradients for parameters, about one in eight of them missing."""
    for given in givens:
        shape, dtype = tuple(given.parameter.shape), given.parameter.dtype
        if missing and draw(st.integers(0, 7)) == 7:
            given.give(None, "contiguous")
        else:
            given.give(draw(entries(shape, dtype)), draw(st.sampled_from(layouts)))
    return givens


@st.composite
def models(draw, dtypes=DTYPES, least=0, missing=True) -> list[Given]:
    """Parameters with gradients."""
    return draw(gradients(draw(parameters(dtypes, least)), missing=missing))


@st.composite
def listings(draw, givens) -> list:
    """The parameters as someone passes them: bare or named, some twice, and under a second name (tied)."""
    again = [given for given in givens if draw(st.booleans())] if draw(st.booleans()) else []
    if draw(st.booleans()):
        return [given.parameter for given in [*givens, *again]]
    pairs = [(given.name, given.parameter) for given in givens]
    return pairs + [(f"{given.name} tied", given.parameter) for given in again]

"""The kernels of the Triton engine: over a table of pieces of memory, a fixed-size chunk to each program.

Addresses travel as int64 and become pointers here. A *segment* is one piece of memory with a norm and a
coefficient of its own: a tensor, or a unit. Its ``layout`` (int64) lists, for ``n`` segments: their ``n``
numbers of entries, their ``n`` first chunks and the number of all chunks, the ``n`` places of their results,
and the segment of each chunk. Everything is computed in float64.

``DTYPE`` is the type of the entries as they are loaded; bfloat16 is loaded as int16 and widened and rounded
by its bits. ``ORDER`` is 1 or 2, or 0 for the norm of order infinity.
"""
# mypy: ignore-errors
# ruff: noqa: SIM108, SIM300 (a branch on a constant is taken while a kernel is compiled)

import triton
import triton.language as tl


@triton.jit
def _load(address, count, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    """A chunk as it lies in memory, zeros beyond its end; 16 bytes at a time where it is full and aligned."""
    offsets = tl.arange(0, BLOCK)
    if (count >= BLOCK) & (address % 16 == 0):
        words = tl.load(tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16) + offsets)
    else:
        words = tl.load(address.to(tl.pointer_type(DTYPE)) + offsets, mask=offsets < count, other=0)
    return words


@triton.jit
def _store(address, count, words, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    if (count >= BLOCK) & (address % 16 == 0):
        tl.store(tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16) + offsets, words)
    else:
        tl.store(address.to(tl.pointer_type(DTYPE)) + offsets, words, mask=offsets < count)


@triton.jit
def _widen(words):
    """float64 as it is, everything else in float32: exact."""
    if words.dtype == tl.int16:
        wide = (words.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif words.dtype == tl.float64:
        wide = words
    else:
        wide = words.to(tl.float32)
    return wide


@triton.jit
def _narrow(wide, DTYPE: tl.constexpr):
    """float64 rounded to nearest even, by way of float32 for the half types, as torch does."""
    if DTYPE == tl.float64:
        words = wide
    elif DTYPE == tl.int16:
        single = wide.to(tl.float32)
        bits = single.to(tl.int32, bitcast=True)
        # Rounding up the bits of a NaN may end in a number; those of CUDA are all ones.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        words = tl.where(single == single, rounded, 0x7FC0).to(tl.int16)
    else:
        words = wide.to(tl.float32).to(DTYPE)
    return words


@triton.jit
def _bits(wide):
    """Magnitudes as integers: in the same order, and NaN above Inf, so that a maximum cannot lose it."""
    if wide.dtype == tl.float64:
        bits = wide.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
    else:
        bits = wide.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return bits


@triton.jit
def _magnitude(bits):
    """The float64 of what `_bits` gave."""
    if bits.dtype == tl.int64:
        magnitude = bits.to(tl.float64, bitcast=True)
    else:
        magnitude = bits.to(tl.float32, bitcast=True).to(tl.float64)
    return magnitude


@triton.jit
def _divisor(largest):
    """What keeps squares in range as a divisor: the largest entry, or 1 if that is 0, Inf or NaN."""
    return tl.where((largest > 0) & (largest < float("inf")), largest, 1.0)


@triton.jit
def _powers(wide, ORDER: tl.constexpr):
    exact = wide.to(tl.float64)
    if ORDER == 1:
        powers = tl.abs(exact)
    else:
        powers = exact * exact
    return powers


@triton.jit
def _find(layout, segments, BLOCK: tl.constexpr):
    """This program's segment, the first entry of its chunk, and how many entries are left from there."""
    chunk = tl.program_id(0)
    segment = tl.load(layout + 3 * segments + 1 + chunk)
    start = (chunk - tl.load(layout + segments + segment)) * BLOCK
    return segment, start, tl.load(layout + segment) - start


@triton.jit(do_not_specialize=["addresses", "layout", "segments", "chunks", "partials"])
def norms(
    addresses,
    layout,
    segments,
    chunks,
    partials,
    ORDER: tl.constexpr,
    SCALED: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of powers, or the largest magnitude, of each chunk.

    ``SCALED``: of the entries divided by the chunk's largest; the largest ones are a second row.
    """
    segment, start, count = _find(layout, segments, BLOCK)
    address = tl.load(addresses + segment) + start * (DTYPE.primitive_bitwidth // 8)
    wide = _widen(_load(address, count, DTYPE, BLOCK))
    chunk = tl.program_id(0)
    if ORDER == 0:
        tl.store(partials + chunk, _magnitude(tl.max(_bits(wide))))
    elif SCALED:
        largest = _magnitude(tl.max(_bits(wide)))
        tl.store(partials + chunk, tl.sum(_powers(wide / _divisor(largest), ORDER)))
        tl.store(partials + chunks + chunk, largest)
    else:
        tl.store(partials + chunk, tl.sum(_powers(wide, ORDER)))


@triton.jit
def _largest(values, first, last, BLOCK: tl.constexpr):
    """The largest of some float64 magnitudes; NaN if one is."""
    highest = tl.zeros([BLOCK], tl.int64)
    for start in range(first, last, BLOCK):
        here = start + tl.arange(0, BLOCK)
        highest = tl.maximum(highest, _bits(tl.load(values + here, mask=here < last, other=0.0)))
    return _magnitude(tl.max(highest))


@triton.jit(do_not_specialize=["partials", "chunks", "layout", "segments", "results", "columns"])
def finish(
    partials,
    chunks,
    layout,
    segments,
    results,
    columns,
    ORDER: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The norm of each segment from its chunks, added in a fixed order; a row of results a grid row."""
    segment, row = tl.program_id(0), tl.program_id(1)
    first, last = tl.load(layout + segments + segment), tl.load(layout + segments + segment + 1)
    place = tl.load(layout + 2 * segments + 1 + segment)
    sums = partials + row * chunks
    if ORDER == 0:
        norm = _largest(sums, first, last, BLOCK)
    else:
        total = tl.zeros([BLOCK], tl.float64)
        divisor = 1.0
        if SCALED:
            divisor = _divisor(_largest(sums + chunks, first, last, BLOCK))
        for start in range(first, last, BLOCK):
            here = start + tl.arange(0, BLOCK)
            part = tl.load(sums + here, mask=here < last, other=0.0)
            if SCALED:
                largest = tl.load(sums + chunks + here, mask=here < last, other=0.0)
                part = part * (largest / divisor) * (largest / divisor)
            total += part
        norm = tl.sum(total)
        if ORDER == 2:
            norm = tl.sqrt(norm) * divisor
    tl.store(results + row.to(tl.int64) * columns + place, norm)


@triton.jit(do_not_specialize=["addresses", "layout", "segments", "coefficients"])
def scale(
    addresses, layout, segments, coefficients, EACH: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr
):
    """Multiply each segment by its coefficient, or all by one; a coefficient of 1 leaves at once."""
    segment, start, count = _find(layout, segments, BLOCK)
    place = tl.load(layout + 2 * segments + 1 + segment) if EACH else 0
    coefficient = tl.load(coefficients + place)
    if coefficient != 1.0:
        address = tl.load(addresses + segment) + start * (DTYPE.primitive_bitwidth // 8)
        wide = _widen(_load(address, count, DTYPE, BLOCK)).to(tl.float64)
        _store(address, count, _narrow(wide * coefficient, DTYPE), DTYPE, BLOCK)


@triton.jit(do_not_specialize=["addresses", "layout", "segments", "chunks", "low", "high", "partials"])
def clamp(
    addresses,
    layout,
    segments,
    chunks,
    low,
    high,
    partials,
    SUMS: tl.constexpr,
    LARGEST: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Bound every entry; per chunk how many were beyond and, with ``SUMS``, the squares before and after.

    The bounds are rounded to the dtype, but never across all that it can hold (``LARGEST``). A chunk without
    an entry beyond is not written.
    """
    segment, start, count = _find(layout, segments, BLOCK)
    address = tl.load(addresses + segment) + start * (DTYPE.primitive_bitwidth // 8)
    words = _load(address, count, DTYPE, BLOCK)
    wide = _widen(words)
    upper = tl.maximum(tl.load(high), -LARGEST)
    lower = tl.minimum(tl.minimum(tl.load(low), LARGEST), upper)  # where they are crossed the upper one holds
    lowest, highest = _narrow(lower, DTYPE), _narrow(upper, DTYPE)
    above, below = wide > _widen(highest), wide < _widen(lowest)
    bounded = tl.where(above, highest, tl.where(below, lowest, words))
    inside = tl.arange(0, BLOCK) < count
    beyond = tl.sum(((above | below) & inside).to(tl.int32))
    bounded = tl.where(inside, bounded, 0).to(DTYPE)
    if beyond > 0:
        _store(address, count, bounded, DTYPE, BLOCK)
    chunk = tl.program_id(0)
    tl.store(partials + chunk, beyond.to(tl.float64))
    if SUMS:
        tl.store(partials + chunks + chunk, tl.sum(_powers(wide, 2)))
        tl.store(partials + 2 * chunks + chunk, tl.sum(_powers(_widen(bounded), 2)))


@triton.jit
def _rows(addresses, layout, tensors, DTYPE: tl.constexpr, ROWS: tl.constexpr, ALIGNED: tl.constexpr):
    """This program's tensor of short units: its pointer, its units, their length and their places.

    ``layout`` lists, for ``n`` tensors: their ``n`` numbers of units, ``n`` lengths of a unit, ``n`` first
    programs, the ``n`` places of their first units, and the tensor of each program.
    """
    program = tl.program_id(0)
    tensor = tl.load(layout + 4 * tensors + program)
    units, length = tl.load(layout + tensor), tl.load(layout + tensors + tensor)
    first = (program - tl.load(layout + 2 * tensors + tensor)) * ROWS
    row = first + tl.arange(0, ROWS)
    pointer = tl.load(addresses + tensor).to(tl.pointer_type(DTYPE))
    if ALIGNED:  # every unit begins at a multiple of 16 bytes
        pointer = tl.multiple_of(pointer, 16)
        length = length // 8 * 8
    return pointer, row, row < units, length, tl.load(layout + 3 * tensors + tensor) + row


@triton.jit(do_not_specialize=["addresses", "layout", "tensors", "results"])
def unit_norms(
    addresses,
    layout,
    tensors,
    results,
    ORDER: tl.constexpr,
    SCALED: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The norms of short units, several to a program."""
    pointer, row, present, length, place = _rows(addresses, layout, tensors, DTYPE, ROWS, ALIGNED)
    if (ORDER == 0) | SCALED:
        if DTYPE == tl.float64:
            highest = tl.zeros([ROWS, WIDTH], tl.int64)
        else:
            highest = tl.zeros([ROWS, WIDTH], tl.int32)
        for start in range(0, length, WIDTH):
            column = start + tl.arange(0, WIDTH)
            inside = present[:, None] & (column < length)[None, :]
            words = tl.load(pointer + row[:, None] * length + column[None, :], mask=inside, other=0)
            highest = tl.maximum(highest, _bits(_widen(words)))
        norm = _magnitude(tl.max(highest, 1))
    if ORDER != 0:
        total = tl.zeros([ROWS, WIDTH], tl.float64)
        if SCALED:
            divisor = _divisor(norm)
        for start in range(0, length, WIDTH):
            column = start + tl.arange(0, WIDTH)
            inside = present[:, None] & (column < length)[None, :]
            words = tl.load(pointer + row[:, None] * length + column[None, :], mask=inside, other=0)
            if SCALED:
                total += _powers(_widen(words) / divisor[:, None], ORDER)
            else:
                total += _powers(_widen(words), ORDER)
        norm = tl.sum(total, 1)
        if ORDER == 2:
            norm = tl.sqrt(norm)
        if SCALED:
            norm = norm * divisor
    tl.store(results + place, norm, mask=present)


@triton.jit(do_not_specialize=["addresses", "layout", "tensors", "coefficients"])
def scale_units(
    addresses,
    layout,
    tensors,
    coefficients,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Multiply short units by their coefficients; those with a 1 are neither read nor written."""
    pointer, row, present, length, place = _rows(addresses, layout, tensors, DTYPE, ROWS, ALIGNED)
    coefficient = tl.load(coefficients + place, mask=present, other=1.0)
    wanted = coefficient != 1.0
    if tl.max(wanted.to(tl.int32)) != 0:
        for start in range(0, length, WIDTH):
            column = start + tl.arange(0, WIDTH)
            inside = wanted[:, None] & (column < length)[None, :]
            here = pointer + row[:, None] * length + column[None, :]
            wide = _widen(tl.load(here, mask=inside, other=0)).to(tl.float64)
            tl.store(here, _narrow(wide * coefficient[:, None], DTYPE), mask=inside)

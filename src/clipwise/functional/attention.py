"""Bounds in attention: on the projections, on the logits, and on the weights behind the logits (QK-Clip).

Logits are ``q . k / sqrt(d)`` before the softmax, of shape ``(..., heads, queries, keys)``.
"""

import math
from typing import Any

from clipwise.checks import number_where, positive
from clipwise.errors import ArgumentError
from clipwise.functional.activations.bounded import hard_tanh
from clipwise.functional.activations.capped import soft_cap
from clipwise.functional.inputs import broadcasts, floating, namespace_for, shape_of
from clipwise.namespace import Array, Namespace

__all__ = ["clip_logits", "clip_qkv", "max_logits", "qk_clip_factors", "soft_cap_logits"]

ROWS = 1024
"""Logits are made for so many queries at a time, so that their memory grows with the keys alone."""


def clip_qkv(x: Array, bound: float) -> Array:
    """Clip the output of a query, key or value projection to ``[-bound, bound]``.

    Args:
        x: the output of the projection: q, k, v, or all of them in one array.
        bound: a number above 0; inf does not clip.

    Returns:
        An array of the shape and dtype of ``x``.

    Raises:
        ArgumentError: ``x`` is not floating-point, or the bound is NaN or not above 0.

    >>> import numpy as np
    >>> clip_qkv(np.array([-20.0, 3.0, 9.0]), 8.0)
    array([-8.,  3.,  8.])

    Source: the option ``clip_qkv`` of MPT (MosaicML 2023), DBRX (Databricks 2024) and OLMo
    (arXiv:2402.00838).
    """
    bound = positive("bound", bound)
    return hard_tanh(x, -bound, bound)


def clip_logits(logits: Array, bound: float) -> Array:
    """Clip attention logits to ``[-bound, bound]``; masked positions, which are -inf, stay -inf.

    A mask of large finite numbers must be added after this function, otherwise masked positions become
    visible again.

    Args:
        logits: a floating-point array of any shape.
        bound: a number above 0.

    Returns:
        An array of the shape and dtype of the logits.

    Raises:
        ArgumentError: the logits are not floating-point, or the bound is NaN or not above 0.

    >>> import numpy as np
    >>> clip_logits(np.array([-80.0, 3.0, 80.0, -np.inf]), 50.0)
    array([-50.,   3.,  50., -inf])
    """
    return _but_where_masked(logits, clip_qkv(logits, bound))


def soft_cap_logits(logits: Array, cap: float) -> Array:
    """``cap * tanh(logits / cap)``; masked positions, which are -inf, stay -inf.

    As with `clip_logits`, a mask of large finite numbers must be added after this function.

    Args:
        logits: a floating-point array of any shape.
        cap: a finite number above 0.

    Returns:
        An array of the shape and dtype of the logits.

    Raises:
        ArgumentError: the logits are not floating-point, or the cap is NaN, infinite or not above 0.

    Source: Gemma Team 2024, "Gemma 2", arXiv:2408.00118.

    >>> import numpy as np
    >>> soft_cap_logits(np.array([3.0, 500.0, -np.inf]), 50.0).round(4)
    array([ 2.9964, 50.    ,    -inf])
    """
    return _but_where_masked(logits, soft_cap(logits, cap))


def _but_where_masked(logits: Array, bounded: Array) -> Array:
    xp, logits = floating("logits", logits)
    lowest = xp.like(-math.inf)
    return xp.where(logits == lowest, lowest, bounded)


def max_logits(
    q: Array,
    k: Array,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
) -> Array:
    """The largest attention logit of each head: ``max over batch, i, j of scale * q_i . k_j``.

    Computed in float32 or wider. Where the framework multiplies float32 in TF32, as TensorFlow does by
    default on GPUs, three digits are correct. (In JAX full precision is requested.) If k has fewer heads than
    q, neighbouring heads of q share one of k (grouped-query attention). A head with no visible key has -inf.
    NaN stays NaN, except under XLA in TensorFlow, whose maximum may lose it.

    Args:
        q: of shape ``(..., heads, queries, d)``, as it enters the product, after rotary embeddings.
        k: of shape ``(..., heads of k, keys, d)``.
        scale: a number above 0; ``1 / sqrt(d)`` by default.
        mask: a boolean array of the framework of ``q``, True where a query attends to a key, of a shape that
            broadcasts to ``(..., heads, queries, keys)``.
        causal: each query attends to the keys up to its own position only.

    Returns:
        An array of shape ``(heads,)``.

    Raises:
        ArgumentError: the shapes do not fit or, in a ``tf.function``, heads, queries or d are unknown; the
            arrays are not floating-point, or the mask is not boolean; the scale is not above 0.

    >>> import numpy as np
    >>> q = np.array([[[3.0, 0.0], [0.0, 4.0]]])  # one head, two queries of d = 2
    >>> max_logits(q, q, scale=1.0), max_logits(q, q, scale=1.0, causal=True)
    (array([16.]), array([16.]))
    """
    xp, q = floating("q", q)
    theirs, k = floating("k", k)
    if theirs.framework != xp.framework:
        raise ArgumentError(f"q and k must be of the same framework, got {type(q)} and {type(k)}")
    shape, kv_heads = _shape_of_logits(shape_of("q", q), shape_of("k", k))
    *others, heads, queries, keys = shape
    if causal and queries != keys:
        raise ArgumentError(f"causal needs as many queries as keys, got {queries} and {keys}")
    if mask is not None:
        mask = _as_mask(xp, mask, shape)
    scale = positive("scale", q.shape[-1] ** -0.5 if scale is None else scale, finite=True)
    dtype = xp.result_type(q.dtype, k.dtype, xp.float32)
    k, found = xp.astype(k, dtype), None
    for start in range(0, queries, ROWS):
        rows = slice(start, min(start + ROWS, queries))
        count = rows.stop - start
        part = xp.astype(q[..., rows, :], dtype)
        if kv_heads != heads:  # all rows of the heads that share a key at once: k is not repeated
            part = xp.reshape(part, (*others, kv_heads, heads // kv_heads * count, q.shape[-1]))
        logits = xp.row_products(part, k) * scale
        if kv_heads != heads:
            logits = xp.reshape(logits, (*others, heads, count, keys))
        seen = mask[..., rows, :] if mask is not None and _says_rows(mask) else mask
        if causal:
            before = xp.arange(keys)[None, :] <= xp.arange(rows.stop)[start:, None]
            seen = before if seen is None else seen & before
        if seen is not None:
            logits = xp.where(seen, logits, xp.like(-math.inf, dtype=dtype))
        largest = xp.max(logits, axis=(*range(len(others)), len(shape) - 2, len(shape) - 1))
        found = largest if found is None else xp.maximum(found, largest)
    return found


def _says_rows(mask: Array) -> bool:
    return len(mask.shape) > 1 and mask.shape[-2] != 1


def _as_mask(xp: Namespace, mask: Any, shape: tuple[Any, ...]) -> Array:
    """The mask as an array; ArgumentError unless it is of booleans of this framework that broadcast."""
    theirs = namespace_for("mask", mask)
    mask = theirs.read(mask)
    if theirs.framework != xp.framework or not xp.isdtype(
        mask.dtype, "bool"
    ):  # zeros and -inf, to be added, would say the opposite
        raise ArgumentError(
            "mask must be of booleans in the framework of q, True where a query sees a key, got "
            f"{type(mask).__name__} of {mask.dtype}"
        )
    found = shape_of("mask", mask)
    if not broadcasts(found, shape):
        raise ArgumentError(f"mask of shape {found} does not broadcast to {shape}")
    return mask


def _shape_of_logits(q: tuple[Any, ...], k: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
    """``(..., heads, queries, keys)`` and the heads of k; ArgumentError where the shapes do not fit."""
    got = f"got q of shape {q} and k of shape {k}"
    if len(q) == len(k) >= 3:
        needed = {"heads of q": q[-3], "queries": q[-2], "d": q[-1], "heads of k": k[-3]}
        for name, size in needed.items():
            if size is None:
                raise ArgumentError(f"max_logits needs a known number of {name}, {got}")
        pairs = zip((*q[:-3], q[-1]), (*k[:-3], k[-1]), strict=True)
        alike = not [1 for one, other in pairs if None not in (one, other) and one != other]
        if alike and 0 not in (*q, *k) and not q[-3] % k[-3]:
            return (*q[:-1], k[-2]), k[-3]
    raise ArgumentError(
        "q must be of shape (..., heads, queries, d) and k of (..., heads of k, keys, d), with heads a "
        f"multiple of the heads of k and nothing empty; {got}"
    )


def qk_clip_factors(
    largest: Array,
    *,
    tau: float = 100.0,
    alpha: float = 0.5,
    kv_heads: int | None = None,
    shared: str = "query",
) -> tuple[Array, Array]:
    """QK-Clip: the factors for the query and key weights of each head that bound its logits by tau.

    ``gamma = min(1, tau / largest)`` for each head; q gets ``gamma**alpha`` and k ``gamma**(1 - alpha)``. A
    head whose largest logit is at most tau gets exactly 1. So does a head whose largest logit is NaN or Inf,
    from which no factor can be computed.

    If several heads of q share one of k, ``shared`` says what is scaled:

    - ``"query"``: only q, by ``gamma``; k stays unchanged. Each head ends at tau or stays as it is. The
      source treats the rotary key that all heads share in this way.
    - ``"min"``: k by the smallest ``gamma`` of its heads to the power ``1 - alpha``, each q by its own
      ``gamma**alpha``. The head with the largest logit ends at tau, the logits of its other heads decrease
      too.

    Args:
        largest: the largest logit of each head of q, of shape ``(heads,)``, as `max_logits` returns it.
        tau: a finite number above 0.
        alpha: exponent for q, from 0 (scale k only) to 1 (scale q only).
        kv_heads: number of heads of k; by default as many as of q.
        shared: ``"query"`` or ``"min"``; used if k has fewer heads than q.

    Returns:
        The factors for q, of shape ``(heads,)``, and for k, of shape ``(kv_heads,)``.

    Raises:
        ArgumentError: an argument is not allowed, or the numbers of heads do not fit.

    >>> import numpy as np
    >>> qk_clip_factors(np.array([400.0, 60.0]))
    (array([0.5, 1. ]), array([0.5, 1. ]))
    >>> qk_clip_factors(np.array([400.0, 60.0]), kv_heads=1)
    (array([0.25, 1.  ]), array([1.]))

    Source: Kimi Team 2025, "Kimi K2: open agentic intelligence", arXiv:2507.20534, algorithm 1.
    """
    tau, alpha = as_tau(tau), as_alpha(alpha)
    if shared not in ("query", "min"):
        raise ArgumentError(f"shared must be 'query' or 'min', got {shared!r}")
    xp, largest = floating("largest", largest)
    shape = shape_of("largest", largest)
    heads = shape[0] if len(shape) == 1 else None
    kv_heads = heads if kv_heads is None else kv_heads
    if heads is None or not isinstance(kv_heads, int) or kv_heads < 1 or heads % kv_heads:
        raise ArgumentError(
            f"largest must be of shape (heads,), heads a multiple of kv_heads={kv_heads}, got {shape}"
        )
    over = (largest > tau) & (largest < math.inf)
    one = xp.like(1.0)  # not tau / tau, which torch computes as tau * (1 / tau)
    gamma = xp.where(over, tau / xp.where(over, largest, one), one)
    if kv_heads == heads:
        return gamma**alpha, gamma ** (1.0 - alpha)
    smallest = xp.min(xp.reshape(gamma, (kv_heads, heads // kv_heads)), axis=-1)
    if shared == "query":
        return gamma, smallest**0.0
    return gamma**alpha, smallest ** (1.0 - alpha)


def as_tau(tau: float) -> float:
    """The bound of QK-Clip; ArgumentError unless it is finite and above 0."""
    return positive("tau", tau, finite=True)


def as_alpha(alpha: float) -> float:
    """The exponent for the queries; ArgumentError unless it is from 0 to 1."""
    return number_where("alpha", alpha, lambda alpha: 0 <= alpha <= 1, "from 0 to 1")

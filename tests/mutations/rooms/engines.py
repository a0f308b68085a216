"""The engines of PyTorch: C, torch's operations, Triton's host side."""

from tests.mutations.breaks import Break

FOLDER = "src/clipwise/torch/engines"
NATIVE = "tests/torch/test_native.py"

BREAKS = [
    Break(
        "C: what is left of a vector is not counted",
        f"{FOLDER}/_kernels.h",
        "        sum += entry * entry;",
        "        sum += 0 * entry;",
        NATIVE,
    ),
    Break(
        "C: below the range becomes its upper end",
        f"{FOLDER}/_kernels.h",
        "entry = entry < low ? low : entry;",
        "entry = entry < low ? high : entry;",
        NATIVE,
    ),
    Break(
        "C: a NaN among pieces is lost",
        f"{FOLDER}/_tasks.h",
        "return isnan(a) || a > b ? a : b;",
        "return a > b ? a : b;",
        NATIVE,
    ),
    Break(
        "C: the last piece of a long unit is missed",
        f"{FOLDER}/_tasks.h",
        "for (int64_t at = PIECE; at < n; at += PIECE) {",
        "for (int64_t at = PIECE; at + PIECE < n; at += PIECE) {",
        NATIVE,
    ),
    Break(
        "C: each thread counts denormal numbers in its own way",
        f"{FOLDER}/_parallel.h",
        "    fesetenv(&shared->arithmetic);\n",
        "",
        NATIVE,
    ),
    Break(
        "C: autograd is not told",
        f"{FOLDER}/native.py",
        "self._by_tensor.multiply_(float(coefficients), torch.get_num_threads())\n",
        "self._by_tensor.multiply_(float(coefficients), torch.get_num_threads())\n            return\n",
        NATIVE,
    ),
    Break(
        "reference: halves are scaled in halves",
        f"{FOLDER}/_narrow.py",
        'single = torch.scalar_tensor(coefficient, dtype=torch.float32, device="cpu")',
        'single = torch.scalar_tensor(coefficient, dtype=tensors[0].dtype, device="cpu")',
        "tests/torch/test_edges.py -k foreach",
    ),
    Break(
        "reference: a norm beyond the range of float32 is not measured again",
        f"{FOLDER}/_narrow.py",
        "    return np.where(np.isfinite(norms) & (norms >= 1e-15 * np.sqrt(lengths())), norms, np.nan)",
        "    return norms",
        "tests/torch/test_edges.py -k long_tensors",
    ),
    Break(
        "reference: bounded entries are not counted",
        f"{FOLDER}/reference.py",
        "        changed += beyond.sum()\n",
        "        changed += beyond.any()\n",
        "tests/torch/test_edges.py tests/torch/test_clipper.py -k reference",
    ),
]

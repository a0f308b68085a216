"""float64 in JAX, for a while."""

import jax
import jax.experimental

enable_x64 = getattr(jax, "enable_x64", None) or jax.experimental.enable_x64
"""``jax.enable_x64``, under the name that versions before 0.8 have for it."""

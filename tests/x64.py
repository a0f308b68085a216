"""float64 in JAX, for a while: ``jax.enable_x64``, under the name that versions before 0.8 have for it."""

import jax
import jax.experimental

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64

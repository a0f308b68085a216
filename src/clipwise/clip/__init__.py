"""The one description of a clip, its presets under the field's names, and how clips are combined.

Every gradient clip in the field is ``g <- g * min(1, threshold / norm(g))`` for each group g of entries. A
`Clip` says which entries form a group (``per``), how a group is measured (``norm``) and what its norm may
not exceed (``threshold``). It holds no array and no framework: the back ends apply it.
"""

from clipwise.clip._clip import Action, Clip, Norm, On, Per
from clipwise.clip._combined import AnyClip, ByName, Chain, by_name, chain
from clipwise.clip._combined import leaves_steps_out as leaves_steps_out
from clipwise.clip._combined import never_clips as never_clips
from clipwise.clip._combined import remembering as remembering
from clipwise.clip._combined import singles as singles
from clipwise.clip._presets import (
    adagc,
    adaptive_grad_clip,
    auto,
    autoclip,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    norm_growth_limit,
    skip_spikes,
    stable_adamw,
    zclip,
)

# Of functions the presets and what combines them: a configuration may use what is named here.
__all__ = [
    "Action",
    "AnyClip",
    "ByName",
    "Chain",
    "Clip",
    "Norm",
    "On",
    "Per",
    "adagc",
    "adaptive_grad_clip",
    "auto",
    "autoclip",
    "by_name",
    "chain",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "norm_growth_limit",
    "skip_spikes",
    "stable_adamw",
    "zclip",
]

for _one in (Clip, Chain, ByName):
    _one.__module__ = __name__  # where they are public: what is pickled says so

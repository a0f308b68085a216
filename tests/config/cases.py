"""Clips that the tests of the configuration share, each made in Python, without the code under test."""

import math

from clipwise import clip as c
from clipwise import thresholds as t

# How a clip is written as a string in its canonical form, and the clip.
STRINGS = [
    ("none", None),
    ("auto()", c.auto()),
    ("autoclip()", c.autoclip(10)),
    ("autoclip(25.0, window=100)", c.autoclip(25, window=100)),
    ("autoclip(norm=1.0)", c.autoclip(norm=1)),
    ("zclip()", c.zclip()),
    ("zclip(3.0, decay=0.9, warmup=10)", c.zclip(3, decay=0.9, warmup=10)),
    ("adagc()", c.adagc()),
    ("adagc(decay=0.9)", c.adagc(decay=0.9)),
    ("norm_growth_limit(1.05)", c.norm_growth_limit(1.05)),
    ("skip_spikes()", c.skip_spikes()),
    ("skip_spikes(4.0, window=64, patience=3)", c.skip_spikes(4, 64, patience=3)),
    ("skip_spikes(on='loss')", c.skip_spikes(on="loss")),
    ("clip(5.0, action='skip', on='loss')", c.Clip(5, action="skip", on="loss")),
    ("stable_adamw()", c.stable_adamw()),
    ("stable_adamw(2.0)", c.stable_adamw(2)),
    ("clip(1.0, action='skip')", c.Clip(1, action="skip")),
    ("chain(skip_spikes(), autoclip())", c.chain(c.skip_spikes(), c.autoclip())),
    ("adaptive_grad_clip()", c.adaptive_grad_clip()),
    ("adaptive_grad_clip(0.02, eps=0.1, norm=inf)", c.adaptive_grad_clip(0.02, 0.1, math.inf)),
    ("clip_by_value(0.5)", c.clip_by_value(0.5)),
    ("clip_by_value(linear(5.0, 1.0, 1000))", c.clip_by_value(t.linear(5, 1, 1000))),
    ("clip_by_value(low=-1.0, high=2.0)", c.clip_by_value(low=-1, high=2)),
    ("clip_by_value(low=-1.0)", c.clip_by_value(low=-1)),
    ("clip_by_value(high=2.0)", c.clip_by_value(high=2)),
    ("clip_by_value(low=-inf)", c.Clip((-math.inf, math.inf), per="element")),
    ("clip_by_norm(1.0)", c.clip_by_norm(1)),
    ("clip_by_norm(inf, norm=inf)", c.clip_by_norm(math.inf, math.inf)),
    ("clip_by_norm(zscore())", c.clip_by_norm(t.zscore())),
    ("clip_by_global_norm(1.0)", c.clip_by_global_norm(1.0)),
    ("clip_by_global_norm(0.001)", c.clip_by_global_norm(1e-3)),
    ("clip_by_global_norm(mean(1.2))", c.clip_by_global_norm(t.mean(1.2))),
    ("clip_by_global_norm(mean(decay=0.9))", c.clip_by_global_norm(t.mean(decay=0.9))),
    ("clip_by_global_norm(fixed(1.0))", c.clip_by_global_norm(t.fixed(1))),
    ("clip_by_global_norm(auto(share=0.75))", c.clip_by_global_norm(t.auto(share=0.75))),
    ("clip_by_global_norm(cosine(5.0, 1.0, 10))", c.clip_by_global_norm(t.cosine(5, 1, 10))),
    ("clip_by_global_norm(exponential(5.0, 1.0, 10))", c.clip_by_global_norm(t.exponential(5, 1, 10))),
    ("clip_by_global_norm(quantile_ema(0.9))", c.clip_by_global_norm(t.quantile_ema(0.9))),
    (
        "clip_by_global_norm(reduce_on_instability(patience=5))",
        c.clip_by_global_norm(t.reduce_on_instability(patience=5)),
    ),
    ("clip_by_block_rms(1.0)", c.clip_by_block_rms(1)),
    ("clip_by_block_rms(percentile(90.0))", c.clip_by_block_rms(t.percentile(90))),
    ("clip(1.0, per='unit')", c.Clip(1, per="unit")),
    ("clip_by_global_norm(1.0, norm='rms')", c.Clip(1, norm="rms")),
    ("autoclip(norm='rms')", c.Clip(t.percentile(), norm="rms")),
    (
        "chain(clip_by_value(5.0), clip_by_global_norm(1.0))",
        c.chain(c.clip_by_value(5), c.clip_by_global_norm(1)),
    ),
    ("chain(chain(zclip()), zclip())", c.chain(c.chain(c.zclip()), c.zclip())),
    (
        "by_name({'encoder.*': clip_by_global_norm(0.5), '*': none})",
        c.by_name({"encoder.*": c.clip_by_global_norm(0.5), "*": None}),
    ),
    (
        "by_name({\"it's [ab]?\": chain(auto()), '\\\\é': zclip()})",
        c.by_name({"it's [ab]?": c.chain(c.auto()), "\\é": c.zclip()}),
    ),
]

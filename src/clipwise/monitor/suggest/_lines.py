"""The lines to paste, for each framework and trainer."""

from clipwise import config
from clipwise.clip import AnyClip, Clip, auto
from clipwise.errors import ClipwiseError


def lines(clip: AnyClip | None) -> dict[str, str]:
    """With clipwise; none where nothing is to be clipped.

    >>> print(lines(auto())["keras"])
    import clipwise.keras
    optimizer = clipwise.keras.attach(optimizer, clipwise.auto())
    """
    if clip is None:
        return {}
    text = expression(clip)
    rate = ", learning_rate=learning_rate" if clip == auto() else ""  # optax optimizers do not tell theirs
    return {
        "pytorch": f"import clipwise.torch\nclipper = clipwise.torch.attach(optimizer, {text}, model=model)",
        "keras": f"import clipwise.keras\noptimizer = clipwise.keras.attach(optimizer, {text})",
        "optax": f"import clipwise.jax\noptimizer = clipwise.jax.attach(optimizer, {text}{rate})",
        "lightning": (
            "import clipwise\nfrom clipwise.integrations.lightning import ClipCallback\n"
            f"trainer = Trainer(callbacks=[ClipCallback({text})])"
        ),
        "transformers": (
            "import clipwise\nfrom clipwise.integrations.transformers import ClipCallback\n"
            "trainer = Trainer(model, args, train_dataset=train_dataset,"
            f" callbacks=[ClipCallback({text})])"
        ),
    }


def builtin_lines(clip: AnyClip | None) -> dict[str, str]:
    """With what each has of its own, where it can say this clip: a number for the global norm.

    >>> builtin_lines(auto())
    {}
    """
    if not isinstance(clip, Clip) or clip.per != "global" or not isinstance(clip.threshold, float):
        return {}
    number = clip.threshold
    if clip.norm == "rms":
        return {}
    order = "" if clip.norm == 2.0 else f", norm_type=float({str(clip.norm)!r})"
    found = {"pytorch": f"torch.nn.utils.clip_grad_norm_(model.parameters(), {number}{order})"}
    if clip.norm == 2.0:
        found |= {
            "keras": f"optimizer = keras.optimizers.Adam(learning_rate, global_clipnorm={number})",
            "optax": f"optimizer = optax.chain(optax.clip_by_global_norm({number}), optimizer)",
            "lightning": f"trainer = Trainer(gradient_clip_val={number})",
            "transformers": f"args = TrainingArguments(output_dir, max_grad_norm={number})",
        }
    return found


def expression(clip: AnyClip) -> str:
    """The clip as an argument in Python, where ``clipwise`` is imported.

    >>> from clipwise import autoclip, clip_by_global_norm
    >>> expression(clip_by_global_norm(2.3)), expression(autoclip(10))
    ('clipwise.clip_by_global_norm(2.3)', "'autoclip()'")
    """
    if clip == auto():
        return "clipwise.auto()"
    try:
        text = config.to_string(clip)
    except ClipwiseError:  # a function in it has no text form
        return repr(clip)
    plain = isinstance(clip, Clip) and isinstance(clip.threshold, float) and clip.norm in (1.0, 2.0)
    return f"clipwise.{text}" if plain else repr(text)

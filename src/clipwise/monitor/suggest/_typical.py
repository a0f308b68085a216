"""What people use for kinds of models, and where that comes from."""

from dataclasses import dataclass

from clipwise.errors import ArgumentError, did_you_mean


@dataclass(frozen=True)
class Typical:
    """A range of thresholds in common use.

    Attributes:
        kind: kind of model.
        what: what is bounded, such as the global norm.
        low, high: the range; equal for a single value.
        source: who uses it.
        is_norm: whether it bounds a gradient norm, so that it can be compared with a recommendation.
    """

    kind: str
    what: str
    low: float
    high: float
    source: str
    is_norm: bool = True


TYPICAL: tuple[Typical, ...] = (
    Typical(
        "transformer",
        "global norm",
        0.25,
        1.0,
        "0.25 in Transformer-XL's training script; 1.0 in GPT-3 (arXiv:2005.14165, app. B), LLaMA"
        " (arXiv:2302.13971) and as the Hugging Face Trainer's default",
    ),
    Typical(
        "recurrent",
        "global norm",
        1.0,
        5.0,
        "1.0 in Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063); 5 in Sutskever, Vinyals, Le 2014"
        " (arXiv:1409.3215) and Zaremba et al. 2014 (arXiv:1409.2329)",
    ),
    Typical(
        "gan",
        "global norm, with a gradient penalty",
        1.0,
        10.0,
        "a rule of thumb; WGAN-GP itself (arXiv:1704.00028) clips no gradient",
    ),
    Typical("gan", "weights of a WGAN's critic", 0.01, 0.01, "Arjovsky et al. 2017, arXiv:1701.07875", False),
    Typical("ppo", "global norm", 0.5, 0.5, "max_grad_norm of CleanRL and Stable-Baselines3"),
    Typical("ppo", "probability ratio (epsilon)", 0.1, 0.3, "Schulman et al. 2017, arXiv:1707.06347", False),
    Typical("dqn", "global norm", 10.0, 10.0, "Wang et al. 2016 (dueling networks), arXiv:1511.06581"),
    Typical("vision", "global norm", 1.0, 1.0, "Dosovitskiy et al. 2021 (ViT), arXiv:2010.11929"),
    Typical("vision", "each unit, relative to its weights (AGC)", 0.01, 0.01, "arXiv:2102.06171", False),
)

KINDS = tuple(dict.fromkeys(one.kind for one in TYPICAL))

SYNONYMS = {
    "bert": "transformer",
    "gpt": "transformer",
    "llm": "transformer",
    "gru": "recurrent",
    "lstm": "recurrent",
    "rnn": "recurrent",
    "wgan": "gan",
    "wgan-gp": "gan",
    "cnn": "vision",
    "vit": "vision",
}

LOSS_IS_NO_LEVEL = frozenset({"gan", "ppo", "dqn"})
"""Kinds whose loss may well rise while they learn."""


def kind_of(name: object) -> str | None:
    """The kind that a name means, capitals or not; None stays None.

    Raises:
        ArgumentError: it is unknown.

    >>> kind_of("LSTM")
    'recurrent'
    """
    if name is None:
        return None
    text = str(name).lower()
    found = SYNONYMS.get(text, text)
    if found not in KINDS:
        raise ArgumentError(f"unknown kind {name!r}. {did_you_mean(text, [*KINDS, *SYNONYMS])}")
    return found


def typical_of(kind: str | None) -> tuple[Typical, ...]:
    """The ranges of one kind, or all of them."""
    return TYPICAL if kind is None else tuple(one for one in TYPICAL if one.kind == kind)

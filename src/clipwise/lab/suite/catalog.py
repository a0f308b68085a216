"""All tasks of the suite."""

from collections.abc import Iterable, Mapping

from clipwise.errors import ArgumentError, did_you_mean
from clipwise.lab.suite.task import SuiteTask
from clipwise.lab.suite.tasks.addition import Addition
from clipwise.lab.suite.tasks.autoclip import PERCENTILES
from clipwise.lab.suite.tasks.cartpole import CartPole
from clipwise.lab.suite.tasks.characters_gru import CHARACTERS_GRU
from clipwise.lab.suite.tasks.characters_lstm import CHARACTERS_LSTM
from clipwise.lab.suite.tasks.characters_spikes import CharactersSpikes
from clipwise.lab.suite.tasks.characters_transformer import CHARACTERS_TRANSFORMER
from clipwise.lab.suite.tasks.chorales import Chorales
from clipwise.lab.suite.tasks.deep_digits import DeepDigits
from clipwise.lab.suite.tasks.digits import SequentialDigits
from clipwise.lab.suite.tasks.electricity import Electricity
from clipwise.lab.suite.tasks.invoices import INVOICES
from clipwise.lab.suite.tasks.pm25 import PM25
from clipwise.lab.suite.tasks.support_chat import SUPPORT_CHAT
from clipwise.lab.suite.tasks.swiss_roll import CriticSlope, SwissRoll
from clipwise.lab.suite.tasks.temporal_order import TemporalOrder
from clipwise.lab.suite.tasks.traffic import TRAFFIC

__all__ = ["TASKS", "named"]

TASKS: Mapping[str, SuiteTask] = {
    task.name: task
    for task in (
        TemporalOrder(50, "smart"),
        TemporalOrder(50, "tanh"),
        TemporalOrder(50, "sigmoid"),
        TemporalOrder(100, "smart"),
        TemporalOrder(150, "smart"),
        Addition(),
        SequentialDigits(),
        DeepDigits(),
        Chorales(),
        CHARACTERS_LSTM,
        CHARACTERS_GRU,
        CHARACTERS_TRANSFORMER,
        CharactersSpikes(),
        SUPPORT_CHAT,
        PM25,
        TRAFFIC,
        Electricity(),
        INVOICES,
        SwissRoll(),
        CartPole(),
        PERCENTILES,
        CriticSlope(),
        CartPole(published=True),
    )
}


def named(names: Iterable[str]) -> list[SuiteTask]:
    """The tasks with these names, in the order of the catalogue.

    Raises:
        ArgumentError: a name is unknown.
    """
    names = list(names)
    for name in names:
        if name not in TASKS:
            raise ArgumentError(f"unknown task {name!r}. {did_you_mean(name, TASKS)}")
    return [task for task in TASKS.values() if task.name in names]

"""Creates the task of a configuration; a process reads each data set once."""

from functools import lru_cache
from pathlib import Path

from clipwise.errors import DataError
from clipwise.lab.config.explain import shown
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.config.sections import DataConfig
from clipwise.lab.data import frames, retail, series, text
from clipwise.lab.data.sequences import SequenceData, make_sequences
from clipwise.lab.data.series import TimeSeries, make_series
from clipwise.lab.data.text import Corpus, make_corpus
from clipwise.lab.tasks.classification import SequenceClassification
from clipwise.lab.tasks.forecasting import TimeSeriesForecasting
from clipwise.lab.tasks.language import LanguageModeling
from clipwise.lab.tasks.task import Task

__all__ = ["load_task"]


def load_task(config: LabConfig) -> Task:
    """The task of a configuration, with its data, which is downloaded if needed.

    The data is kept until a configuration with other data comes, so that runs with several clips and seeds
    read it once.

    Raises:
        DataError: the data cannot be found, verified or understood.
        ConfigError: the loss does not fit the target.
    """
    path = config.data_path
    stamp = 0 if path is None else _stamp(path)
    data = config.data.model_dump_json()
    if config.task == "Language_Modeling":
        return LanguageModeling(config, _corpus(data, path, stamp, config.sequence_length, config.batch_size))
    if config.task == "Sequence_Classification":
        return SequenceClassification(config, _sequences(data, path, stamp))
    return TimeSeriesForecasting(config, _series(data, path, stamp))


def _stamp(path: Path) -> int:
    """When the file was changed: one that has changed is read again; 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:  # ValueError: what no file system has in a name, such as NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"data.path: {shown(str(path))} cannot be read ({reason})") from error


@lru_cache(maxsize=1)
def _corpus(data: str, path: Path | None, stamp: int, sequence_length: int, batch_size: int) -> Corpus:
    want = DataConfig.model_validate_json(data)
    if path is not None:
        content, name = text.read_text(path, want.max_characters), path.name
    elif want.source == "chatterbot":
        content, name = text.chatterbot(want.max_characters), "chatterbot corpus, English"
    else:
        content, name = text.shakespeare(want.max_characters), "Shakespeare's plays"
    return make_corpus(content, name, sequence_length=sequence_length, batch_size=batch_size)


@lru_cache(maxsize=1)
def _sequences(data: str, path: Path | None, stamp: int) -> SequenceData:
    want = DataConfig.model_validate_json(data)
    if path is None:
        frame = retail.invoices()
        return make_sequences(
            frame.head(want.max_rows or len(frame)),
            key=retail.KEY,
            time=retail.TIME,
            target=retail.TARGET,
            features=want.features,
            name="Online Retail II (cancelled invoices stand in for fraud)",
            gaps=False,  # the time of the invoice itself is not known before it is written
        )
    frame = frames.read_csv(path)
    return make_sequences(
        frame.head(want.max_rows or len(frame)),
        key=want.sequence_key or "",
        time=want.time_column or "",
        target=want.target or "",
        features=want.features,
        name=path.name,
    )


@lru_cache(maxsize=1)
def _series(data: str, path: Path | None, stamp: int) -> TimeSeries:
    want = DataConfig.model_validate_json(data)
    frame = series.beijing_pm25() if path is None else frames.read_csv(path)
    return make_series(
        frame.head(want.max_rows or len(frame)),
        value=want.value_column or "pm2.5",
        time=want.time_column,
        features=want.features,
        name="Beijing PM2.5" if path is None else path.name,
    )

"""Configurations that simply run: data, training, figures, page."""

from tests.mutations.breaks import Break

TRAIN = "tests/lab/training/test_train.py"
RECORDING = "tests/lab/test_recording.py"

BREAKS = [
    Break(
        "accumulation adds up where it should average",
        "src/clipwise/lab/training/loop.py",
        "fabric.backward(loss / training.accumulate)",
        "fabric.backward(loss)",
        f"{TRAIN} -k parts",
    ),
    Break(
        "every seed is the first",
        "src/clipwise/lab/training/train.py",
        "seed=config.seed if seed is None else seed",
        "seed=config.seed",
        f"{TRAIN} -k 'record_says or last_bit'",
    ),
    Break(
        "denormal numbers in the threads beside the first",
        "src/clipwise/lab/training/denormals.py",
        "GOMP_parallel(body",
        "GOMP_parallel_of_another(body",
        "tests/lab/training/test_denormals.py",
    ),
    Break(
        "the error reduction of the wrong base",
        "src/clipwise/lab/compare/figures.py",
        "    return (e0 - e) / e0 * 100\n",
        "    return (e0 - e) / e * 100\n",
        "tests/lab/compare/test_figures.py",
    ),
    Break(
        "divergence a step too early",
        "src/clipwise/monitor/suggest/divergence.py",
        "return int(good[-1]) + 1 if",
        "return int(good[-1]) if",
        "tests/lab/compare/test_figures.py",
    ),
    Break(
        "a run with a step recorded twice is read as it is",
        "src/clipwise/lab/recording.py",
        "if not np.array_equal(loss.steps, np.arange(1, count + 1)):",
        "if not len(loss.steps) == count:",
        f"{RECORDING} -k there_once",
    ),
    Break(
        "a comparison goes on with a run that was interrupted",
        "src/clipwise/lab/recording.py",
        "if run.status in ENDED\n",
        "if run.status\n",
        f"{RECORDING} -k same_facts",
    ),
    Break(
        "F1 cut at one half",
        "src/clipwise/lab/tasks/metrics.py",
        "p[:, 1] > base_rate",
        "p[:, 1] > 0.5",
        "tests/lab/tasks/test_metrics.py",
    ),
    Break(
        "a sentence on the page is HTML",
        "src/clipwise/lab/report/page.py",
        "<li>{escape(sentence)}</li>",
        "<li>{sentence}</li>",
        "tests/lab/report/test_page.py",
    ),
    Break(
        "an archive of another hash is used",
        "src/clipwise/lab/data/archives.py",
        " --hash=sha256:{archive.sha256}",
        "",
        "tests/lab/data/test_archives.py",
    ),
]

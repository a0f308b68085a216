"""Doctest looks into every file here; those that need a package which is not installed are left out."""

import importlib.util

collect_ignore = [
    file
    for package, files in {
        "lightning": ["lightning_runs.py", "two_processes_lightning.py"],
        "transformers": ["transformers_runs.py", "two_processes_transformers.py"],
    }.items()
    if importlib.util.find_spec(package) is None
    for file in files
]

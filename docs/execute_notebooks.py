"""Executes the notebooks again, in place: `python docs/execute_notebooks.py` (`make notebooks`).

A notebook in which a cell fails is left as it was.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"

for path in sorted(FOLDER.glob("*.ipynb")):
    print(f"executing {path.name} ...", flush=True)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,  # or each execution would change the file
        resources={"metadata": {"path": FOLDER}},
    ).execute()
    nbformat.write(notebook, path)
    print(f"  {path.stat().st_size / 1000:.0f} kB")

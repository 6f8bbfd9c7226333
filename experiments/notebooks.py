"""Make the notebooks from their sources: notebooks/NAME.py -> notebooks/NAME.ipynb, with outputs.

    python -m experiments.notebooks [NAME ...]

Each runs in an empty folder, so that nothing it writes stays. A source is jupytext's py:percent.
"""

import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parents[1] / "notebooks"


def source(name: str) -> nbformat.NotebookNode:
    """The notebook that a source is, without outputs."""
    book = jupytext.read(FOLDER / f"{name}.py")
    for i, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"{i}", {}
    kernel = dict(display_name="Python 3", language="python", name="python3")
    book.metadata = nbformat.from_dict(dict(kernelspec=kernel, language_info=dict(name="python")))
    return book


def execute(book: nbformat.NotebookNode, folder: str | Path) -> None:
    """Run every cell, from top to bottom, in a folder; nbclient's error if one fails."""
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=600, record_timing=False, resources=where).execute()


def main(names: list[str]) -> None:
    for name in names or sorted(p.stem for p in FOLDER.glob("*.py")):
        book, began = source(name), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            execute(book, folder)
        book.metadata.language_info = {"name": "python"}
        nbformat.write(book, FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])

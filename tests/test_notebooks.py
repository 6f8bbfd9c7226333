"""Every notebook is committed with what it shows, and one each day runs from top to bottom."""

import ast

import nbformat
import pytest

from experiments import notebooks
from tests.turns import FLAGS, TODAY

NAMES = sorted(p.stem for p in notebooks.FOLDER.glob("*.py"))
QUIET = ast.Import | ast.ImportFrom | ast.Assign  # what shows nothing


def outputs(book) -> list[list]:
    """What each cell of code showed, of those that have something to show."""
    out = []
    for cell in book.cells:
        if cell.cell_type == "code":
            magic = cell.source.startswith("%%")
            if magic or any(not isinstance(x, QUIET) for x in ast.parse(cell.source).body):
                out.append(cell.outputs)
    return out


def kinds(cells: list[list]) -> set[str]:
    return {kind for cell in cells for o in cell for kind in o.get("data", {})}


def test_each_source_has_its_notebook():
    assert {p.stem for p in notebooks.FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_with_what_it_shows(name):
    book, source = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", 4), notebooks.source(name)
    text = lambda b: [(c.cell_type, c.source) for c in b.cells]
    assert text(book) == text(source), "make notebooks"
    cells = outputs(book)
    assert all(cells)
    assert not [o for cell in cells for o in cell if o.get("name") == "stderr"]
    assert "image/png" in kinds(cells)
    assert "image/gif" in kinds(cells) or name == "write_your_own_paper"  # a policy at work


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAMES[TODAY % len(NAMES)]])
def test_it_runs_and_does_not_flood(name, tmp_path, monkeypatch):
    """On a small budget."""
    monkeypatch.setenv("ITERATIONS", "10")
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    book = notebooks.source(name)
    notebooks.execute(book, tmp_path)
    assert all(len(cell) <= 10 for cell in outputs(book))

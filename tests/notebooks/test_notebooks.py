"""The notebooks run from a clean kernel, and their outputs are those that are shipped."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

try:
    import nbformat
    from nbclient import NotebookClient
except ImportError:
    if "CI" in os.environ:
        raise
    pytest.skip("needs the extra dev", allow_module_level=True)

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST = 12
"""Lines of a cell."""
WIDEST = 112
"""Columns of a line, that are seen in a window of usual width."""
EARLY = 6
"""Cells of code that are run in the first five minutes."""


def outputs(book: Any) -> list[Any]:
    """The outputs of cells, but for those tagged "live" and the log, which show real time."""
    return [
        [
            {name: output[name] for name in ("text", "data") if name in output}
            for output in cell.get("outputs", [])
            if output.get("name") != "stderr"
        ]
        for cell in book.cells
        if "live" not in cell.metadata.get("tags", [])
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the kernel's machinery
def test_a_notebook_runs_and_shows_what_is_shipped(path: Path) -> None:
    shipped = nbformat.read(path, as_version=4)
    fresh = copy.deepcopy(shipped)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(fresh, timeout=600, kernel_name="python3", coalesce_streams=True, resources=resources).execute()
    assert outputs(fresh) == outputs(shipped)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_are_short_and_were_run_in_order(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= LONGEST for cell in code)
    assert not [line for cell in code for line in cell.source.splitlines() if len(line) > WIDEST]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    # a lesson with one proof in it; what else is to be proved is a test
    assert sum(cell.source.count("assert ") for cell in code) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_n9_it_has_a_picture_early_and_ends_with_what_to_take_away(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = [data for cell in code[:EARLY] for output in cell.outputs for data in [output.get("data", {})]]
    assert any("image/svg+xml" in data or "<img" in data.get("text/html", "") for data in shown)
    last = book.cells[-1].source
    assert last.index("## To take away") < last.index("## Exercise")


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02}" for n in range(1, len(NOTEBOOKS) + 1)]

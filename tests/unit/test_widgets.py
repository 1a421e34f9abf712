"""An explorer leaves a real picture in an executed notebook, and a moved slider replaces it in place."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from matplotlib.figure import Figure
from nbconvert import HTMLExporter

from orchard import plot
from orchard.widgets import NO_KERNEL, SHOWN, WIDGET, Explorer, explorer

DRAW = """
from orchard import plot
from orchard.widgets import explorer
def draw(window=4, arm="swa", slope=0.5):
    if window > 9:
        raise ValueError("window is longer than the text")
    figure, (axes,) = plot.figure()
    axes.plot([0, window], [0, slope])
    axes.set_title(arm)
    return figure
"""


def draw(window: int = 4, arm: str = "swa", slope: float = 0.5) -> Figure:
    figure, (axes,) = plot.figure()
    axes.plot([0, window], [0, slope])
    axes.set_title(arm)
    return figure


def execute(folder: Path, *cells: str) -> nbformat.NotebookNode:
    """The cells, run in a kernel that talks over Unix sockets in ``folder`` (a short path: sockets allow 107 bytes)."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "k"))
    nbclient.NotebookClient(notebook, km=manager, timeout=120).execute()
    return notebook


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made, ignore_errors=True)


def pictures(cell: nbformat.NotebookNode) -> list[str]:
    return [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]


def test_an_executed_notebook_holds_the_static_twin(folder: Path) -> None:
    cells = ["explorer(draw, window=(1, 32), arm=['swa', 'rattn'], slope=(0.0, 1.0))", "plot.show(draw())"]
    notebook = execute(folder, DRAW, *cells)
    cell = notebook.cells[1]
    assert pictures(notebook.cells[2]) == pictures(cell)
    assert len(notebook.cells[2].outputs) == 1
    assert pictures(cell) == [plot.mimebundle(draw())[0]["image/png"]]  # the same function, the same bytes, once
    assert base64.b64decode(pictures(cell)[0]).startswith(b"\x89PNG")
    sliders = [output.data for output in cell.outputs if WIDGET in output.data]
    assert [data["text/plain"] for data in sliders] == [NO_KERNEL]
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert sliders[0][WIDGET]["model_id"] in state

    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count(pictures(cell)[0][:2000]) == 2
    notebook.metadata.pop("widgets")
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count(pictures(cell)[0][:2000]) == 2
    assert NO_KERNEL in page


def test_a_moved_slider_redraws_the_picture_in_place(folder: Path) -> None:
    notebook = execute(
        folder,
        DRAW,
        "e = explorer(draw, window=(1, 32), arm=['swa', 'rattn'])\ne",
        "e",
        "e.panel.children[0].value = 8\ne.panel.children[1].value = 'rattn'",
    )
    expected = [plot.mimebundle(draw(window=8, arm="rattn"))[0]["image/png"]]
    assert pictures(notebook.cells[1]) == pictures(notebook.cells[2]) == expected


def test_an_error_while_drawing_stands_where_the_picture_was(folder: Path) -> None:
    notebook = execute(folder, DRAW, "e = explorer(draw, window=(1, 32))\ne", "e.panel.children[0].value = 20")
    assert pictures(notebook.cells[1]) == []
    assert "ValueError at window=20: window is longer than the text" in str(notebook.cells[1].outputs)


def test_without_ipywidgets_the_picture_remains(folder: Path) -> None:
    notebook = execute(folder, "import sys\nsys.modules['ipywidgets'] = None" + DRAW, "explorer(draw, window=(1, 32))")
    assert pictures(notebook.cells[1]) == [plot.mimebundle(draw())[0]["image/png"]]
    assert len(notebook.cells[1].outputs) == 1


def test_controls_start_at_the_defaults_of_draw() -> None:
    made = explorer(draw, window=(1, 32, 1), arm=["rattn", "swa"], slope=(0, 1.0))
    assert isinstance(made, Explorer)
    assert made.values == {"window": 4, "arm": "swa", "slope": 0.5}
    assert [type(widget).__name__ for widget in made.panel.children] == ["IntSlider", "Dropdown", "FloatSlider"]
    assert made.figure.axes[0].get_title() == "swa"
    made.panel.children[1].value = "rattn"
    assert made.figure.axes[0].get_title() == "rattn"

    def bare(depth: int, mask: bool) -> Figure:
        return draw()

    assert explorer(bare, depth=(2, 9), mask=True).values == {"depth": 2, "mask": True}
    stops = explorer(draw, window=[1, 4, 16]).panel.children[0]
    assert (type(stops).__name__, stops.value, list(stops.options)) == ("SelectionSlider", 4, [1, 4, 16])


def test_controls_that_cannot_work_are_refused() -> None:
    with pytest.raises(TypeError, match="draw has no argument 'width'; it has window, arm, slope"):
        explorer(draw, width=(1, 2))
    with pytest.raises(ValueError, match="window starts at 4, which is not in"):
        explorer(draw, window=(8, 16))
    with pytest.raises(ValueError, match="low, high, step"):
        explorer(draw, window=(1,))


def test_importing_the_module_loads_neither_ipywidgets_nor_ipython() -> None:

    code = "import sys, orchard.widgets; print(sorted({'ipywidgets', 'IPython'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_tick_boxes_that_follow_one_another_stand_in_rows() -> None:
    def ticked(window: int = 4, **boxes: bool) -> Figure:
        return draw(window=window, arm=", ".join(name for name, on in boxes.items() if on))

    boxes = {"L0 E0": False, "L0 E1": True, "L1 E0": False, "norm": False, "mask": True}
    made = explorer(ticked, **boxes, window=(1, 32))
    rows = [[box.description for box in getattr(row, "children", [row])] for row in made.panel.children]
    assert rows == [["L0 E0", "L0 E1"], ["L1 E0"], ["norm", "mask"], ["window"]]
    assert made.figure.axes[0].get_title() == "L0 E1, mask"
    made.panel.children[1].children[0].value = True
    assert made.figure.axes[0].get_title() == "L0 E1, L1 E0, mask"


def test_a_notebook_shows_a_picture_once(folder: Path) -> None:
    start = """
from orchard.series import _open
series = _open("rattention", "", "smoke", None, "cpu", "local", "embedded", None, 1)"""
    explore, show = (
        "series.explore(draw, window=(1, 32))",
        "series.show(draw(), 'drawn', __import__('pandas').DataFrame({'x': [1]}))",
    )
    notebook = execute(
        folder, DRAW + start, explore, show, explore, "series.explore(lambda window=5: draw(window), window=(5, 9))"
    )
    shown = [len(pictures(cell)) for cell in notebook.cells[1:]]
    assert shown == [1, 0, 0, 1]
    assert "saved as drawn: the picture stands above" in str(notebook.cells[2].outputs)
    assert SHOWN in str(notebook.cells[3].outputs)

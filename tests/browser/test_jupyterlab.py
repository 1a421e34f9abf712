"""What a reader does: open a notebook in JupyterLab, run all cells, drag a slider, and see the picture change; and read the report
on a phone.

The notebook is 01_build up to its first explorer; that it runs to its end is tested without a browser.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from orchard import plot, report
from orchard.claims import decide, load_claims
from orchard.papers.rattention.figures import build
from orchard.paths import root
from orchard.series import papers_folder

pytest.importorskip("websocket", reason="websocket-client, which drives Chromium, is not installed")
import chromium

pytestmark = pytest.mark.slow

NOTEBOOK = "01_build.ipynb"
# The first explorer: its sliders are one output of a cell, its picture is the next.
CELL = "[...document.querySelectorAll('.jp-CodeCell')].find(cell => cell.querySelector('.widget-slider'))"
PICTURE = f"({CELL})?.querySelector('.jp-OutputArea-output img')?.src"
SLIDER = f"[...({CELL}).querySelectorAll('.widget-slider')].find(s => s.querySelector('.widget-label').textContent === 'window')"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds the notebook; settings and runtime files are its own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = nbformat.read(root() / "notebooks" / "rattention" / NOTEBOOK, as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if "series.explore(" in cell.source)
    del notebook.cells[first + 1 :]
    nbformat.write(notebook, folder / NOTEBOOK)
    places = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    own = {name: str(tmp_path / name.lower()) for name in places}
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | own)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\?(token=\w+)", line):
                chromium.drain(process)
                yield f"{found[1]}/lab/tree/{NOTEBOOK}?{found[2]}"
                break
        else:
            pytest.fail("JupyterLab ended before it listened")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[object]:
    program = chromium.installed()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(chromium.NAMES)} is installed")
    with chromium.started(program, tmp_path / "profile") as made:
        yield made


def test_a_reader_runs_all_cells_and_drags_a_slider(page, lab: str) -> None:
    page.open(lab)
    page.wait("window.jupyterapp?.shell.currentWidget?.sessionContext && document.querySelector('.jp-CodeCell')")
    page.value("jupyterapp.shell.currentWidget.sessionContext.ready.then(() => true)")
    assert page.value("jupyterapp.commands.execute('notebook:run-all-cells')", seconds=300) is not False
    assert page.value("document.querySelectorAll('.jp-OutputArea-output[data-mime-type*=error]').length") == 0

    def expected(window: int) -> str:
        figure = plot.mark_profile(build.coverage(window=window), "smoke")
        return "data:image/png;base64," + plot.mimebundle(figure)[0]["image/png"].strip()

    before = page.wait(PICTURE)
    assert before == expected(5)
    page.value(f"({SLIDER}).scrollIntoView({{block: 'center'}})")
    handle = page.value(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])(({SLIDER}).querySelector('.noUi-handle').getBoundingClientRect())"
    )
    page.drag(handle, (handle[0] + 60, handle[1]))
    shown = int(page.wait(f"{PICTURE} !== {before!r} && ({SLIDER}).querySelector('.widget-readout').textContent"))
    assert shown > 5
    page.wait(f"{PICTURE} === {expected(shown)!r}")


def test_the_report_fits_a_phone(page, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "rattention" / "laptop"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "wide.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="504pt" height="200pt"/>'
    )
    found = [decide(claim, None, "laptop").as_dict() for claim in load_claims(papers_folder("rattention"))]
    found[0] |= {"gate": "a gate that was found to hold " * 5, "rule": "== 0.123456789 ± 0.987654321"}
    facts = {"machines": ["a machine"], "git": ["0123456789" * 4]}
    result = {"profile": "laptop", "verdicts": found, "figures": ["wide"], "provenance": facts}
    (folder / "05_scaling_and_claims.json").write_text(json.dumps(result))
    index = report.build(tmp_path / "reports")
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    for file in (index, tmp_path / "reports" / "rattention" / "index.html"):
        page.open(file.as_uri())
        assert page.value("document.documentElement.scrollWidth") <= 390
    lefts = "[...document.querySelectorAll('.claims tbody tr:first-child td')].map(cell => cell.getBoundingClientRect().left)"
    assert len(set(page.value(lefts))) == 1

"""The runner of notebooks, on tiny notebooks: parameters, kernel, limit, Ctrl-C, failures, whole series, hygiene."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import nbformat
import pandas as pd
import psutil
import pytest

from orchard.errors import BadInput, OrchardError
from orchard.notebooks import check_hygiene, declared_parameters, execute, read_notebook, reproduce
from orchard.notebooks.__main__ import main as hygiene_main
from orchard.notebooks.execution import run_notebook, write_atomically
from orchard.notebooks.kernel import private_folder
from orchard.notebooks.progress import Execution, Lines, progress
from orchard.notebooks.warm import start
from orchard.runs import Runner, Setting, Store
from orchard.runs.engine import default_jobs
from toy_runs import Square

PARAMETERS = """\
PROFILE = "smoke"
SEEDS = None
DEVICE = "auto"
ENGINE = "local"
DATA = "embedded"
STORE = None"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS, kernel: str = "python3") -> Path:
    """A notebook with a title, a parameters cell and code cells."""
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A notebook"), tagged, *code])
    notebook.metadata.kernelspec = {"name": kernel, "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def text(path: Path) -> str:
    """Everything the cells of an executed notebook printed or raised."""
    outputs = [out for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for out in cell.outputs]
    return "\n".join(out.get("text", "") + "\n".join(out.get("traceback", [])) for out in outputs)


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one that nobody has waited for does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(path: Path, seconds: float = 60) -> str:
    """The text of a file, once it is there."""
    event, end = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and (found := path.read_text()):
            return found
        event.wait(0.05)
    raise TimeoutError(path)


def test_parameters_reach_the_notebook_and_its_file_is_left_alone(tmp_path: Path) -> None:
    cell = "import sys; print(repr((PROFILE, SEEDS, STORE)), sys.executable)"
    notebook = write_notebook(tmp_path / "n.ipynb", cell)
    before = notebook.read_bytes()
    done = execute(notebook, tmp_path / "out" / "n.ipynb", {"PROFILE": 'g"p\\u', "SEEDS": (0, 1)}, cwd=tmp_path)
    assert done.ok
    assert done.error is None
    assert done.peak_memory > 10 * 2**20
    assert done.seconds > 0
    assert f"{('g' + chr(34) + 'p' + chr(92) + 'u', [0, 1], None)!r} {sys.executable}" in text(done.path)
    assert notebook.read_bytes() == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["n.ipynb"]
    assert str(tmp_path) not in json.dumps(nbformat.read(done.path, 4).metadata)


def test_kernel_is_this_python_whatever_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('a user profile must not be read')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    look = """
import json, os, sys
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
folder = os.path.dirname(app.abs_connection_file)
print(json.dumps([sys.executable, app.transport, folder, oct(os.stat(folder).st_mode & 0o777), os.getcwd()]))"""
    (tmp_path / "cwd").mkdir()
    notebook = write_notebook(tmp_path / "n.ipynb", look, kernel="another")
    done = execute(notebook, tmp_path / "o.ipynb", {}, cwd=tmp_path / "cwd")
    assert done.ok, done.error
    executable, transport, folder, mode, cwd = json.loads(text(done.path))
    assert (executable, transport) == (sys.executable, "ipc")
    assert mode.endswith("700")
    assert cwd == str(tmp_path / "cwd")
    assert len(folder) < 90
    assert not Path(folder).exists()


@pytest.mark.parametrize(("name", "hint"), [("PROFIL", "did you mean 'PROFILE'?"), ("seeds", "did you mean 'SEEDS'?")])
def test_unknown_parameter_is_an_error_before_anything_runs(tmp_path: Path, name: str, hint: str) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BadInput) as raised:
        execute(notebook, tmp_path / "o.ipynb", {name: 1})
    assert name in str(raised.value)
    assert hint in str(raised.value)
    assert "STORE" in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["n.ipynb"]


def test_unreadable_notebooks_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no notebook .*absent\.ipynb"):
        execute(tmp_path / "absent.ipynb", tmp_path / "o.ipynb", {})
    (tmp_path / "bad.ipynb").write_text('{"cells": [')
    with pytest.raises(BadInput, match=r"bad\.ipynb cannot be read as a notebook"):
        execute(tmp_path / "bad.ipynb", tmp_path / "o.ipynb", {})


def test_declared_parameters_are_read_from_the_syntax_not_from_lines(tmp_path: Path) -> None:
    odd = 'A: int = 1\nB = {\n    "C": 1,\n}  # D = 2\nprint("E = 1")'
    assert declared_parameters(read_notebook(write_notebook(tmp_path / "n.ipynb", parameters=odd))) == ["A", "B"]


def test_failure_is_reported_by_cell_and_seen_in_the_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", "print('before')", "1 / 0", "print('never')")
    done = execute(notebook, tmp_path / "o.ipynb", {"SEEDS": [1]})
    assert not done.ok
    assert done.error == "cell 4: ZeroDivisionError: division by zero"
    shown = text(done.path)
    assert "before" in shown
    assert "ZeroDivisionError" in shown
    assert "never" not in shown
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("n: started, 5 cells")
    assert "FAILED" in said[1]
    assert str(done.path) in said[2]


def test_limit_is_on_the_whole_notebook_and_kills_children(tmp_path: Path) -> None:
    start = f"""
import subprocess, sys, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))"""
    nap = "import time; time.sleep(1.5)"
    notebook = write_notebook(tmp_path / "n.ipynb", start, *[nap] * 40)
    done = execute(notebook, tmp_path / "o.ipynb", {}, timeout_s=8)
    assert not done.ok
    assert done.error is not None
    assert "limit of 8 s on the whole notebook" in done.error
    assert "in cell" in done.error
    assert done.seconds < 30
    assert not alive(int((tmp_path / "pid").read_text()))
    assert "limit of 8 s" in text(done.path)


def test_a_kernel_that_dies_is_a_failure_with_its_cell(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", "import os", "os.kill(os.getpid(), 9)")
    done = execute(notebook, tmp_path / "o.ipynb", {})
    assert not done.ok
    assert done.error is not None
    assert "the kernel died" in done.error
    assert "in cell 4" in done.error
    assert "the kernel died" in text(done.path)


def test_a_kernel_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    done = execute(write_notebook(tmp_path / "n.ipynb", "1"), tmp_path / "o.ipynb", {})
    assert not done.ok
    assert done.error is not None
    assert "no kernel today" in done.error
    assert "before its first cell" in done.error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_kills_the_kernel_and_keeps_the_copy(tmp_path: Path, number: int) -> None:
    pid = tmp_path / "pid"
    cell = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    notebook = write_notebook(tmp_path / "n.ipynb", cell)
    script = f"""
import sys
from pathlib import Path
from orchard.cli import _ended_by_signals
from orchard.notebooks import execute
try:
    with _ended_by_signals():
        execute(Path({str(notebook)!r}), Path({str(tmp_path / "o.ipynb")!r}), {{}})
except KeyboardInterrupt:
    sys.exit(130)"""
    # A test run that was started with nohup ignores SIGHUP, and so would its children.
    heard = partial(signal.signal, number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    runner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, preexec_fn=heard)
    kernel = int(wait_for(pid))
    runner.send_signal(number)
    assert runner.wait(60) == 128 + number
    assert not alive(kernel)
    assert "interrupted in cell 3" in text(tmp_path / "o.ipynb")


def test_a_copy_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OrchardError, match="cannot write"):
        write_atomically(tmp_path / "file" / "o.ipynb", "x")
    write_atomically(tmp_path / "o.ipynb", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "o.ipynb", "\ud800")
    assert (tmp_path / "o.ipynb").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "o.ipynb"]


@pytest.fixture
def pear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of a checkout with one paper, ``pear``, that has three profiles and three notebooks."""
    import orchard.series

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "orchard"\n')
    experiments = ModuleType("orchard.papers.pear.experiments")
    experiments.PROFILES = {"smoke": None, "gpu": None, "paper": None}  # type: ignore[attr-defined]
    experiments.EXPERIMENTS = {}  # type: ignore[attr-defined]
    monkeypatch.setattr(orchard.series, "slugs", lambda: ["pear"])
    monkeypatch.setitem(sys.modules, "orchard.papers.pear", ModuleType("orchard.papers.pear"))
    monkeypatch.setitem(sys.modules, "orchard.papers.pear.experiments", experiments)
    monkeypatch.setenv("ORCHARD_OUTPUT", str(tmp_path / "reports"))
    monkeypatch.chdir(tmp_path)
    write_result = """
import os, pathlib
threads = os.environ["OMP_NUM_THREADS"]
pathlib.Path(os.environ["ORCHARD_OUTPUT"], "pear", PROFILE, "01_build.json").write_text(f"{{\\"threads\\": {threads}}}")"""
    cells = {"01_build": write_result, "02_train": "raise ValueError('no')", "03_ablate": "1"}
    for name, cell in cells.items():
        write_notebook(tmp_path / "notebooks" / "pear" / f"{name}.ipynb", cell)
    (tmp_path / "reports" / "pear" / "gpu").mkdir(parents=True)
    return tmp_path / "reports"


@pytest.mark.parametrize("jobs", [1, 2])
def test_reproduce_runs_every_notebook_although_one_fails(
    pear: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = reproduce(["pear"], {"PROFILE": "gpu", "ENGINE": "local"}, jobs=jobs)
    results = [("pear/01_build", True), ("pear/02_train", False), ("pear/03_ablate", True)]
    assert [(run.name, run.ok) for run in done] == results
    assert done[1].error == "cell 3: ValueError: no"
    folder = pear / "pear" / "gpu"
    copies = ["01_build.ipynb", "01_build.json", "02_train.ipynb", "03_ablate.ipynb"]
    assert sorted(p.name for p in folder.glob("*.*")) == copies
    facts = json.loads((folder / "executions" / "02_train.json").read_text())
    assert (facts["slug"], facts["notebook"], facts["profile"], facts["ok"]) == ("pear", "02_train", "gpu", False)
    assert facts["parameters"] == {"PROFILE": "gpu", "ENGINE": "local"}
    assert json.loads((folder / "01_build.json").read_text())["threads"] == max(1, default_jobs("cpu") // jobs)


def test_results_of_an_earlier_execution_do_not_pass_for_new_ones(pear: Path) -> None:
    stale = pear / "pear" / "gpu" / "02_train.json"
    stale.write_text("{}")
    reproduce(parameters={"PROFILE": "gpu"})
    assert not stale.exists()


@pytest.mark.parametrize(
    ("slug", "parameters", "message"),
    [
        ("paer", {}, "no paper 'paer': did you mean 'pear'?"),
        ("pear", {"PROFILE": "gpuu"}, "did you mean 'gpu'?"),
        ("pear", {"PROFILE": "paper"}, "too large for notebooks"),
        ("pear", {"PROFIL": "gpu"}, "has no parameter 'PROFIL': did you mean 'PROFILE'?"),
        ("pear", {"DATA": "./absent.txt"}, "./absent.txt"),
        ("pear", {"DATA": "nobody/nothing"}, "nobody/nothing"),
        ("pear", {"ENGINE": "slrum"}, "slrum"),
        ("pear", {"DEVICE": "abacus"}, "abacus"),
    ],
)
def test_bad_requests_start_nothing(pear: Path, slug: str, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput) as raised:
        reproduce([slug], parameters)
    assert message in str(raised.value)
    assert list(pear.rglob("*.*")) == []


def test_hygiene_accepts_a_clean_notebook(tmp_path: Path) -> None:
    assert check_hygiene(write_notebook(tmp_path / "n.ipynb", "x = 1\nx")) == []


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("\n".join(["x = 1"] * 16), "16 lines of code"),
        ("class Model:\n    pass", "defines the class Model"),
        ("!ls", "no shell"),
        ("%pip install x", "no magics"),
        ("%%bash\nls", "no magics"),
        ("import os\nos.system('ls')", "calls os.system"),
        ("import subprocess", "imports subprocess"),
        ("from pip import main", "imports pip"),
        ("x = = 1", "is no Python"),
    ],
)
def test_hygiene_names_what_is_wrong_in_a_cell(tmp_path: Path, cell: str, problem: str) -> None:
    problems = check_hygiene(write_notebook(tmp_path / "n.ipynb", cell))
    assert len(problems) == 1
    assert "n.ipynb: cell 3: " in problems[0]
    assert problem in problems[0]


def test_hygiene_of_the_whole_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_notebook(tmp_path / "a" / "n.ipynb", "1", kernel="mine", parameters='PROFILE = "smoke"')
    notebook = nbformat.read(path, 4)
    notebook.metadata.widgets = {"state": {}}
    notebook.cells[2].execution_count = 3
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="1")]
    nbformat.write(notebook, path)
    found = "\n".join(check_hygiene(path))
    for words in ("named 'mine'", "widget state", "they must be ['PROFILE'", "has outputs", "execution count"):
        assert words in found
    assert hygiene_main(["check", str(tmp_path)]) == 1
    assert "1 notebooks, 5 problems" in capsys.readouterr().out
    assert hygiene_main(["check", str(tmp_path / "none")]) == 2
    assert hygiene_main([]) == 2


def test_runs_are_computed_first_and_one_that_fails_stops_nothing(
    pear: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def squares(setting: Setting, run: Runner) -> pd.DataFrame:
        return pd.DataFrame(
            [done.result for done in run([Square.Config(number=n, label=f"square of {n}") for n in setting.seeds])]
        )

    def broken(setting: Setting, run: Runner) -> pd.DataFrame:
        run([Square.Config(number=7, label="no square", fail="seven is odd")])
        return pd.DataFrame()

    experiments = sys.modules["orchard.papers.pear.experiments"]
    experiments.EXPERIMENTS = {"squares": squares, "broken": broken}  # type: ignore[attr-defined]
    done = reproduce(["pear"], {"PROFILE": "gpu", "SEEDS": [3, 4]}, jobs=1)
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said[:2]] == ["pear: run 1/3", "pear: run 2/3"]
    assert said[2] == "pear: 1 of 3 runs failed in " + str(Store().path) + ":"
    assert "no square: ValueError: seven is odd" in said[3]
    assert said[4].startswith("pear/01_build: started")
    assert [run.ok for run in done] == [True, False, True]
    assert len(Store().ls()) == 2


def test_bars_on_a_terminal_show_runs_and_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(live=True) as shown:
        shown.computing("pear", "run 1/2  square of 3  0.1 s")
        shown.computing("pear", "warning: a line of another kind")
        shown.computing("pear", None)
        shown.tick("pear/01", 1, 3, 0.5)
        shown.finished(Execution("pear/01", tmp_path, True, 1.5, None, 2**20))
    said = capsys.readouterr().out
    assert "pear/01: done in 1.5 s, peak 1 MiB" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [({"jobs": 0}, "--jobs 0: give a number"), ({"timeout_s": 0.0}, "a limit of 0 s"), ({"timeout_s": -5.0}, "a limit of -5 s")],
)  # fmt: skip
def test_numbers_that_cannot_be_start_nothing(pear: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        reproduce(["pear"], {"PROFILE": "gpu"}, **options)
    assert list(pear.rglob("*.*")) == []


def test_folders_that_cannot_be_written_are_named_at_once(pear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(BadInput, match="set ORCHARD_STORE and ORCHARD_CACHE and ORCHARD_OUTPUT to folders"):
        reproduce(["pear"], {"PROFILE": "gpu"})


def test_an_account_without_home_is_told_the_fix(pear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(BadInput, match="set HOME to a folder, as in HOME=/tmp orchard reproduce"):
        reproduce(["pear"], {"PROFILE": "gpu"})


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_forked_kernel_is_like_any_other_and_ends_with_its_children(tmp_path: Path) -> None:
    look = f"""
import json, os, pathlib, subprocess, sys
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
facts = [app.transport, os.getcwd(), os.environ["PEAR"], os.getpgid(0) == os.getpid(), "torch" in sys.modules]
facts += [__import__("torch").get_num_threads(), __name__]
pathlib.Path({str(tmp_path / "facts")!r}).write_text(json.dumps([facts, os.getpid(), child.pid]))"""
    notebook = write_notebook(tmp_path / "n.ipynb", look, "import time; time.sleep(600)")
    start()
    env, stop = {"PEAR": "ripe", "OMP_NUM_THREADS": "3"}, threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run_notebook, notebook, tmp_path / "o.ipynb", {}, 300.0, tmp_path, Lines(), "n", env, stop, True
        )
        facts, kernel, child = json.loads(wait_for(tmp_path / "facts"))
        stop.set()
        done = running.result(60)
    assert facts == ["ipc", str(tmp_path), "ripe", True, True, 3, "__main__"]
    assert done.error == "interrupted in cell 4"
    assert not alive(kernel)
    assert not alive(child)
    notebook = write_notebook(tmp_path / "n.ipynb", "import os", "os.kill(os.getpid(), 9)")
    done = run_notebook(notebook, tmp_path / "o.ipynb", {}, 60.0, tmp_path, Lines(), "n", warm=True)
    assert done.error is not None
    assert "the kernel died" in done.error


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_forked_kernel_ends_as_an_interpreter_does(tmp_path: Path) -> None:
    leave = f"""
import atexit, pathlib
from multiprocessing.resource_tracker import _resource_tracker
atexit.register(lambda: pathlib.Path({str(tmp_path / "left")!r}).write_text("in order"))
print("tracker", _resource_tracker._fd)"""
    notebook = write_notebook(tmp_path / "n.ipynb", leave)
    done = run_notebook(notebook, tmp_path / "o.ipynb", {}, 60.0, tmp_path, Lines(), "n", warm=True)
    assert done.error is None
    assert (tmp_path / "left").read_text() == "in order"
    assert "tracker None" in text(done.path)  # what a kernel forgets is not told at the end of the runner


def test_folders_of_killed_runners_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        names = [f"orchard-{dead.pid}-left", f"orchard-{os.getpid()}-mine", "orchard-notes-of-somebody"]
        for name in names:
            (Path(short) / name).mkdir()
        made = private_folder()
        assert sorted(os.listdir(short)) == sorted([made.name, *names[1:]])


def test_runner_leaves_no_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        execute(write_notebook(tmp_path / "n.ipynb", "1"), tmp_path / "o.ipynb", {})
        assert os.listdir(short) == []

"""What a run's id depends on: the code that it reaches, wherever that is defined, and nothing else."""

from __future__ import annotations

import enum
import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from orchard.config import REQUIRED, fn_config
from orchard.errors import BadInput
from orchard.runs import Run, identity
from orchard.runs import code as code_module
from orchard.runs.code import reached
from orchard.runs.tabulated import tabulation
from orchard.values import name_of

MODULE = """
from helpers import scale as scaled   # another file of the user

def table():
    import pandas as pd
    return pd.DataFrame({"x": [scaled(1)]})
"""
CELL = """
from orchard.config import REQUIRED
from orchard.runs import Run, identity
import mine

OFFSET = 1
def shifted(x): return x + OFFSET      # a comment

class Shift(Run):
    class Config(Run.Config):
        number: int = REQUIRED
    def compute(self, work):
        from inside import none
        return {"value": shifted(self.cfg.number) + none}
"""
SCRIPT = """
import json, os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
files = {name: open(name).read() for name in ("mine.py", "helpers.py", "inside.py", "cell")}
seen = {}
for what, place, old, new in json.load(open("edits.json")):
    for name, text in files.items():
        text = text.replace(old, new) if name == place else text
        open(name, "w").write(text) if name.endswith(".py") else shell.run_cell(text, store_history=True).raise_error()
    reload = "import importlib, helpers, inside; [importlib.reload(m) for m in (helpers, inside, mine)];"
    shell.run_cell(reload, store_history=True)
    shell.run_cell("from orchard.runs import tabulation", store_history=True)
    shell.run_cell("IDS = {'table': identity(tabulation(mine.table, 't')).id}", store_history=True)
    shell.run_cell("IDS['cell'] = identity(Shift.Config(number=1)).id", store_history=True)
    ids = shell.user_ns["IDS"]
    seen.setdefault("first", ids)
    print(what, sorted(run for run in ids if ids[run] != seen["first"][run]))
"""
EDITS = [  # what, where, old, new, and the runs whose id changes
    ("nothing", "cell", "", "", []),
    ("a comment of a notebook", "cell", "a comment", "another", []),
    ("a comment of a file", "mine.py", "another file", "a file", []),
    ("a function of the user's module", "mine.py", '"x"', '"y"', ["table"]),
    ("a module that this one imports", "helpers.py", "2 * x", "3 * x", ["table"]),
    ("a module that a method imports", "inside.py", "0", "0 + 0", ["cell"]),
    ("another function of the notebook", "cell", "x + OFFSET", "x - OFFSET", ["cell"]),
    ("a variable of the notebook", "cell", "OFFSET = 1", "OFFSET = 2", ["cell"]),
    ("the notebook's class", "cell", '"value"', '"values"', ["cell"]),
    ("what the notebook does not use", "cell", "import mine", "import mine, math", []),
]


def test_which_edits_change_which_ids(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "helpers.py").write_text("def scale(x):\n    return 2 * x\n")
    (tmp_path / "inside.py").write_text("none = 0\n")
    (tmp_path / "cell").write_text(CELL)
    (tmp_path / "edits.json").write_text(json.dumps([edit[:4] for edit in EDITS]))
    out = python(SCRIPT, tmp_path)
    assert out.splitlines() == [f"{what} {changed}" for what, *_, changed in EDITS]


def python(code: str, folder: Path, *, file: str = "") -> str:
    """What a fresh Python prints that runs the code in a folder, as a file if it has a name."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]), "IPYTHONDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", textwrap.dedent(code)]
    if file:
        (folder / file).write_text(textwrap.dedent(code))
        command = [sys.executable, file]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def cell(text): shell.run_cell(text, store_history=True).raise_error()
cell(open("cell.py").read())
cell("from orchard.runs import execute; from toy_runs import Square")
cell("done = execute([Shift.Config(number=n) for n in (1, 2)] + [Square.Config(number=n) for n in (3, 4)], jobs=2)")
cell("OFFSET = 5")
cell("again = execute([Shift.Config(number=1)])")
cell("print('results', [run.result for run in done + again])")
cell("class Shift(Run):\\n    number = 1\\n")
cell("class Empty(Run):\\n    class Config(Run.Config):\\n        number: int = 1\\n")
cell("before = identity(Empty.Config()).id")
cell("class Empty(Run):\\n    class Config(Run.Config):\\n        number: int = 1\\n    other = 2\\n")
cell("print(before != identity(Empty.Config()).id)")
"""


def test_runs_of_a_notebook_are_computed_in_its_process_beside_those_of_the_pool(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(CELL)
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "inside.py").write_text("none = 0\n")
    shutil.copy(Path(__file__).parents[1] / "toy_runs.py", tmp_path)
    lines = python(NOTEBOOK, tmp_path).splitlines()
    assert lines[-2] == "results [{'value': 2}, {'value': 3}, {'square': 9}, {'square': 16}, {'value': 6}]"
    assert lines[-1] == "True"


def test_a_script_computes_its_own_runs_in_worker_processes(tmp_path: Path) -> None:
    """There the script has another name; and lines that a run does not use may change."""
    script = (
        CELL
        + """
if __name__ == "__main__":
    from orchard.runs import execute
    print([run.id for run in execute([Shift.Config(number=n) for n in (1, 2)], jobs=2, report=lambda line: None)])
"""
    )
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "inside.py").write_text("none = 0\n")
    first = python(script, tmp_path, file="script.py")
    assert python(script + "    print()\n", tmp_path, file="script.py").strip() == first.strip()
    assert python(script.replace("x + OFFSET", "x * OFFSET"), tmp_path, file="script.py") != first


def test_without_a_source_there_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = python("""
        from orchard.errors import BadInput
        from orchard.runs import Run, identity
        class Here(Run):
            pass
        try:
            identity(Here.Config())
        except BadInput as error:
            print(error)
    """, tmp_path)  # fmt: skip
    assert "the source of 'Here' (module __main__) cannot be found" in out
    made = types.ModuleType("made_up")
    exec("from orchard.runs import Run\nclass There(Run):\n    pass\n", made.__dict__)
    monkeypatch.setitem(sys.modules, "made_up", made)
    with pytest.raises(BadInput, match=r"the source of There.* \(module made_up\) cannot be found"):
        identity(made.There.Config())


class Colour(enum.Enum):
    RED = 1


class Holder(Run):
    """Holds any value."""

    class Config(Run.Config):
        value: object = REQUIRED


def double(x: float) -> float:
    return 2 * x


def test_functions_classes_and_enums_in_a_config_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules are hashed: seen by a module that is theirs alone."""
    asked: list[set[str]] = []
    real = code_module.uses_sha256

    def watch(uses: object) -> str:
        asked.append({module for module, _ in uses})  # type: ignore[attr-defined]
        return real(uses)  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules["orchard.runs.identity"], "uses_sha256", watch)
    here = __name__
    for value in (double, Colour.RED, [{"a": double}], fn_config(double), Colour):
        asked.clear()
        identity(tabulation(double, "t").set(table=double) if value is double else Holder.Config(value=value))
        assert here in asked[0]
    identity(tabulation(shutil.which, "t"))  # of Python itself: the version in the provenance stands for it
    assert "shutil" in asked[-1]
    assert here not in asked[-1]
    import torch

    identity(Holder.Config(value=torch.nn.functional.gelu))  # of a compiled module without a file


def test_modules_are_reached_by_the_names_that_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A re-exporting file ties nothing together, whichever way it is imported."""
    package = tmp_path / "kit"
    (package / "deep").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    files = {
        "__init__.py": '"""Text."""\nfrom kit.a import A\nfrom kit.b import *\nfrom kit.deep import D\nfrom .c import c\n__all__ = ["A"]\n',
        "a.py": "A = 1\n", "b.py": "B = 1\n", "c.py": "def c(): pass\n", "other.py": "X = 1\n",
        "deep/__init__.py": "from kit.deep.d import D\n", 
        "deep/d.py": "from typing import TYPE_CHECKING\nD = 1\nif TYPE_CHECKING:\n    from kit.b import B\n",
        "broken.py": "def", "../plain/__init__.py": "", "../plain/below.py": "x = 1\n",
        "full.py": "from kit import other\nimport kit.a\nx = kit.a.A\n",
    }  # fmt: skip
    for name, text in files.items():
        (package / name).write_text(text)
    everything = {"a", "b", "c", "deep.d"}
    uses = {
        "from kit import A": {"a"}, "from kit import D": {"deep.d"}, "import kit\nkit.D": {"deep.d"}, "import kit as k\nk.A.real": {"a"},
        "import kit\nprint(kit)": everything, "from kit import *": everything, "from kit import c": {"c"},
        "from kit import other": {"other"}, "from kit import other as o\no.X": {"other"}, "import kit.deep.d": everything,
        "import kit.deep.d\nkit.deep.d.D": {"deep.d"}, "from kit import full": {"full", "other", "a"}, "from kit import B": everything,
        "def f():\n    from kit.deep import D": {"deep.d"}, "import kit.absent": everything, "import numpy": set(),
        "import kit.broken as b": {"broken"},
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kit import A": set(),
    }  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    for number, (text, expected) in enumerate(uses.items()):
        (tmp_path / f"user{number}.py").write_text(text + "\nx = 1\n")
        assert reached([f"user{number}"]) == {f"user{number}"} | {f"kit.{name}" for name in expected}, text
    (tmp_path / "user.py").write_text("import plain.below\n\nx = 1\n")  # only to run it
    assert reached(["user"]) == {"user", "plain.below"}


def test_a_training_reaches_what_it_computes_with_and_a_new_module_in_nn_is_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "orchard"
    shutil.copytree(code_module.HOME, home, ignore=shutil.ignore_patterns("__pycache__", "papers", "templates"))
    monkeypatch.setattr(code_module, "HOME", home)

    def sha256() -> str:
        for cache in (code_module._MODULES, code_module._DIGESTS):
            cache.clear()
        code_module._file.cache_clear()
        return code_module.code_sha256(["orchard.train.lm"])

    first = sha256()
    modules = reached(["orchard.train.lm"])
    assert {
        "orchard.nn.transformer",
        "orchard.data.corpus",
        "orchard.train.loop",
        "orchard.train.checkpoint",
    } <= modules
    assert not modules & {
        "orchard",
        "orchard.nn",
        "orchard.data",
        "orchard.train",
        "orchard.train.saved",
        "orchard.data.hub",
        "orchard.data.text",
    }
    (home / "nn" / "novel.py").write_text("class Novel:\n    pass\n")
    face = home / "nn" / "__init__.py"
    face.write_text(face.read_text().replace("__all__", "from orchard.nn.novel import Novel\n\n__all__", 1))
    assert sha256() == first
    attention = home / "nn" / "attention.py"
    attention.write_text(attention.read_text() + "\n# a comment\n")
    assert sha256() == first
    attention.write_text(attention.read_text() + "\nNEW = 1\n")
    assert sha256() != first
    code_module._file.cache_clear()
    code_module._MODULES.clear()


def test_a_package_that_imports_its_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register = "from ring import first, second\n\nALL = [first.a, second.b]\n"
    face = "from bow import first, second\n"
    for package, text in (("ring", register), ("bow", face)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
        (tmp_path / package / "first.py").write_text("a = 1\n")
        (tmp_path / package / "second.py").write_text(f"from {package} import first\n\nb = first.a\n")
    (tmp_path / "asks.py").write_text("from ring import first\nfrom bow import second\n\nx = first.a + second.b\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert reached(["asks"]) == {"asks", "ring", "ring.first", "ring.second", "bow.first", "bow.second"}
    assert reached(["bow"]) == {"bow.first", "bow.second"}


def test_a_module_that_is_loaded_again_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "changing.py"
    file.write_text("def f(): return 1\n")
    changing = importlib.import_module("changing")
    first = code_module.code_sha256(["changing"])
    file.write_text("def f(): return 23\n")
    assert code_module.code_sha256(["changing"]) == first  # what was imported is what computes
    importlib.reload(changing)
    assert code_module.code_sha256(["changing"]) != first


def test_the_running_script_has_one_name_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("__mp_main__")
    exec("def f(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "__mp_main__", module)
    assert name_of(module.f) == "__main__:f"

"""``orchard new``: what it makes is complete, clean and runs; all of it or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchard import scaffold
from orchard.errors import BadInput, OrchardError
from orchard.notebooks import check_hygiene
from orchard.paths import root
from orchard.scaffold import folders, missing, new
from toy_runs import corpus


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with a library that has no papers."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "orchard"\n')
    (tmp_path / "lib" / "orchard" / "papers").mkdir(parents=True)
    (tmp_path / "lib" / "orchard" / "papers" / "__init__.py").write_text("")
    return tmp_path


def files(folder: Path) -> list[str]:
    """Every file below a folder, as relative paths."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_new_paper_is_complete_and_only_in_folders_of_its_name(checkout: Path) -> None:
    before = files(checkout)
    made = new("pear_tree", checkout)
    assert sorted(str(path.relative_to(checkout)) for path in made) == sorted(set(files(checkout)) - set(before))
    assert all("/pear_tree/" in str(path) for path in made)
    assert missing("pear_tree", checkout) == []
    assert len(made) == 17
    assert check_hygiene(checkout / "notebooks" / "pear_tree" / "01_build.ipynb") == []
    assert not [path for path in made if "__slug__" in path.read_text() or "__title__" in path.read_text()]
    assert sorted(path.name for path in checkout.iterdir()) == ["lib", "notebooks", "papers", "pyproject.toml", "tests"]


def test_missing_names_every_gap(checkout: Path) -> None:
    new("pear", checkout)
    package, card = checkout / "lib/orchard/papers/pear", checkout / "papers/pear"
    shutil.rmtree(package / "figures")
    (package / "experiments" / "__init__.py").write_text("PROFILES = {}")
    (package / "runs" / "__init__.py").write_text("import os")
    (package / "notes.py").write_text("")
    (card / "README.md").write_text("# Pear")
    (card / "claims.yaml").write_text("- id: C1\n")
    shutil.rmtree(checkout / "tests")
    gaps = "\n".join(missing("pear", checkout))
    for gap in ("figures/__init__.py is missing", "experiments/__init__.py does not define EVIDENCE", "notes.py is no room: method, data",
                "runs/__init__.py holds more than a docstring", "lacks the two markers", "lacks '# NAME: a sentence'", "claim C1: field",
                "tests/papers/pear holds no test_*.py"):  # fmt: skip
        assert gap in gaps
    assert len(missing("plum", checkout)) == 11


@pytest.mark.parametrize(
    "slug", ["Pear", "pear-tree", "2pears", "class", "", "pear__tree", "_pear", "pear_", "päar", "a/b", ".."]
)
def test_slugs_that_cannot_name_a_package_are_refused(checkout: Path, slug: str) -> None:
    before = files(checkout)
    with pytest.raises(BadInput, match="cannot name a paper"):
        new(slug, checkout)
    assert files(checkout) == before


@pytest.mark.parametrize("taken", list(folders("pear").values()))
def test_nothing_is_overwritten(checkout: Path, taken: str) -> None:
    (checkout / taken).mkdir(parents=True)
    (checkout / taken / "mine.txt").write_text("mine")
    before = files(checkout)
    with pytest.raises(BadInput, match=f"{taken} exists already"):
        new("pear", checkout)
    assert files(checkout) == before


@pytest.mark.parametrize("number", range(4))
def test_a_failure_leaves_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    rename: Callable[[Path, Path], None] = os.rename
    calls: list[Path] = []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > number:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(scaffold.os, "rename", failing)
    before = sorted(checkout.rglob("*"))
    with pytest.raises(OrchardError, match="No space left on device"):
        new("pear", checkout)
    assert sorted(checkout.rglob("*")) == before


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a checkout of Orchard"):
        new("pear", tmp_path)


def test_a_new_paper_lints_tests_and_reproduces(tmp_path: Path) -> None:
    """The whole way, in a copy of the library: new, ruff, mypy, its own tests, its notebook, its verdict."""
    shutil.copytree(
        root() / "lib" / "orchard", tmp_path / "lib" / "orchard", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(root() / "pyproject.toml", tmp_path)
    text = corpus(tmp_path)
    paths = [str(tmp_path / "lib"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ORCHARD_OUTPUT": str(tmp_path / "reports")}
    env |= {"ORCHARD_CACHE": str(tmp_path / "cache")}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    made = run("orchard.cli", "new", "pear")
    assert "notebooks/pear/01_build.ipynb" in made
    for step in ("papers/pear/claims.yaml", "orchard reproduce pear ", "--publish laptop pear", "orchard claims pear"):
        assert step in made
    index = (tmp_path / "notebooks" / "index.ipynb").read_text()
    assert "## Pear: what the paper asks, in one sentence?" in index
    assert "[01 build](pear/01_build.ipynb)" in index
    assert "orchard reproduce pear --profile laptop" in index
    run("ruff", "check", "--no-cache", "lib/orchard/papers/pear", "tests", "notebooks")
    run("ruff", "format", "--no-cache", "--check", "lib/orchard/papers/pear", "tests")
    lint = [str(Path(sys.executable).with_name("lint-imports"))]
    linted = subprocess.run(lint, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    run("pytest", "-q", "-p", "no:cacheprovider", "tests/papers/pear")
    said = run("orchard.cli", "reproduce", "pear", "-p", "DATA", text.name)
    assert "pear/01_build: done in" in said
    (folder,) = (path for path in (tmp_path / "reports" / "pear").iterdir() if path.is_dir())
    assert folder.name.startswith("smoke-text.txt-")
    assert '"scale": "smoke scale: 4,096 bytes, 2 samples"' in (folder / "01_build.json").read_text()
    assert f"pear · {folder.name}" in (tmp_path / "reports" / "pear" / "index.html").read_text()
    assert run("orchard.cli", "claims", "pear").startswith("pear: no results yet; `orchard reproduce pear`")

"""Packages, their files, what a file defines and documents; and the published numbers of a paper."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from orchard.data import DataError
from orchard.data.docstrings import (
    MAX_FILE,
    code_and_docstrings,
    definitions,
    documented,
    package_folder,
    package_version,
    parsed,
    python_files,
)
from orchard.data.published import published, published_file

CODE = '''"""The module."""
class Base:
    """The base."""
    def load(self):
        """Load."""
        x = 1
try:
    import fast
except ImportError:
    def fast():
        """The slow one."""
    for _ in range(2):
        class Deep: pass
async def wait():
    "Wait."
    def inner(): return 2
'''


def test_packages() -> None:
    import sklearn

    assert package_folder("python") == str(Path(platform.__file__).parent)
    assert package_folder("sklearn") == str(Path(sklearn.__file__).parent)
    assert package_folder("no_such_package_here") is package_folder("platform") is None
    assert (package_version("python"), package_version("sklearn")) == (platform.python_version(), sklearn.__version__)


def test_files(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.py", "tests/t.py", "b/_version.py", "b/notes.txt", "b/__pycache__/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty.py").touch()
    (tmp_path / "large.py").write_bytes(b"#" * (MAX_FILE + 1))
    assert sorted(python_files(tmp_path)) == [("a.py", tmp_path / "a.py", 1), ("b/c.py", tmp_path / "b" / "c.py", 1)]


def test_definitions_and_docstrings() -> None:
    tree = parsed(CODE)
    assert tree is not None
    names = [name for name, _ in definitions(tree)]
    assert names == ["", "Base", "Base.load", "fast", "Deep", "wait", "wait.inner"]
    assert [name for name, _ in definitions(tree, handlers=False)] == ["", "Base", "Base.load", "wait", "wait.inner"]
    assert [text for _, text in documented(tree)] == ["The module.", "The base.", "Wait.", "Load.", "The slow one."]


@pytest.mark.parametrize("source", ["def (", "a\0b", "(" * 100_000, b"# coding: none\n", "\\d" * 3 + "'"])
def test_what_is_no_python(source: str | bytes) -> None:
    assert parsed(source) is None
    if isinstance(source, str):
        assert code_and_docstrings(source) == (source, "")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_code_apart_from_docstrings(end: str) -> None:
    code, prose = code_and_docstrings(CODE.replace("\n", end))
    assert prose == "The module.\n\nThe base.\n\nWait.\n\nLoad.\n\nThe slow one."
    assert '"' not in code
    wanted = [line for line in CODE.split("\n") if line and '"' not in line]
    assert [line for line in code.split("\n") if line] == wanted
    assert "\n\n\n" not in code


@pytest.mark.parametrize("slug", ["rattention", "moe_lottery", "sbp", "ifpruning"])
def test_published_numbers(slug: str) -> None:
    table = published(slug)
    assert {"table", "value", "tag"} <= set(table.columns)
    assert table["tag"].notna().all()


def test_no_published_numbers() -> None:
    with pytest.raises(DataError, match=r"papers/nobody/published.csv does not exist: it holds the paper's tables"):
        published("nobody")
    assert published_file("sbp").is_file()

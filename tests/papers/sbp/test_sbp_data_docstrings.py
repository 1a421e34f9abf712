"""Docstrings of packages, their splits and the relations that the code states."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.sbp.data import docstrings
from orchard.papers.sbp.data.docstrings import RELATIONS, Docstrings, Relations, read_package, split_of, top_level

CODE = '''"""A module whose docstring is longer than forty characters."""
class Base:
    """The base of the classes here, and it has a long docstring."""
    def load(self):
        """Load what the base loads, which is everything there is."""
    def save(self):
        """Save what the base saves, which is everything there is."""
if True:
    class Child(Base):
        """A child of the base that is defined on some platforms."""
        def load(self):
            """Load as the base does, and then load some more things."""
def short():
    """Too short."""
def outer():
    def dumps():
        """Dump an object in a way that is found inside a function."""
'''
OTHER = '''def dumps():
    """Dump an object in the way of another module altogether."""
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in {"a.py": CODE, "b/c.py": OTHER, "b/bad.py": "def (", "tests/t.py": CODE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_what_is_read(package: Path) -> None:
    documents, bases = read_package("pkg", package)
    assert [name for name, _ in documents] == [
        "pkg/a.py::", "pkg/a.py::Base", "pkg/a.py::Base.load", "pkg/a.py::Base.save", "pkg/a.py::Child", "pkg/a.py::Child.load",
        "pkg/a.py::outer.dumps", "pkg/b/c.py::dumps",
    ]  # fmt: skip
    assert bases == {"pkg/a.py::Base": [], "pkg/a.py::Child": ["Base"]}
    assert dict(documents)["pkg/b/c.py::dumps"] == "Dump an object in the way of another module altogether."


def test_relations(package: Path) -> None:
    documents, bases = read_package("pkg", package)
    names = [name.removeprefix("pkg/") for name, _ in documents]
    relations = Relations([name for name, _ in documents], bases)
    wanted = {
        ("a.py::Base.load", "a.py::Child.load"): "override",
        ("a.py::Base.load", "a.py::Base.save"): "same class",
        ("a.py::Base", "a.py::Base.save"): "same class",
        ("a.py::Base.save", "a.py::Child.load"): "same module",
        ("a.py::", "a.py::Base"): "same module",
        ("a.py::outer.dumps", "b/c.py::dumps"): "same name",
        ("a.py::", "b/c.py::dumps"): "none",
    }
    first, second = (np.array([names.index(pair[side]) for pair in wanted]) for side in (0, 1))
    assert [RELATIONS[number] for number in relations.of(first, second)] == list(wanted.values())
    assert (relations.of(first, second) == relations.of(second, first)).all()


def test_splits_are_whole_modules_and_packages() -> None:
    assert top_level("python/json/decoder.py::JSONDecoder") == "python/json"
    assert top_level("python/os.py::") == "python/os"
    assert top_level("numpy/linalg/core.py::f") == "numpy"
    splits = [split_of(f"python/m{i}") for i in range(2000)]
    assert abs(splits.count("train") / 2000 - 0.8) < 0.03
    assert set(splits) == {"train", "validation", "test"}


def test_the_standard_library_in_part() -> None:
    source = Docstrings.Config(max_bytes=1_200_000).build()
    manifest = source.manifest()
    assert source.machine_bound
    assert set(manifest.versions) == {"python", "python, sha256"}
    assert manifest.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    groups = {split: {top_level(d.name) for d in source.documents(split)} for split in manifest.splits}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    assert not groups["validation"] & groups["test"]
    assert min(len(d.text) for d in source.documents("train")) >= 40


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "code_sha256", lambda modules: "fixed")
    with pytest.raises(BadInput, match="no docstring was found in no_such_package_here"):
        Docstrings.Config(packages=["no_such_package_here"]).build().documents("train")

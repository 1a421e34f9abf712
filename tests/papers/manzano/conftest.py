"""One store for the tests of the runs: what one of them trains, others read."""

from __future__ import annotations

import pytest

from orchard.runs import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("manzano"))

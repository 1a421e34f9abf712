"""Shared by every test: shapes are checked at run time, the network is closed, threads and seeds are fixed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent

# Closed for this process and, through PYTHONPATH, for every child it starts (kernels, workers, command lines).
sys.path.insert(0, str(HERE / "no_network"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE / "no_network"), os.environ.get("PYTHONPATH", "")]))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("HF_HUB_OFFLINE", None)  # the tests want to see the real failure, not a polite one
import close_network  # noqa: E402

close_network.close()

from jaxtyping import install_import_hook  # noqa: E402

# Everything with shapes. orchard.config is left out: it checks its own values, and REQUIRED is no int.
install_import_hook(
    [f"orchard.{name}" for name in ("nn", "kernels", "data", "train", "papers", "stats")], "beartype.beartype"
)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed seed, and no test writes to the checkout: runs and outputs go to temporary folders.

    A single run is computed in the process of its test, whether or not an earlier test left workers: what a test puts in
    place is not seen by them.
    """
    from orchard.runs import engine

    monkeypatch.setattr(engine._WORKERS, "there", lambda jobs: False)
    torch.manual_seed(0)
    scratch = tmp_path_factory.mktemp("orchard")
    monkeypatch.setenv("ORCHARD_STORE", str(scratch / "runs"))
    monkeypatch.setenv("ORCHARD_OUTPUT", str(scratch / "output"))
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path_factory.getbasetemp().parent / "cache"))  # corpora, shared by all

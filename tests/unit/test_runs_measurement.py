"""Measurements: where they run, what they note, their rows and ratios."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.runs import Store, Workspace
from orchard.runs.device import cpu_name
from orchard.runs.measurement import Measurement, by_round, medians, ratios, timed, with_machine


class Naps(Measurement):
    """Two peers, one of which takes twice as long."""

    class Config(Measurement.Config):
        rounds: int = 3

    def compute(self, work: Workspace) -> dict[str, Any]:
        device = self.begin(work)
        peers = {"short": lambda: spin(0.011), "long": lambda: spin(0.022)}
        return {"rows": timed(peers, self.cfg.rounds, device, length=8), "draw": torch.rand(1).item()}


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_measurement_notes_the_machine_and_times_peers_in_turn(tmp_path: Path) -> None:
    done = Store(tmp_path).compute(Naps.Config(label="naps"), device="cpu")
    assert done.provenance["hardware"] == {"device": "cpu", "name": cpu_name(), "torch": torch.__version__}
    torch.manual_seed(0)
    assert done.result["draw"] == torch.rand(1).item()
    table = with_machine(done)
    assert table.columns.to_list() == ["length", "name", "round", "seconds", "device", "hardware"]
    assert len(table) == 6
    assert set(with_machine(done, columns=["torch", "precision"])["torch"]) == {torch.__version__}
    assert (ratios(table, "short", by=["length"])["long"] > 1).all()


def test_sizes_for_a_gpu_are_refused_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"naps has sizes for a GPU and would run on cpu.*orchard runs export"):
        Store(tmp_path).compute(Naps.Config(label="naps", gpu=True), device="cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    work = Workspace(tmp_path, tmp_path, "mps")
    assert Naps.Config().build().begin(work) == "cpu"
    assert Naps.Config().build().begin(work, "cpu") == "cpu"


TIMES = pd.DataFrame(
    [
        ("a", "x", 0, 2.0),
        ("b", "x", 0, 4.0),
        ("a", "x", 1, 3.0),
        ("b", "x", 1, 9.0),
        ("a", "w", 0, 1.0),
        ("b", "w", 0, None),
    ],
    columns=["name", "shape", "round", "seconds"],
)


def test_medians_and_ratios_within_a_round() -> None:
    found = medians(TIMES, ["shape", "name"])
    assert found.to_dict("list") == {"shape": ["x", "x", "w"], "name": ["a", "b", "a"], "seconds": [2.5, 6.5, 1.0]}
    within = ratios(TIMES, "a", by=["shape"])
    assert within.loc["x", "b"].to_list() == [2.0, 3.0]
    assert within.groupby("shape", sort=False).median().index.to_list() == ["x", "w"]
    assert ratios(TIMES, "nobody", by=["shape"]).empty
    wide = by_round(TIMES, ["name", "shape"])
    assert wide["a", "w"].to_list()[:1] == [1.0]
    with pytest.raises(ValueError, match="two values for"):
        by_round(TIMES)

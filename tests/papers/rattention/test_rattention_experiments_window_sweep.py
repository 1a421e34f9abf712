"""The window sweep: one run for an arm wherever it is asked for, and what its caches hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchard.papers.rattention.experiments import window_sweep
from orchard.runs import Finished, Setting


class Told(Finished):
    """A finished run that was not computed; its folder's name is its validation loss."""

    @property
    def result(self) -> dict[str, Any]:
        return {"validation_loss": float(self.folder.name)}


def test_the_model_of_the_notebook_is_a_run_of_the_sweep() -> None:
    """So that nothing is trained twice: same config, seed and rate as the sweep's own run of that arm."""
    asked: list[Any] = []

    def run(cfgs: Any) -> list[Any]:
        asked.append([cfg.fingerprint() for cfg in cfgs])
        return [Told(Path(f"{abs(cfg.optim.learning_rate - 2e-3):.4f}")) for cfg in cfgs]

    setting = Setting("smoke")
    cfg, _ = window_sweep.trained_arm(setting, run, "rattn@16")
    assert cfg.optim.learning_rate == 2e-3
    window_sweep.trained(setting, run, ["rattn@16"])
    assert asked[1] == [cfg.fingerprint()]
    assert cfg.fingerprint() in asked[-1]


def test_memory_table() -> None:
    table = window_sweep.memory_table(Setting("smoke"), ["full_rope", "rattn@16"], [64, 4096]).set_index(
        ["arm", "tokens"]
    )["bytes"]
    token, state = 2 * 2 * 16 * 4, 4 * 2 * 32 * 16
    assert table["full_rope", 4096] == 4 * 4096 * token
    assert table["rattn@16", 4096] == 4096 * token + 3 * (16 * token + state)
    assert table["rattn 16, local layers", 64] == table["rattn 16, local layers", 4096] == 3 * (16 * token + state)

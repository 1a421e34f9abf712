"""The long-context experiment: families are tuned, every cell is reported, evidence of C9 to C11 is paired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS, VOCAB_SIZE
from orchard.papers.rattention.experiments import EVIDENCE, EXPERIMENTS
from orchard.papers.rattention.experiments.long_context import against, smaller_windows, steps_to_reach
from orchard.papers.rattention.experiments.profiles import PROFILES, Ruler, model
from orchard.runs import Setting, Store


@pytest.mark.parametrize("profile", list(PROFILES))
def test_sizes_hold_what_the_claims_compare(profile: str) -> None:
    shape = PROFILES[profile]
    size = shape.ruler
    assert size.batch_size % len(size.tasks) == 0
    eighth, half = shape.eighth, shape.seq_len // 2
    assert {"full_rope", f"rattn@{eighth}"} <= set(size.arms)
    if profile in ("laptop", "gpu"):
        assert {"full_rnope", f"swa@{eighth}", f"swa@{half}", f"swa_mem@{eighth}"} <= set(size.arms)
        assert sum(name.startswith("rattn@") for name in size.arms) >= 3
        assert sum(task in RULER_TASKS for task in size.tasks) * len(size.seeds) >= 5  # signs for C11
    with torch.device("meta"):
        for name in size.arms[: 1 if profile == "paper" else None]:  # the published depth takes seconds an arm
            model(name, shape).set(vocab_size=VOCAB_SIZE[size.needles]).build()


def test_the_experiment_tunes_families_and_reports_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = Ruler(
        arms=("full_rope", "rattn@16"), tasks=("niah_multikey_1", "kv_overwrite"), needles="pair", batch_size=2, steps=2, seeds=(0, 1),
        learning_rates={"full": (1e-3,), "swa": (1e-3,), "rattn": (1e-3, 2e-3)}, test_examples=2, validations=1, multiples=(1, 4),
    )  # fmt: skip
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], ruler=size))
    store = Store(tmp_path)
    runs: dict[str, Any] = {}

    def run(cfgs: Any) -> list[Any]:
        for cfg in cfgs:
            runs[cfg.label] = store.compute(cfg, "cpu")
        return [runs[cfg.label] for cfg in cfgs]

    tables = {name: make(Setting("smoke"), run) for name, make in EXPERIMENTS.items() if name.startswith("ruler")}
    ruler, units, curves = tables["ruler"], tables["ruler_units"], tables["ruler_curves"]
    assert len(ruler) == 2 * 2 * 2 * 2
    assert set(ruler["multiple"]) == {1, 4}
    assert not ruler.set_index("task").loc["kv_overwrite", "ruler"].any()
    means = units.groupby(["arm", "seed", "task", "length"])["correct"].mean()
    assert np.allclose(
        means, ruler.set_index(["arm", "seed", "task", "length"])["accuracy"].loc[means.index], atol=1e-6
    )
    assert len(units) == 2 * 2 * 2 * 2 * (6 + 4)
    assert curves["validation_accuracy"].notna().sum() == 4
    evidence = {claim: EVIDENCE[claim](tables.__getitem__) for claim in ("C9", "C10", "C11")}
    assert set(evidence["C9"]["part"]) == {"rattn@16 − full_rope"}
    assert len(evidence["C9"]) == 2 * 2  # seeds x sequences, of RULER's task alone
    assert evidence["C10"].empty
    assert evidence["C11"].empty


def units_table(values: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"arm": name, "seed": seed, "task": task, "length": 64 * multiple, "multiple": multiple, "example": i, "correct": value + 0.01 * i}
        for name, value in values.items() for seed in (0, 1, 2) for task in ("fwe", "vt", "kv_overwrite") for multiple in (1, 4)
        for i in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_evidence_pairs_sequences_across_arms() -> None:
    table = units_table(
        {"rattn@8": 0.9, "full_rope": 0.4, "full_rnope": 0.5, "swa@32": 0.2, "swa@8": 0.1, "swa_mem@8": 0.7}
    )
    shuffled = table.sample(frac=1, random_state=0)
    found_ = against(("full_rope", "full_rnope", "swa@{half}"), lambda name: shuffled)
    effects = found_.groupby("part", sort=False)["value"].agg(["mean", "std", "size"])
    assert list(effects.index) == ["rattn@8 − full_rope", "rattn@8 − full_rnope", "rattn@8 − swa@32"]
    assert np.allclose(effects["mean"], [0.5, 0.4, 0.7])
    assert np.allclose(effects["std"], 0)  # the part of a sequence cancels: the differences are paired
    assert (effects["size"] == 3 * 2 * 3).all()  # kv_overwrite is no RULER task
    assert not found_.duplicated(["part", "seed", "unit"]).any()
    assert len(against(("swa@{eighth}", "swa@{half}", "la"), lambda name: table)) == 2 * 18  # la is not there


def test_smaller_windows_are_ranked_per_seed_and_task() -> None:
    rows = [
        {"family": "rattn", "window": w, "ruler": task != "kv_overwrite", "multiple": multiple, "seed": seed, "task": task,
         "accuracy": 0.5 if task == "cwe" else 1 / w if task == "vt" else w}
        for w in (8.0, 16.0, 32.0) for multiple in (1, 4, 8) for seed in (0, 1) for task in ("vt", "fwe", "cwe", "kv_overwrite")
    ]  # fmt: skip
    evidence = smaller_windows(lambda name: pd.DataFrame(rows))
    assert set(evidence["part"]) == {"4T", "8T"}
    values = evidence.groupby("unit")["value"].unique().map(list).to_dict()
    assert values == {"vt": [-1.0], "fwe": [1.0], "cwe": [0.0]}


def test_steps_until_a_task_is_learned() -> None:
    curves = pd.DataFrame({
        "arm": "a", "seed": 0, "step": [10, 20, 30], "validation_accuracy": [0.1, 0.2, 0.3], "accuracy vt": [0.5, 0.95, 0.8],
        "accuracy fwe": [0.1, 0.2, 0.3],
    })  # fmt: skip
    steps = steps_to_reach(curves).set_index("task")["step"]
    assert steps["vt"] == 20
    assert np.isnan(steps["fwe"])

"""Figures of 03: what they summarise, that every one can be drawn, and that they say what was not run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchard.papers.manzano.data import published
from orchard.papers.manzano.experiments.single_task import compared
from orchard.papers.manzano.experiments.strategies import DRAWN, METRICS
from orchard.papers.manzano.figures import ablations

LEVELS = {
    "hybrid": 0.8, "pure_discrete": 0.5, "pure_discrete_feat": 0.6, "dual_encoder": 0.4, "quarter": 0.2, "blind": 0.1, "hybrid_other": 0.1,
    "pure_discrete_other": 0.1, "pure_discrete_feat_other": 0.1, "und_only": 0.9, "gen_only": 0.7, "hybrid_shuffled": 0.0,
}  # fmt: skip
ONE_TASK = {"blind": METRICS[:3], "und_only": METRICS[:3], "gen_only": METRICS[3:], "hybrid_shuffled": METRICS[3:]}
INFINITE = (0.05, math.inf)


def rows(level: float, **about: Any) -> pd.DataFrame:
    """Six items about a level; those of another seed are 0.1 higher."""
    return pd.DataFrame({"unit": range(6), "value": level + 0.1 * about["seed"] + 0.01 * np.arange(6)}).assign(**about)


def strategies() -> pd.DataFrame:
    """Seed 0's better discrete arm reads rows of codes, seed 1's the adapter."""
    parts = [
        rows(level, seed=seed, arm=arm, metric=metric, ceiling=0.5 if metric == DRAWN else math.nan, tag="",
             baseline=arm.removesuffix("_other") == ("pure_discrete", "pure_discrete_feat")[seed])
        for arm, level in LEVELS.items() for metric in ONE_TASK.get(arm, METRICS) for seed in (0, 1)
        if metric != DRAWN or not arm.endswith("_other")
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def density(*densities: int) -> pd.DataFrame:
    levels = {"hybrid": 0.8, "pure_discrete": 0.5, "hybrid_other": 0.1, "pure_discrete_other": 0.1}
    return pd.concat([
        rows(level - 0.1 * k * (arm == "pure_discrete"), seed=seed, k=k, codes=1000, arm=arm, baseline=arm.startswith("pure"))
        for k in densities for arm, level in levels.items() for seed in (0, 1)
    ], ignore_index=True)  # fmt: skip


def density_tokenizers(*densities: int) -> pd.DataFrame:
    return pd.DataFrame([
        {"k": k, "codes": 1000, "rho": 3 / k, "bound": min(1.0, 4 / k), "counting": k > 3, "kept": k < 3} for k in densities
    ])  # fmt: skip


def tables(name: str) -> pd.DataFrame:
    if name == "density":
        return density(1, 2)
    return compared(strategies()) if name == "single_task" else strategies()


def said(made: Figure) -> list[str]:
    """All words in the axes of a figure, once it is drawn."""
    made.draw_without_rendering()
    return [text.get_text() for axes in made.axes for text in (*axes.texts, *axes.get_yticklabels())]


def test_a_summary_has_seeds_and_what_is_over_them() -> None:
    found = ablations.summarised(pd.concat([rows(0.5, seed=0, arm="a"), rows(0.5, seed=1, arm="a")]), "arm")
    assert found["value"].tolist() == pytest.approx([0.525, 0.625])
    assert found["mean"].tolist() == pytest.approx([0.575, 0.575])
    assert (found["low"] < found["mean"]).all()
    assert (found["high"] > found["mean"]).all()


def test_the_baseline_is_the_better_arm_of_every_seed() -> None:
    found = ablations.arm_scores(strategies())
    own = found[(found["arm"] == "discrete") & (found["metric"] == "general")]
    assert own["value"].tolist() == pytest.approx([0.525, 0.725])  # 0.5, and 0.6 with the 0.1 of its seed
    made = ablations.strategies(found, published.table("Table 1"))
    assert said(made).count("not asked") == 3 + 2 + 4  # reading by codes of another prompt, drawing, an arm that is not there  # fmt: skip


def test_drawings_are_divided_by_their_ceiling() -> None:
    found = ablations.drawing_scores(strategies()).set_index(["arm", "what", "seed"])["value"]
    assert found["hybrid", "share of the ceiling", 1] == pytest.approx(found["hybrid", "score", 1] / 0.5)
    assert found["hybrid", "ceiling", 0] == 0.5
    conflict = pd.DataFrame({
        "arm": ["hybrid", "hybrid", "dual_encoder"], "seed": [0, 1, 0], "conflict": [0.1, -0.1, math.nan],
    })  # fmt: skip
    words = said(ablations.drawings(found.reset_index().assign(mean=0.5, low=0.4, high=0.6), conflict))
    assert words.count("not run") == 1  # the dual encoder has no model that only writes


def test_evidence_of_claims_with_the_paper_beside_it() -> None:
    found = ablations.measured(tables, {"M1a": INFINITE, "M2": INFINITE, "M2c": (0.1, math.inf), "M3a": (-0.03, 0.03)})
    mean = found[found["kind"] == "claim"].drop_duplicates("claim").set_index("claim")
    assert mean["mean"]["M1a"] == pytest.approx((0.3 + 0.2) / 2)
    assert mean["published"][["M1a", "M2", "M3a"]].tolist() == pytest.approx([0.11, 0.094, 0.0])
    control = found[(found["claim"] == "M1a") & (found["kind"] == "control")]
    assert set(control["part"]) == {"text-rich"}  # beside the claim, though it is of strips
    assert control["mean"].iloc[0] == pytest.approx(0.4)
    words = said(ablations.effects(found, "Reading"))
    assert words.count("not run at this profile") == 1  # no strips of three characters a token
    assert "M1a hybrid − pure discrete: text-rich\n(control: one character a token)" in words


def test_adapters_stand_beside_the_continuous_one() -> None:
    asked = [(arm, shown) for arm in ablations.ADAPTERS for shown in ("own", "another")]
    adapters = pd.concat([rows(0.4, seed=0, arm=arm, shown=shown) for arm, shown in asked])
    tokenizers = pd.DataFrame([
        {"seed": seed, "rho": rho, "adapter": f"{other}continuous", "accuracy": 0.9 - 0.3 * (rho > 2)}
        for seed in (0, 7) for rho in (1.5, 3.0) for other in ("", "another picture through the ")
    ])  # fmt: skip
    found = ablations.adapter_scores(adapters, tokenizers)
    own = found[(found["arm"] == ablations.CONTINUOUS) & (found["shown"] == "own")]
    assert own[["seed", "value"]].to_numpy().tolist() == [[0, 0.9]]  # of seeds that have adapters; of the densest text
    assert "floats, after the fact" in said(ablations.adapters(found))


def test_densities_that_say_nothing_are_marked() -> None:
    found = ablations.density_scores(density(1, 2, 6), density_tokenizers(1, 2, 6))
    gap = found[found["arm"] == "gap"].drop_duplicates("k").set_index("k")["mean"]
    assert gap.to_dict() == pytest.approx({1: 0.4, 2: 0.5, 6: 0.9})
    assert said(ablations.density(found)).count("counting\nnot competent") == 2
    assert ablations.density(found[found["k"] == 2], "codes").axes[0].get_xticklabels()[0].get_text() == "1,000\nρ = 1.5"  # fmt: skip


def test_one_model_for_both_tasks() -> None:
    found = ablations.measured(tables, {"M4": (-0.05, math.inf)})
    made = ablations.single_task(ablations.summarised(tables("single_task"), "metric", "arm"), found)
    assert [axes.get_title(loc="left").split("\n")[0] for axes in made.axes] == [
        "general: −10.0 points", "text-rich: −10.0 points", "GenEval-mini: +10.0 points",
    ]  # fmt: skip
    assert found.drop_duplicates("part").set_index("part")["published"]["text-rich"] == pytest.approx(-0.023)

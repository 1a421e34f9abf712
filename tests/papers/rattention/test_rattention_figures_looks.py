"""Arms in words, seeds as dots, titles that say what is seen: on made-up tables."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchard.papers.rattention.experiments.profiles import tuning_table
from orchard.papers.rattention.figures import ablation, recall, sweep
from orchard.papers.rattention.figures.looks import KINDS, LOOKS, arms_in_words, in_short, named, shared, words
from orchard.runs.grid import Best


def test_arms_have_words_and_keep_the_look_of_their_family() -> None:
    said = {arm: words(arm) for arm in ("full_rope", "swa@16", "rattn@8+global", "swa_mem@8", "la", "something else")}
    assert said == {
        "full_rope": "full attention", "swa@16": "sliding window 16", "rattn@8+global": "RAttention 8, one global layer",
        "swa_mem@8": "window, memory of RAttention 8", "la": "linear attention alone", "something else": "something else",
    }  # fmt: skip
    assert set(KINDS) <= set(LOOKS)
    table, known = named(pd.DataFrame({"arm": ["swa@16", "rattn@16", "swa_mem@16"]}))
    assert [known[arm.lower()] for arm in table["arm"]] == [LOOKS[kind] for kind in ("swa", "rattn", "swa_mem")]
    assert arms_in_words(["swa", "rattn@8"]).loc["swa", "in words"] == "sliding window"


def title(figure: Figure) -> str:
    figure.draw_without_rendering()
    above = figure._suptitle
    return above.get_text() if above is not None else figure.axes[0].get_title(loc="right")


def swept(gap: float) -> pd.DataFrame:
    rows = [
        {"arm": f"{family}@{w}", "family": family, "window": float(w), "seed": seed,
         "bits_per_byte": 2.0 + 0.01 * seed + (family == "swa") * gap,
         "cache_bytes": 100 * w + 50 * (family == "rattn")}
        for family in ("swa", "rattn") for w in (8, 16) for seed in (0, 1)
    ]  # fmt: skip
    full = {"arm": "full_rope", "family": "full_rope", "seed": 0, "bits_per_byte": 1.9, "cache_bytes": 9000}
    return pd.DataFrame([*rows, full])  # without a window


def effects() -> pd.DataFrame:
    rows = [
        {"label": arm, "effect": e, "low": e - 0.02, "high": e + 0.02, "seeds": [e, e + 0.01]}
        for arm, e in (("swa@8", 0.1), ("rattn@8", -0.05))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("gap", "count"), [(0.1, 2), (-0.1, 0)])
def test_titles_say_what_is_there(gap: float, count: int) -> None:
    assert title(sweep.window_sweep(swept(gap))) == f"RAttention is below the sliding window at {count} of 2 windows"
    best = "W 8, R 8, full" if gap > 0 else "W 8"
    assert title(sweep.pareto(swept(gap), effects())) == f"not beaten in cache and loss at once: {best}"
    assert title(sweep.noninferiority(effects())) == "1 of 2 arms match full attention (dotted: 0.01)"


def test_every_seed_is_a_dot() -> None:
    drawn = sweep.window_sweep(swept(0.1)).axes[0]
    dots = sum(
        len(line.get_xdata())
        for line in drawn.get_lines()
        if line.get_marker() == "." and line.get_linestyle() == "None"
    )
    assert dots == 9


def test_means_are_over_the_seeds_that_every_arm_has() -> None:
    more = pd.DataFrame(
        [{"arm": arm, "seed": seed, "x": 1.0} for arm, n in (("swa@8", 2), ("rattn@8", 3)) for seed in range(n)]
    )
    assert shared(more).groupby("arm")["seed"].agg(list).to_dict() == {"swa@8": [0, 1], "rattn@8": [0, 1]}


def test_one_model_under_two_names_is_one_point() -> None:
    rows = [("swa@32", 1.0), ("swa_mem@16", 1.0), ("rattn@8", 2.0), ("full_rope", 3.0)]
    table = pd.DataFrame([{"arm": arm, "seed": 0, "cost": cost, "loss": 1.0} for arm, cost in rows])
    shown, known = in_short(table, ["cost", "loss"])
    assert list(shown["arm"]) == ["W 32 = M 16", "R 8", "full"]
    assert known["w 32 = m 16"] == LOOKS["swa"]


def units(names: tuple[str, ...], by: str) -> pd.DataFrame:
    return pd.DataFrame([
        {by: name, "seed": seed, "unit": unit, "stratum": stratum, "bytes": 10, "nats": 10 * (2 + 0.1 * place + 0.01 * unit)}
        for place, name in enumerate(names) for seed in (0, 1) for unit in range(4) for stratum in ("none", "mismatch", "1–8", "33–128")
    ])  # fmt: skip


def test_strata_stand_in_the_order_of_distance() -> None:
    table = sweep.clue_table(units(("rattn@8", "swa@8", "swa_mem@8"), "arm"), 8)
    assert list(pd.unique(table["label"])) == ["none", "mismatch", "1–8", "33–128"]
    assert (table["effect"] > 0).all()
    wide = units(tuple(f"{kind}@{w}" for w in (8, 16) for kind in ("rattn", "swa", "swa_mem")), "arm")
    parts = sweep.clue_parts(wide)
    cells = parts.groupby(["against", "where"])["window"].agg(list).to_dict()
    assert cells == {
        (against, where): [8, 16] for against in ("swa", "swa_mem") for where in (sweep.BEYOND, sweep.INSIDE)
    }
    made = sweep.clue(table, parts, 8)
    assert title(made).startswith("RAttention 8: ahead by 0.144 where a copy is 33–128 bytes back, ahead by")
    assert len(made.legends[0].get_texts()) == 4


def test_the_lag_is_shown_beside_the_window_alone() -> None:
    curves = pd.DataFrame([
        {"arm": name, "seed": seed, "step": step, "validation_loss": 2.0 / step}
        for name in ablation.LAG for seed in (0, 1) for step in (1, 2)
    ])  # fmt: skip
    assert "needs 0.433 bits/byte less" in title(ablation.lag(curves, units(ablation.LAG, "variant")))


def test_recall_is_shown_against_filler_pairs_and_steps() -> None:
    rows = [
        {"arm": arm, "seed": seed, "pairs": pairs, "filler": filler, "example": 0, "near": 1.0, "far": 1.0 * (arm != "swa@8")}
        for arm in ("full_rope", "swa@8", "swa@8+global") for seed in (0, 1) for pairs, filler in ((6, 64), (12, 0), (12, 64))
    ]  # fmt: skip
    curves = pd.DataFrame({"arm": "swa@8", "seed": 0, "step": [1, 2], "validation_accuracy": [0.0, 0.1]})
    assert title(recall.recall(pd.DataFrame(rows), curves, decisive=(64,))) == "behind 64 tokens: sliding window 8: 0 %"
    assert recall.recalled(pd.DataFrame(rows), alone=False) == ["sliding window 8, one global layer: 100 %"]


def test_the_tuning_says_how_many_arms_are_tuned() -> None:
    rows = [("swa@8", rate, loss, loss == 1.0) for rate, loss in ((1e-3, 2.0), (2e-3, 1.0), (4e-3, 2.0))]
    rows += [("rattn@8", rate, loss, loss == 1.0) for rate, loss in ((1e-3, 1.0), (2e-3, 2.0), (4e-3, 3.0))]
    found = Best(pd.DataFrame(rows, columns=["family", "value", "score", "chosen"]), {}, {})
    assert title(sweep.tuning(tuning_table(found))) == "1 of 2 arms: best rate inside the grid (framed)"

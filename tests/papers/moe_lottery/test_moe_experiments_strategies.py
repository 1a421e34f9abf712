"""The tables of the strategy comparison, end to end on a tiny profile; evidence and figures from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchard.claims import decide, load_claims
from orchard.data.published import published
from orchard.papers.moe_lottery.experiments import arms, strategies
from orchard.papers.moe_lottery.experiments.profiles import PROFILES
from orchard.papers.moe_lottery.figures import evidence
from orchard.papers.moe_lottery.figures import strategies as figures
from orchard.papers.moe_lottery.method.models import Shape
from orchard.paths import root
from orchard.runs import Finished, Run, Setting, Store

SCHEDULED = ("lottery", "one_shot_tokens")
NAMES = ("strategies", "strategies_units", "scratch", "trainable", "saturation", "load", "dropped_sets", "agreement")


def vars_of(cfg: Run.Config) -> dict[str, object]:
    names = ("criterion", "lottery_schedule", "lottery_factor", "control_schedule", "control_factor")
    return {name: getattr(cfg, name) for name in names}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    folder: Path = tmp_path_factory.mktemp("tables")
    (folder / "text").mkdir()
    for number, split in enumerate(("train", "valid", "test"), start=1):
        lines = [f"word{(i * number) % 17} leaf{i} root{number}." for i in range(900)]
        (folder / "text" / f"{split}.txt").write_text("\n".join(lines))
    sizes = replace(
        PROFILES["smoke"].arms, batch_size=2, controls=(6,), saturation=(1, 2), draws_per_run=1, learning_rates=(1e-3, 1e-2),
        factors=(0.5, 1.0),
    )  # fmt: skip
    profile = replace(
        PROFILES["smoke"], dim=16, num_layers=2, num_heads=2, num_kv_heads=1, models=((Shape(8, 2, 8), 0),), bytes_per_domain=20_000,
        seq_len=16, batch_size=4, steps=2, calibration=8, eval_windows=8, draws=2, entities=16, arms=sizes,
    )  # fmt: skip
    store, done = Store(folder / "runs"), dict[str, Finished]()

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        for cfg in cfgs:
            if cfg.fingerprint() not in done:
                done[cfg.fingerprint()] = store.compute(cfg, "cpu")
        return [done[cfg.fingerprint()] for cfg in cfgs]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCHARD_CACHE", str(folder / "cache"))
        patch.setitem(PROFILES, "smoke", profile)
        patch.setattr(
            arms, "budget", lambda first, rounds: [0, 0, 0, first, 0, first]
        )  # every fine-tuning costs a start
        setting = Setting("smoke", data=str(folder / "text"))
        made = {name: strategies.EXPERIMENTS[name](setting, run) for name in ("rates", *NAMES)}
        best = arms.rates_of(setting, run)
        rows = [(*key, *pair) for key, pairs in best.items() for pair in pairs]
        how = arms.ways(setting, run, best)
        made["fields"] = pd.DataFrame([vars_of(cfg) for cfg in arms.arms(setting, arms.models(setting)[0], best, how)])
        made["best"] = pd.DataFrame(rows, columns=["model", "strategy", "steps", "rate"])
    return made


def test_every_arm_is_there_once(tables):
    table = tables["strategies"]
    keys = ["model", "criterion", "strategy", "s", "draw"]
    assert not table.duplicated(keys).any()
    counts = table.groupby(["criterion", "strategy"]).size().to_dict()
    assert counts["random", "one_shot"] == counts["random", "lottery"] == 12
    assert counts["random", "one_shot_tokens"] == 2
    for criterion in ("ean", "ege"):
        assert [counts[criterion, name] for name in ("one_shot", "iterative", "lottery")] == [6, 6, 6]
        assert [counts[criterion, name] for name in ("one_shot_tokens", "iterative_tokens")] == [1, 1]
    assert {name for criterion, name in counts if criterion == "none"} == {"full", "full_tokens", "small_scratch"}
    tuned = table[
        table["strategy"].isin(("lottery", "one_shot_tokens", "iterative_tokens", "full_tokens")) & (table["s"] == 75)
    ]
    assert tuned["tokens"].unique().tolist() == [2 * 2 * 16]
    scratch = table.loc[table["strategy"] == "small_scratch", "tokens"].item()
    assert 0 <= scratch - 2 * 2 * 16 < 4 * 16


def test_units_average_to_the_table(tables):
    keys = ["criterion", "strategy", "s", "draw"]
    means = tables["strategies_units"].groupby(keys)["loss"].mean()
    expected = tables["strategies"].set_index(keys)["loss"]
    pd.testing.assert_series_equal(means.sort_index(), expected.sort_index(), atol=1e-6, rtol=0)


def test_every_number_of_steps_has_the_rate_with_the_lowest_validation_loss(tables):
    rates = tables["rates"]
    assert rates.groupby(["strategy", "steps"]).size().to_dict() == {
        ("full", 1): 2, ("full", 2): 2, ("one_shot", 1): 2, ("one_shot", 2): 2, ("small_scratch", 6): 1,
        ("lottery", 2): 4, ("one_shot_tokens", 2): 4,
    }  # fmt: skip
    rates = rates[~rates["strategy"].isin(SCHEDULED)].dropna(subset="loss")
    best = rates.loc[rates.groupby(["strategy", "steps"])["loss"].idxmin()].set_index(["strategy", "steps"])
    used = tables["best"].query("strategy != 'small_scratch'").set_index(["strategy", "steps"])["rate"]
    assert used.to_dict() == best["learning_rate"].to_dict()
    assert best["chosen"].all()


def test_lottery_and_control_have_the_schedule_and_the_factor_with_the_lowest_validation_loss(tables):
    rates, one_shot = tables["rates"], tables["best"].query("strategy == 'one_shot'").set_index("steps")["rate"]
    for strategy, kind in zip(SCHEDULED, ("lottery", "control"), strict=True):
        own = rates[rates["strategy"] == strategy]
        best = own.loc[own["loss"].idxmin()]
        assert own["chosen"].sum() == 1
        assert best["chosen"]
        last = one_shot[2 if best["schedule"] == "one cosine" else 1]
        fields = tables["fields"].query("criterion != 'none'")
        assert set(fields[f"{kind}_schedule"]) == {best["schedule"]}
        assert fields[f"{kind}_factor"].to_numpy() == pytest.approx(best["learning_rate"] / last)


def test_agreement_is_counted_from_the_dropped_sets(tables):
    sets, row = tables["dropped_sets"], tables["agreement"].iloc[-1]
    at = sets[(sets["s"] == 50) & (sets["criterion"] == row["criterion"]) & (sets["layer"] == row["layer"])]
    dropped = {name: set(part.loc[part["dropped"], "expert"]) for name, part in at.groupby("strategy")}
    first, second = dropped[row["first"]], dropped[row["second"]]
    assert row["jaccard"] == len(first & second) / len(first | second)
    assert row["chance"] == pytest.approx(strategies.chance(8, 4))


def test_evidence_meets_the_rules_of_its_claim(tables):
    measured = {}
    for claim in load_claims(root() / "papers" / "moe_lottery"):
        if claim.id in strategies.EVIDENCE:
            evidence = strategies.EVIDENCE[claim.id](tables.__getitem__)
            measured[claim.id] = evidence
            control = strategies.CONTROLS[claim.id](tables.__getitem__)
            assert set(control["part"]) <= set(evidence["part"])
            verdict = decide(claim, evidence, "laptop", lambda: (True, ""), control=control)
            assert "3 seeds needed, 1 run" in verdict.reason
    assert set(measured) == {"M5", "M6", "M7", "M8", "M9", "M10", "M10b"}
    assert {name: set(rows["part"]) for name, rows in measured.items() if name in ("M5", "M6")} == {
        "M5": {"ean", "ege"}, "M6": {"ean", "ege", "random"},
    }  # fmt: skip
    assert len(measured["M7"]) == 3 * 6
    assert len(measured["M9"]) == (2 + 2) * 2  # criteria and draws, layers


def test_m6_is_the_paired_difference_where_both_were_measured(tables):
    units = tables["strategies_units"]
    at = (
        units[(units["criterion"] == "random") & (units["s"] == 75) & (units["unit"] == 5)]
        .groupby("strategy")["loss"]
        .mean()
    )
    rows = strategies.EVIDENCE["M6"](tables.__getitem__)
    value = rows.loc[(rows["part"] == "random") & (rows["unit"] == 5), "value"].item()
    assert value == pytest.approx(at["lottery"] - at["one_shot_tokens"], abs=1e-12)


def test_a_loss_that_is_not_a_number_is_shown(tables):
    units = tables["strategies_units"].copy()
    units.loc[(units["strategy"] == "lottery") & (units["draw"] == 1) & (units["unit"] == 5), "loss"] = np.nan
    rows = strategies.EVIDENCE["M6"](lambda name: units)
    assert rows.loc[rows["value"].isna(), ["part", "unit"]].values.tolist() == [["random", 5]]


def test_m8_is_the_share_of_the_last_doubling(tables):
    part = tables["saturation"][tables["saturation"]["strategy"] == "lottery"]
    start, half, end = part["loss"]
    rows = strategies.EVIDENCE["M8"](tables.__getitem__)
    assert rows.loc[rows["part"] == "lottery", "value"].item() == pytest.approx((half - end) / (start - end), abs=1e-9)


def test_figures_are_drawn_from_the_tables(tables):
    units, table = tables["strategies_units"], tables["strategies"]
    effects = pd.concat(
        [figures.differences(units, "lottery", x).assign(against=x) for x in ("one_shot", "one_shot_tokens")]
    )
    random = effects[(effects["label"] == "random, 75 %") & (effects["against"] == "one_shot_tokens")]
    assert random["draws"].item() == 2
    drawn = [
        figures.strategy_curves(table), figures.order_matters(effects, -0.1), figures.agreement_maps(tables["dropped_sets"]),
        figures.load_curves(tables["load"]), figures.same_size(tables["scratch"]),
        figures.saturation(tables["saturation"], published("moe_lottery")),
    ]  # fmt: skip
    assert all(figure.axes[0].get_children() for figure in drawn)
    claims = [claim for claim in load_claims(root() / "papers" / "moe_lottery") if claim.id in ("M5", "M8")]
    table_of_claims = evidence.evidence(tables.__getitem__, claims)
    assert len(evidence.shown(table_of_claims).axes) == 2
    assert evidence.seen(table_of_claims)["M8"].startswith("M8: mean < 0.1 in ")
    lines = {line.get_label(): line for line in drawn[0].axes[0].get_lines()}
    means = table[(table["criterion"] == "random") & (table["strategy"] == "lottery")].groupby("s")["loss"].mean()
    assert lines["lottery"].get_ydata().tolist() == pytest.approx(means.tolist())


def test_beside_the_paper_are_rises_over_the_full_model(tables):
    found = figures.beside_table_2(tables["strategies"], published("moe_lottery"))
    assert found.loc[75.0, ("ean", "lottery", "paper")] == pytest.approx(0.562, abs=5e-4)  # ln(13.05 / 7.44)
    table = tables["strategies"].set_index(["criterion", "strategy", "s"])["loss"]
    rise = table.loc["ege", "iterative", 50.0].item() - table.loc["none", "full", 0.0].item()
    assert found.loc[50.0, ("ege", "iterative", "here")] == pytest.approx(rise)

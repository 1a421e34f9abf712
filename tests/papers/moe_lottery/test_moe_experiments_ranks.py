"""Rank statistics against scipy and closed forms; evidence of the claims from made-up tables with known answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from orchard.papers.moe_lottery.experiments import ranks
from orchard.papers.moe_lottery.experiments.suite import CONTROLS, EVIDENCE, best_of, ratio_by_chance


def test_correlations_are_those_of_scipy_and_nan_where_all_scores_are_one() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 4, (30, 7)).astype(float), draw.standard_normal((30, 7))
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(ranks.correlations(first, second), expected, atol=1e-12)
    assert np.isnan(ranks.rho(np.ones(5), np.arange(5.0)))
    assert ranks.rho(np.array([-np.inf, 1, 2, 3]), np.array([0.1, 0.2, 0.3, 9])) == pytest.approx(1)


def test_information_is_zero_without_and_all_of_the_entropy_with_full_dependence() -> None:
    independent = torch.outer(torch.tensor([1.0, 2, 5]), torch.tensor([3.0, 1])).double()
    determined = torch.tensor([[4.0, 0], [0, 4], [0, 0]]).double()
    bits = ranks.information(torch.stack([independent, determined]))
    torch.testing.assert_close(bits, torch.tensor([0.0, 1.0]).double(), atol=1e-12, rtol=0)


def test_tokens_by_domain_keep_their_sum_and_shuffling_keeps_the_sizes_of_domains() -> None:
    routed = torch.randint(9, (2, 3, 11))
    domain = torch.tensor([0, 1, 2, 0, 1, 2, 2, 2, 0, 1, 0])
    counts = ranks.by_domain(routed, domain, 3)
    torch.testing.assert_close(counts.sum(dim=2), routed.sum(dim=2).double())
    assert counts[1, 2, 1] == sum(routed[1, 2, i] for i in range(11) if domain[i] == 1)
    again = ranks.shuffled(domain, 3)
    assert torch.equal(again.bincount(), domain.bincount())
    assert not torch.equal(again, domain)


def made_up(models: int = 2, layers: int = 3, n: int = 8) -> pd.DataFrame:
    """A criterion that orders experts as their cost does, its reverse, and one that knows nothing."""
    draw, rows = np.random.default_rng(1), []
    for model in range(models):
        for layer in range(layers):
            cost = draw.exponential(size=n)
            for name, score in (("ean", np.exp(cost)), ("rwn", -cost), ("ews", draw.random(n)), ("evtc", np.ones(n))):
                for expert in range(n):
                    rows.append({
                        "model": f"m{model}", "seed": model, "criterion": name, "group": "g", "layer": layer, "expert": expert,
                        "score": score[expert], "increase": cost[expert],
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_pooled_intervals_hold_what_is_known_and_chance_is_around_zero() -> None:
    table = ranks.pooled(made_up()).set_index("criterion")
    assert table.loc["ean", "rho"] == table.loc["ean", "low"] == pytest.approx(1)
    assert table.loc["rwn", "rho"] == table.loc["rwn", "high"] == pytest.approx(-1)
    assert table.loc["ews", "low"] < table.loc["ews", "rho"] < table.loc["ews", "high"]
    assert np.isnan(table.loc["evtc", "rho"])
    chance = table.loc["random"]
    assert chance["low"] < -0.1 < 0.1 < chance["high"]
    assert abs(chance["rho"]) < 0.05
    pd.testing.assert_frame_equal(table.reset_index(), ranks.pooled(made_up()))


def test_agreement_between_criteria_is_symmetric_with_ones_on_the_diagonal() -> None:
    grid = ranks.between(made_up()).pivot(index="first", columns="second", values="rho")
    assert grid.loc["ean", "rwn"] == pytest.approx(-1)
    assert grid.loc["ews", "ews"] == pytest.approx(1)
    assert np.isnan(grid.loc["evtc", "ean"])
    np.testing.assert_allclose(grid, grid.T)


def costs(*values: float) -> pd.DataFrame:
    rows = [{"model": "a", "split": "test", "domain": "all", "increase": value} for value in values]
    other = [{"model": "a", "split": "validation", "domain": "all", "increase": 99.0}]
    return pd.DataFrame([*rows, *other, {"model": "a", "split": "test", "domain": "prose", "increase": 99.0}])


def test_m1_divides_the_largest_cost_by_the_median_one_and_by_what_luck_gives() -> None:
    evidence, luck = EVIDENCE["M1"], ratio_by_chance(5)
    assert evidence(lambda name: costs(0.1, 0.2, 0.3, 0.9, 0.2))["value"].tolist() == pytest.approx([4.5 / luck])
    draws = np.random.default_rng(7).exponential(size=(4000, 5))
    above = draws.max(axis=1) / np.median(draws, axis=1) > luck
    assert above.mean() == pytest.approx(0.05, abs=0.02)
    assert evidence(lambda name: costs(-0.1, -0.2, 0.0, 0.9, -0.2))["value"].tolist() == [np.inf]
    assert np.isnan(evidence(lambda name: costs(-0.1, -0.2, -0.3))["value"].iloc[0])
    assert np.isnan(evidence(lambda name: costs(0.1, 0.2, np.nan, 0.9))["value"].iloc[0])


def curves() -> dict[str, pd.DataFrame]:
    """Two models: EAN is best on validation text for one, EGN for the other; on test text EAS would be."""
    area = {
        "a": {"ean min": (1.0, 2.0), "egn min": (1.5, 1.9), "eas max": (1.9, 0.5), "euf min": (2.0, 3.0), "rwn max": (3.0, 3.5)},
        "b": {"ean min": (1.6, 2.2), "egn min": (1.5, 2.5), "eas max": (1.9, 0.5), "euf min": (4.0, 3.0), "rwn max": (3.0, 2.5)},
    }  # fmt: skip
    groups = {"ean": "activation", "egn": "gradient", "eas": "activation", "euf": "inference", "rwn": "weight"}
    rows, units = [], []
    for model, own in area.items():
        own = own | {"rwn min": (9.0, 3.25), "ege min": (9.0, 2.0), "reap min": (0.1, 0.1)}
        for key, (validation, test) in own.items():
            name, direction = key.split()
            facts = {"model": model, "criterion": name, "direction": direction, "group": groups.get(name, "gradient"),
                     "budget": "per layer"}  # fmt: skip
            rows += [facts | {"split": "validation", "s": s, "loss": validation} for s in (12.5, 25.0)]
            units += [facts | {"draw": 0, "unit": unit, "value": test + unit} for unit in range(3)]
        for draw in range(10):
            facts = {"model": model, "criterion": "random", "direction": "", "group": "random", "budget": "per layer"}
            rows += [facts | {"draw": draw, "split": "validation", "s": s, "loss": 5.0 + draw} for s in (12.5, 25.0)]
            units += [facts | {"draw": draw, "unit": unit, "value": 4.0 + draw / 10 + unit} for unit in range(3)]
    return {"criteria_curves": pd.DataFrame(rows), "criteria_units": pd.DataFrame(units)}


def test_the_best_of_a_group_is_chosen_on_validation_text_among_the_papers_criteria() -> None:
    found = best_of(curves()["criteria_curves"], ("activation", "gradient")).set_index("model")
    assert found.loc["a"].tolist() == ["ean", "min"]
    assert found.loc["b"].tolist() == ["egn", "min"]  # not REAP, which the paper does not have


def test_m2_compares_with_the_mean_of_the_draws_window_by_window() -> None:
    table = EVIDENCE["M2"](curves().__getitem__)
    assert table["part"].nunique() == 3
    assert not table.duplicated(["part", "seed", "unit"]).any()
    means = table.groupby(["part", "seed"], sort=False)["value"].mean()
    assert means["Min-EAN − random"].tolist() == pytest.approx([2.0 - 4.45, 2.2 - 4.45])
    best = means["best activation or gradient − best weight or usage"]
    assert best.tolist() == pytest.approx([2.0 - 3.0, 2.5 - 2.5])  # the test losses of what was chosen


def test_m4_is_max_minus_min_for_every_model() -> None:
    assert EVIDENCE["M4"](curves().__getitem__)["value"].tolist() == pytest.approx([0.25, -0.75])


def test_a_window_that_is_not_a_number_is_shown() -> None:
    tables = curves()
    units = tables["criteria_units"]
    units.loc[(units["model"] == "a") & (units["criterion"] == "rwn") & (units["unit"] == 1), "value"] = np.nan
    assert EVIDENCE["M4"](tables.__getitem__)["value"].isna().tolist() == [True, False]
    units.loc[(units["criterion"] == "random") & (units["draw"] == 3) & (units["unit"] == 2), "value"] = np.nan
    found = EVIDENCE["M2"](tables.__getitem__)
    assert found.loc[found["part"] == "Min-EAN − random", "value"].isna().sum() == 2


def test_correlations_become_a_part_for_each_criterion() -> None:
    spearman = ranks.by_layer(made_up())
    table = EVIDENCE["M3"](lambda name: spearman)
    assert table["part"].tolist() == ["EAN"] * 6
    assert table["value"].tolist() == pytest.approx([1.0] * 6)
    assert EVIDENCE["M14"](lambda name: spearman)["value"].isna().all()


def test_controls_know_nothing_of_the_costs() -> None:
    table = made_up(models=3)
    shuffled = CONTROLS["M3"](lambda name: table)
    assert len(shuffled) == len(EVIDENCE["M3"](lambda name: ranks.by_layer(table))) == 9
    assert shuffled["value"].mean() < 0.6
    tables = curves()
    units = tables["criteria_units"]
    random = units[(units["criterion"] == "random") & (units["draw"] < 5)]
    found = CONTROLS["M4"](tables.__getitem__)
    drawn = random.groupby(["model", "draw"])["value"].mean().unstack("draw")
    assert found["value"].tolist() == pytest.approx((drawn[4] - drawn[3]).tolist())
    assert CONTROLS["M2"](tables.__getitem__)["part"].nunique() == 3
    few = {name: table[~table["draw"].between(2, 9)] if "draw" in table else table for name, table in tables.items()}
    assert CONTROLS["M2"](few.__getitem__).empty
    assert CONTROLS["M4"](few.__getitem__).empty

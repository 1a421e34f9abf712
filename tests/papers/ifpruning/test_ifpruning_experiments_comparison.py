"""Overlap, gauge and intervals by brute force, and what is said about them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.papers.ifpruning.experiments import explanation
from orchard.papers.ifpruning.experiments.arms import EPSILON, MULTIPLIERS, TURNS, Study, tuning
from orchard.papers.ifpruning.experiments.comparison import VARIANTS
from orchard.papers.ifpruning.experiments.profiles import PROFILES, cells
from orchard.papers.ifpruning.figures import ablation, comparison, training
from orchard.papers.ifpruning.method import overlap
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Setting
from orchard.stats import paired_bootstrap

SEEDS, QUESTIONS = (0, 1, 2), 60


def answers(shares: dict[tuple[str, str, str], float]) -> pd.DataFrame:
    """The table `answers` where each (variant, arm, evaluation) has this share of right answers, the same for all seeds."""
    rows = []
    for (variant, arm, evaluation), share in shares.items():
        for seed in SEEDS:
            right = np.arange(QUESTIONS) < round(share * QUESTIONS)
            rows.append(
                pd.DataFrame({"question": np.arange(QUESTIONS), "domain": 0, "right": np.roll(right, 7 * seed).astype(float)})
                .assign(variant=variant, seed=seed, arm=arm, evaluation=evaluation)
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


# --------------------------------------------------------------------- overlap and gauge


def random_masks(prompts: int, layers: int, width: int, keep: int) -> torch.Tensor:
    scores = torch.rand(prompts, layers, width, generator=torch.Generator().manual_seed(3))
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(2, scores.topk(keep).indices, True)


def test_overlap_and_gauge_by_brute_force() -> None:
    masks, domain = random_masks(7, 3, 11, 4), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    sets = [[set(row.nonzero().flatten().tolist()) for row in prompt] for prompt in masks]
    pairs = overlap.overlaps(masks)
    for layer, a, b in itertools.product(range(3), range(7), range(7)):
        assert pairs[layer, a, b].item() == pytest.approx(len(sets[a][layer] & sets[b][layer]) / 4)
    means = overlap.by_domain(masks, domain, 3)
    for layer, first, second in itertools.product(range(3), range(3), range(3)):
        found = [
            len(sets[a][layer] & sets[b][layer]) / 4
            for a, b in itertools.permutations(range(7), 2)
            if domain[a] == first and domain[b] == second
        ]
        assert means[layer, first, second].item() == pytest.approx(np.mean(found))
    measured = overlap.gauge(masks, domain, 3)
    used = [len(set.union(*(prompt[layer] for prompt in sets))) / 11 for layer in range(3)]
    assert measured["union"] == pytest.approx(np.mean(used))
    assert measured["chance"] == pytest.approx(4 / 11)
    counts = masks.sum(dim=0).numpy() / masks.sum(dim=(0, 2)).numpy()[:, None]
    entropy = [-sum(p * np.log(p) for p in row if p) / np.log(11) for row in counts]
    assert measured["use"] == pytest.approx(np.mean(entropy), rel=1e-5)


def test_a_domain_with_one_prompt_has_no_overlap_of_its_own() -> None:
    means = overlap.by_domain(random_masks(3, 1, 9, 2), torch.tensor([0, 0, 1]), 2)
    assert torch.isnan(means[0, 1, 1])
    assert not torch.isnan(means[0, 0]).any()


@pytest.mark.parametrize(
    ("across", "union", "said"),
    [(0.9, 0.8, "overlap by 0.900"), (0.3, 0.375, "only 0.375 of the channels"), (0.89, 0.38, "")],
)
def test_collapsed_says_why(across: float, union: float, said: str) -> None:
    why = overlap.collapsed({"across": across, "union": union, "chance": 0.25})
    assert said in why
    assert bool(why) is bool(said)


def test_equal_masks_are_collapsed_and_disjoint_ones_are_not() -> None:
    domain = torch.tensor([0, 0, 1, 1])
    same = random_masks(1, 2, 12, 3).expand(4, -1, -1)
    assert "1.000" in overlap.collapsed(overlap.gauge(same, domain, 2))
    blocks = torch.eye(2, dtype=torch.bool).repeat_interleave(3, dim=1)[domain][:, None].expand(-1, 2, -1)
    measured = overlap.gauge(blocks, domain, 2)
    assert measured["within"] == 1
    assert measured["across"] == 0
    assert not overlap.collapsed(measured)


# --------------------------------------------------------------------- intervals and what they say


def test_interval_of_a_difference_is_that_of_the_claims() -> None:
    random = np.random.default_rng(0)
    table = answers({("win", "a", "test"): 0.7, ("win", "b", "test"): 0.5})
    table["right"] = (random.random(len(table)) < 0.4 + 0.3 * (table["arm"] == "a")).astype(float)
    found, seeds = explanation.interval(table, [("a", "test"), ("b", "test")], explanation.minus)
    wide = table.pivot(index=["seed", "question"], columns="arm", values="right")
    expected = paired_bootstrap(wide["a"] - wide["b"], wide.index.get_level_values("seed"))
    assert seeds == 3
    assert found.estimate == pytest.approx(expected.estimate)
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)


def test_interval_of_a_share_and_of_what_is_missing() -> None:
    table = answers({("win", "a", "test"): 0.9, ("win", "k", "test"): 0.5, ("win", "D", "test"): 1.0})
    found, _ = explanation.interval(table, [("a", "test"), ("k", "test"), ("D", "test")], explanation.share_of)
    assert found.estimate == pytest.approx(0.8)
    assert found.low < 0.8 < found.high
    missing, seeds = explanation.interval(table, [("nothing", "test")], lambda means: means[..., 0])
    assert seeds == 0
    assert np.isnan(missing.estimate)


@pytest.mark.parametrize(
    ("low", "high", "lsh", "domain"),
    [
        (0.1, 0.3, "learned selection beats random masks", "learned masks beat random masks"),
        (-0.1, 0.3, "conditioning, not selection, explains the gain", "a random mask for every domain"),
        (-0.3, -0.1, "conditioning, not selection, explains the gain", "a random mask for every domain"),
    ],
)
def test_conclusion_follows_the_interval(low: float, high: float, lsh: str, domain: str) -> None:
    rows = [
        {"other": other, "variant": "win", "effect": (low + high) / 2, "low": low, "high": high}
        for other in ("rand_lsh", "rand_mask")
    ]
    first, second = explanation.conclusion(pd.DataFrame(rows))
    assert lsh in first
    assert domain in second


def test_map_reproduces_distances_in_the_plane() -> None:
    points = np.array([[0.0, 0.0], [0.4, 0.0], [0.0, 0.3], [0.5, 0.2], [0.5, 0.2]])
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    place = explanation.embedded(1 - distance)
    assert np.linalg.norm(place[:, None] - place, axis=-1) == pytest.approx(distance, abs=1e-6)


def pairs_table() -> pd.DataFrame:
    """Six prompts of three domains in one layer of two groups: those of a domain overlap by 0.9, of a group by 0.6, others by 0.2."""
    domain, group = ["A1", "A1", "A2", "A2", "B1", "B1"], ["A", "A", "A", "A", "B", "B"]
    rows = []
    for layer, a, b in itertools.product((1, 2), range(6), range(6)):
        value = 1.0 if a == b else 0.9 if domain[a] == domain[b] else 0.6 if group[a] == group[b] else 0.2
        rows.append({"layer": layer, "prompt": a, "other": b, "overlap": value, "domain": domain[a], "group": group[a],
                     "wording": "training", "text": f"prompt {a}"})  # fmt: skip
    return pd.DataFrame(rows)


def test_nearest_and_neighbours() -> None:
    table = pairs_table()
    rows = explanation.nearest(table, 2, count=3)
    assert list(rows.index) == [3, 0, 1]
    assert rows["mean"].tolist() == pytest.approx([0.9, 0.6, 0.6])
    assert rows["text"].iloc[0] == "prompt 3"
    with pytest.raises(KeyError, match="prompt 9 is not on the map: give 0 to 5"):
        explanation.nearest(table, 9)
    found = explanation.neighbours(table, count=1)
    assert found == pytest.approx({"own domain": 1.0, "by chance": 0.2, "group": 0.6, "other groups": 0.2})


def test_a_ratio_over_a_gap_that_may_be_0_has_no_interval_and_says_so() -> None:
    table = answers({("win", "dense_k", "test"): 0.5, ("win", "dense_D", "test"): 0.5, ("win", "ifp", "test"): 0.75})
    one = (table["arm"] == "dense_D") & (table["seed"] == 0) & (table["question"] == 59)
    table.loc[one, "right"] = 1.0  # one question apart, in one seed
    columns = [("ifp", "test"), ("dense_k", "test"), ("dense_D", "test")]
    found, seeds = explanation.interval(table, columns, explanation.share_of)
    assert (seeds, found.note) == (3, explanation.NO_INTERVAL)
    assert np.isfinite(found.estimate)
    assert np.isnan([found.low, found.high]).all()
    said = explanation.with_interval(found.estimate, found.low, found.high)
    assert said == "45.00 (no interval: the gap may be 0)"
    assert explanation.with_interval(0.712, 0.6, 0.825, digits=2) == "0.71 (0.60 to 0.82)"
    assert explanation.with_interval(np.nan, np.nan, np.nan) == "not measured"


# --------------------------------------------------------------------- worlds and tuning


def test_variants_take_as_many_bits_whatever_domains_share() -> None:
    """The null would otherwise be learned whole by every arm."""
    setting = Setting("laptop")
    full = cells(setting)[0].corpus.build().bits
    for variant in VARIANTS.values():
        cell = cells(setting, **variant)[0]
        assert cell.corpus.build().bits == pytest.approx(full, rel=0.15)
        assert cell.reading.num_keys == cell.corpus.num_keys  # the predictor's language model knows the same tokens
        assert (
            len(cell.corpus.build().answers(cell.corpus.build().evaluation("test"))) <= 8 * 400 / 8
        )  # and as many questions
    assert cells(setting)[0].corpus.asked is None


def test_every_family_is_tuned_at_a_seed_of_its_own_and_masked_arms_start_from_the_tuned_source() -> None:
    asked: list[Train.Config] = []

    def run(cfgs: Any) -> list[Any]:
        asked.extend(getattr(cfg, "run", cfg) for cfg in cfgs)
        return [
            SimpleNamespace(result={"failed": "", "validation_accuracy": score(getattr(cfg, "run", cfg))})
            for cfg in cfgs
        ]

    def score(cfg: Train.Config) -> float:
        return -abs(cfg.optim.learning_rate - 4e-3)  # below the middle of the grid, which is widened

    found = tuning(Setting("laptop"), run)
    assert {cfg.seed for cfg in asked} == {0}
    assert 0 not in PROFILES["laptop"].seeds
    families = {name for turn in TURNS for name in turn}
    assert {name: rate for name, rate in found.chosen.items() if name in families} == dict.fromkeys(families, 4e-3)
    assert set(found.chosen) == families | {EPSILON, MULTIPLIERS}
    trials = [cfg for cfg in asked if cfg.label.startswith("ifp,")]
    assert {cfg.optim.learning_rate for cfg in trials} == {2e-3, 4e-3, 8e-3, 16e-3}
    assert {cfg.start.start.optim.learning_rate for cfg in trials} == {4e-3}  # type: ignore[union-attr]
    study = Study(cells(Setting("laptop"))[0], found.chosen | {"hard_concrete": 2e-3, MULTIPLIERS: 300.0})
    concrete = study.arm("hard_concrete")
    assert (concrete.optim.learning_rate, concrete.selector.multiplier_rate) == (2e-3, 300.0)  # type: ignore[union-attr]


# --------------------------------------------------------------------- figures and the headline


def test_figures_say_what_they_show_with_arms_in_words() -> None:
    steps = np.arange(1, 9) * 10
    curves = pd.concat([
        pd.DataFrame({"step": steps, "loss": 2.0, "validation_loss": 1.0 + seed, "validation_accuracy": rate * steps / 80, "seed": seed,
                      "stage": ["pretrain"] * 4 + ["sft"] * 4}).assign(arm=arm)
        for arm, rate in (("dense_k", 0.4), ("dense_D", 0.8), ("rand_mask", 0.9), ("ifp", 0.8), ("hard_concrete", 0.5)) for seed in (1, 2)
    ])  # fmt: skip
    drawn = training.accuracy_curves(curves).axes[0]
    assert drawn.get_title(loc="left") == "last quarter: small dense +10 points, IFP +20"
    assert len(drawn.get_lines()) == 4 * 3 + 1  # two seeds and their mean; the end of a stage
    assert "HardConcrete 2.00" in ablation.gate_losses(curves).axes[0].get_title(loc="left")
    scores = pd.DataFrame(
        {"arm": ["dense_k", "ifp"], "accuracy": [0.5, 0.7], "low": 0.4, "high": 0.8, "flops_factor": [1.0, 2.0]}
    )
    left = comparison.arm_scores(scores, curves.assign(test=0.5)).axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "mask per instruction (IFP)",
        "small dense (width k)",
    ]
    assert left.get_title(loc="left") == "most right: mask per instruction (IFP)"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.2, "beat random ones"), (-0.2, -0.1, "beat learned"), (-0.1, 0.1, "not told apart")],
)
def test_the_headline_follows_the_interval(low: float, high: float, said: str) -> None:
    scores = pd.DataFrame({"arm": ["dense_k", "dense_D", "ifp", "rand_mask"], "accuracy": [0.5, 0.7, 0.8, 0.9]})
    row = {"other": "rand_mask", "variant": "win", "effect": (low + high) / 2, "low": low, "high": high}
    text = explanation.headline(scores, pd.DataFrame([row]))
    assert said in text
    assert text.startswith("Right answers: random masks, told the domain 0.900, mask per instruction (IFP) 0.800")

"""The evidence for the claims on tables made by hand, which each can come out either way; overlap, gauge and intervals by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.claims import decide, load_claims
from orchard.papers.ifpruning.experiments import EVIDENCE, explanation
from orchard.papers.ifpruning.method import overlap
from orchard.series import papers_folder
from orchard.stats import paired_bootstrap

CLAIMS = {claim.id: claim for claim in load_claims(papers_folder("ifpruning"))}
SEEDS, QUESTIONS = (0, 1, 2), 60
DOMAINS = ("A1", "A2", "A3", "B1", "B2", "B3")


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


def arm_table(**scores: float) -> pd.DataFrame:
    rows = [
        {"variant": "win", "seed": seed, "arm": arm, "test": score} for arm, score in scores.items() for seed in SEEDS
    ]
    return pd.DataFrame(rows).assign(across=0.3, union=0.8, chance=0.25)


def overlap_table(related: float, other: float, first_layer: float) -> pd.DataFrame:
    """Two layers of masks of ifp: in the last, pairs of one group and of two; in the first, all pairs alike."""
    rows = []
    for seed, layer, row, column in itertools.product(SEEDS, (1, 2), DOMAINS, DOMAINS):
        kin = row[0] == column[0]
        value = 1.0 if row == column else first_layer if layer == 1 else related if kin else other
        rows.append({"seed": seed, "arm": "ifp", "layer": layer, "row": row, "column": column, "row_block": row[0],
                     "column_block": column[0], "overlap": value + 0.001 * seed, "chance": 0.25})  # fmt: skip
    return pd.DataFrame(rows)


def win(other: str, ours: float, theirs: float, evaluation: str = "test", variant: str = "win") -> pd.DataFrame:
    return answers({(variant, "ifp", "test"): ours, (variant, other, evaluation): theirs})


def both(ours: float, theirs: float) -> pd.DataFrame:
    return answers(
        {
            ("kin", arm, name): share
            for arm, share in (("ifp", ours), ("rand_lsh", theirs))
            for name in ("test", "mixed")
        }
    )


def sooner(ours: float, theirs: float) -> pd.DataFrame:
    """ifp, and fine-tuning alone for as many steps in all and of fine-tuning."""
    arms = {"ifp": ours, "ifp_sft_only": theirs, "ifp_sft_short": theirs}
    return answers({("win", arm, "test"): share for arm, share in arms.items()})


CASES: dict[str, tuple[str, Callable[[bool], pd.DataFrame]]] = {
    "C1": ("answers", lambda good: win("dense_k", 0.9 if good else 0.4, 0.6)),
    "C1s": ("answers", lambda good: win("dense_k", 0.9 if good else 0.63, 0.6)),
    "C1f": ("answers", lambda good: win("dense_k_long", 0.9 if good else 0.4, 0.6)),
    "C1n": ("answers", lambda good: win("dense_k", 0.9, 0.9 if good else 0.6, variant="null")),
    "C2": ("answers", lambda good: win("static_kd", 0.9 if good else 0.4, 0.6)),
    "C2s": ("answers", lambda good: both(0.9 if good else 0.4, 0.6)),
    "C3": ("arms", lambda good: arm_table(dense_k=0.5, dense_D=1.0, ifp=0.9 if good else 0.6)),
    "C5": ("answers", lambda good: win("ifp", 0.9, 0.9 if good else 0.6, "task")),
    "C8": ("answers", lambda good: sooner(0.9 if good else 0.4, 0.6)),
    "C6a": ("mask_overlaps", lambda good: overlap_table(0.7, 0.4 if good else 0.69, 0.9)),
    "C6a2": ("mask_overlaps", lambda good: overlap_table(0.7, 0.4 if good else 0.2, 0.9)),
    "C6b": ("mask_overlaps", lambda good: overlap_table(0.5, 0.4, 0.9 if good else 0.3)),
    "C6c": ("arms", lambda good: arm_table(ifp=0.9, ifp_st=0.9).assign(across=0.3 if good else 0.95)),
    "C6d": ("answers", lambda good: win("ifp", 0.9, 0.1 if good else 0.87, "swapped")),
}  # fmt: skip


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_claim_can_come_out_either_way(name: str, good: bool) -> None:
    experiment, table = CASES[name]
    tables = {experiment: table(good)}
    verdict = decide(CLAIMS[name], EVIDENCE[name](tables.__getitem__), CLAIMS[name].profile)
    assert verdict.verdict == ("supported" if good else "refuted"), verdict.reason


def test_every_claim_of_the_comparison_has_a_case() -> None:
    rules = {claim: getattr(rule, "func", rule) for claim, rule in EVIDENCE.items()}
    own = {claim for claim, rule in rules.items() if rule.__module__.endswith(".comparison")}
    assert set(CASES) == own


def test_channels_in_use_alone_can_refute_c6c() -> None:
    table = arm_table(ifp=0.9, ifp_st=0.9).assign(union=0.3)
    assert (
        decide(CLAIMS["C6c"], EVIDENCE["C6c"]({"arms": table}.__getitem__), CLAIMS["C6c"].profile).verdict == "refuted"
    )


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

"""The table of variants: what each decoder is made of, equal parameters, rates, evidence and figures from units."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.claims import load_claims
from orchard.data.published import published
from orchard.nn import Attention
from orchard.papers.rattention.experiments import EVIDENCE, MAPS, PARTS, ablations
from orchard.papers.rattention.experiments.ablations import TUNED, VARIANTS, rates, variant, variant_run, variants_of
from orchard.papers.rattention.experiments.profiles import PROFILES, TUNING_SEED
from orchard.papers.rattention.figures.ablation import (
    ablation,
    beside_paper,
    by_stratum,
    compare,
    effects,
    global_ratio,
    said,
)
from orchard.papers.rattention.method.attention import RAttention
from orchard.papers.rattention.method.variants import HeadSplit, RandomWindow, Taylor, Variant
from orchard.paths import root
from orchard.runs import Setting
from orchard.runs.grid import Best
from orchard.train import TrainLM

SMOKE = PROFILES["smoke"]


@pytest.mark.parametrize("profile", ["smoke", "gpu"])
def test_variants_have_the_parameters_of_the_base(profile):
    def count(name: str) -> int:
        with torch.device("meta"):
            return variant(name, PROFILES[profile]).build().num_parameters(embedding=False)

    counts = {name: count(name) for name in VARIANTS}
    for name, change in VARIANTS.items():
        share = 0.02 if name == "learned start" else 0.01  # what it learns is more than any other variant adds
        assert counts[name] == pytest.approx(counts[change.against], rel=share), name
    kinds = {name: type(variant(name, PROFILES[profile]).layers[0].attention) for name in VARIANTS}
    bare = (Variant.Config, Taylor.Config, RandomWindow.Config)  # they have no parameters of their own, as no map has
    same = {name for name in VARIANTS if kinds[name] in bare or VARIANTS[name].group == "feature map"}
    assert len(same) == 11
    assert {counts[name] for name in same} == {counts["base"]}
    assert counts["−norm"] < counts["one norm"] < counts["base"]


def test_where_the_branch_is():
    def branch(name: str) -> list[bool]:
        return [isinstance(layer.attention, RAttention.Config) for layer in variant(name, PROFILES["gpu"]).layers]

    assert branch("base") == [True, True, True, False] * 2
    assert branch("early layers") == [True, True, True, False] + [False] * 4
    assert branch("late layers") == [False] * 4 + [True, True, True, False]
    late = variant("late layers", PROFILES["gpu"]).layers[0].attention
    assert (type(late), late.window, late.rotary.theta) == (Attention.Config, 127, 5e5)
    delays = [variant(name, SMOKE).layers[0].attention.delay for name in ("inclusive", "overlap", "gap")]
    assert delays == [0, 8, 32]
    assert variant("random window", SMOKE).layers[0].attention.windows == [3, 7, 15]
    globals_ = {
        r: sum(layer.attention.window is None for layer in variant(f"global 1:{r}", SMOKE).layers) for r in (1, 3, 5, 7)
    }
    assert globals_ == {1: 6, 3: 3, 5: 2, 7: 1}
    assert [len(variant(n, PROFILES["gpu"]).layers) for n in ("base", "global 1:3", "global 1:7")] == [8, 12, 12]
    heads = [
        [layer.attention.num_kv_heads for layer in variant(n, SMOKE).layers] for n in ("one kv head", "H kv heads")
    ]
    assert heads == [[1, 1, 1, 2], [4, 4, 4, 2]]
    assert type(variant("head split", SMOKE).layers[0].attention) is HeadSplit.Config


def test_variants_train_alike():
    runs = [variant_run(name, Setting("gpu"), 1, 1e-3) for name in VARIANTS]
    alike = {
        (r.steps, r.batch_size, r.seq_len, r.seed, r.eval_windows, r.optim.golden(), r.source.golden()) for r in runs
    }
    assert len(alike) == 1
    size = PROFILES["gpu"].ablation
    assert alike.pop()[:4] == (size.steps, size.batch_size, 1024, 1)


def chosen_rates(setting: Setting) -> tuple[dict[str, float], list[TrainLM.Config]]:
    """The rates where validation likes 5e-4 best, and the trainings that were asked for."""
    asked: list[TrainLM.Config] = []

    def run(cfgs):
        trials = [cfg for cfg in cfgs if isinstance(cfg, TrainLM.Config)]
        asked.extend(trials)
        return [
            SimpleNamespace(result={"failed": ""} if cfg not in trials else {"validation_loss": abs(cfg.optim.learning_rate - 5e-4)})
            for cfg in cfgs
        ]  # fmt: skip

    return rates(setting, run).chosen, asked


def test_the_base_is_tuned_on_the_grid_of_the_variants(monkeypatch):
    swept = Best(pd.DataFrame(), {"rattn@16": 1e-3, "rattn@128": 1e-3, "rattn": 1e-3}, {})
    monkeypatch.setattr(ablations.window_sweep, "rates", lambda setting, run: swept)
    for profile in ("laptop", "gpu"):
        found, asked = chosen_rates(Setting(profile))
        assert found == dict.fromkeys(TUNED, 5e-4)
        # The best of 0.5, 1 and 2 times the sweep's rate lies on the edge: one value more is tried beyond it.
        assert len(asked) == len(TUNED) * (len(PROFILES[profile].ablation.factors) + 1)
        assert {cfg.seed for cfg in asked} == {TUNING_SEED}
        assert "base" in TUNED
    found, asked = chosen_rates(Setting("smoke"))
    assert found["identity"] == 1e-3
    assert not asked


def test_a_profile_may_leave_variants_out():
    assert variants_of(Setting("smoke")) == variants_of(Setting("gpu")) == list(VARIANTS)
    few = variants_of(Setting("laptop"))
    assert {"base", *TUNED} <= set(few) < set(VARIANTS)
    shown = units()
    assert set(effects(shown[shown["variant"].isin(few)])["label"]) == set(few) - {"base"}


def units() -> pd.DataFrame:
    """Two seeds, twelve windows; every variant 0.1 bits/byte above the one before it, plus noise common to all."""
    random, rows = np.random.default_rng(0), []
    for seed in (0, 1):
        for unit in range(12):
            for stratum, size in (("none", 60), ("1–8", 20)):
                common = random.normal(2, 0.3)
                rows += [
                    {"variant": name, "seed": seed, "unit": unit, "stratum": stratum, "bytes": size,
                     "nats": size * np.log(2) * (common + 0.1 * place + random.normal(0, 0.01))}
                    for place, name in enumerate(VARIANTS)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def test_effects_are_paired_differences():
    found = effects(units()).set_index("label")
    assert list(found.index) == [n for n, c in VARIANTS.items() if n != "base" and c.against != n]
    order = list(VARIANTS)
    for name, row in found.iterrows():
        gap = 0.1 * (order.index(name) - order.index(row["against"]))
        assert row["effect"] == pytest.approx(gap, abs=0.01)
        assert row["low"] <= row["effect"] <= row["high"]
    parts = by_stratum(units(), "relu", "base").set_index("label")
    assert list(parts.index) == ["all text", "none", "1–8"]
    assert parts["effect"].tolist() == pytest.approx([0.2] * 3, abs=0.01)


def test_the_placebo_is_drawn_and_the_paper_beside_it():
    again = units().query("variant == 'base'").assign(variant="placebo")
    found = effects(pd.concat([units(), again]))
    assert found.iloc[-1][["label", "group", "effect"]].tolist() == ["placebo", "control of C12 and C13", 0.0]
    made = ablation(found, published("rattention"))
    points = {line.get_label(): len(line.get_xdata()) for line in made.axes[1].get_lines() if line.get_marker() in "Do"}
    assert points == {"MMLU (paper, 3B)": 6, "Avg (paper, 3B)": 6}


def test_evidence_has_the_parts_of_the_claims():
    tables = {"ablation_units": units()}
    claims = {claim.id: claim for claim in load_claims(root() / "papers" / "rattention")}
    found = EVIDENCE["C13"](tables.__getitem__)
    assert list(pd.unique(found["part"])) == list(PARTS)
    assert all(part in claims["C13"].metric for part in pd.unique(found["part"]))
    assert found["value"].lt(0).all()
    assert list(pd.unique(EVIDENCE["C12"](tables.__getitem__)["part"])) == list(MAPS)
    assert {*MAPS, *PARTS, "base"} == set(TUNED)
    assert claims["C13"].parts_required == 3


def test_figures_draw_every_row():
    made = ablation(effects(units()))
    labels = [text.get_text() for text in made.axes[0].get_yticklabels()]
    assert labels == [
        f"{said(n)}*" if c.against != "base" else said(n) for n, c in VARIANTS.items() if n != "base" and c.against != n
    ]
    assert said("identity") == "identity map, C12"
    headings = [text.get_text() for text in made.axes[0].texts]
    assert headings == list(dict.fromkeys(c.group for n, c in VARIANTS.items() if n != "base"))
    assert "gap minus relu" in compare(units())("gap", "relu").axes[0].get_xlabel()
    ratios = pd.DataFrame({"variant": ["base", "global 1:1", "global 1:7"], "seed": 0, "cache_bytes": [9, 4096, 1024],
                           "bits_per_byte": [1.0, 2.0, 3.0]})  # fmt: skip
    assert {text.get_text() for text in global_ratio(ratios).axes[0].texts} == {"global 1:1", "global 1:7"}
    with pytest.raises(ValueError, match="no column 'group'"):
        ablation(pd.DataFrame({"label": ["a"], "effect": [0.0], "low": [0.0], "high": [0.0]}))


def test_table_4_stands_beside_ours():
    found = beside_paper(published("rattention"), effects(units()))
    assert found.loc["identity", "MMLU, paper (points)"] == pytest.approx(35.70 - 42.22)
    assert found.loc["head split", "Avg, paper (points)"] == pytest.approx(-0.1)
    assert list(found.index) == ["relu", "identity", "scalar decay", "head split", "−SWA", "−norm"]
    assert found["effect (bits/byte)"].notna().all()

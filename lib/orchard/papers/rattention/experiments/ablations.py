"""What is changed in rattn@T/8, one thing at a time, and what each change is worth on real text (03_ablate; Table 4).

Every variant has the base's parameters but for what its note says and the same tokens in the same order. The base, and the variants
that decide claims C12 and C13, are tuned on one grid of learning rates (`Ablation.factors`); the others take the base's rate, −RLA
that of the sliding window.
What the variants compute stands in `method/variants.py`, here is how each is made from the base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import partial
from typing import Any

import pandas as pd

from orchard.config import replace
from orchard.evidence import Tables, together
from orchard.nn import Attention, Decoder
from orchard.papers.rattention.experiments import window_sweep
from orchard.papers.rattention.experiments.profiles import (
    PROFILES,
    TUNING_SEED,
    Profile,
    chosen,
    model,
    rate_of,
    run_config,
    tuned,
)
from orchard.papers.rattention.experiments.window_sweep import difference, edges, on_edge, units_table
from orchard.papers.rattention.method import variants
from orchard.papers.rattention.method.attention import RAttention
from orchard.papers.rattention.runs.drift import StateDrift
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best
from orchard.train import TrainLM

RATIO_LAYERS = 12  # at least: 6, 3, 2 and 1 global layers at 1:1, 1:3, 1:5 and 1:7


@dataclass(frozen=True)
class Change:
    """One variant: its group in the table, what it changes in words, and how its decoder is made."""

    group: str
    says: str
    make: Callable[[Profile], Decoder.Config]
    against: str = "base"  # the variant it is compared with


def base(profile: Profile, **fields: Any) -> Decoder.Config:
    """rattn@T/8, with other values for fields of its local layers."""
    return model(f"rattn@{profile.eighth}", profile, **fields)


def _layer(kind: type[Attention], profile: Profile, **fields: Any) -> Decoder.Config:
    """The base with another class for its local layers."""
    decoder = base(profile)
    replace(decoder, RAttention, kind.Config(**fields))
    return decoder


def _delayed(profile: Profile, windows: float) -> Decoder.Config:
    return _layer(variants.Variant, profile, delay=round(windows * profile.eighth))


def _random_window(profile: Profile) -> Decoder.Config:
    return _layer(variants.RandomWindow, profile, windows=[profile.eighth // part - 1 for part in (4, 2, 1)])


def _branch_in(profile: Profile, half: int) -> Decoder.Config:
    """The branch in one half of the local layers, the sliding window alone in the other."""
    decoder = base(profile)
    local = _local(decoder)
    middle = (len(local) + 1) // 2
    for layer in local[middle:] if half == 0 else local[:middle]:
        replace(layer, RAttention, Attention.Config(), drop=("chunk_size",))
    return decoder


def _local(decoder: Decoder.Config) -> list[Any]:
    """Its layers that are not global."""
    return [layer for layer in decoder.layers if isinstance(layer.attention, RAttention.Config)]


def _thinner(decoder: Decoder.Config, profile: Profile, matrices: int) -> Decoder.Config:
    """Narrow the feed-forward of the local layers by `matrices` columns of dim x head_dim; in steps of 8, for tensor cores."""
    for layer in _local(decoder):
        layer.feed_forward.hidden_dim -= 8 * round(matrices * profile.head_dim / (3 * 8))
    return decoder


def _learned_start(profile: Profile) -> Decoder.Config:
    return base(profile, use_learned_init=True, learned_tokens=profile.head_dim)


def _own_projections(profile: Profile) -> Decoder.Config:
    return _thinner(_layer(variants.OwnProjections, profile), profile, profile.num_heads + profile.num_kv_heads)


def _kv_heads(profile: Profile, one: bool) -> Decoder.Config:
    """All query heads share one kv head, or each has its own."""
    decoder, count = base(profile), 1 if one else profile.num_heads
    for layer in _local(decoder):
        layer.attention.num_kv_heads = count
    return _thinner(decoder, profile, 2 * (count - profile.num_kv_heads))


def _ratio(profile: Profile, period: int) -> Decoder.Config:
    return base(changed(profile, num_layers=max(RATIO_LAYERS, profile.num_layers)), period=period)


MAP, NORM, BRANCH, START, RECURRENCE, STRUCTURE = (
    "feature map", "norm", "branches", "start of the branch", "recurrence", "structure",
)  # fmt: skip
VARIANTS: dict[str, Change] = {
    "base": Change("base", "φ(x) = [softmax(x), softmax(−x)], δ = w + 1, RMS(o_swa) + RMS(o_rla)", base),
    "half softmax": Change(MAP, "φ(x) = softmax(x): half the state", partial(base, feature_map="half_softmax")),
    "relu": Change(MAP, "φ(x) = [relu(x), relu(−x)]", partial(base, feature_map="relu")),
    "elu + 1": Change(MAP, "φ(x) = elu(x) + 1: half the state", partial(base, feature_map="elu")),
    "identity": Change(MAP, "φ(x) = x: half the state", partial(base, feature_map="identity")),
    "taylor": Change(MAP, "φ(q)·φ(k) = 1 + s + s²/2, s = q·k/√r on r channels, as large a state", partial(_layer, variants.Taylor)),
    "−norm": Change(NORM, "o_swa + o_rla, no norm", partial(base, output_norm=None)),
    "one norm": Change(NORM, "RMS(o_swa + o_rla)", partial(_layer, variants.SharedNorm)),
    "gain 0.1": Change(NORM, "the gain of RMS(o_rla) starts at 0.1 instead of 1 (ours, not the paper's)", partial(base, rla_gain=0.1)),
    "joint denominator": Change(NORM, "one softmax-like normalisation over both branches (LoLCATs)",
        partial(_layer, variants.JointDenominator)),
    "−SWA": Change(BRANCH, "linear attention alone, the current token included", partial(model, "la")),
    "−RLA": Change(BRANCH, "the sliding window alone", lambda p: model(f"swa@{p.eighth}", p)),
    "head split": Change(BRANCH, "half of the heads see the window, half linear attention", partial(_layer, variants.HeadSplit)),
    "RoPE on branch": Change(BRANCH, "φ(RoPE(q)), φ(RoPE(k))", partial(_layer, variants.Variant, branch_rotary=True)),
    "qk-norm on branch": Change(BRANCH, "φ(RMS(q)), φ(RMS(k)), the window's norms", partial(_layer, variants.Variant, branch_qk_norm=True)),
    "own q, k": Change(BRANCH, "the branch has its own W_q, W_k; the feed-forward is thinner", _own_projections),
    "qk scale": Change(BRANCH, "φ(q ⊙ a), φ(k ⊙ b) with learned a, b", partial(base, use_qk_scale=True)),
    "learned start": Change(BRANCH, "S starts from d learned tokens (128 in the official code, where d = 128), not from 0", _learned_start),
    "inclusive": Change(START, "δ = 0: reads S_t, all tokens; those in the window twice", partial(_delayed, windows=0.0)),
    "overlap": Change(START, "δ = (w + 1)/2: half of the window is read twice", partial(_delayed, windows=0.5)),
    "gap": Change(START, "δ = 2(w + 1): as many tokens as the window holds are read by none", partial(_delayed, windows=2.0)),
    "early layers": Change(START, "the branch in the first half of the local layers", partial(_branch_in, half=0)),
    "late layers": Change(START, "the branch in the second half of the local layers", partial(_branch_in, half=1)),
    "scalar decay": Change(RECURRENCE, "S_t = a_t S_{t−1} + φ(k_t)ᵀv_t (Mamba2, simple GLA)", partial(_layer, variants.ScalarDecay)),
    "gated delta": Change(RECURRENCE, "S_t = a_t S_{t−1} + b_t k_tᵀ(v_t − k_t a_t S_{t−1}), |k| = 1, no φ",
        partial(_layer, variants.GatedDelta)),
    "one kv head": Change(STRUCTURE, "H_kv = 1 in the local layers; wider feed-forward", partial(_kv_heads, one=True)),
    "H kv heads": Change(STRUCTURE, "H_kv = H in the local layers; thinner feed-forward", partial(_kv_heads, one=False)),
    "random window": Change(STRUCTURE, "each training batch draws w + 1 from T/32, T/16, T/8 (SWAX)", _random_window),
    "global 1:3": Change(STRUCTURE, "one global layer in 4, of at least 12 layers", partial(_ratio, period=4), "global 1:3"),
    "global 1:1": Change(STRUCTURE, "one global layer in 2", partial(_ratio, period=2), "global 1:3"),
    "global 1:5": Change(STRUCTURE, "one global layer in 6", partial(_ratio, period=6), "global 1:3"),
    "global 1:7": Change(STRUCTURE, "one global layer in 8", partial(_ratio, period=8), "global 1:3"),
}  # fmt: skip
TUNED = ("base", "identity", "−SWA", "−norm", "head split")  # they decide C12 and C13: each has its own learning rate


def variant(name: str, profile: Profile) -> Decoder.Config:
    """The decoder of a variant."""
    return VARIANTS[name].make(profile)


def described() -> pd.DataFrame:
    """The variants in words: group, variant, what it changes."""
    return pd.DataFrame([{"group": c.group, "variant": name, "change": c.says} for name, c in VARIANTS.items()])


def variants_of(setting: Setting) -> list[str]:
    """The variants that a profile trains."""
    return list(PROFILES[setting.profile].ablation.variants or VARIANTS)


def variant_run(name: str, setting: Setting, seed: int, rate: float) -> TrainLM.Config:
    """The run that trains a variant."""
    profile = PROFILES[setting.profile]
    size = profile.ablation
    cfg = run_config(variant(name, profile), profile, setting, seed, rate, f"ablation {name} seed {seed} lr {rate:g}")
    return cfg.set(
        steps=size.steps, batch_size=size.batch_size, eval_windows=size.eval_windows, validate_every=max(1, size.steps // 8),
        log_every=max(1, size.steps // 50),
    )  # fmt: skip


def rates(setting: Setting, run: Runner) -> Best:
    """The learning rates of the variants that have a grid: multiples of the rate of rattn@T/8 in the window sweep."""
    size, swept = PROFILES[setting.profile].ablation, window_sweep.rates(setting, run)
    middle = rate_of(swept, PROFILES[setting.profile], f"rattn@{PROFILES[setting.profile].eighth}")
    grid = [factor * middle for factor in size.factors]
    return tuned(
        setting, run, dict.fromkeys(TUNED, grid), lambda name, rate: variant_run(name, setting, TUNING_SEED, rate)
    )


def _ablated(setting: Setting, run: Runner, placebo: bool = False) -> list[tuple[str, int, float, Finished]]:
    """Variant, seed, rate and run; with the base at further seeds, as variant ``placebo``."""
    found, (profile, seeds) = rates(setting, run).chosen, chosen(setting, "ablation")
    window = rate_of(window_sweep.rates(setting, run), profile, f"swa@{profile.eighth}")
    rate = dict.fromkeys(VARIANTS, found["base"]) | {"−RLA": window} | found
    cells = [(name, seed, rate[name]) for name in variants_of(setting) for seed in seeds]
    cfgs = [variant_run(name, setting, seed, rate) for name, seed, rate in cells]
    if placebo:
        again = list(zip(seeds, profile.ablation.placebo_seeds, strict=False))
        cells += [("placebo", seed, found["base"]) for seed, _ in again]
        cfgs += [variant_run("base", setting, other, found["base"]) for _, other in again]
    return [(*cell, d) for cell, d in zip(cells, run(cfgs), strict=True)]


def ablation(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant and seed: group, learning rate, bits per byte, loss, parameters, bytes of cache at T."""
    columns = ("bits_per_byte", "validation_loss", "parameters", "cache_bytes")
    return pd.DataFrame([
        {"variant": v, "group": VARIANTS[v].group, "seed": s, "learning_rate": r, **{c: d.result[c] for c in columns}}
        for v, s, r, d in _ablated(setting, run)
    ])  # fmt: skip


def ablation_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, seed, test window and stratum: nats and bytes. ``placebo`` is the base from other seeds."""
    cells = (({"variant": v}, s, d) for v, s, _, d in _ablated(setting, run, placebo=True))
    return units_table(cells, PROFILES[setting.profile].seq_len)


def ablation_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """Learning curves: arm (the variant), seed, step, loss, validation_loss (nats per token)."""
    return pd.concat([d.metrics().assign(arm=v, seed=s) for v, s, _, d in _ablated(setting, run)], ignore_index=True)


def _drift(setting: Setting, run: Runner) -> dict[str, Any]:
    profile, seeds = chosen(setting, "ablation")
    base = variant_run("base", setting, seeds[0], rates(setting, run).chosen["base"])
    tokens = profile.ablation.drift_tokens
    return run([StateDrift.Config(model=base, tokens=tokens, head_dim=profile.head_dim, label="state drift")])[0].result


def state_drift(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per kind of values, dtype and number of tokens: relative error of the read-out."""
    return pd.DataFrame(_drift(setting, run)["rows"])


def state_dtype_loss(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per dtype of the state: bits per byte of the trained base, decoded token by token."""
    bits = _drift(setting, run)["bits_per_byte"]
    return pd.DataFrame([{"state": name, "bits_per_byte": value} for name, value in bits.items()])


def ablated(names: tuple[str, ...], tables: Tables, instead: str = "") -> pd.DataFrame:
    """The base against variants, on all text; a part each, named by the variant. ``instead`` stands in the place of each (controls)."""
    units = tables("ablation_units")
    return together(difference(units, "variant", "base", instead or name, name) for name in names)


LEARNED = 2.8  # bits per byte of a base that has left the first steps behind, in which a byte takes 4


def base_has_learned(names: tuple[str, ...], tables: Tables) -> tuple[bool, str]:
    """Gate of C12 and C13: the base and what it is compared with are tuned, and the base has learned the text."""
    table, tuning = tables("ablation"), tables("ablation_tuning")
    untuned = on_edge(tuning[tuning["variant"].isin(["base", *names])], "variant")
    loss = float(table.loc[table["variant"] == "base", "bits_per_byte"].mean())
    return loss <= LEARNED and not untuned, f"the base needs {loss:.3f} bits/byte, {LEARNED:g} at most" + edges(untuned)

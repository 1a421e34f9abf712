"""The closed forms against the numbers that were derived from the paper."""

from __future__ import annotations

import math

import pytest
import torch

from orchard.papers.rattention.method import costs
from orchard.papers.rattention.method.models import arm, arm_window

B3, B12 = costs.SHAPES["3B"], costs.SHAPES["12B"]


def percent(x: float) -> float:
    return pytest.approx(100 * x, abs=0.0501)


def test_window_of_1k_saves_56_percent():
    assert costs.kv_saving(4096, window=1023) == 0.5625
    assert costs.kv_saving(4096, window=1023, baseline_window=None) == 1 - 0.4375


@pytest.mark.parametrize(("context", "saving"), [(4096, 63.3), (8192, 50.6), (16384, 36.2), (32768, 23.0)])
def test_savings_against_swa_4k(context, saving):
    assert saving == percent(costs.kv_saving(context, 511, state=128))


@pytest.mark.parametrize("shape", [B3, B12])
def test_ways_of_storing_the_state(shape):
    per_query_head = {B3: 512, B12: 640}[shape]
    held = {
        "bf16": costs.state_tokens(shape), "fp32": costs.state_tokens(shape, state_bytes=4),
        "bf16 per query head": costs.state_tokens(shape, per_query_head=True),
    }  # fmt: skip
    assert held == {"bf16": 128, "fp32": 256, "bf16 per query head": per_query_head}
    savings = [costs.kv_saving(4096, 511, state) for state in (0, *held.values())]
    for expected, saving in zip((65.6, 63.3, 60.9, {B3: 56.3, B12: 53.9}[shape]), savings, strict=True):
        assert expected == percent(saving)


@pytest.mark.parametrize(
    ("shape", "cuts"),
    [(B3, {1: 4.8, 8: 25, 32: 45.8, 128: 57.8, 512: 60.8}), (B12, {1: 1.6, 8: 11.1, 32: 29.1, 128: 48.9, 512: 56.1})],
)
def test_step_time_cuts(shape, cuts):
    for batch, cut in cuts.items():
        assert cut == percent(costs.step_time_cut(shape, 4096, batch))
    limit = costs.step_time_cut(shape, 4096, math.inf)
    assert limit == pytest.approx(costs.step_time_cut(shape, 4096, 1e9))
    assert cuts[512] == percent(limit)


def test_step_time_saturates_and_falls_with_the_context():
    cuts = {b: costs.step_time_cut(B3, 4096, b) for b in (1, 8, 32, 128, 512, math.inf)}
    assert list(cuts.values()) == sorted(cuts.values())
    assert costs.step_time_cut(B3, 32768, 512) == pytest.approx(0.227, abs=5e-4)
    assert costs.step_time_cut(B12, 32768, 512) == pytest.approx(0.220, abs=5e-4)
    by_context = [costs.step_time_cut(B3, context, 32) for context in (4096, 8192, 16384, 32768)]
    assert by_context == sorted(by_context, reverse=True)


def test_matched_windows():
    assert arm_window("swa_mem@512", 128, 4) == 639
    assert arm_window("swa_flops@512", 128, 4, 64) == 511 + 256
    assert arm_window("swa_flops@16", 16, 5, 16) == 15 + 16 + 28  # 16/5 + 24 = 27.2


def test_short_contexts_are_kept_whole():
    assert costs.kv_tokens(100, 511, state=128) == 100
    assert costs.kv_tokens(600, 511, state=128) == 600
    assert costs.kv_tokens(1000, -1, state=128) == (1000 + 3 * 128) / 4
    with pytest.raises(ValueError, match="context=0"):
        costs.kv_tokens(0, 511)


def test_budget_gives_the_papers_saving():
    ours, theirs = (costs.kv_budget(4096, window, state=None).total for window in (1023, 4095))
    assert 1 - ours / theirs == 0.5625
    held, everything = (costs.kv_budget(4096, window, state="bf16").total for window in (511, None))
    assert 1 - held / everything == pytest.approx(costs.kv_saving(4096, 511, state=128, baseline_window=None))


def test_budget_is_what_caches_really_hold():
    shape = costs.Shape(dim=16, num_layers=8, num_heads=4, num_kv_heads=2, head_dim=4, ffn_dim=24)
    arms = {"full_rope": (None, None), "swa@8": (7, None), "rattn@8": (7, "fp32"), "la": (-1, "fp32")}
    for name, (window, state) in arms.items():
        cache = arm(name, **shape.sizes, vocab_size=11).build().new_cache(1, 40, device="cpu", dtype=torch.bfloat16)
        assert costs.kv_budget(40, window, dtype="bf16", shape=shape, state=state).total == cache.bytes(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dtype": "int4"}, "type 'int4' is not known: use one of fp32, bf16, fp8"), ({"state": "fp64"}, "type 'fp64'"),
     ({"window": -2}, "window=-2"), ({"context": 0}, "context=0"), ({"ratio": -1}, "ratio=-1")],
)  # fmt: skip
def test_budget_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        costs.kv_budget(**{"context": 64, "window": 7, **arguments})


def test_step_time_with_another_period_and_type():
    shape = costs.SHAPES["3B"]
    assert costs.step_time_cut(shape, 4096, 128, period=4, bytes_per_element=2) == costs.step_time_cut(shape, 4096, 128)
    assert costs.step_time_cut(shape, 4096, 128, period=8) > costs.step_time_cut(shape, 4096, 128)
    assert costs.step_time_cut(shape, 4096, 128, bytes_per_element=1) < costs.step_time_cut(shape, 4096, 128)

"""The closed forms against the numbers that were derived from the paper."""

from __future__ import annotations

import math

import pytest

from orchard.papers.rattention.method import costs

B3, B12 = costs.SHAPES["3B"], costs.SHAPES["12B"]


def percent(x: float) -> float:
    return pytest.approx(100 * x, abs=0.0501)


def test_window_of_1k_saves_56_percent():
    assert costs.kv_saving(4096, window=1023) == 0.5625
    assert costs.kv_token_ratio(4096, 1023) == 0.4375
    assert costs.kv_token_ratio(4096, None) == 1


@pytest.mark.parametrize(("context", "saving"), [(4096, 63.3), (8192, 50.6), (16384, 36.2), (32768, 23.0)])
def test_savings_against_swa_4k(context, saving):
    assert saving == percent(costs.kv_saving(context, 511, state=128))


def test_ways_of_storing_the_state():
    table = costs.savings_table().query("context == 4096").pivot(index="model", columns="state", values="saving")
    expected = {"not counted": (65.6, 65.6), "bf16 per kv head": (63.3, 63.3)}
    expected |= {"fp32 per kv head": (60.9, 60.9), "bf16 per query head": (56.3, 53.9)}
    for state, (small, large) in expected.items():
        assert small == percent(table.loc["3B", state])
        assert large == percent(table.loc["12B", state])
    assert costs.state_tokens(B3) == costs.state_tokens(B12) == 128
    assert costs.state_tokens(B3, per_query_head=True) == 512
    assert costs.state_tokens(B12, per_query_head=True) == 640


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
    table = costs.step_time_table().set_index(["model", "context", "batch"])["cut"]
    assert table["3B", 32768, 512] == pytest.approx(0.227, abs=5e-4)
    assert table["12B", 32768, 512] == pytest.approx(0.220, abs=5e-4)
    assert table["3B", 4096].is_monotonic_increasing
    cuts = [table[model, context, 32] for model in ("3B", "12B") for context in (4096, 8192, 16384, 32768)]
    assert cuts[:4] == sorted(cuts[:4], reverse=True)


def test_matched_windows():
    assert costs.memory_matched_window(511, 128) == 639
    assert costs.compute_matched_window(511, 128, 4, 64) == 511 + 256
    assert costs.compute_matched_window(15, 16, 5, 16) == 15 + 16 + 28  # 16/5 + 24 = 27.2


def test_short_contexts_are_kept_whole():
    assert costs.kv_tokens(100, 511, state=128) == 100
    assert costs.kv_tokens(600, 511, state=128) == 600
    assert costs.kv_tokens(1000, -1, state=128) == (1000 + 3 * 128) / 4
    with pytest.raises(ValueError, match="context=0"):
        costs.kv_tokens(0, 511)

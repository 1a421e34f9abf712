"""The drift of a bf16 state: on random inputs, and in what a model says."""

from __future__ import annotations

import torch

from orchard.papers.rattention.experiments.ablations import variant
from orchard.papers.rattention.experiments.profiles import PROFILES
from orchard.papers.rattention.figures.ablation import state_drift
from orchard.papers.rattention.runs import drift
from orchard.train.lm import token_losses


def test_bf16_state_drifts_and_fp32_does_not():
    q, k, v = drift._random(8, 0.3)
    table = drift.readout_error(q, k, v, [16, 512])
    errors = {name: part["error"].tolist() for name, part in table.groupby("dtype")}
    assert errors["float32"][1] < 1e-5
    assert 1e-3 < errors["bfloat16"][0] < errors["bfloat16"][1] < 1
    axes = state_drift(table.assign(values="v")).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines if len(line.get_xdata())] == [2, 2]
    assert {"bfloat16", "float32"} <= {text.get_text() for text in axes.get_legend().get_texts()}


def test_decoding_in_fp32_is_the_parallel_form_and_bf16_is_not():
    model = variant("base", PROFILES["smoke"]).build().eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.attention.o_proj.weight, std=0.1)
    text = torch.randint(0, 257, (2, 41))
    expected = token_losses(model, text).detach()
    exact, rounded = (drift.decoded_nats(model, text, dtype) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(exact, expected, atol=1e-4, rtol=1e-4)
    gap = (rounded - expected).abs()
    assert gap[:, :16].max() < 1e-4  # nothing has left the window
    assert gap[:, 17:].max() > 1e-4

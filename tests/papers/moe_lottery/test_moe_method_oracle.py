"""The oracle: the shorter way in our decoders is the plain one, sets of experts by hand, regret, refusals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.nn import Attention, Block, FeedForward
from orchard.papers.moe_lottery.method.dropping import ExpertsError, logits_of, masked, mixture_layers
from orchard.papers.moe_lottery.method.oracle import (
    leave_one_out,
    losses_without,
    regret,
    subset_errors,
    subset_losses,
    subsets,
)
from orchard.papers.moe_lottery.runs.checks import VOCAB, tiny, tiny_config


def windows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCAB, shape, generator=generator) for shape in ((2, 12), (3, 9))]


class Foreign(nn.Module):
    """A model that is none of our decoders: nothing of it is known but its mixtures."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Any:
        return self.inner(tokens)


def test_leaving_one_out_by_the_short_and_by_the_plain_way() -> None:
    model = tiny()
    short, plain = leave_one_out(model, windows()), leave_one_out(Foreign(model), windows())
    assert list(short.columns) == ["layer", "expert", "window", "delta"]
    assert len(short) == 2 * 6 * 5
    pd.testing.assert_frame_equal(short, plain, atol=1e-6, rtol=0)
    assert short["delta"].abs().max() > 0.01


def test_a_dense_layer_first() -> None:
    """Layers are numbered among the mixtures, wherever they stand in the model."""
    cfg = tiny_config()
    dense = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=8))
    cfg.set(layers=[dense, *cfg.layers])
    model = cfg.build()
    assert [layer.name for layer in mixture_layers(model)] == ["layers.1.feed_forward", "layers.2.feed_forward"]
    for layer in (0, 1):
        sets = [[], [0], [1, 4, 5]]
        short, plain = (losses_without(m, windows(), layer, sets) for m in (model, Foreign(model)))
        torch.testing.assert_close(short, plain, atol=1e-6, rtol=0)
    assert model.training  # as it was


def inputs_of(model: nn.Module, batch: list[Tensor]) -> list[list[Tensor]]:
    """What every mixture reads, batch by batch."""
    found: list[list[Tensor]] = [[] for _ in mixture_layers(model)]
    for layer in mixture_layers(model):
        layer.block.register_forward_pre_hook(lambda _, args, place=layer.place: found[place].append(args[0]))
    for tokens in batch:
        logits_of(model, tokens)
    return [list(parts) for parts in found]


def test_reconstruction_errors_are_those_of_the_outputs() -> None:
    for renormalise in (True, False):
        model, batch = tiny(renormalise=renormalise), windows()
        table = subset_errors(model, batch, 3)
        assert len(table) == 2 * 20
        hidden = inputs_of(model, batch)
        for layer in mixture_layers(model):
            for kept in ((0, 1, 2), (1, 3, 5)):
                outputs = [layer.block(x) for x in hidden[layer.place]]
                with masked(model, {layer.place: [e for e in range(6) if e not in kept]}):
                    changes = [layer.block(x) - y for x, y in zip(hidden[layer.place], outputs, strict=True)]
                error, size = (
                    torch.cat([x.flatten() for x in parts]).double().norm().item() for parts in (changes, outputs)
                )
                row = table[(table["layer"] == layer.place) & (table["kept"] == kept)].iloc[0]
                assert row["error"] == pytest.approx(error, rel=1e-5)
                assert row["relative"] == pytest.approx(error / size, rel=1e-5)


def test_keeping_all_experts_costs_nothing() -> None:
    table = subset_errors(tiny(), windows(), 6)
    assert table["kept"].tolist() == [(0, 1, 2, 3, 4, 5)] * 2
    assert table["error"].tolist() == [0.0, 0.0]


def test_losses_of_sets_and_regret() -> None:
    model = tiny()
    table = subset_losses(model, windows(), 1, 5)
    losses = dict(zip(table["kept"], table["loss"], strict=True))
    whole = losses_without(model, windows(), 1, [[]]).mean()
    single = leave_one_out(model, windows()).query("layer == 1").groupby("expert")["delta"].mean()
    for expert, delta in single.items():
        kept = tuple(e for e in range(6) if e != expert)
        assert losses[kept] - float(whole) == pytest.approx(delta, abs=1e-6)
    best = int(single.idxmin())
    assert regret(table, [e for e in range(6) if e != best]) == 0
    worst = int(single.idxmax())
    assert regret(table, [e for e in reversed(range(6)) if e != worst]) == pytest.approx(
        single.max() - single.min(), abs=1e-6
    )
    errors = subset_errors(model, windows(), 5).query("layer == 0")
    assert min(regret(errors, kept, "error") for kept in errors["kept"]) == 0


def test_refusals() -> None:
    assert len(subsets(8, 4)) == 70
    assert subsets(3, 2) == [(0, 1), (0, 2), (1, 2)]
    with pytest.raises(BadInput, match="9 of 8 experts cannot be kept: keep between 1 and 8"):
        subsets(8, 9)
    with pytest.raises(BadInput, match="32 of 64 experts can be kept in more than 5000 ways"):
        subsets(64, 32)
    with pytest.raises(ExpertsError, match="dropping 5 of 6 experts leaves 1, but its router chooses 2"):
        subset_errors(tiny(), windows(), 1)
    with pytest.raises(ExpertsError, match="leaves 1, but its router chooses 2"):
        leave_one_out(tiny(num_experts=2), windows())
    with pytest.raises(BadInput, match=r"keeping \[0, 1\] was not tried: the table holds sets of 5"):
        regret(subset_losses(tiny(), windows(), 0, 5), [1, 0])

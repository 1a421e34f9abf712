"""The collector: what it must not change, what it must not keep, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.moe_lottery.method.collect import Collector, LayerStatistics, collect, rarely_used
from orchard.papers.moe_lottery.method.dropping import ExpertsError, mixture_layers
from orchard.papers.moe_lottery.runs.checks import VOCAB, batches, gap, tiny

SUMS = ("count", "soft", "together", "seen", "total", "squares", "norms", "weighted", "units", "outliers")


def same(found: LayerStatistics, wanted: LayerStatistics) -> None:
    for name in SUMS:
        a, b = getattr(found, name), getattr(wanted, name)
        assert a.dtype == b.dtype
        assert gap(a, b) < (1e-6 if a.is_floating_point() else 1e-12), name


def test_watching_changes_no_output_and_leaves_nothing_behind() -> None:
    model, tokens = tiny(), batches()[0]
    plain = model(tokens)
    collector = Collector(mixture_layers(model), VOCAB)
    with collector.watching():
        collector.tokens = tokens
        assert torch.equal(model(tokens), plain)
    assert all("forward" not in layer.experts.__dict__ for layer in collector.layers)
    assert torch.equal(model(tokens), plain)
    assert [layer.tokens for layer in collector.statistics] == [34, 34]


def test_statistics_do_not_depend_on_how_text_is_cut_into_batches() -> None:
    model = tiny()
    text = torch.randint(0, VOCAB, (6, 13))
    whole = collect(model, [text], VOCAB, gradients=True)
    for sizes in ([1] * 6, [4, 2], [3, 3]):
        for part, one in zip(collect(model, text.split(sizes), VOCAB, gradients=True), whole, strict=True):
            assert part.tokens == one.tokens == 78
            same(part, one)
            for name in ("grad_gate_up", "grad_down"):
                torch.testing.assert_close(getattr(part, name), getattr(one, name), atol=1e-6, rtol=1e-4)


def test_gradients_are_those_of_the_mean_loss_and_leave_the_model_as_it_was() -> None:
    model, text = tiny(), batches()
    model.head.weight.requires_grad_(False)  # type: ignore[union-attr]
    model.train()
    for found, layer in zip(collect(model, text, VOCAB, gradients=True), mixture_layers(model), strict=True):
        losses, count = torch.zeros(()), 0
        for tokens in text:
            logits = model(tokens)[:, :-1].flatten(0, 1)
            losses = losses + torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum")
            count += tokens[:, 1:].numel()
        wanted = torch.autograd.grad(losses / count, [layer.experts.gate_up_proj, layer.experts.down_proj])
        torch.testing.assert_close(found.grad_gate_up, wanted[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.grad_down, wanted[1], atol=1e-6, rtol=1e-4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]


def test_memory_does_not_depend_on_the_number_of_tokens() -> None:
    model = tiny()
    collector = Collector(mixture_layers(model), VOCAB)
    before = [layer.bytes() for layer in collector.statistics]
    # per layer: int64 count, outliers, together; float64 soft, norms, weighted, total, squares, units; int32 seen
    n, d = 6, 24
    assert before == [8 * (2 * n + n * n) + 8 * (3 * n + 3 * n * d) + 4 * n * VOCAB] * 2
    with collector.watching():
        for tokens in torch.randint(0, VOCAB, (40, 2, 16)):
            collector.tokens = tokens
            model(tokens)
    assert [layer.bytes() for layer in collector.statistics] == before
    assert collector.statistics[0].tokens == 1280


def test_sums_of_many_batches_keep_their_accuracy() -> None:
    """Channels whose mean is 30 times their spread, over many batches."""
    from orchard.nn.moe import Dispatch
    from orchard.papers.moe_lottery.method.criteria import eae

    layer = mixture_layers(tiny())[0]
    stats = LayerStatistics.empty(layer, VOCAB)
    index, weights, ids = torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    rows = 1 + torch.randn(4, 24) / 30
    for _ in range(300):
        stats.add(rows, Dispatch.of(index, 6), index, weights, ids)
    wanted = rows.double().std(dim=0, correction=0).log().sum()
    torch.testing.assert_close(eae(stats)[0], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(stats.total[0], 300 * rows.double().sum(dim=0), rtol=1e-6, atol=0)


def test_half_precision() -> None:
    """A model in bf16: the same sums within its rounding, kept in float64."""
    exact, half = tiny(), tiny().bfloat16()
    text = batches()
    for found, wanted in zip(collect(half, text, VOCAB), collect(exact, text, VOCAB), strict=True):
        assert found.total.dtype == torch.float64
        assert float((found.count - wanted.count).abs().sum()) <= 0.1 * float(wanted.count.sum())
        torch.testing.assert_close(found.norms.sum(), wanted.norms.sum(), rtol=0.05, atol=0)


def test_experts_that_are_hardly_used_are_named() -> None:
    model = tiny()
    one = torch.zeros(1, 1, dtype=torch.long)
    with pytest.warns(UserWarning, match="fewer than 2 of 1 tokens"):
        found = collect(model, [one], VOCAB)
    assert rarely_used(found) == {0: [0, 1, 2, 3, 4, 5], 1: [0, 1, 2, 3, 4, 5]}
    assert rarely_used(collect(model, [torch.randint(0, VOCAB, (8, 32))], VOCAB)) == {}


def dense() -> Decoder:
    block = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=8))
    built: Decoder = Decoder.Config(vocab_size=VOCAB, dim=24, layers=[block]).build()
    return built


@pytest.mark.parametrize(
    ("make", "text", "words"),
    [
        (tiny, [], "no calibration text: not one batch of tokens was given"),
        (dense, [torch.zeros(1, 2, dtype=torch.long)], "Decoder has no mixture of experts: it is a dense model"),
    ],
)
def test_errors(make: Any, text: list[Tensor], words: str) -> None:
    with pytest.raises(ExpertsError, match=words):
        collect(make(), text, VOCAB)


def test_tokens_that_were_not_announced() -> None:
    model = tiny()
    collector = Collector(mixture_layers(model), VOCAB)
    with collector.watching(), pytest.raises(ExpertsError, match="34 tokens pass the experts, None ids were announced"):
        model(batches()[0])
    assert all("forward" not in layer.experts.__dict__ for layer in collector.layers)

"""Masked layers, gates, the predictor: what each computes, what it may read, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward, Rotary
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import (
    MODES,
    Gates,
    MaskedFeedForward,
    Predictor,
    channel_importance,
    gated,
    masked,
    masked_layers,
    over_time,
)
from orchard.papers.ifpruning.method.softtopk import hard_top_k, soft_top_k

VOCAB, DIM, WIDTH, KEEP, LAYERS = 29, 12, 23, 7, 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def decoder_config(vocab_size: int = VOCAB, width: int = WIDTH) -> Decoder.Config:
    attention = Attention.Config(num_heads=2, head_dim=6, rotary=Rotary.Config())
    block = Block.Config(attention=attention, feed_forward=FeedForward.Config(hidden_dim=width))
    return Decoder.Config(vocab_size=vocab_size, dim=DIM, layers=[block] * LAYERS)


def loud(model: Decoder) -> Decoder:
    """Weights with which every layer shows in the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model.eval()


def masked_decoder() -> Decoder:
    return loud(masked(decoder_config(), KEEP).build())


def make_predictor(vocab_size: int = VOCAB, width: int = WIDTH, **fields: Any) -> Predictor:
    torch.manual_seed(0)
    cfg = Predictor.Config(
        backbone=decoder_config(vocab_size, 16).set(tie_embeddings=True), rank=9, num_layers=LAYERS,
        gates=Gates.Config(width=width, keep=KEEP), **fields,
    )  # fmt: skip
    return cfg.build()


def make_gates(mode: str, **fields: Any) -> Gates:
    made: Gates = Gates.Config(**{"width": WIDTH, "keep": KEEP, "mode": mode} | fields).build()
    return made


# --- the layer and the swap


def test_masked_layer_is_the_formula() -> None:
    cfg = MaskedFeedForward.Config(dim=DIM, hidden_dim=WIDTH, keep=KEEP)
    layer = cfg.build()
    x, gates = draw(3, 5, DIM), draw(3, 5, WIDTH, seed=1)
    hidden = nn.functional.silu(x @ layer.gate_proj.weight.T) * (x @ layer.up_proj.weight.T)
    torch.testing.assert_close(layer(x), hidden @ layer.down_proj.weight.T)
    layer.gates = gates
    torch.testing.assert_close(layer(x), (hidden * gates) @ layer.down_proj.weight.T)


def test_k_larger_than_the_width() -> None:
    with pytest.raises(ValueError, match="k = 24 of 23 channels: keep between 1 and all of them"):
        masked(decoder_config(), WIDTH + 1).build()
    with pytest.raises(ValueError, match="k = 0 of 23"):
        make_gates("soft", keep=0)


def test_gates_of_ones_and_none_change_nothing() -> None:
    model, x = masked_decoder(), tokens(2, 9)
    plain = loud(decoder_config().build())
    torch.testing.assert_close(model(x), plain(x))
    with gated(model, torch.ones(2, 1, LAYERS, WIDTH)):
        assert torch.equal(model(x), plain(x))
    with gated(model, None):
        assert torch.equal(model(x), plain(x))


def test_gates_end_with_the_context_even_after_an_error() -> None:
    model = masked_decoder()
    with pytest.raises(RuntimeError, match="inside"), gated(model, torch.zeros(1, 1, LAYERS, WIDTH)):
        raise RuntimeError("inside")
    assert all(layer.gates is None for layer in masked_layers(model))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, LAYERS, WIDTH + 1), "gates for 2 layers of width 24, but the model has 2 masked layers of width 23"),
        ((1, 1, LAYERS + 1, WIDTH), "gates for 3 layers of width 23, but the model has 2 masked layers"),
    ],
)
def test_gates_of_another_predictor_are_refused(shape: tuple[int, ...], message: str) -> None:
    model = masked_decoder()
    with pytest.raises(ValueError, match=message), gated(model, torch.ones(shape)):
        pass
    with (
        pytest.raises(ValueError, match="has 0 masked layers of width none"),
        gated(decoder_config().build(), torch.ones(1, 1, 1, WIDTH)),
    ):
        pass


# --- from logits to gates


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_values_of_gates(mode: str, training: bool) -> None:
    z, made = draw(3, LAYERS, WIDTH), make_gates(mode).train(training)
    top, weights = hard_top_k(z, KEEP), soft_top_k(z, KEEP, 0.3)
    soft = mode == "soft" or (mode == "soft_binarize" and training)
    gates = made(z)
    torch.testing.assert_close(gates, weights * top if soft else top.float())
    assert ((gates != 0).sum(dim=-1) == KEEP).all()


@pytest.mark.parametrize(
    ("mode", "reaches_all"), [("soft", False), ("soft_binarize", False), ("st", False), ("st_full", True)]
)
def test_gradient_of_gates(mode: str, reaches_all: bool) -> None:
    """That of lambda, from the chosen channels alone or from all: a factor on what is not chosen counts in st_full only."""
    z = draw(LAYERS, WIDTH).requires_grad_()
    factor = draw(LAYERS, WIDTH, seed=1)
    found = torch.autograd.grad((make_gates(mode)(z) * factor).sum(), z)[0]
    read = factor if reaches_all else factor * hard_top_k(z, KEEP)
    wanted = torch.autograd.grad((soft_top_k(z, KEEP, 0.3) * read).sum(), z)[0]
    torch.testing.assert_close(found, wanted)
    assert found.abs().max() > 0


def test_gates_of_blocks() -> None:
    """Neighbouring channels chosen together: one of four experts of width 6."""
    made = make_gates("soft", width=24, keep=6, block=6)
    assert made.logits == 4
    gates = made(draw(5, LAYERS, 4))
    assert gates.shape == (5, LAYERS, 24)
    blocks = gates.unflatten(-1, (4, 6))
    assert (blocks == blocks[..., :1]).all()
    assert ((blocks[..., 0] > 0).sum(dim=-1) == 1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "hard"}, "Gates.Config.mode is 'hard': choose one of soft, soft_binarize, st, st_full"),
        ({"width": 24, "block": 5}, "Gates.Config.block is 5: it must divide width 24 and keep 7"),
        ({"epsilon": 0.0}, "epsilon = 0.0"),
    ],
)
def test_bad_gates(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_gates(**{"mode": "soft"} | fields)


def test_gates_over_time_follow_the_span() -> None:
    gates = draw(2, 3, LAYERS, WIDTH)
    span = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    found = over_time(gates, span)
    assert found.shape == (2, 4, LAYERS, WIDTH)
    assert all(torch.equal(found[i, t], gates[i, span[i, t]]) for i in range(2) for t in range(4))
    assert over_time(gates[:, :1], span).shape == (2, 1, LAYERS, WIDTH)


# --- the predictor


def test_head_is_two_matrices_at_the_last_token() -> None:
    predictor, prompts, lengths = make_predictor(activation="identity"), tokens(3, 8), torch.tensor([8, 1, 5])
    states = predictor.backbone.features(prompts)
    last = torch.stack([states[i, n - 1] for i, n in enumerate(lengths.tolist())])
    product = predictor.head_out.weight @ predictor.head_in.weight
    wanted = last @ product.T + predictor.head_out.weight @ predictor.head_in.bias + predictor.head_out.bias
    torch.testing.assert_close(predictor.of_prompts(prompts, lengths).flatten(1), wanted)


@pytest.mark.parametrize("pad", [0, VOCAB - 1])
def test_padding_on_the_right_changes_nothing(pad: int) -> None:
    predictor = make_predictor()
    prompts, lengths = tokens(4, 9), torch.tensor([9, 4, 1, 6])
    padded = torch.where(torch.arange(15) < lengths[:, None], nn.functional.pad(prompts, (0, 6)), pad)
    together = predictor.of_prompts(padded, lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = predictor.of_prompts(prompts[i : i + 1, :n], lengths[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("time", "length", "message"),
    [
        (5, 0, "the predictor got an empty prompt: give at least one token"),
        (0, 0, "the predictor got an empty prompt"),
        (13, 13, "the prompt has 13 tokens, the predictor reads 12: shorten the instruction"),
    ],
)
def test_prompts_that_cannot_be_read(time: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_predictor(max_prompt=12).of_prompts(tokens(2, time), torch.tensor([length, length]))


def grid(chunks: int = 2) -> FactGrid:
    made: FactGrid = FactGrid.Config(num_keys=16, queries=8, num_values=12, chunks=chunks).build()
    return made


def perturbed(examples: Examples, places: Tensor, corpus: FactGrid) -> Examples:
    """Other values in the answers at these places, and prompts cut from the new tokens as the corpus cuts them."""
    low, high = corpus._value0, corpus._word0
    other = torch.where(places, low + (examples.tokens - low + 1) % (high - low), examples.tokens)
    return Examples(**vars(examples) | {"tokens": other, "prompts": recut(examples, other)})


def recut(examples: Examples, text: Tensor) -> Tensor:
    """Prompts of new tokens: chunk j begins where chunk j - 1 ends, and all have their old lengths."""
    made = torch.zeros_like(examples.prompts)
    for i in range(len(examples)):
        start = 0
        for j, length in enumerate(examples.prompt_lengths[i].tolist()):
            made[i, j, :length] = text[i, start : start + length]
            start += length
    return made


def test_predictor_does_not_see_answers() -> None:
    corpus = grid()
    predictor, examples = make_predictor(corpus.vocab_size), corpus.batch("sft", 6, 0, 0)
    assert torch.equal(recut(examples, examples.tokens), examples.prompts)
    changed = perturbed(examples, examples.counts, corpus)
    assert not torch.equal(changed.tokens, examples.tokens)
    assert torch.equal(predictor.logits(changed), predictor.logits(examples))


@pytest.mark.parametrize("chunks", [2, 4])
def test_no_mask_is_chosen_from_what_it_is_judged_by(chunks: int) -> None:
    """Answers whose loss counts under mask j, changed: masks up to j stay; those that read them (from j + 1 on) do not."""
    corpus = grid(chunks)
    predictor, examples = make_predictor(corpus.vocab_size), corpus.batch("cpt", 6, 0, 0)
    assert examples.prompts.shape[1] == chunks - 1
    assert torch.equal(recut(examples, examples.tokens), examples.prompts)
    before = predictor.logits(examples)
    for j in range(chunks - 1):
        judged = examples.counts & (examples.span == j)
        assert judged.any()
        after = predictor.logits(perturbed(examples, judged, corpus))
        same = [torch.equal(before[:, i], after[:, i]) for i in range(chunks - 1)]
        assert same == [i != j + 1 for i in range(chunks - 1)]


@pytest.mark.parametrize("spread", [0.5, 3.5])
@pytest.mark.parametrize("activation", ["gelu", "identity"])
def test_calibration_gives_the_exact_spread(spread: float, activation: str) -> None:
    corpus = grid()
    predictor = make_predictor(corpus.vocab_size, spread=spread, activation=activation)
    examples = corpus.batch("sft", 32, 0, 0)
    predictor.calibrate(examples, draw(LAYERS, WIDTH).abs())
    z = predictor.logits(examples)
    assert z.std(dim=-1).mean().item() / 0.3 == pytest.approx(spread, rel=1e-4)


def test_calibration_tells_prompts_apart_and_prefers_important_channels() -> None:
    corpus = grid()
    predictor = make_predictor(corpus.vocab_size)
    examples, importance = corpus.batch("sft", 64, 0, 0), draw(LAYERS, WIDTH).abs()
    predictor.calibrate(examples, importance)
    z = predictor.logits(examples)[:, 0]
    mean = z.mean(dim=0)
    assert (z - mean).std(dim=-1).mean() > 0.5 * z.std(dim=-1).mean()
    for row, wanted in zip(mean, importance, strict=True):
        assert torch.corrcoef(torch.stack([row, wanted]))[0, 1] > 0.99


@pytest.mark.parametrize("count", [1, 5])
def test_calibration_needs_prompts_that_differ(count: int) -> None:
    corpus = grid()
    predictor, one = make_predictor(corpus.vocab_size), corpus.batch("sft", 1, 0, 0)
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    with pytest.raises(BadInput, match=rf"the {count} prompts that calibrate the predictor are all alike to it"):
        predictor.calibrate(one.take([0] * count), torch.ones(LAYERS, WIDTH).cumsum(1))
    assert all(torch.equal(before[name], value) for name, value in predictor.state_dict().items())


def test_channel_importance() -> None:
    """Norm of the column of W_down times the mean absolute size of the channel, first layer by hand."""
    model, examples = masked_decoder(), grid().batch("sft", 5, 0, 0)
    model = loud(masked(decoder_config(grid().vocab_size), KEEP).build())
    block = model.layers[0]
    x = model.embedding(examples.tokens)
    x = block.feed_forward_norm(x + block.attention(block.attention_norm(x)))
    layer = block.feed_forward
    hidden = nn.functional.silu(layer.gate_proj(x)) * layer.up_proj(x)
    wanted = hidden.abs().mean(dim=(0, 1)) * layer.down_proj.weight.norm(dim=0)
    found = channel_importance(model, examples)
    assert found.shape == (LAYERS, WIDTH)
    torch.testing.assert_close(found[0], wanted.detach())


def test_warmth_mixes_in_the_full_model() -> None:
    corpus = grid()
    model = loud(masked(decoder_config(corpus.vocab_size), KEEP).build())
    predictor, examples = make_predictor(corpus.vocab_size).eval(), corpus.batch("sft", 3, 0, 0)
    with torch.no_grad():
        full = model(examples.tokens)
        with predictor.applied(model, examples, warmth=0.0):
            torch.testing.assert_close(model(examples.tokens), full)
        with predictor.applied(model, examples, warmth=0.25):
            found = masked_layers(model)[1].gates
        assert found is not None
        torch.testing.assert_close(found, 0.75 + 0.25 * predictor(examples)[:, :, 1])

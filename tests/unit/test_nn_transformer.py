"""FeedForward, Block and Decoder: equations, initial scale, counts at published sizes, generation, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from orchard.config import REQUIRED
from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm
from orchard.nn.attention import visible_keys


def config(num_layers: int = 2, vocab_size: int = 19, window: int | None = None, **options: Any) -> Decoder.Config:
    block = Block.Config(
        attention=Attention.Config(num_heads=4, num_kv_heads=2, window=window),
        feed_forward=FeedForward.Config(hidden_dim=10),
    )
    return Decoder.Config(vocab_size=vocab_size, dim=16, layers=[block] * num_layers, **options)


@pytest.mark.parametrize(("activation", "function"), [("silu", F.silu), ("gelu", F.gelu)])
def test_feed_forward(activation: str, function: Any) -> None:
    layer = FeedForward.Config(dim=6, hidden_dim=9, activation=activation).build()
    x = torch.randn(2, 3, 6)
    gate, up, down = (p.weight for p in (layer.gate_proj, layer.up_proj, layer.down_proj))
    torch.testing.assert_close(layer(x), (function(x @ gate.T) * (x @ up.T)) @ down.T)
    assert layer.flops_per_token(5) == 2 * 3 * 6 * 9


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"FeedForward\.Config\.activation is 'swish'.*silu, gelu"):
        FeedForward.Config(dim=4, hidden_dim=4, activation="swish").build()


def test_block_has_two_residuals() -> None:
    block = Block.Config(
        dim=8, attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=12)
    ).build()
    x = torch.randn(2, 5, 8)
    middle = x + block.attention(block.attention_norm(x))
    torch.testing.assert_close(block(x), middle + block.feed_forward(block.feed_forward_norm(middle)))


def test_initial_scale_and_depth() -> None:
    cfg = Decoder.Config(
        vocab_size=300,
        dim=128,
        layers=[Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=256))]
        * 8,
    )
    decoder = cfg.build()
    output = 0.02 / (2 * 8) ** 0.5
    for layer in decoder.layers:
        assert layer.attention.o_proj.weight.std().item() == pytest.approx(output, rel=0.03)
        assert layer.feed_forward.down_proj.weight.std().item() == pytest.approx(output, rel=0.03)
        assert layer.feed_forward.up_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
        assert layer.attention.q_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    assert decoder.embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert decoder.head.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    own = cfg.layers[0].set(output_init_std=0.5)  # a value that was set is not overwritten
    assert Decoder.Config(vocab_size=5, dim=128, layers=[own]).build().layers[
        0
    ].attention.o_proj.weight.std().item() == pytest.approx(0.5, rel=0.03)


def test_dimensions_are_pushed_into_private_copies() -> None:
    cfg = config()
    decoder = cfg.build()
    assert cfg.layers[0].dim is REQUIRED
    assert cfg.layers[0].attention.output_init_std is None
    first, second = decoder.layers
    assert first.attention.q_proj.weight.data_ptr() != second.attention.q_proj.weight.data_ptr()


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    a = config().build()
    torch.manual_seed(3)
    b = config().build()
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_logits_are_the_output_matrix_times_features() -> None:
    decoder = config().build()
    tokens = torch.randint(0, 19, (2, 7))
    features = decoder.features(tokens)
    assert features.shape == (2, 7, 16)
    torch.testing.assert_close(decoder(tokens), features @ decoder.head.weight.T)
    torch.testing.assert_close(decoder.logits(features[:, -1]), decoder(tokens)[:, -1])


def test_tied_embeddings() -> None:
    tied, untied = config(tie_embeddings=True).build(), config().build()
    assert untied.num_parameters() - tied.num_parameters() == 19 * 16
    assert tied.num_parameters(embedding=False) == untied.num_parameters(embedding=False)
    tokens = torch.randint(0, 19, (1, 4))
    torch.testing.assert_close(tied(tokens), tied.features(tokens) @ tied.embedding.weight.T)
    assert tied.flops_per_token(4) == untied.flops_per_token(4)


def test_num_parameters() -> None:
    decoder = config().build()
    matrices = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 10)
    assert decoder.num_parameters(embedding=False, norms=False) == matrices
    assert decoder.num_parameters(embedding=False) == matrices + 5 * 16
    assert decoder.num_parameters() == matrices + 5 * 16 + 2 * 19 * 16
    assert decoder.num_parameters() == sum(p.numel() for p in decoder.parameters())


@pytest.mark.parametrize("window", [None, 3])
def test_flops_against_the_counter_of_torch(window: int | None) -> None:
    cfg = config(window=window)
    for layer in cfg.layers:
        layer.attention.set(backend="naive")
    decoder = cfg.build()
    with FlopCounterMode(display=False) as counter:
        decoder(torch.randint(0, 19, (1, 13)))
    hidden_pairs = 13 * 13 - visible_keys(13, window)
    expected = counter.get_total_flops() - 2 * 4 * 16 * hidden_pairs
    assert decoder.flops_per_token(13) * 13 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "kv_heads", "hidden", "matrices"),
    [(2048, 56, 16, 4, 6656, 2_877_292_544), (5120, 40, 40, 8, 16384, 12_582_912_000)],
)  # RATTENTION, arXiv 2506.15545, the 3B and 12B columns of its specification table
def test_published_sizes_on_the_meta_device(
    dim: int, layers: int, heads: int, kv_heads: int, hidden: int, matrices: int
) -> None:
    attention = Attention.Config(num_heads=heads, num_kv_heads=kv_heads, head_dim=128, qk_norm=RMSNorm.Config())
    feed_forward = FeedForward.Config(hidden_dim=hidden, activation="gelu")
    full = Block.Config(attention=attention, feed_forward=feed_forward)
    local = Block.Config(attention=attention.clone().set(window=512), feed_forward=feed_forward)
    with torch.device("meta"):
        decoder = Decoder.Config(
            vocab_size=100, dim=dim, layers=[full if i % 4 == 3 else local for i in range(layers)]
        ).build()
        assert all(p.is_meta for p in decoder.parameters())
        assert decoder.num_parameters(embedding=False, norms=False) == matrices
        assert decoder(torch.zeros(1, 2049, dtype=torch.int64)).shape == (1, 2049, 100)
        cache = decoder.new_cache(2, 4096, device="meta", dtype=torch.bfloat16)
        assert decoder(torch.zeros(2, 3, dtype=torch.int64), cache).is_meta
    kv_bytes = (layers // 4) * (4096 + 3 * 513) * 2 * kv_heads * 128 * 2
    assert decoder.cache_bytes(4096, 2) == kv_bytes
    assert cache.bytes() == 2 * kv_bytes
    pairs = (visible_keys(4096, None) + 3 * visible_keys(4096, 512)) * (layers // 4)
    flops = 2 * (matrices + dim * 100) + 4 * heads * 128 * pairs / 4096
    assert decoder.flops_per_token(4096) == pytest.approx(flops, rel=1e-12)


# -- generation ----------------------------------------------------------------------------------------------------


def sharp(**options: Any) -> Decoder:
    """A decoder whose logits differ enough that rounding never changes which is largest."""
    decoder = config(**options).build()
    torch.nn.init.normal_(decoder.embedding.weight)
    return decoder


@pytest.mark.parametrize("window", [None, 0, 2])
def test_greedy_generation_equals_running_everything_again(window: int | None) -> None:
    decoder = sharp(window=window)
    prompt = torch.randint(0, 19, (3, 5))
    out = decoder.generate(prompt, 9)
    slow = prompt
    for _ in range(9):
        slow = torch.cat((slow, decoder(slow)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    assert out.tolist() == slow.tolist()
    assert decoder.generate(prompt, 0).tolist() == prompt.tolist()


def test_sampling_is_reproducible_and_follows_the_temperature() -> None:
    decoder = sharp()
    prompt = torch.randint(0, 19, (4, 3))

    def sample(seed: int, temperature: float) -> list[list[int]]:
        return decoder.generate(prompt, 12, temperature, torch.Generator().manual_seed(seed)).tolist()

    assert sample(0, 1.0) == sample(0, 1.0)
    assert sample(0, 1.0) != sample(1, 1.0)
    assert sample(0, 1e-4) == decoder.generate(prompt, 12).tolist()


def test_sampled_frequencies_match_the_softmax() -> None:
    decoder = sharp(vocab_size=4)
    prompt = torch.tensor([[2]]).expand(4000, 1)
    drawn = decoder.generate(prompt, 1, 2.0, torch.Generator().manual_seed(0))[:, 1]
    expected = (decoder(prompt[:1])[0, -1] / 2.0).softmax(dim=-1)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 4000, expected, atol=0.03, rtol=0)


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [19, -1, 1000])
def test_token_outside_the_vocabulary(bad: int) -> None:
    with pytest.raises(ValueError, match=rf"{bad}.*vocab_size is 19"):
        config().build()(torch.tensor([[0, bad, 3]]))


def test_empty_sequence() -> None:
    with pytest.raises(ValueError, match="empty sequence"):
        config().build()(torch.zeros(2, 0, dtype=torch.int64))


def test_no_layers() -> None:
    with pytest.raises(ValueError, match=r"layers is empty"):
        config(num_layers=0).build()


def test_unset_field_is_named() -> None:
    cfg = config()
    cfg.layers[0].attention = Attention.Config()
    with pytest.raises(ValueError, match="num_heads"):
        cfg.build()


@torch.no_grad()
def test_embeddings_may_stand_for_tokens_or_before_them() -> None:
    blocks = [
        Block.Config(attention=Attention.Config(num_heads=2, window=w), feed_forward=FeedForward.Config(hidden_dim=8))
        for w in (3, None)
    ]
    decoder = Decoder.Config(vocab_size=13, dim=8, layers=blocks).build()
    tokens = torch.randint(0, 13, (2, 9))
    expected, vectors = decoder(tokens), decoder.embed(tokens)
    assert torch.equal(decoder(embeddings=vectors), expected)
    assert torch.equal(decoder(tokens[:, 4:], embeddings=vectors[:, :4]), expected)
    cache = decoder.new_cache(2, 9, device="cpu", dtype=torch.float32)
    parts = [decoder(None, cache, embeddings=vectors[:, :4]), decoder(tokens[:, 4:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one token, or one embedding"):
        decoder()

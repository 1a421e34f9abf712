"""Our blocks against the layers of `transformers`, with copied weights: forward and every gradient, odd lengths too.

Llama gives full causal attention with grouped queries, Mistral the sliding window (it counts the token itself), Qwen3
the query-key norm. Every parameter of one side must have a partner on the other; nothing is left uncompared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm, Rotary, window_including_self

DIM, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, THETA, EPS = 24, 4, 2, 8, 40, 500.0, 1e-5
LENGTHS = [1, 2, 7, 33]
WINDOWS = [0, 1, 4, 100]

WHOLE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.gain": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
PARTS = {
    "attention_norm.gain": "input_layernorm.weight",
    "feed_forward_norm.gain": "post_attention_layernorm.weight",
    "feed_forward.": "mlp.",
    "attention.": "self_attn.",
    "layers.": "model.layers.",
}


def translated(name: str) -> str:
    """Our name of a parameter of a decoder or of a block, as `transformers` calls it."""
    if name in WHOLE:
        return WHOLE[name]
    for ours, theirs in PARTS.items():
        name = name.replace(ours, theirs)
    return name


def pair(ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str]) -> dict[str, str]:
    """Randomise their parameters, copy each into ours; returns our name -> theirs. Fails if any is left over."""
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names = {name: rename(name) for name in mine}
    assert sorted(names.values()) == sorted(other)
    with torch.no_grad():
        for name, partner in names.items():
            norm = other[partner].ndim == 1
            other[partner].normal_(1.0 if norm else 0.0, 0.3)
            mine[name].copy_(other[partner])
    return names


def same(
    ours: nn.Module,
    theirs: nn.Module,
    names: dict[str, str],
    run_ours: Callable[[Tensor], Tensor],
    run_theirs: Callable[[Tensor], Tensor],
    x: Tensor,
    gains: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> None:
    """Equal outputs, equal gradients of every parameter and, where `x` can have one, of the input."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    outputs = [run_ours(inputs[0]), run_theirs(inputs[1])]
    torch.testing.assert_close(*outputs, atol=2e-5, rtol=1e-4)
    for module, out in zip((ours, theirs), outputs, strict=True):
        module.zero_grad()
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(5)))
    if x.is_floating_point():
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=5e-5, rtol=1e-4)
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    # Sums over all tokens: rounding grows with what is summed, also where the sum is nothing (keys of a window of 0).
    scale = max([1.0, *(p.grad.abs().max().item() for p in other.values() if p.grad is not None)])
    for name, partner in names.items():
        a, b = mine[name].grad, other[partner].grad
        assert a is not None
        assert b is not None
        if name.endswith(("q_norm.gain", "k_norm.gain")):
            a, b = gains(a), gains(b)
        torch.testing.assert_close(a / scale, b / scale, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def theirs_of(kind: str, window: int | None = None, num_layers: int = 1) -> Any:
    """A small model of `transformers`, in its plain form of attention (no fused kernel)."""
    shape: dict[str, Any] = {
        "vocab_size": 31, "hidden_size": DIM, "intermediate_size": HIDDEN, "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "rms_norm_eps": EPS,
        "max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "tie_word_embeddings": False, "attn_implementation": "eager", "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    if kind == "mistral":
        assert window is not None
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=window_including_self(window)))
    return Qwen3ForCausalLM(Qwen3Config(**shape, use_sliding_window=False))


def ours_of(window: int | None = None, qk_norm: bool = False, backend: str = "auto") -> Block.Config:
    return Block.Config(
        dim=DIM,
        attention=Attention.Config(
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            window=window,
            rotary=Rotary.Config(theta=THETA),
            qk_norm=RMSNorm.Config(eps=EPS) if qk_norm else None,
            backend=backend,
        ),
        feed_forward=FeedForward.Config(hidden_dim=HIDDEN),
        norm=RMSNorm.Config(eps=EPS),
    )


def attention_of(block: Block.Config) -> Attention:
    return block.attention.set(dim=DIM).build()


def surroundings(model: Any, x: Tensor) -> dict[str, Any]:
    """What the model hands to each of its layers: rotary tables and the mask, made by its own code."""
    positions = torch.arange(x.shape[1])[None]
    windowed = getattr(model.config, "sliding_window", None) is not None
    mask = (create_sliding_window_causal_mask if windowed else create_causal_mask)(
        config=model.config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )
    return {"position_embeddings": model.model.rotary_emb(x, positions), "attention_mask": mask}


@pytest.mark.parametrize("time", LENGTHS)
def test_rms_norm(time: int) -> None:
    theirs = theirs_of("llama").model.norm
    ours = RMSNorm.Config(dim=DIM, eps=EPS).build()
    names = pair(ours, theirs, lambda name: "weight")
    same(ours, theirs, names, ours, theirs, torch.randn(2, time, DIM))


@pytest.mark.parametrize("time", LENGTHS)
def test_rotary(time: int) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model = theirs_of("llama")
    ours = Rotary.Config(dim=HEAD_DIM, theta=THETA).build()
    positions = torch.randint(0, 60, (time,))

    def theirs(x: Tensor) -> Tensor:
        cos, sin = model.model.rotary_emb(x, positions[None])
        return apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0]

    x = torch.randn(2, time, HEADS, HEAD_DIM)
    same(ours, nn.Identity(), {}, lambda x: ours(x, positions), theirs, x)


@pytest.mark.parametrize("backend", ["auto", "naive", "sdpa", "banded"])
@pytest.mark.parametrize("time", LENGTHS)
def test_full_attention_with_grouped_queries(time: int, backend: str) -> None:
    model = theirs_of("llama")
    theirs = model.model.layers[0].self_attn
    ours = attention_of(ours_of(backend=backend))
    names = pair(ours, theirs, lambda name: name)
    x = torch.randn(2, time, DIM)
    same(ours, theirs, names, ours, lambda x: theirs(x, **surroundings(model, x))[0], x)


@pytest.mark.parametrize("backend", ["naive", "sdpa", "banded"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("time", [1, 7, 33])
def test_sliding_window_attention(time: int, window: int, backend: str) -> None:
    model = theirs_of("mistral", window)
    theirs = model.model.layers[0].self_attn
    ours = attention_of(ours_of(window, backend=backend))
    names = pair(ours, theirs, lambda name: name)
    x = torch.randn(2, time, DIM)
    same(ours, theirs, names, ours, lambda x: theirs(x, **surroundings(model, x))[0], x)


@pytest.mark.parametrize("gain", ["ones", "equal within each rotated pair"])
@pytest.mark.parametrize("time", LENGTHS)
def test_query_key_norm(time: int, gain: str) -> None:
    """Qwen3 normalises, then rotates; we rotate, then normalise (as RATTENTION's official layer does).

    A rotation keeps the mean square, so the two orders coincide when both channels that a rotation mixes have one gain
    (ones are a case of it), and differ otherwise. The gradient of a gain then agrees summed over such a pair.
    """
    model = theirs_of("qwen3")
    theirs = model.model.layers[0].self_attn
    ours = attention_of(ours_of(qk_norm=True))
    names = pair(ours, theirs, lambda name: name.replace("gain", "weight"))
    x = torch.randn(2, time, DIM)
    with torch.no_grad():
        for name in ("q_norm", "k_norm"):
            weight = getattr(theirs, name).weight
            half = torch.ones(HEAD_DIM // 2) if gain == "ones" else weight[: HEAD_DIM // 2].clone()
            weight.copy_(torch.cat((half, half)))
            getattr(ours, name).gain.copy_(weight)

    def run_theirs(x: Tensor) -> Tensor:
        return theirs(x, **surroundings(model, x))[0]

    same(ours, theirs, names, ours, run_theirs, x, lambda gradient: gradient.view(2, -1).sum(dim=0))
    if time > 1:
        with torch.no_grad():  # and the orders do differ when the gains of a pair do
            ours.q_norm.gain[0] += 1
            theirs.q_norm.weight[0] += 1
        assert (ours(x) - run_theirs(x)).abs().max() > 1e-3


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("time", LENGTHS)
def test_gated_feed_forward(time: int, activation: str) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    theirs = LlamaMLP(
        LlamaConfig(hidden_size=DIM, num_attention_heads=HEADS, intermediate_size=HIDDEN, hidden_act=activation)
    )
    ours = FeedForward.Config(dim=DIM, hidden_dim=HIDDEN, activation=activation).build()
    names = pair(ours, theirs, lambda name: name)
    same(ours, theirs, names, ours, theirs, torch.randn(2, time, DIM))


@pytest.mark.parametrize(("kind", "window"), [("llama", None), ("mistral", 0), ("mistral", 4)])
@pytest.mark.parametrize("time", LENGTHS)
def test_decoder_layer(time: int, kind: str, window: int | None) -> None:
    model = theirs_of(kind, window)
    theirs = model.model.layers[0]
    ours = ours_of(window).build()
    names = pair(ours, theirs, translated)
    x = torch.randn(2, time, DIM)
    same(ours, theirs, names, ours, lambda x: theirs(x, **surroundings(model, x)), x)


@pytest.mark.parametrize(("kind", "window"), [("llama", None), ("mistral", 3)])
@pytest.mark.parametrize("time", LENGTHS)
def test_decoder(time: int, kind: str, window: int | None) -> None:
    theirs = theirs_of(kind, window, num_layers=3)
    ours = Decoder.Config(vocab_size=31, dim=DIM, layers=[ours_of(window)] * 3, norm=RMSNorm.Config(eps=EPS)).build()
    names = pair(ours, theirs, translated)
    tokens = torch.randint(0, 31, (2, time))
    same(ours, theirs, names, ours, lambda x: theirs(x, use_cache=False).logits, tokens)


@pytest.mark.parametrize(("kind", "window"), [("llama", None), ("mistral", 3)])
def test_greedy_generation(kind: str, window: int | None) -> None:
    theirs = theirs_of(kind, window, num_layers=2)
    ours = Decoder.Config(vocab_size=31, dim=DIM, layers=[ours_of(window)] * 2, norm=RMSNorm.Config(eps=EPS)).build()
    pair(ours, theirs, translated)
    prompt = torch.randint(0, 31, (2, 5))
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=9, do_sample=False)
    assert ours.generate(prompt, 9).tolist() == expected.tolist()

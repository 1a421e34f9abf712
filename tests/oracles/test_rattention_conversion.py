"""RATTENTION inside `transformers` models: equal to the original where it must be, equal to our decoder with copied
weights, generation in constant memory equal to the full forward, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm, Rotary
from orchard.papers.rattention.integrations.conversion import ConvertedAttention, ResidualCacheLayer, to_rattention
from orchard.papers.rattention.method.attention import RAttention

MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def hf(name: str = "llama", **fields: Any) -> Any:
    """A small model of `transformers`, all parameters random, with logits far apart."""
    torch.manual_seed(1)
    config, model = MODELS[name]
    made = model(
        config(
            vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=None, **fields,
        )
    )  # fmt: skip
    return randomised(made).eval()


def randomised(model: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model


def tokens(batch: int = 2, time: int = 21) -> Tensor:
    return torch.randint(2, 31, (batch, time), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", MODELS)
def test_a_window_over_everything_and_no_norm_change_nothing(name: str) -> None:
    """The residual part is then empty: logits and every gradient are those of the original."""
    original = hf(name)
    converted = copy.deepcopy(original)
    assert to_rattention(converted, window=40, output_norm=None) == [0, 1, 2]
    assert [isinstance(b.self_attn, ConvertedAttention) for b in converted.model.layers] == [True, True, True, False]
    x = tokens()
    a, b = original(x).logits, converted(x).logits
    torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)
    weight = torch.randn_like(a)
    for model, logits in ((original, a), (converted, b)):
        (logits * weight).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    theirs = dict(original.named_parameters())
    assert theirs.keys() == dict(converted.named_parameters()).keys()  # checkpoints of the original still load
    for key, parameter in converted.named_parameters():
        scale = theirs[key].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, theirs[key].grad / scale, atol=1e-4, rtol=0, msg=key)


def ours_like(model: Any, window: int) -> Decoder:
    """Our decoder with the weights of a converted Llama."""
    cfg = model.config
    shared: dict[str, Any] = {
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
        "rotary": Rotary.Config(theta=cfg.rope_parameters["rope_theta"]),
    }  # fmt: skip
    feed_forward = FeedForward.Config(hidden_dim=40)
    local, full = RAttention.Config(**shared, window=window), Attention.Config(**shared)
    blocks = [
        Block.Config(attention=part, feed_forward=feed_forward, norm=RMSNorm.Config(eps=cfg.rms_norm_eps))
        for part in (local, local, local, full)
    ]
    norm = RMSNorm.Config(eps=cfg.rms_norm_eps)
    decoder: Decoder = Decoder.Config(vocab_size=31, dim=24, layers=blocks, norm=norm).build()
    renamed = {
        "embed_tokens": "embedding", "lm_head": "head", "input_layernorm.weight": "attention_norm.gain",
        "post_attention_layernorm.weight": "feed_forward_norm.gain", "self_attn": "attention", "mlp": "feed_forward",
        "model.": "",
    }  # fmt: skip
    weights = {}
    for key, value in model.state_dict().items():
        for theirs, name in renamed.items():
            key = key.replace(theirs, name)
        weights["norm.gain" if key == "norm.weight" else key] = value
    decoder.load_state_dict(weights)
    return decoder.eval()


@pytest.mark.parametrize("window", [0, 1, 5, 30])
def test_equal_to_our_decoder_with_copied_weights(window: int) -> None:
    model = hf()
    to_rattention(model, window)
    randomised(model)  # the new norms too
    ours, x = ours_like(model, window), tokens()
    with torch.no_grad():
        torch.testing.assert_close(model(x).logits, ours(x), atol=2e-5, rtol=1e-4)
        assert model.generate(x, max_new_tokens=12, do_sample=False).tolist() == ours.generate(x, 12).tolist()


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 3, 50])
@pytest.mark.parametrize("name", MODELS)
def test_generation_equals_the_full_forward_in_constant_memory(name: str, window: int) -> None:
    model = hf(name)
    to_rattention(model, window)
    randomised(model)
    x = slow = tokens(time=9)
    for _ in range(14):
        slow = torch.cat([slow, model(slow, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    out = model.generate(x, max_new_tokens=14, do_sample=False, return_dict_in_generate=True)
    assert out.sequences.tolist() == slow.tolist()
    layers = out.past_key_values.layers
    assert [isinstance(layer, ResidualCacheLayer) for layer in layers] == [True, True, True, False]
    assert {layer.get_seq_length() for layer in layers} == {22}
    expected = 2 * 4 * (2 * (window + 1) * 2 * 8 + 2 * 16 * 8)
    assert [layer.bytes() for layer in layers[:3]] == [expected] * 3
    logits = [
        model(part, past_key_values=past).logits for past in [fresh(model, x)] for part in slow.split([5, 1, 9, 8], 1)
    ]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(slow).logits, atol=1e-4, rtol=1e-4)


def fresh(model: Any, x: Tensor) -> Any:
    """An empty cache of the kind that the model makes for itself."""
    past = model(x[:, :1], use_cache=True).past_key_values
    past.reset()
    return past


@torch.no_grad()
def test_beam_search_and_several_answers_per_prompt() -> None:
    """The caches are reordered and repeated: equal to the model without a cache."""
    model = hf()
    to_rattention(model, window=3)
    randomised(model)
    x = tokens(time=7)
    options: dict[str, Any] = {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    assert model.generate(x, **options).tolist() == model.generate(x, use_cache=False, **options).tolist()


def test_every_layer_and_half_precision() -> None:
    model = hf().bfloat16()
    assert to_rattention(model, window=2, layers=range(4)) == [0, 1, 2, 3]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    out = model.generate(tokens(), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    held = out.past_key_values.layers[3].held
    assert (held.k.dtype, held.state.dtype) == (torch.bfloat16, torch.float32)
    model(tokens()).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_padding_on_the_left_is_refused_and_on_the_right_is_harmless_without_a_cache() -> None:
    model, x = hf(), tokens()
    to_rattention(model, window=3)
    mask = torch.ones_like(x)
    left, right = mask.clone(), mask.clone()
    left[0, :4], right[0, -4:] = 0, 0
    for bad, options in ((left, {}), (left, {"use_cache": False}), (right, {})):
        with pytest.raises(BadInput, match=r"padding or positions with gaps.*equal length together, or one at a time"):
            model(x, attention_mask=bad, **options)
    with pytest.raises(BadInput, match="padding"):
        model.generate(x, attention_mask=left, max_new_tokens=3)
    padded = model(x, attention_mask=right, use_cache=False).logits
    torch.testing.assert_close(padded[0, :-4], model(x[:1, :-4]).logits[0])
    with pytest.raises(BadInput, match="positions with gaps"):
        model(x, position_ids=torch.arange(21)[None] * 2)
    with pytest.raises(BadInput, match=r"\[batch, time\] one without padding"):
        model(x, attention_mask=torch.ones(2, 1, 21, 21, dtype=torch.bool))


def test_models_that_cannot_be_converted_are_left_as_they_were() -> None:
    model = hf()
    for options, message in (
        ({"window": -1}, r"window=-1\).*0 or more"),
        ({"window": 3, "layers": [2, 4]}, r"layers \[4\]: the model has the layers 0 to 3"),
    ):
        with pytest.raises(BadInput, match=message):
            to_rattention(model, **options)
    model.model.layers[2].self_attn.scaling = 1.0
    with pytest.raises(BadInput, match=r"LlamaAttention scales its scores by 1, RAttention by head_dim"):
        to_rattention(model, window=3)
    model.model.layers[2].self_attn.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(BadInput, match=r"LlamaAttention has parts that RAttention does not know: sinks"):
        to_rattention(model, window=3)
    assert not any(isinstance(part, ConvertedAttention) for part in model.modules())
    with pytest.raises(BadInput, match="Linear is not shaped like Llama"):
        to_rattention(nn.Linear(2, 2), window=3)
    dynamic = hf(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(BadInput, match="rotary type 'dynamic' changes with the length"):
        to_rattention(dynamic, window=3)


def test_a_model_is_converted_once_and_starts_with_a_new_cache() -> None:
    model, x = hf(), tokens()
    past = model(x, use_cache=True).past_key_values
    to_rattention(model, window=3)
    with pytest.raises(BadInput, match="layer 0 from before its conversion"):
        model(x[:, :1], past_key_values=past)
    with pytest.raises(BadInput, match="converted already"):
        to_rattention(model, window=3)


def test_a_state_cannot_be_cut_back() -> None:
    model = hf()
    to_rattention(model, window=3)
    past = model(tokens(), use_cache=True).past_key_values
    assert not past.is_croppable
    past.layers[0].crop(0)
    with pytest.raises(NotImplementedError, match="cannot be taken out of a state"):
        past.crop(-2)

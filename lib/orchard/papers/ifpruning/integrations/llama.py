"""A decoder of this library as a `LlamaForCausalLM` of `transformers`: the same function in code that others wrote and serve.

    orchard                              transformers
    embedding.weight                     model.embed_tokens.weight
    layers.i.attention.{q,k,v,o}_proj    model.layers.i.self_attn.{q,k,v,o}_proj
    layers.i.feed_forward.*_proj         model.layers.i.mlp.*_proj
    layers.i.attention_norm.gain         model.layers.i.input_layernorm.weight
    layers.i.feed_forward_norm.gain      model.layers.i.post_attention_layernorm.weight
    norm.gain, head.weight               model.norm.weight, lm_head.weight

Rotary positions have one layout in both (the two halves of a head), so weights are copied as they are. A pruned decoder of width k is
such a Llama with `intermediate_size = k`. Needs `transformers`, imported when called; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import torch

from orchard.errors import BadInput
from orchard.nn import Attention, Decoder, FeedForward

LONGEST = 4096  # tokens: what the made config states; Llama's rotary angles do not depend on it
PARTS = {
    "attention_norm.gain": "input_layernorm.weight", "feed_forward_norm.gain": "post_attention_layernorm.weight",
    "feed_forward.": "mlp.", "attention.": "self_attn.", "layers.": "model.layers.",
    "embedding.": "model.embed_tokens.", "head.": "lm_head.",
}  # fmt: skip


def to_llama(cfg: Decoder.Config, decoder: Decoder) -> Any:
    """The `LlamaForCausalLM` with copies of this decoder's weights, in evaluation mode.

    All layers are like the first, without window and query-key norm. Raises BadInput for masks, experts and no rotary positions.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    attention, feed_forward = cfg.layers[0].attention, cfg.layers[0].feed_forward
    if feed_forward.owner is not FeedForward or attention.owner is not Attention or attention.rotary is None:
        raise BadInput(
            f"to_llama: a Llama has FeedForward and Attention with rotary positions, this decoder {feed_forward.owner.__qualname__} and "
            f"{attention!r}: gather the channels of a mask first, with pruning.gathered"
        )
    assert isinstance(feed_forward, FeedForward.Config)
    made = LlamaConfig(
        vocab_size=decoder.vocab_size, hidden_size=decoder.dim, intermediate_size=feed_forward.hidden_dim,
        num_hidden_layers=len(cfg.layers), num_attention_heads=attention.num_heads,
        num_key_value_heads=attention.num_kv_heads, head_dim=attention.head_dim, hidden_act=feed_forward.activation,
        rms_norm_eps=cfg.norm.eps, rope_parameters={"rope_type": "default", "rope_theta": attention.rotary.theta},
        max_position_embeddings=LONGEST, tie_word_embeddings=cfg.tie_embeddings,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model: Any = LlamaForCausalLM(made)
    weights = {}
    for name, value in decoder.state_dict().items():
        for ours, theirs in PARTS.items():
            name = name.replace(ours, theirs) if name != "norm.gain" else "model.norm.weight"
        weights[name] = value
    if cfg.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model.to(decoder.embedding.weight.dtype).eval()

"""Our mixture of experts against the Mixtral block of `transformers` with copied weights: forward, every gradient, the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_transformers_layers import pair, translated
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from orchard.nn import Attention, Block, Decoder, MixtureOfExperts, RMSNorm, Rotary
from orchard.nn.moe import load_balance_loss
from orchard.papers.moe_lottery.runs.checks import mixtral_block

SHAPES = [(16, 8, 5, 2), (24, 40, 8, 1), (12, 4, 3, 3), (64, 32, 16, 4), (8, 8, 33, 2)]  # dim, hidden, experts, chosen
ODD = (7, 5, 4, 2)


def ours(shape: tuple[int, int, int, int], backend: str) -> MixtureOfExperts:
    dim, hidden, experts, top_k = shape
    torch.manual_seed(0)
    built: MixtureOfExperts = MixtureOfExperts.Config(
        dim=dim, hidden_dim=hidden, num_experts=experts, top_k=top_k, backend=backend
    ).build()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.3)
    return built


def run(block: Any, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    assert x.grad is not None
    return {"output": y.detach(), "input": x.grad, **{name: p.grad for name, p in block.named_parameters()}}


@pytest.mark.parametrize("shape", [*SHAPES, ODD])
@pytest.mark.parametrize("time", [1, 2, 33])
@pytest.mark.parametrize("backend", ["grouped", "loop"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_block(shape: tuple[int, int, int, int], time: int, backend: str, implementation: str) -> None:
    if shape == ODD and implementation == "grouped_mm":
        implementation = "batched_mm"  # theirs cannot multiply rows that are no multiple of 16 bytes
    block = ours(shape, backend)
    found, wanted = (run(b, torch.randn(1, time, shape[0], generator=torch.Generator().manual_seed(2)))
                     for b in (block, mixtral_block(block, implementation)))  # fmt: skip
    assert set(found) == set(wanted) == {"output", "input", "gate.weight", "experts.gate_up_proj", "experts.down_proj"}
    for name in found:
        scale = max(1.0, float(wanted[name].abs().max()))
        torch.testing.assert_close(
            found[name] / scale, wanted[name] / scale, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]])
def test_block_in_bfloat16(shape: tuple[int, int, int, int]) -> None:
    """Equal routing, and no further from fp32 than theirs is, with a margin of two."""
    block = ours(shape, "grouped").bfloat16()
    x = torch.randn(2, 33, shape[0]).bfloat16()
    theirs = mixtral_block(block, "grouped_mm").bfloat16()
    flat = x.flatten(0, 1)
    assert torch.equal(block.gate(flat)[2], theirs.gate(flat)[2])  # type: ignore[operator]
    exact = mixtral_block(ours(shape, "loop"), "eager")
    exact.load_state_dict(block.state_dict())  # the rounded weights, in fp32
    found, other, wanted = run(block, x), run(theirs, x), run(exact, x.float())
    for name in wanted:
        error, margin = (
            (values[name].float() - wanted[name]).norm() / wanted[name].norm() for values in (found, other)
        )
        assert error < max(2 * margin, 0.02), name


def test_load_balance_loss() -> None:
    torch.manual_seed(0)
    for experts, top_k in ((8, 2), (5, 1), (6, 6)):
        logits = torch.randn(37, experts, requires_grad=True)
        index = logits.softmax(dim=-1).topk(top_k, dim=-1).indices
        found, wanted = load_balance_loss(logits, index), load_balancing_loss_func((logits,), experts, top_k)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)))


def test_a_whole_mixtral() -> None:
    """Two layers with attention, norms and output: logits with every weight copied by name."""
    cfg = MixtralConfig(
        vocab_size=31, hidden_size=24, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_local_experts=6, num_experts_per_tok=2, rms_norm_eps=1e-5, sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    theirs = MixtralForCausalLM(cfg).eval()
    attention = Attention.Config(num_heads=4, num_kv_heads=2, head_dim=8, rotary=Rotary.Config(theta=500.0))
    experts = MixtureOfExperts.Config(hidden_dim=8, num_experts=6, top_k=2)
    block = Block.Config(attention=attention, feed_forward=experts, norm=RMSNorm.Config(eps=1e-5))
    model = (
        Decoder.Config(vocab_size=31, dim=24, layers=[block, block.clone()], norm=RMSNorm.Config(eps=1e-5))
        .build()
        .eval()
    )
    pair(model, theirs, translated)
    tokens = torch.randint(0, 31, (2, 19))
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=2e-5, rtol=1e-4)

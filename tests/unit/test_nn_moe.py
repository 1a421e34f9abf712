"""Mixture of experts: values by hand, both backends, losses, statistics, errors, and its place in decoders and in training."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.config import replace
from orchard.nn import Attention, Block, Decoder, FeedForward, MixtureOfExperts, moe
from orchard.nn.moe import Experts, Router, auxiliary_loss, load_balance_loss, router_statistics, z_loss


def mixture(backend: str = "grouped", seed: int = 0, **fields: Any) -> MixtureOfExperts:
    torch.manual_seed(seed)
    values = {"dim": 16, "hidden_dim": 8, "num_experts": 5, "top_k": 2} | fields
    built: MixtureOfExperts = MixtureOfExperts.Config(backend=backend, **values).build()
    with torch.no_grad():
        built.gate.weight.normal_(0, 0.5)
        built.experts.down_proj.normal_(0, 0.3)
    return built


def decoder_config(num_layers: int = 2, **fields: Any) -> Decoder.Config:
    experts = MixtureOfExperts.Config(**{"hidden_dim": 8, "num_experts": 4, "top_k": 2} | fields)
    block = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=experts)
    return Decoder.Config(vocab_size=11, dim=16, layers=[block.clone() for _ in range(num_layers)])


def outputs_and_gradients(layer: MixtureOfExperts, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


# -- values --------------------------------------------------------------------------------------------------------


def test_one_token_by_hand() -> None:
    layer = mixture(num_experts=3)
    x = torch.randn(16)
    p = (layer.gate.weight @ x).softmax(dim=0)
    first, second = p.topk(2).indices.tolist()
    wanted = torch.zeros(16)
    for expert in (first, second):
        gate, up = (layer.experts.gate_up_proj[expert] @ x).chunk(2)
        wanted += p[expert] / (p[first] + p[second]) * (layer.experts.down_proj[expert] @ (gate * gate.sigmoid() * up))
    torch.testing.assert_close(layer(x[None, None])[0, 0], wanted)
    kept = mixture(num_experts=3, renormalise=False)
    torch.testing.assert_close(kept(x[None, None])[0, 0], wanted * (p[first] + p[second]))


def test_all_experts_of_equal_weights_are_one_feed_forward() -> None:
    """Copies of one expert under renormalised weights are that expert, whatever the router does."""
    layer = mixture(num_experts=4, top_k=4)
    dense = FeedForward.Config(dim=16, hidden_dim=8).build()
    with torch.no_grad():
        layer.experts.gate_up_proj.copy_(
            torch.cat([dense.gate_proj.weight, dense.up_proj.weight])[None].expand(4, -1, -1)
        )
        layer.experts.down_proj.copy_(dense.down_proj.weight[None].expand(4, -1, -1))
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(layer(x), dense(x))


SHAPES = [
    {},
    {"top_k": 5},  # all experts
    {"top_k": 1},
    {"num_experts": 1, "top_k": 1},
    {"num_experts": 33, "top_k": 3},  # more experts than pairs: most see nothing
    {"dim": 7, "hidden_dim": 5},  # rows that are no multiple of 16 bytes
    {"dim": 6, "hidden_dim": 12, "activation": "gelu"},
    {"renormalise": False},
]


@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize("time", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grouped_equals_the_loop(fields: dict[str, Any], time: int, dtype: torch.dtype) -> None:
    grouped, loop = (mixture(backend, **fields).to(dtype) for backend in ("grouped", "loop"))
    x = torch.randn(2, time, grouped.gate.weight.shape[1], dtype=dtype)
    found, wanted = outputs_and_gradients(grouped, x), outputs_and_gradients(loop, x)
    assert len(found) == 5
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_of_a_gpu_is_that_of_a_cpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """`grouped_mm` runs on a CPU too: with and without tokens for every expert, under autocast, forward and every gradient."""
    shapes = ({}, {"num_experts": 33, "top_k": 3}, {"num_experts": 1, "top_k": 1}, {"dim": 7, "hidden_dim": 5})
    for fields in shapes:
        x = torch.randn(2, 9, fields.get("dim", 16))
        found = []
        for form in (moe.outputs_by_group, moe.grouped_outputs):
            monkeypatch.setattr(moe, "outputs_by_group", form)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                found.append(outputs_and_gradients(mixture(**fields), x))
        for a, b in zip(*found, strict=True):
            assert (a - b).norm() <= (1e-5 if dtype == torch.float32 else 0.02) * b.norm()
        monkeypatch.undo()


@pytest.mark.parametrize("backend", ["grouped", "loop"])
def test_unused_experts_get_no_gradient(backend: str) -> None:
    layer = mixture(backend)
    x = torch.randn(2, 9, 16)
    _, _, index = layer.gate(x.flatten(0, 1))
    unused = sorted(set(range(5)) - set(index[:1].flatten().tolist()))
    outputs_and_gradients(layer, x[:1, :1])
    for parameter in (layer.experts.gate_up_proj, layer.experts.down_proj):
        assert parameter.grad is not None
        assert not parameter.grad[unused].any()
        assert parameter.grad[index[0]].abs().amax(dim=(1, 2)).all()


def test_bfloat16_and_autocast() -> None:
    """Half precision stays near fp32; under autocast parameters and their gradients stay in fp32, and both backends agree."""
    x = torch.randn(2, 33, 16)
    exact = outputs_and_gradients(mixture(), x)
    half = mixture().bfloat16()
    with torch.no_grad():  # the routing of half precision may differ from that of fp32 for single tokens
        same = (half.gate(x.bfloat16().flatten(0, 1))[2] == mixture().gate(x.flatten(0, 1))[2]).all(dim=1).view(2, 33)
        assert same.float().mean() > 0.9
        torch.testing.assert_close(half(x.bfloat16()).float()[same], exact[0][same], atol=0.05, rtol=0.05)
    found = []
    for backend in ("grouped", "loop"):
        layer = mixture(backend)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(outputs_and_gradients(layer, x))
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() < 0.02 * b.norm()
    assert found[0][0].dtype == torch.float32


# -- losses and statistics -----------------------------------------------------------------------------------------


def test_load_balance_loss_at_its_ends() -> None:
    """k when all are used alike, n when one expert is certain of everything."""
    even = torch.zeros(12, 4)
    index = torch.stack([torch.arange(12) % 4, (torch.arange(12) + 1) % 4], dim=1)
    torch.testing.assert_close(load_balance_loss(even, index), torch.tensor(2.0))
    certain = torch.full((12, 4), -1e4).index_fill(1, torch.tensor([2]), 0.0)
    torch.testing.assert_close(load_balance_loss(certain, torch.full((12, 1), 2)), torch.tensor(4.0))


def test_z_loss() -> None:
    torch.testing.assert_close(z_loss(torch.zeros(3, 8)), torch.tensor(math.log(8) ** 2))
    torch.testing.assert_close(z_loss(torch.full((3, 1), -2.0)), torch.tensor(4.0))


def test_router_statistics_in_closed_form() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0, 0.0]])
    index, weights = torch.tensor([[0, 1], [0, 2]]), torch.tensor([[0.5, 0.5], [0.25, 0.25]])
    found = router_statistics(logits, weights, index)
    assert found["load"].tolist() == [0.5, 0.25, 0.25, 0.0]
    torch.testing.assert_close(found["probability"], torch.tensor([0.375, 0.375, 0.125, 0.125]).double())
    torch.testing.assert_close(found["variation"], torch.tensor(0.5**0.5).double())  # sd sqrt(1/32) over mean 1/4
    torch.testing.assert_close(found["entropy"], torch.tensor((math.log(2) + math.log(4)) / 2))
    assert found["mass"].item() == 0.75


def test_auxiliary_loss_is_the_mean_over_mixtures_and_is_asked_for_once() -> None:
    model = decoder_config(load_balance=0.5, z_loss=0.25).build().train()
    logits: list[Tensor] = []
    for layer in model.layers:
        layer.feed_forward.gate.register_forward_hook(lambda _, inputs, out: logits.append(out))
    model(torch.randint(0, 11, (2, 6)))
    wanted = torch.stack([0.5 * load_balance_loss(out[0], out[2]) + 0.25 * z_loss(out[0]) for out in logits]).mean()
    torch.testing.assert_close(auxiliary_loss(model), wanted)
    assert auxiliary_loss(model) == 0.0
    model.eval()(torch.randint(0, 11, (2, 6)))
    assert auxiliary_loss(model) == 0.0
    assert auxiliary_loss(FeedForward.Config(dim=4, hidden_dim=4).build()) == 0.0


# -- in a decoder and in training ----------------------------------------------------------------------------------


def test_a_training_step_adds_the_auxiliary_loss_and_clears_it() -> None:
    from orchard.train import AdamW
    from orchard.train.lm import token_losses
    from orchard.train.loop import LanguageModel

    model = decoder_config(load_balance=0.3).build().train()
    module = LanguageModel(model, AdamW.Config().build(), 1, False)
    tokens = torch.randint(0, 11, (2, 9))
    loss = module.training_step({"tokens": tokens}, 0)
    assert all(layer.feed_forward.auxiliary_loss is None for layer in model.layers)
    plain = token_losses(model, tokens).mean()
    torch.testing.assert_close(loss, plain + auxiliary_loss(model))
    assert loss > plain + 0.3  # at least 0.3 k for two of four experts, nearly even
    optimizer = AdamW.Config(learning_rate=1e-2).build().optimizer(model, fused=False)
    before = [p.detach().clone() for p in model.parameters()]
    loss.backward()
    optimizer.step()
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
    after = module.training_step({"tokens": tokens}, 0)
    assert after < loss


def test_decoding_with_caches_equals_the_whole_sequence() -> None:
    model = decoder_config().build().eval()
    prompt = torch.randint(0, 11, (2, 5))
    written = model.generate(prompt, 6)
    for end in range(5, 11):
        torch.testing.assert_close(model(written[:, :end])[:, -1].argmax(dim=-1), written[:, end])


def test_flops_count_the_chosen_experts_alone() -> None:
    layer = mixture(dim=16, hidden_dim=8, num_experts=5, top_k=2)
    assert layer.flops_per_token(100) == 2 * (5 * 16 + 2 * 3 * 16 * 8)
    model = decoder_config().build()
    assert model.flops_per_token(32) == sum(layer.flops_per_token(32) for layer in model.layers) + 2 * 16 * 11


def test_replacing_feed_forward_layers_works_on_any_decoder() -> None:
    block = Block.Config(
        attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=12, activation="gelu")
    )
    cfg = Decoder.Config(vocab_size=11, dim=16, layers=[block.clone() for _ in range(3)])
    paths = replace(cfg, FeedForward, MixtureOfExperts.Config(num_experts=8, hidden_dim=4), where="layers.[12].*")
    assert paths == ["layers.1.feed_forward", "layers.2.feed_forward"]
    model = cfg.build()
    assert isinstance(model.layers[0].feed_forward, FeedForward)
    for layer in model.layers[1:]:
        assert layer.feed_forward.experts.gate_up_proj.shape == (8, 2 * 4, 16)
        assert layer.feed_forward.experts.act_fn is torch.nn.functional.gelu  # carried over
    assert model(torch.randint(0, 11, (1, 4))).shape == (1, 4, 11)
    back = replace(cfg, MixtureOfExperts, FeedForward.Config(), drop=("num_experts",))
    assert back == paths
    assert cfg.build().layers[2].feed_forward.gate_proj.weight.shape == (4, 16)


TRACE = """
import torch
from orchard.nn import Attention, Block, Decoder, MixtureOfExperts
from orchard.train.lm import token_losses
experts = MixtureOfExperts.Config(hidden_dim=8, num_experts=4, top_k=2)
block = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=experts)
for half in (True, False):
    model = Decoder.Config(vocab_size=19, dim=16, layers=[block.clone()]).build()
    tokens = torch.randint(0, 19, (2, 33))
    def plain(tokens):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return token_losses(model, tokens).mean()
    loss = torch.compile(plain, backend="aot_eager", fullgraph=half)(tokens)
    assert all(layer.feed_forward.auxiliary_loss is not None for layer in model.layers)
    torch.testing.assert_close(loss, plain(tokens))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
"""


def test_a_training_step_compiles() -> None:
    """One graph under the autocast of a GPU; in fp32, which grouped products cannot be traced in, with breaks.

    In a process of its own: the run-time shape checks of the tests do not trace.
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TRACE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 6])
def test_more_choices_than_experts(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"top_k is {top_k} of 5 experts: choose between 1 and all of them"):
        mixture(top_k=top_k)
    with pytest.raises(ValueError, match="Router"):
        Router.Config(dim=4, num_experts=5, top_k=top_k).build()


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"backend is 'triton': choose one of grouped, loop"):
        mixture(backend="triton")
    with pytest.raises(ValueError, match=r"activation is 'relu': choose one of silu, gelu"):
        Experts.Config(dim=4, hidden_dim=4, num_experts=2, activation="relu").build()

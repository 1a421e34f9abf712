"""2:4 sparsity against brute force: which weights stay, Wanda's norms, masks that outlive fine-tuning."""

import itertools

import pytest
import torch
from torch import Tensor

from orchard.nn import Attention, Block, Decoder, MixtureOfExperts, Rotary
from orchard.papers.moe_lottery.method.dropping import ExpertsError, mixture_layers
from orchard.papers.moe_lottery.method.sparsity import (
    KINDS,
    InputNorms,
    input_norms,
    masks,
    sparsify,
    staying_sparse,
    two_of_four,
)

DIM, HIDDEN, EXPERTS, VOCAB = 12, 8, 5, 19


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    attention = Attention.Config(num_heads=2, num_kv_heads=1, head_dim=6, rotary=Rotary.Config())
    mixture = MixtureOfExperts.Config(hidden_dim=HIDDEN, num_experts=EXPERTS, top_k=2)
    layers = [Block.Config(attention=attention, feed_forward=mixture) for _ in range(2)]
    made: Decoder = Decoder.Config(vocab_size=VOCAB, dim=DIM, layers=layers).build()
    return made.eval()


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCAB, (3, 7), generator=generator), torch.randint(VOCAB, (1, 5), generator=generator)]


def brute_norms(model: Decoder, batches: list[Tensor]) -> list[InputNorms]:
    """Token by token and expert by expert."""
    layers = mixture_layers(model)
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]
    handles = [
        layer.experts.register_forward_pre_hook(lambda _, args, kept=kept: kept.append((args[0], args[1])))
        for layer, kept in zip(layers, seen, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    found = []
    for layer, calls in zip(layers, seen, strict=True):
        gate_up, down = torch.zeros(EXPERTS, DIM).double(), torch.zeros(EXPERTS, HIDDEN).double()
        for hidden, index in calls:
            for row, experts in zip(hidden, index, strict=True):
                for e in experts.tolist():
                    gate, up = (layer.experts.gate_up_proj[e] @ row).chunk(2)
                    gate_up[e] += row.double() ** 2
                    down[e] += (torch.nn.functional.silu(gate) * up).detach().double() ** 2
        found.append(InputNorms(gate_up.sqrt(), down.sqrt()))
    return found


def test_norms_are_those_of_the_tokens_routed_to_the_expert(model: Decoder, batches: list[Tensor]) -> None:
    before = model(batches[0])
    for fast, slow in zip(input_norms(model, batches), brute_norms(model, batches), strict=True):
        torch.testing.assert_close(fast.gate_up, slow.gate_up, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(fast.down, slow.down, rtol=1e-5, atol=1e-7)
        assert (fast.gate_up > 0).any()
    assert torch.equal(model(batches[0]), before)  # watching leaves nothing behind
    with pytest.raises(ExpertsError, match="no calibration text"):
        input_norms(model, [])


def test_the_best_pair_of_every_four_stays() -> None:
    scores = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    kept = two_of_four(scores)
    for row, own in zip(
        scores.flatten(0, 1).unflatten(-1, (2, 4)), kept.flatten(0, 1).unflatten(-1, (2, 4)), strict=True
    ):
        for four, mask in zip(row, own, strict=True):
            best = max(itertools.combinations(range(4), 2), key=lambda pair, four=four: float(four[list(pair)].sum()))
            assert set(mask.nonzero().flatten().tolist()) == set(best)
    assert two_of_four(torch.ones(4)).tolist() == [True, True, False, False]
    with pytest.raises(ExpertsError, match="multiple of 4, not 6"):
        two_of_four(torch.ones(2, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_experts_weights_go_and_nothing_else(model: Decoder, batches: list[Tensor], kind: str) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = masks(model, kind, input_norms(model, batches), torch.Generator().manual_seed(0))
    sparsify(model, kept)
    for name, after in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            groups = (after != 0).unflatten(-1, (-1, 4)).sum(dim=-1)
            assert (groups == 2).all()
            assert torch.equal(after[after != 0], before[name][after != 0])
        else:
            assert torch.equal(after, before[name])


def test_scores_of_magnitude_and_wanda(model: Decoder, batches: list[Tensor]) -> None:
    norms = input_norms(model, batches)
    norms[0].gate_up[3] = 0.0  # an expert that no token reached is ranked by magnitude
    wanda, magnitude = masks(model, "wanda", norms), masks(model, "magnitude", norms)
    for place, layer in enumerate(mixture_layers(model)):
        gate_up, down = layer.experts.gate_up_proj.detach(), layer.experts.down_proj.detach()
        assert torch.equal(magnitude[place].gate_up, two_of_four(gate_up.abs()))
        assert torch.equal(wanda[place].down, two_of_four(down.abs() * norms[place].down[:, None]))
        reached = [e for e in range(EXPERTS) if float(norms[place].gate_up[e].sum()) > 0]
        for e in reached:
            assert torch.equal(wanda[place].gate_up[e], two_of_four(gate_up[e].abs() * norms[place].gate_up[e]))
    assert torch.equal(wanda[0].gate_up[3], magnitude[0].gate_up[3])
    assert any(not torch.equal(w.gate_up, m.gate_up) for w, m in zip(wanda, magnitude, strict=True))


def test_bad_kinds_are_named(model: Decoder) -> None:
    with pytest.raises(
        ExpertsError, match="2:4 pruning by 'sparsegpt' does not exist: choose magnitude, wanda, random"
    ):
        masks(model, "sparsegpt")
    with pytest.raises(ExpertsError, match="Wanda ranks weights by their inputs"):
        masks(model, "wanda")


def test_an_optimizer_leaves_the_zeros_alone(model: Decoder, batches: list[Tensor]) -> None:
    kept = masks(model, "magnitude")
    sparsify(model, kept)
    before = [layer.experts.down_proj.detach().clone() for layer in mixture_layers(model)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    with staying_sparse(model, kept):
        for _ in range(3):
            optimizer.zero_grad()
            model(batches[0]).square().mean().backward()
            optimizer.step()
    for layer, mask, old in zip(mixture_layers(model), kept, before, strict=True):
        down = layer.experts.down_proj.detach()
        assert (down[~mask.down] == 0).all()
        assert not torch.equal(down, old)
    model(batches[0]).square().mean().backward()  # outside the block every weight has its gradient again
    gradient = mixture_layers(model)[0].experts.down_proj.grad
    assert gradient is not None
    assert (gradient[~kept[0].down] != 0).any()

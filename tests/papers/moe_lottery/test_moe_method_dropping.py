"""Dropping: mask and removal are one function, budgets, configs of pruned models, and every refusal with its message."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchard.nn import Decoder
from orchard.papers.moe_lottery.method.dropping import (
    ExpertsError,
    check_drop,
    drop_experts,
    global_ranking,
    logits_of,
    masked,
    mixture_layers,
    pruned_config,
    worst,
)
from orchard.papers.moe_lottery.runs.checks import EXPERTS, UNEQUAL, batches, tiny, tiny_config

DROPS: list[dict[int, list[int]]] = [{0: [2]}, {1: [5, 0, 3]}, UNEQUAL, {0: [0, 1, 2, 3], 1: [2, 3, 4, 5]}, {0: []}, {}]


@pytest.mark.parametrize("dropped", DROPS)
@pytest.mark.parametrize("renormalise", [True, False])
def test_removing_is_masking(dropped: dict[int, list[int]], renormalise: bool) -> None:
    model, tokens = tiny(renormalise=renormalise), batches()[0]
    whole = logits_of(model, tokens)
    with masked(model, dropped):
        wanted = logits_of(model, tokens)
    assert torch.equal(logits_of(model, tokens), whole)  # the mask is gone
    assert torch.equal(wanted, whole) == (not any(dropped.values()))
    kept = drop_experts(model, dropped)
    torch.testing.assert_close(logits_of(model, tokens), wanted, atol=1e-6, rtol=1e-5)
    for layer in mixture_layers(model):
        assert kept[layer.place] == [e for e in range(EXPERTS) if e not in dropped.get(layer.place, [])]
        assert layer.num_experts == layer.experts.num_experts == layer.gate.num_experts == len(kept[layer.place])


def test_a_mask_inside_a_mask_adds_to_it_and_leaves_it_alone() -> None:
    model, tokens = tiny(), batches()[0]
    with masked(model, {0: [1]}):
        outer = logits_of(model, tokens)
        with masked(model, {0: [4]}):
            both = logits_of(model, tokens)
        assert torch.equal(logits_of(model, tokens), outer)
    with masked(model, {0: [1, 4]}):
        assert torch.equal(logits_of(model, tokens), both)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_mask_after_the_softmax_is_another_function() -> None:
    """What the head comment warns of: where weights are kept as they are, masking late leaves them too small."""
    model, tokens = tiny(renormalise=False), batches()[0]
    layer = mixture_layers(model)[0]
    with masked(model, {0: [1]}):
        _, early, _ = layer.gate(model.embedding(tokens).flatten(0, 1))
    logits, _, _ = layer.gate(model.embedding(tokens).flatten(0, 1))
    late = logits.softmax(dim=-1).index_fill(1, torch.tensor([1]), 0).topk(2, dim=-1).values
    assert (early.sum(dim=1) > late.sum(dim=1)).all()


def test_training_reaches_no_masked_expert() -> None:
    model = tiny()
    with masked(model, UNEQUAL):
        logits_of(model, batches()[0]).logsumexp(dim=-1).sum().backward()
    for layer in mixture_layers(model):
        for parameter in (layer.gate.weight, layer.experts.gate_up_proj, layer.experts.down_proj):
            assert parameter.grad is not None
            assert not parameter.grad[UNEQUAL[layer.place]].any()
            assert parameter.grad.isfinite().all()


def test_masks_end_with_an_error_inside() -> None:
    model = tiny()
    with pytest.raises(RuntimeError, match="stop"), masked(model, UNEQUAL):
        raise RuntimeError("stop")
    assert all("forward" not in layer.gate.__dict__ for layer in mixture_layers(model))


def test_rounds_of_dropping_compose() -> None:
    """Two rounds, the second in the numbers of what the first left, drop what one round would."""
    once, twice, tokens = tiny(), tiny(), batches()[0]
    drop_experts(once, {0: [1, 4], 1: [0]})
    first = drop_experts(twice, {0: [1], 1: [0]})
    second = drop_experts(twice, {0: [3]})
    assert [first[0][e] for e in second[0]] == [0, 2, 3, 5]
    torch.testing.assert_close(twice(tokens), once(tokens), atol=0, rtol=0)


def test_frozen_weights_stay_frozen() -> None:
    model = tiny()
    layer = mixture_layers(model)[0]
    layer.gate.weight.requires_grad_(False)
    drop_experts(model, {0: [0]})
    assert not layer.gate.weight.requires_grad
    assert layer.experts.down_proj.requires_grad


def test_config_of_a_pruned_model() -> None:
    cfg, model = tiny_config(), tiny()
    kept = drop_experts(model, UNEQUAL)
    new = pruned_config(cfg, kept)
    assert [layer.feed_forward.num_experts for layer in new.layers] == [4, 3]
    assert [layer.feed_forward.num_experts for layer in cfg.layers] == [6, 6]  # a copy
    rebuilt: Decoder = new.build().eval()
    rebuilt.load_state_dict(model.state_dict())
    tokens = batches()[0]
    assert torch.equal(rebuilt(tokens), model(tokens))
    with pytest.raises(ExpertsError, match=r"kept in layers \[0\], the config has 2 mixtures"):
        pruned_config(cfg, {0: [1, 2]})


# -- budgets -------------------------------------------------------------------------------------------------------


def test_worst_takes_ties_by_number() -> None:
    scores = torch.tensor([2.0, -torch.inf, 2.0, 5.0, -torch.inf])
    assert worst(scores, 3, "min") == [1, 4, 0]
    assert worst(scores, 3, "max") == [3, 0, 2]
    assert worst(scores, 0, "max") == []


def test_global_ranking_keeps_what_routers_choose() -> None:
    scores = [torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([5.0, 6.0, 7.0])]
    assert global_ranking(scores, 2, "min", [2, 2]) == {0: [0, 1], 1: []}
    assert global_ranking(scores, 3, "min", [2, 2]) == {0: [0, 1], 1: [0]}  # layer 0 can spare no third
    assert global_ranking(scores, 1, "max", [2, 2]) == {0: [], 1: [2]}
    with pytest.raises(ExpertsError, match=r"4 experts are to be dropped, but the layers can spare 3"):
        global_ranking(scores, 4, "min", [2, 2])


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ({2: [0]}, "layer 2 is not one of the 2 mixtures, 0 to 1"),
        ({0: [6]}, "layer 0 has experts 0 to 5, not 6"),
        ({0: [-1]}, "layer 0 has experts 0 to 5, not -1"),
        ({1: [2, 2]}, r"layer 1: \[2, 2\] names an expert twice"),
        ({0: list(range(7))}, "layer 0 has 6 experts, 7 are to be dropped: drop fewer"),
        ({1: list(range(5))}, "layer 1: dropping 5 of 6 experts leaves 1, but its router chooses 2: drop at most 4"),
    ],
)
def test_refusals(dropped: dict[int, list[int]], words: str) -> None:
    model = tiny()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(ExpertsError, match=words):
        check_drop(mixture_layers(model), dropped)
    with pytest.raises(ExpertsError, match=words):
        drop_experts(model, {0: [1]} | dropped)  # nothing of it is done
    with pytest.raises(ExpertsError, match=words), masked(model, dropped):
        raise AssertionError("never reached")
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_other_layouts_are_refused() -> None:
    model: Any = tiny()
    experts = model.layers[1].feed_forward.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.detach().transpose(1, 2).contiguous())
    with pytest.raises(ExpertsError, match=r"layers.1.feed_forward \(Experts\) have a layout that is not known here"):
        mixture_layers(model)


def test_scores_that_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="hold NaN"):
        worst(torch.tensor([1.0, torch.nan]), 1, "min")
    with pytest.raises(ValueError, match="direction is 'first': choose min or max"):
        worst(torch.zeros(2), 1, "first")

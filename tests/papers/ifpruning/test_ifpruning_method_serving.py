"""What is served is what the masked decoder computes, whatever was served before; budgets, turns and drift."""

from __future__ import annotations

import pytest
import torch

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.ifpruning.method.masks import Predictor, gated, masked
from orchard.papers.ifpruning.method.models import Reader, Size, decoder
from orchard.papers.ifpruning.method.pruning import gathered
from orchard.papers.ifpruning.method.serving import Conversation, LeastRecentlyUsed, Selection, Server
from orchard.papers.ifpruning.runs.speed import predictor

SIZE = Size(dim=20, num_layers=3, num_heads=2, num_kv_heads=1, width=37, keep=11)
VOCAB = 512
ONE = 3 * 3 * 11 * 20 * 4  # matrices, layers, k, dim, bytes


def parts(mode: str = "soft") -> tuple[Decoder.Config, Decoder, Predictor, torch.Tensor]:
    """Config, decoder, predictor and five prompts of seven tokens."""
    torch.manual_seed(5)
    cfg = masked(decoder(SIZE, SIZE.width, VOCAB), SIZE.keep)
    built: Decoder = cfg.clone().build().eval()
    with torch.no_grad():
        for layer in built.layers:
            layer.feed_forward.down_proj.weight.mul_(20)
    prompts = torch.randint(VOCAB, (5, 7))
    selector = predictor(SIZE, Reader(dim=12, num_layers=1, num_heads=2, width=17, rank=6), prompts)
    selector.gates.cfg.set(mode=mode)
    return cfg, built, selector, prompts


def gates_of(selector: Predictor, prompt: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return selector.gates(selector.of_prompts(prompt[None], torch.tensor([len(prompt)]))[0])


@pytest.mark.parametrize("mode", ["soft", "st"])
@pytest.mark.parametrize("slots", [1, 3])
def test_loaded_weights_are_those_of_the_plain_gather_in_any_order(mode: str, slots: int) -> None:
    cfg, built, selector, prompts = parts(mode)
    server = Server(cfg, built, selector, slots * ONE + 5)
    for i in (0, 1, 0, 2, 3, 3, 4, 0, 2):
        loaded = server.load(server.select(prompts[i])).state_dict()
        plain = gathered(cfg, built, gates_of(selector, prompts[i])).state_dict()
        assert loaded.keys() == plain.keys()
        for name, value in plain.items():
            assert torch.equal(loaded[name], value), name


def test_logits_are_those_of_the_masked_decoder() -> None:
    cfg, built, selector, prompts = parts()
    server = Server(cfg, built, selector)
    tokens = torch.randint(VOCAB, (2, 9))
    for prompt in prompts:
        with torch.no_grad(), gated(built, gates_of(selector, prompt)[None, None]):
            expected = built(tokens)
        with torch.no_grad():
            torch.testing.assert_close(server.load(server.select(prompt))(tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_sub_network_needs_no_new_memory() -> None:
    cfg, built, selector, prompts = parts()
    server = Server(cfg, built, selector, 2 * ONE)
    places = set()
    for i in (0, 1, 2, 3, 4, 0):
        places.add(server.load(server.select(prompts[i])).layers[0].feed_forward.up_proj.weight.data_ptr())
    assert len(places) == 2
    assert (server.cache.hits, server.cache.misses, server.cache.evictions) == (0, 6, 4)


def test_the_same_channels_with_other_gates_are_a_hit_with_their_own_weights() -> None:
    cfg, built, selector, prompts = parts()
    server = Server(cfg, built, selector)
    first = server.select(prompts[0])
    other = Selection(first.rows, first.factors * 0.5, first.key)
    weight = server.load(first).layers[1].feed_forward.down_proj.weight.clone()
    half = server.load(other).layers[1].feed_forward.down_proj.weight.clone()
    torch.testing.assert_close(half, weight / 2)
    assert torch.equal(server.load(first).layers[1].feed_forward.down_proj.weight, weight)
    assert (server.cache.hits, server.cache.misses) == (2, 1)


def test_a_budget_below_one_sub_network_is_refused() -> None:
    cfg, built, selector, _ = parts()
    with pytest.raises(
        BadInput, match=f"cache_bytes is {ONE - 1}, and one sub-network takes {ONE}: 3 layers of 3 matrices of 11 x 20"
    ):
        Server(cfg, built, selector, ONE - 1)


def test_a_decoder_without_masks_an_empty_and_a_long_instruction_are_refused() -> None:
    cfg, built, selector, prompts = parts()
    with pytest.raises(ValueError, match="give one with one k"):
        Server(decoder(SIZE, SIZE.width, VOCAB), built, selector)
    server = Server(cfg, built, selector)
    with pytest.raises(ValueError, match="the predictor got an empty prompt"):
        server.select(prompts[0, :0])
    selector.max_prompt = 4
    with pytest.raises(ValueError, match="the prompt has 7 tokens, the predictor reads 4"):
        server.select(prompts[0])


def test_a_predictor_of_another_decoder_is_refused() -> None:
    cfg, built, _, prompts = parts()
    wider = Size(dim=20, num_layers=3, num_heads=2, num_kv_heads=1, width=39, keep=11)
    other = predictor(wider, Reader(dim=12, num_layers=1, num_heads=2, width=17, rank=6), prompts)
    with pytest.raises(
        ValueError, match="chooses for 3 layers of width 39 with k = 11, the decoder has 3 of width 37 with k = 11"
    ):
        Server(cfg, built, other)


def test_samples_of_a_query_share_one_load() -> None:
    cfg, built, selector, prompts = parts()
    server = Server(cfg, built, selector)
    chosen = server.select(prompts[0])
    answers = server.answer(chosen, prompts[0], 5, samples=3)
    alone = gathered(cfg, built, gates_of(selector, prompts[0])).generate(prompts[:1], 5)[0, 7:]
    assert answers.shape == (3, 5)
    assert all(torch.equal(row, alone) for row in answers)
    assert server.cache.misses == 1


def test_later_turns_keep_the_mask_of_the_first_message() -> None:
    cfg, built, selector, prompts = parts()
    server = Server(cfg, built, selector)
    talk = Conversation(server, prompts[0])
    first = talk.turn(prompts[0], 3)
    server.load(server.select(prompts[3]))  # somebody else's, which evicts the mask of the conversation
    second = talk.turn(prompts[1, :4], 2)
    small = gathered(cfg, built, gates_of(selector, prompts[0]))
    history = torch.cat([prompts[0], first, prompts[1, :4]])
    assert torch.equal(second, small.generate(history[None], 2)[0, len(history) :])
    assert torch.equal(talk.tokens, torch.cat([history, second]))


def test_drift_is_one_minus_the_mean_overlap() -> None:
    cfg, built, selector, prompts = parts()
    talk = Conversation(Server(cfg, built, selector), prompts[0])
    assert talk.drift(prompts[0]) == 0
    own, other = gates_of(selector, prompts[0]) > 0, gates_of(selector, prompts[2]) > 0
    expected = 1 - ((own & other).sum(dim=-1) / SIZE.keep).mean().item()
    assert expected > 0
    assert talk.drift(prompts[2]) == pytest.approx(expected, abs=1e-6)


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: LeastRecentlyUsed[int] = LeastRecentlyUsed(2)
    for key, value in ((b"a", 1), (b"b", 2)):
        assert cache.get(key) is None
        assert cache.make_room() is None
        cache.put(key, value)
    assert cache.get(b"a") == 1
    assert cache.make_room() == 2
    cache.put(b"c", 3)
    assert cache.get(b"b") is None
    assert (cache.hits, cache.misses, cache.evictions, cache.hit_rate) == (1, 3, 1, 0.25)


def test_a_bf16_decoder_is_served_in_bf16() -> None:
    cfg, built, selector, prompts = parts()
    built = built.to(torch.bfloat16)
    server = Server(cfg, built, selector)
    chosen = server.select(prompts[0])
    assert chosen.factors.dtype == torch.bfloat16
    assert len(chosen.rows) == SIZE.num_layers * SIZE.keep
    assert server.answer(chosen, prompts[0], 3).shape == (1, 3)
    assert server.subnetwork_bytes == ONE // 2

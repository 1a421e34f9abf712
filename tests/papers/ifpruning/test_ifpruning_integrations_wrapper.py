"""The wrapper around decoders of `transformers`: equal where it must be, masked as the gathered model, and honest about bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ifpruning_tiny_models import LAYOUTS, VOCAB, tiny, tokenizer

from orchard.data import ByteTokenizer
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.ifpruning.integrations.folder import load_pruned, save_pruned, save_small
from orchard.papers.ifpruning.integrations.wrapper import PrunedModel, prune_any
from orchard.papers.ifpruning.method.masks import MODES
from orchard.papers.ifpruning.method.overlap import collapsed, overlaps
from orchard.train.saved import TextModel

KEEP = 7


def ids(rows: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, time), generator=torch.Generator().manual_seed(seed))


def pruned(layout: str = "llama", keep: int = KEEP, **fields: Any) -> PrunedModel:
    """A tiny decoder with a tiny Llama of other sizes as its predictor, calibrated."""
    made = prune_any(
        tiny(layout), tiny("llama", dim=24, layers=1, seed=1), keep, rank=9, tokenizer=tokenizer(), prompt_tokenizer=tokenizer(), **fields
    )  # fmt: skip
    made.calibrate(ids(20, 11, seed=2), None, ids(3, 13, seed=3))
    return made.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_prompts_with_open_gates_and_under_a_mask(layout: str) -> None:
    decoder = tiny(layout)
    text, prompts = ids(3, 13), ids(3, 11, seed=1)
    before = decoder(text).logits
    model = prune_any(decoder, tiny(), KEEP)
    model.calibrate(ids(20, 11, seed=2))
    assert torch.equal(model(text).logits, before)
    assert torch.equal(model(text, gates=torch.ones(3, 3, 29)).logits, before)
    masked = model(text, prompt_ids=prompts).logits
    assert (masked - before).abs().max() > 0.1
    for row in range(3):
        small = model.gathered(prompts[row : row + 1])
        assert type(small) is type(decoder)
        assert small.config.intermediate_size == KEEP
        torch.testing.assert_close(small(text[row : row + 1]).logits[0], masked[row], atol=1e-5, rtol=1e-4)
    assert torch.equal(model(text).logits, before)  # nothing of a forward pass stays


@pytest.mark.parametrize("mode", MODES)
def test_modes_gather_to_what_they_compute(mode: str) -> None:
    model, text, prompts = pruned("qwen3", mode=mode), ids(1, 13), ids(1, 11, seed=1)
    gates = model.gates(prompts)
    assert int((gates > 0).sum(-1).unique()) == KEEP
    assert bool((gates[gates > 0] == 1).all()) == (mode != "soft")
    torch.testing.assert_close(
        model.gathered(prompts)(text).logits, model(text, prompt_ids=prompts).logits, atol=1e-5, rtol=1e-4
    )


def test_biases_of_the_feed_forward_layer_are_gathered() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    decoder = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=29, num_hidden_layers=2, num_attention_heads=2, mlp_bias=True,
    )).eval()  # fmt: skip
    for name, parameter in decoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model, text, prompts = prune_any(decoder, tiny(), KEEP), ids(2, 9), ids(1, 5)
    model.calibrate(ids(20, 11, seed=2))
    masked = model(text, gates=model.gates(prompts).expand(2, -1, -1)).logits
    torch.testing.assert_close(model.gathered(prompts)(text).logits, masked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["soft", "st"])
@pytest.mark.parametrize("layout", ["llama", "gemma2"])
def test_gradients_reach_the_predictor_and_checkpoints_change_none(layout: str, mode: str) -> None:
    model = pruned(layout, mode=mode).train()
    text, prompts = ids(2, 13), ids(2, 11, seed=1)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.checkpoint_activations()
        model.zero_grad()
        model(text, labels=text, prompt_ids=prompts, use_cache=False).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == {name for name, _ in model.named_parameters()}
    assert all(
        found[0][name].abs().max() > 0
        for name in ("head_in.weight", "head_out.weight", "predictor.layers.0.mlp.up_proj.weight")
    )
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_sharded_it_computes_the_same() -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    text, prompts = ids(2, 13), ids(2, 11, seed=1)
    found = []
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for sharded in (False, True):
            torch.manual_seed(0)
            model = pruned("qwen3").train()
            model.checkpoint_activations()
            if sharded:
                mesh = dist.init_device_mesh("cpu", (1,))
                for module in [*model.decoder.model.layers, *model.predictor.layers, model]:
                    fully_shard(module, mesh=mesh)
            loss = model(text, labels=text, prompt_ids=prompts, use_cache=False).loss
            loss.backward()
            gradients = {name: p.grad for name, p in model.named_parameters()}
            found.append(
                {name: g.full_tensor() if sharded else g for name, g in gradients.items()} | {"loss": loss.detach()}
            )
    finally:
        dist.destroy_process_group()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_autocast_leaves_logits_of_masks_in_float32() -> None:
    model, prompts = pruned(), ids(4, 11)
    with torch.autocast("cpu", torch.bfloat16):
        z, gates = model.logits(prompts), model.gates(prompts)
        out = model(ids(4, 9), prompt_ids=prompts).logits
    assert (z.dtype, gates.dtype, out.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    assert torch.equal((gates > 0).sum(-1), torch.full((4, 3), KEEP))


def test_padding_on_either_side_chooses_the_same_channels() -> None:
    model, lengths = pruned(), [5, 11, 1, 8]
    right, left = (torch.full((4, 14), 3) for _ in range(2))
    for row, length in enumerate(lengths):
        prompt = ids(1, length, seed=row)[0]
        right[row, :length], left[row, 14 - length :] = prompt, prompt
    after, place = torch.tensor(lengths)[:, None], torch.arange(14)
    first, second = model.gates(right, place < after), model.gates(left, (place >= 14 - after).long())
    assert torch.equal(first, second)
    for row, length in enumerate(lengths):
        alone = model.gates(right[row : row + 1, :length])
        torch.testing.assert_close(first[row], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["llama", "qwen2", "gemma3"])
def test_generation_under_a_mask_is_that_of_the_gathered_model(layout: str) -> None:
    model = pruned(layout)
    text, prompts = ids(2, 6), ids(2, 11, seed=1)
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
    both = model.train().generate(text, prompt_ids=prompts, **options)
    assert model.training
    for row in range(2):
        one = text[row : row + 1]
        small = model.gathered(prompts[row : row + 1])
        assert torch.equal(small.generate(one, attention_mask=torch.ones_like(one), **options)[0], both[row])
    beams = model.generate(text[:1], prompt_ids=prompts[:1], num_beams=3, **options)
    small = model.gathered(prompts[:1])
    assert torch.equal(
        small.generate(text[:1], attention_mask=torch.ones_like(text[:1]), num_beams=3, **options), beams
    )


def test_calibration_sets_the_spread_and_tells_prompts_apart() -> None:
    model, prompts = pruned(spread=3.5), ids(20, 11, seed=2)
    z = model.logits(prompts)
    assert z.std(dim=-1).mean().item() == pytest.approx(3.5 * 0.3, rel=1e-4)
    measured = model.gauge(prompts, None, torch.arange(20) // 4)
    assert measured["spread"] == pytest.approx(3.5, rel=1e-4)
    pairs = overlaps(model.masks(prompts)).mean(dim=0).unflatten(0, (5, 4)).unflatten(2, (5, 4)).mean(dim=(1, 3))
    assert measured["across"] == pytest.approx(pairs[~torch.eye(5, dtype=torch.bool)].mean().item(), rel=1e-5)
    assert measured["chance"] == pytest.approx(KEEP / 29)
    assert measured["across"] < 0.9
    torch.nn.init.zeros_(model.head_out.weight)
    assert "overlap by 1.000" in collapsed(model.gauge(prompts, None, torch.arange(20) // 4))


def test_a_head_that_was_never_calibrated_warns() -> None:
    with pytest.warns(UserWarning, match=r"not calibrated.*call calibrate"):
        prune_any(tiny(), tiny(), KEEP).gates(ids(1, 5))


def test_saved_and_reloaded_it_is_the_same(tmp_path: Path) -> None:
    model, text = pruned("gemma3", mode="st"), ids(2, 9)
    prompts, mask = model.prompts(["Write a poem.", "Add numbers"])
    wanted = model(text, prompt_ids=prompts, prompt_mask=mask).logits
    folder = save_pruned(model, tmp_path / "saved")
    again = load_pruned(folder)
    assert again.settings == model.settings
    assert torch.equal(
        again(text, prompt_ids=again.prompts(["Write a poem.", "Add numbers"])[0], prompt_mask=mask).logits, wanted
    )
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    small = save_small(again, "Write a poem.", tmp_path / "small")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "small", local_files_only=True)
    torch.testing.assert_close(stock(text[:1]).logits, wanted[:1], atol=1e-5, rtol=1e-4)
    assert stock.config.intermediate_size == small.config.intermediate_size == KEEP
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) == 258


def test_a_predictor_of_this_library(tmp_path: Path) -> None:
    layers = [
        Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=24))
        for _ in range(2)
    ]
    config = Decoder.Config(vocab_size=257, dim=16, layers=layers)
    reader = TextModel(config, config.clone().build().eval(), ByteTokenizer.Config().build())
    model, text = prune_any(tiny("qwen3"), reader, KEEP, tokenizer=tokenizer()).eval(), ids(2, 9)
    prompts, mask = model.prompts(["Write a poem.", "Add"])
    assert prompts[1, :4].tolist() == [256, *b"Add"]
    model.calibrate(*model.prompts([f"Prompt {'x' * i}" for i in range(9)]))
    wanted = model(text, prompt_ids=prompts, prompt_mask=mask).logits
    again = load_pruned(save_pruned(model, tmp_path / "saved"))
    assert torch.equal(again(text, prompt_ids=prompts, prompt_mask=mask).logits, wanted)


# ------------------------------------------------------------------- bad input


def test_a_decoder_without_gated_layers_is_named() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    with pytest.raises(
        BadInput, match=r"GPT2LMHeadModel has no gated MLP .*GPT2MLP with c_fc, c_proj.*use a decoder such as Llama"
    ):
        prune_any(decoder, tiny(), KEEP)


def test_experts_and_unequal_layers_are_refused() -> None:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    experts = Qwen2MoeForCausalLM(Qwen2MoeConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, shared_expert_intermediate_size=24, num_experts=4,
        num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
    ))  # fmt: skip
    with pytest.raises(BadInput, match=r"shared_expert is no feed-forward layer behind an attention layer"):
        prune_any(experts, tiny(), KEEP)
    decoder = tiny()
    decoder.model.layers[1].mlp = tiny(width=31).model.layers[1].mlp
    with pytest.raises(BadInput, match=r"different widths \(model\.layers\.0\.mlp: 29, model\.layers\.1\.mlp: 31"):
        prune_any(decoder, tiny(), KEEP)
    decoder.model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(BadInput, match="2 gated MLPs, not one in every layer"):
        prune_any(decoder, tiny(), KEEP)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 30}, r"feed-forward layers of LlamaForCausalLM: k = 30 of 29 channels"),
        ({"keep": 0}, "k = 0 of 29 channels"),
        ({"epsilon": 0.0}, r"epsilon = 0\.0: it must be > 0"),
        ({"mode": "hard"}, "mode is 'hard': choose one of soft, soft_binarize, st, st_full"),
        ({"head_activation": "relu"}, "head_activation is 'relu': choose one of gelu, identity"),
        ({"rank": 0}, "rank 0, spread 3.5"),
    ],
)
def test_settings_that_do_not_exist(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        prune_any(tiny(), tiny(), **{"keep": KEEP, **fields})


def test_prompts_that_choose_nothing() -> None:
    model = pruned()
    with pytest.raises(BadInput, match=r"prompt 2 is empty: .* write one"):
        model.prompts(["good", " \n"])
    with pytest.raises(BadInput, match=r"prompts \[2\] of 2 are empty"):
        model.gates(ids(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]]))
    with pytest.raises(BadInput, match="prompt 1 has 161 tokens, the predictor reads 160: shorten the instruction"):
        model.prompts("x" * 161)
    with pytest.raises(BadInput, match="a prompt has 161 tokens, the predictor reads 160"):
        model.gates(ids(1, 161))
    assert model.gates(ids(1, 170), (torch.arange(170) < 160)[None]).shape == (1, 3, 29)  # padding does not count
    with pytest.raises(BadInput, match="the 1 prompts that calibrate the predictor are all alike to it"):
        model.calibrate(ids(1, 5))


def test_a_second_wrapping_and_a_wrong_number_of_prompts() -> None:
    model = pruned()
    with pytest.raises(BadInput, match="has masks already: prune a model once"):
        prune_any(model.decoder, tiny(), KEEP)
    with pytest.raises(
        BadInput, match=r"gates of 2 prompts .* the text has 3 rows .* give one prompt, or one for every row"
    ):
        model(ids(3, 5), prompt_ids=ids(2, 5))
    before = copy.deepcopy(model.decoder)
    assert torch.equal(model(ids(3, 5)).logits, before(ids(3, 5)).logits)  # the failed call left nothing


def test_a_copy_has_masks_of_its_own() -> None:
    model, text, prompts = pruned(), ids(2, 9), ids(2, 5)
    wanted, dense = model(text, prompt_ids=prompts).logits, model(text).logits
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.head_out.weight.neg_()
    assert torch.equal(other(text, prompt_ids=prompts).logits, wanted)
    assert not torch.equal(model(text, prompt_ids=prompts).logits, wanted)
    assert torch.equal(copy.deepcopy(model.decoder)(text).logits, dense)


def test_a_decoder_that_keeps_its_arguments_is_refused() -> None:
    decoder = tiny()
    forward = type(decoder.model).forward
    decoder.model.forward = lambda input_ids, attention_mask=None, **others: forward(
        decoder.model, input_ids, attention_mask
    )
    model = prune_any(decoder, tiny(), KEEP)
    model.calibrate(ids(20, 11, seed=2))
    with pytest.raises(BadInput, match="layer 0 got no gates: this decoder does not hand keyword arguments on"):
        model(ids(2, 9), prompt_ids=ids(2, 5))


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    folder = save_pruned(pruned(), tmp_path / "saved")
    with pytest.raises(BadInput, match="exists: choose a new folder"):
        save_pruned(pruned(), folder)
    with pytest.raises(
        BadInput,
        match=r"chooses for 3 layers of width 29, this decoder has 3 of width 37: use the decoder it was trained with",
    ):
        load_pruned(folder, decoder=tiny(width=37))
    with pytest.raises(BadInput, match="this decoder has 2 of width 29"):
        load_pruned(folder, decoder=tiny(layers=2))
    with pytest.raises(BadInput, match=r"no pruned decoder at .*: config.json is missing"):
        load_pruned(tmp_path)
    with pytest.raises(BadInput, match="is not of the format"):
        load_pruned(folder / "decoder")
    head = folder / "head.safetensors"
    whole = head.read_bytes()
    head.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match=r"head\.safetensors is damaged .* copy it again"):
        load_pruned(folder)
    head.unlink()
    with pytest.raises(BadInput, match=r"head\.safetensors is missing: copy the whole folder again"):
        load_pruned(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json cannot be read"):
        load_pruned(folder)

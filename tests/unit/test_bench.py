"""`orchard bench SLUG`: what is measured is printed and saved; a paper without measurements says so."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pandas as pd
import pytest
import torch

from orchard import bench
from orchard.cli import main
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.rattention.experiments.profiles import PROFILES
from orchard.runs import Setting
from orchard.series import output_folder


def test_a_paper_is_measured_printed_and_saved(monkeypatch, capsys):
    profile = PROFILES["smoke"]
    timing = replace(profile.timing, lengths=(64, 128), tokens=128, rounds=1, step_lengths=(32,), step_rounds=1)
    monkeypatch.setitem(PROFILES, "smoke", replace(profile, timing=timing))
    bench.bench_paper("rattention", device="cpu")
    said = capsys.readouterr().out
    for words in (
        "forward and backward, ms",
        "ratios, above 1",
        "training step, ms",
        "relative RMS error",
        "tables and figures:",
    ):
        assert words in said
    folder = output_folder("rattention", Setting("smoke")) / "figures"
    names = {path.name for path in folder.iterdir()}
    assert {f"bench_throughput.{ending}" for ending in ("svg", "png", "csv")} <= names
    table = pd.read_csv(folder / "bench_throughput.csv")
    assert {"full", "window", "residual", "rattn layer"} <= set(table["name"])
    assert list(table.columns) == ["name", "64", "128"]
    assert len(pd.read_csv(folder / "bench_throughput_ratios.csv"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["bench", "nothing"], "no paper 'nothing'"), (["bench", "rattention", "--profile", "tiny"], "tiny")],
)
def test_bad_input_ends_with_one_message(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_paper_without_measurements_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="rattention has no operations of its own to measure"):
        bench.bench_paper("rattention")


def test_the_training_that_is_timed_is_that_of_its_peer() -> None:
    pytest.importorskip("transformers")
    cfg = bench.training(3)
    ours, llama = cfg.model.clone().build(), bench._llama(cfg)
    assert isinstance(cfg.model, Decoder.Config)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in llama.parameters())


def test_the_peer_with_our_three_parts_computes_what_our_decoder_computes() -> None:
    ours, peer = bench.training(3).model.build(), bench._GPT(257, rotary=True, rms=True, gated=True)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    for parameter in ours.parameters():  # gains that are not 1, residuals that weigh as much as the embedding
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        peer.tokens.weight.copy_(ours.embedding.weight)
        peer.norm.weight.copy_(ours.norm.gain)
        for block, layer in zip(ours.layers, peer.layers, strict=True):
            mixer, mlp = block.attention, block.feed_forward
            layer["qkv"].weight.copy_(torch.cat([m.weight for m in (mixer.q_proj, mixer.k_proj, mixer.v_proj)]))
            layer["norm"].weight.copy_(block.attention_norm.gain)
            layer["norm2"].weight.copy_(block.feed_forward_norm.gain)
            maps = {"out": mixer.o_proj, "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj}
            for name, map_ in maps.items():
                layer[name].weight.copy_(map_.weight)
        tokens = torch.randint(257, (2, bench.LENGTH), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(peer(tokens), ours(tokens))


def test_every_part_of_the_peer_has_as_many_parameters() -> None:
    def parameters(**parts: bool) -> int:
        model = bench._GPT(257, **parts)
        learned = 0 if model.positions is None else model.positions.weight.numel()
        return sum(p.numel() for p in model.parameters()) - learned  # learned positions are 2 % that take no product

    plain = parameters()
    for parts in ({"rotary": True}, {"rms": True}, {"gated": True}, {"rotary": True, "rms": True, "gated": True}):
        assert parameters(**parts) == pytest.approx(plain, rel=0.01)

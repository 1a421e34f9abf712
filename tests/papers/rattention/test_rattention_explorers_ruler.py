"""The sample viewer: a question as words, its needle, the model's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.rattention.data.ruler_tokens import VOCAB_SIZE, generate, spell
from orchard.papers.rattention.explorers import ruler as ruler_view
from orchard.papers.rattention.method.models import arm
from orchard.papers.rattention.runs.ruler import TrainRuler
from orchard.runs import Finished, Setting


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def network(needles: str) -> Decoder:
    torch.manual_seed(0)
    layer = Block.Config(attention=Attention.Config(num_heads=1), feed_forward=FeedForward.Config(hidden_dim=8))
    net: Decoder = Decoder.Config(vocab_size=VOCAB_SIZE[needles], dim=8, layers=[layer]).build()
    return net.eval()


@pytest.mark.parametrize(
    ("needles", "task"), [("pair", "niah_multikey_1"), ("words", "niah_multikey_3"), ("words", "vt"), ("words", "fwe")]
)
def test_a_card_shows_needle_answers_and_distance(needles: str, task: str) -> None:
    part = generate(task, np.random.default_rng(0), 2, 400, needles)
    shown = texts(ruler_view.sample(network(needles), part, needles, 1, "some arm"))
    start, needle = part.answers[1, -1], part.needles[1, -1]
    truth = " ".join(spell(needles)[token] for token in part.tokens[1, start:])
    assert truth in shown
    assert any(text.endswith("right)") for text in shown)
    assert any("words …" in text for text in shown)
    figure = ruler_view.sample(network(needles), part, needles, 1, "some arm")
    blue = [text.get_text() for text in figure.axes[0].texts if text.get_color() == ruler_view.TINT["needle"]]
    if task == "fwe":
        assert not blue
        assert "the whole text is asked for" in shown
    else:
        assert blue[0] == spell(needles)[part.tokens[1, needle]]
        assert blue[-1] == ("|" if needles == "words" else blue[0])
        assert any(text.startswith(f"{part.distance[1, -1]} tokens from the needle") for text in shown)
    with pytest.raises(BadInput, match="example 2 does not exist: there are 0 … 1"):
        ruler_view.sample(network(needles), part, needles, 2, "some arm")


def test_the_viewer_shows_trained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = arm("rattn@16", dim=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=32, vocab_size=2)
    cfg = TrainRuler.Config(
        model=decoder, tasks=["niah_multikey_1"], needles="pair", length=64, batch_size=1, steps=1, test_examples=2
    )
    weights = decoder.clone().set(vocab_size=VOCAB_SIZE["pair"]).build().state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(ruler_view, "trained", lambda setting, run: [("rattn@16", 0, cfg, Finished(tmp_path))])
    draw = ruler_view.viewer(Setting("smoke"), lambda cfgs: [])
    figure = draw("rattn@16", "niah_multikey_1", multiple=4, example=1)
    assert figure.axes[0].get_title(loc="left") == "niah_multikey_1, 256 tokens, rattn@16"
    with pytest.raises(BadInput, match="no trained arm 'swa@16'"):
        draw("swa@16", "niah_multikey_1")

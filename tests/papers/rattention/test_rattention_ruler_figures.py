"""Figures of long context and the sample viewer: what is drawn is what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from safetensors.torch import save_file

from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS, VOCAB_SIZE, generate, spell
from orchard.papers.rattention.explorers import ruler as ruler_view
from orchard.papers.rattention.figures import long_context as figures
from orchard.papers.rattention.method.models import arm
from orchard.papers.rattention.runs import checks
from orchard.papers.rattention.runs.ruler import TrainRuler
from orchard.plot.style import GREY
from orchard.runs import Setting
from orchard.runs.store import Finished

ARMS = {"full_rope": 0.2, "rattn@64": 0.1, "rattn@128": 0.05}  # what each loses with every doubling


def ruler_table() -> pd.DataFrame:
    rows = [
        {"arm": arm, "seed": seed, "task": task, "ruler": task in RULER_TASKS, "length": 64 * multiple, "multiple": multiple,
         "accuracy": 0.9 - loss * np.log2(multiple) + 0.02 * seed - (0.1 if task == "vt" else 0)}
        for arm, loss in ARMS.items() for seed in (0, 1) for task in ("fwe", "vt", "kv_overwrite") for multiple in (1, 2, 4, 8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_length_curves_draw_means_over_rulers_tasks_and_the_paper_apart() -> None:
    figure = figures.length_curves(ruler_table(), checks.published())
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == list(ARMS)
    for name, loss in ARMS.items():  # seeds 0 and 1, fwe and vt; kv_overwrite does not enter
        assert np.allclose(lines[name].get_ydata(), [100 * (0.9 - loss * k + 0.01 - 0.05) for k in range(4)])
    assert lines["rattn@64"].get_linestyle() != lines["rattn@128"].get_linestyle()
    grey = right.get_lines()
    assert {to_hex(line.get_color()) for line in grey} == {GREY}
    assert all("(paper)" in str(line.get_label()) for line in grey)
    assert sorted(grey[0].get_xdata()) == [1, 2, 4, 8]
    figure.draw_without_rendering()


def test_tables_mark_what_is_unavailable_and_what_is_ours() -> None:
    table = figures.task_table(ruler_table())
    assert (table.loc[["qa_1", "qa_2"]] == "unavailable").all(axis=None)
    assert "kv_overwrite (ours)" in table.index
    assert table.loc["mean of RULER's", ("full_rope", 64)] == "86"
    assert table.loc["fwe", ("full_rope", 512)] == "31"
    axes = figures.task_map(ruler_table(), 4).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fwe", "vt", "kv_overwrite (ours)"]
    assert "ours" in figures.task_curves(ruler_table(), "kv_overwrite").axes[0].get_title(loc="left")


def test_depth_maps_share_one_scale_and_average_queries() -> None:
    depth = np.array([0.0, 0.19, 0.2, 0.99, 1.0, np.nan])
    units = pd.concat([
        pd.DataFrame({"arm": arm, "task": "vt", "length": length, "depth": depth, "correct": [1, 0, 1, 0, 0.5, 1]})
        for arm in ARMS for length in (64, 128)
    ])  # fmt: skip
    table = figures.depth_table(units, "vt").set_index(["arm", "depth", "length"])["correct"]
    assert table["full_rope", 0, 64] == 0.5
    assert table["full_rope", 20, 64] == 1
    assert table["full_rope", 80, 128] == 0.25
    figure = figures.depth_maps(units, "vt", list(ARMS))
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert len(images) == 3
    assert {image.get_clim() for image in images} == {(0, 1)}
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0–20", "20–40", "80–100"]


def test_learning_curves_and_steps() -> None:
    curves = pd.DataFrame([
        {"arm": arm, "seed": seed, "step": step, "loss": 1.0, "validation_accuracy": step / 40, "accuracy vt": step / (40 + 10 * seed)}
        for arm in ("a", "b") for seed in (0, 1) for step in (10, 20, 30, 40)
    ])  # fmt: skip
    line = figures.accuracy_curves(curves, "vt").axes[0].get_lines()[0]
    assert np.allclose(line.get_ydata()[-1], 100 * (1 + 0.8) / 2)
    table = figures.steps_table(curves)
    assert table.loc["vt", "a"] == "40 (1 of 2 seeds)"


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

"""Figures of long context: what is drawn is what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from orchard.data.published import published
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS
from orchard.papers.rattention.figures import long_context as figures
from orchard.papers.rattention.figures.looks import words
from orchard.plot.style import GREY

ARMS = {"full_rope": 0.2, "rattn@64": 0.1, "rattn@128": 0.05}  # what each loses with every doubling


def ruler_table() -> pd.DataFrame:
    rows = [
        {"arm": arm, "seed": seed, "task": task, "ruler": task in RULER_TASKS, "length": 64 * multiple, "multiple": multiple,
         "accuracy": 0.9 - loss * np.log2(multiple) + 0.02 * seed - (0.1 if task == "vt" else 0)}
        for arm, loss in ARMS.items() for seed in (0, 1) for task in ("fwe", "vt", "kv_overwrite") for multiple in (1, 2, 4, 8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_length_curves_draw_means_over_rulers_tasks_and_the_paper_apart() -> None:
    figure = figures.length_curves(ruler_table(), published("rattention"))
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines() if not str(line.get_label()).startswith("_")}
    assert list(lines) == [words(name) for name in ARMS]
    for name, loss in ARMS.items():  # seeds 0 and 1, fwe and vt; kv_overwrite does not enter
        assert np.allclose(lines[words(name)].get_ydata(), [100 * (0.9 - loss * k + 0.01 - 0.05) for k in range(4)])
    assert lines["RAttention 64"].get_linestyle() != lines["RAttention 128"].get_linestyle()
    grey = right.get_lines()
    assert {to_hex(line.get_color()) for line in grey} == {GREY}
    assert all("(paper)" in str(line.get_label()) for line in grey)
    assert sorted(grey[0].get_xdata()) == [1, 2, 4, 8]
    dots = [line for line in left.get_lines() if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == len(ARMS) * 2 * 4  # every seed
    figure.draw_without_rendering()


def test_tables_mark_what_is_unavailable_and_what_is_ours() -> None:
    table = figures.task_table(ruler_table())
    assert (table.loc[["qa_1", "qa_2"]] == "unavailable").all(axis=None)
    assert "kv_overwrite (ours)" in table.index
    assert table.loc["mean of RULER's", ("full_rope", 64)] == "86"
    assert table.loc["fwe", ("full_rope", 512)] == "31"
    assert "ours" in figures.task_curves(ruler_table(), "kv_overwrite").axes[0].get_title(loc="right")


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
    maps = [axes.collections[0] for axes in figure.axes[:3]]
    assert {drawn.get_clim() for drawn in maps} == {(0, 1)}
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


def test_leads_are_those_of_the_claims() -> None:
    rows = [
        {"arm": arm, "seed": seed, "task": "fwe", "length": 128 * multiple, "multiple": multiple, "example": example,
         "correct": right if multiple == 4 else 1.0}
        for arm, right in (("rattn@16", 1.0), ("full_rope", 0.0), ("swa@16", 0.5)) for seed in (0, 1) for multiple in (1, 4)
        for example in range(4)
    ]  # fmt: skip
    table = figures.leads_table(pd.DataFrame(rows))
    assert table.set_index(["claim", "label", "where"])["effect"].to_dict() == {
        ("C9", "full_rope", "4T"): 1.0, ("C9", "full_rope", "T"): 0.0,
        ("C10", "swa@16", "4T"): 0.5, ("C10", "swa@16", "T"): 0.0,
    }  # fmt: skip
    figure = figures.leads(table)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["C9: full attention", "C10: sliding window 16"]
    assert figure.axes[0].get_title(loc="right") == "2 of 2 leads at 4T are above zero, 0 of them at T too"

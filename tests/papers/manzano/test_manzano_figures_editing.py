"""Figures of 05: names of arms, shares, the rule's threshold, and frames that say what is a success."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.papers.manzano.figures import editing
from orchard.plot.style import PALETTE


def edits() -> pd.DataFrame:
    """Two seeds, two kinds: "both" is right with an error below tau, the language model alone right with one above it."""
    rows = [
        {"seed": seed, "arm": arm, "shuffled": shuffled, "kind": kind, "unit": f"{kind} {unit}", "inside": 0.1, "tau": 0.02,
         "right": float(arm != "decoder"), "outside": 0.01 if arm == "both" else 0.3}
        for seed in (1, 2) for arm, shuffled in editing.WORDS for kind in ("recolour", "add") for unit in range(3)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(success=((table["right"] == 1) & (table["outside"] < table["tau"])).astype(float))


def test_arms_in_words() -> None:
    means = editing.in_words(edits()).groupby("sees")[["right", "kept"]].mean()
    assert set(means.index) == set(editing.LOOKS)
    assert means.loc["both"].tolist() == [1, 1]
    assert means.loc["language model alone"].tolist() == [1, 0]
    assert means.loc["image decoder alone"].tolist() == [0, 0]


def test_outcomes_and_kinds_say_every_share() -> None:
    place = list(editing.LOOKS).index("both"), list(editing.LOOKS).index("language model alone")
    made = editing.outcomes(edits())
    said = [[axes.texts[i].get_text() for i in place] for axes in made.axes]
    assert said == [["1.00", "1.00"], ["1.00", "0.00"], ["1.00", "0.00"]]
    by_kind = editing.kinds(edits())
    assert [axes.get_title(loc="left") for axes in by_kind.axes] == ["recolour", "add"]
    by_kind.draw_without_rendering()


def test_errors_are_multiples_of_tau() -> None:
    (axes,) = editing.errors(edits(), invented=0.1).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["both"].get_xdata() == pytest.approx(0.5)
    assert lines["both"].get_ydata()[-1] == 1
    assert lines["what no text mentions, invented"].get_xdata() == pytest.approx([5, 5])


def test_rule_has_threshold_and_seeds() -> None:
    table = pd.DataFrame(
        {"label": ["all edits", "control"], "effect": [0.5, 0.0], "low": [0.4, -0.1], "high": [0.6, 0.1], "threshold": 0.3}
    )  # fmt: skip
    seeds = pd.DataFrame({"label": ["all edits", "all edits", "control"], "effect": [0.45, 0.55, 0.0]})
    made = editing.rule(table, seeds)
    assert {text.get_text() for text in made.legends[0].get_texts()} == {"threshold", "a seed"}
    dots = next(line for line in made.axes[0].lines if line.get_label() == "a seed")
    assert dots.get_ydata() == pytest.approx([0.25, 0.25, 1.25])


def test_gallery_frames_say_what_is_a_success() -> None:
    pixels = np.zeros((12, 12, 3), dtype=np.uint8).tobytes().hex()
    rows = [
        {"arm": arm, "kind": "remove", "number": 0, "side": side, "pixels": pixels, "instruction": "clear p3",
         "success": float(arm == "both")}
        for arm in ("language model", "both") for side in ("source", "target", "made")
    ]  # fmt: skip
    made = editing.gallery(pd.DataFrame(rows), 12, 12)
    assert [axes.get_title() for axes in made.axes] == ["source", "target", "language model alone", "both"]
    assert made.axes[0].get_ylabel() == "clear p3"
    assert [axes.spines["left"].get_edgecolor()[:3] for axes in made.axes[2:]] == [
        tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)) for colour in (PALETTE[3], PALETTE[2])
    ]


def test_exact_edits_are_columns() -> None:
    black = np.zeros((12, 12, 3), dtype=np.uint8)
    made = editing.exact_edits({"make the object at p3 red": [black] * 3, "clear p3": [black] * 3})
    assert [axes.get_title() for axes in made.axes] == ["make the object\nat p3 red", "clear p3", "", "", "", ""]
    assert [axes.get_ylabel() for axes in made.axes[::2]] == ["source", "target", "changed"]

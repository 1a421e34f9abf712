"""Figures of 05_edit: what an exact edit is, how often each arm succeeds and at what it fails, and the pictures that arms make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from orchard import plot
from orchard.papers.manzano.experiments.editing import NOTHING, TRUE
from orchard.papers.manzano.experiments.recipe import picture as unpacked
from orchard.papers.manzano.figures.looks import downwards, framed, labelled, picture, titled
from orchard.plot.style import INK, PALETTE

WORDS = {  # (arm, what was shuffled) -> who sees the picture that is edited
    ("language model", NOTHING): "language model alone", ("decoder", NOTHING): "image decoder alone", ("both", NOTHING): "both",
    ("both", "reference"): "both, decoder's of another scene", ("both", "instruction"): "both, instruction of another edit",
    (TRUE, NOTHING): "true codes, image decoder",
}  # fmt: skip
LOOKS = dict(zip(WORDS.values(), (
    plot.Look(PALETTE[1], "s"), plot.Look(PALETTE[4], "^"), plot.Look(PALETTE[0], "o"), plot.Look(PALETTE[3], "v"),
    plot.Look(PALETTE[5], "P"), plot.Look(INK, "D"),
), strict=True))  # fmt: skip
MEASURES = {"right": "edited cell as wanted", "kept": "rest as it was: error below τ", "success": "success: right and kept"}  # fmt: skip


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table of edits with ``sees``, who sees the picture in words, and ``kept``, whether the rest is as it was."""
    sees = [WORDS[key] for key in zip(table["arm"], table["shuffled"], strict=True)]
    return table.assign(sees=sees, kept=(table["outside"] < table["tau"]).astype(float))


@plot.use_style()
def exact_edits(rows: Mapping[str, Sequence[Any]]) -> Figure:
    """Edits in columns, their instructions above: source, target, and what has changed. ``rows``: instruction -> those three pictures."""
    made, panels = plot.figure(1.25 * len(rows) + 0.3, 3.9, rows=3, columns=len(rows))
    for column, (said, pictures) in enumerate(rows.items()):
        for row, pixels in enumerate(pictures):
            axes = panels[row * len(rows) + column]
            picture(axes, pixels, _wrapped(said) if row == 0 else "")
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(("source", "target", "changed")[row], fontsize=7)
    return titled(made, "An edit changes one object: everywhere else source and target are equal, noise included")


@plot.use_style()
def outcomes(table: pd.DataFrame) -> Figure:
    """Shares of edits by who sees the picture: edited cell right, rest kept, both. A dot per seed, a bar for the mean."""
    return _shares([(said, in_words(table), column) for column, said in MEASURES.items()],
                   "Who must see the picture that is edited: shares of all edits that come out right; a dot per seed")  # fmt: skip


@plot.use_style()
def kinds(table: pd.DataFrame) -> Figure:
    """Success by kind of edit, as :func:`outcomes`."""
    own = in_words(table)
    panels = [(str(kind), part, "success") for kind, part in own.groupby("kind", sort=False)]
    return _shares(
        panels, "Edits that succeed (cell right, rest kept), by their kind and by who sees the picture; a dot per seed"
    )


def _shares(parts: Sequence[tuple[str, pd.DataFrame, str]], title: str) -> Figure:
    made, panels = plot.figure(7.0, 2.3, columns=len(parts))
    for axes, (name, table, column) in zip(panels, parts, strict=True):
        for place, (sees, look) in enumerate(LOOKS.items()):
            seeds = table[table["sees"] == sees].groupby("seed")[column].mean()
            axes.barh(place, seeds.mean(), height=0.62, color=look.colour, alpha=0.35)
            axes.plot(seeds, np.full(len(seeds), place), look.marker, color=look.colour, markersize=3.5)
            axes.text(1.03, place, f"{seeds.mean():.2f}", va="center", fontsize=6)
        downwards(axes, list(LOOKS) if axes is panels[0] else [""] * len(LOOKS))
        axes.set(title=name, xlim=(0, 1.2), xticks=[0, 0.5, 1], xlabel="share of edits")
        axes.title.set_fontsize(7)
    return titled(made, title)


@plot.use_style()
def errors(table: pd.DataFrame, invented: float) -> Figure:
    """Share of edits whose error outside of the mask is below x times the seed's τ: read at 1, what is kept; elsewhere, what another τ
    would have said. ``invented``: mean error of pictures that are right but for all that no text mentions."""
    own = in_words(table).assign(times=lambda rows: rows["outside"] / rows["tau"])
    made, (axes,) = plot.figure(5.0, 2.9)
    for (sees, look), style in zip(LOOKS.items(), ("-", "-", "-", "--", "--", "-"), strict=True):
        times = np.sort(own.loc[own["sees"] == sees, "times"])
        axes.plot(times, np.arange(1, len(times) + 1) / len(times), style, color=look.colour, label=sees)
    axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (1, 1)), label="τ, twice the mean of true codes")
    mean = own.groupby("seed")["tau"].first().mean()
    axes.axvline(invented / mean, color=INK, linewidth=0.9, linestyle="--", label="what no text mentions, invented")
    axes.set(
        xscale="log", xlabel="squared error outside of the mask (multiples of τ)", ylabel="share of edits", ylim=(0, 1.03)
    )  # fmt: skip
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    title = "What nobody asked for should not change: left of the dotted line it counts as kept"
    return titled(made, title, labelled(axes), 2)


@plot.use_style()
def rule(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """M9's difference with its interval and threshold, by kind and of the control: label, effect, low, high, threshold; ``seeds`` has label
    and effect of each."""
    made, (axes,) = plot.figure(5.6, 1.2 + 0.3 * len(table))
    plot.forest(table, x_label="success: both minus the better single arm (share of edits)", axes=axes)
    places = seeds["label"].map({label: place for place, label in enumerate(table["label"])})
    axes.plot(seeds["effect"], places + 0.25, ".", color=PALETTE[0], markersize=3, label="a seed")
    axes.get_legend().remove()  # type: ignore[union-attr]
    title = "What is gained if both see the picture, 95 % intervals; the control must stay left of the threshold"
    return titled(made, title, labelled(axes), 2)


@plot.use_style()
def gallery(table: pd.DataFrame, height: int, width: int, count: int = 2) -> Figure:
    """Edits downwards, source, target and what arms made across; a green frame is a success, an orange one none.

    ``table``: that of the experiment `edit_gallery`, with ``instruction`` and ``success``.
    """
    own = table[table["number"] < count]
    rows, arms = list(own.groupby(["kind", "number"], sort=False)), list(pd.unique(own["arm"]))
    made, panels = plot.figure(1.15 * (2 + len(arms)) + 0.6, 1.15 * len(rows) + 0.5, rows=len(rows), columns=2 + len(arms))  # fmt: skip
    for row, (_, part) in enumerate(rows):
        made_by = part[part["side"] == "made"].set_index("arm")
        plain = part.drop_duplicates("side").set_index("side")
        shown = [plain.loc["source"], plain.loc["target"], *(made_by.loc[arm] for arm in arms)]
        names = ["source", "target", *(WORDS[arm, NOTHING].replace(", ", ",\n") for arm in arms)]
        for column, (item, name) in enumerate(zip(shown, names, strict=True)):
            axes = panels[row * len(shown) + column]
            picture(axes, unpacked(item["pixels"], height, width), name if row == 0 else "")
            axes.spines[:].set_visible(False)
            if column >= 2:
                framed(axes, bool(item["success"]))
        panels[row * len(shown)].set_ylabel(_wrapped(shown[0]["instruction"]), fontsize=6)
    return titled(made, "Edits that were asked for, and what arms made; green frame: success, orange: not")


def _wrapped(text: str, words: int = 3) -> str:
    parts = text.split()
    return "\n".join(" ".join(parts[i : i + words]) for i in range(0, len(parts), words))

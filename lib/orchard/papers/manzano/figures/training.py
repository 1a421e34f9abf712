"""Figures of 02_train: what the adapters read, how they come to speak of the same things, which codes are used, losses by stage, what
batches hold, what is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from orchard import plot
from orchard.papers.manzano.experiments.recipe import picture
from orchard.papers.manzano.figures import looks
from orchard.plot.style import INK, PALETTE

OTHER = "another picture through the "  # adapter


@plot.use_style()
def read_through(table: pd.DataFrame, gates: Sequence[tuple[float, str]] = ()) -> Figure:
    """Share of slots that are right through either adapter, a row for each stream, a dot for each seed; hollow: another picture was shown.

    ``gates``: (share, words) to be drawn as lines.
    """
    streams = list(pd.unique(table["stream"]))
    made, (axes,) = plot.figure(width=5.4, height=1.2 + 0.42 * len(streams))
    for place, name in enumerate(streams):
        for shift, (adapter, look) in zip((-0.14, 0.14), looks.ADAPTERS.items(), strict=True):
            for shown, face in ((OTHER + adapter, "white"), (adapter, look.colour)):
                own = table[(table["stream"] == name) & (table["adapter"] == shown)]["accuracy"]
                axes.plot(own, [place + shift] * len(own), look.marker, color=look.colour, markerfacecolor=face)
    for (share, said), style in zip(gates, ("--", ":"), strict=False):
        axes.axvline(share, color=INK, linewidth=0.9, linestyle=style, label=said)
    looks.downwards(axes, [looks.stream(name) for name in streams])
    axes.set(xlim=(-0.03, 1.03), xlabel="slots right")
    marks = [(f"{name} adapter", look.colour, look.marker, look.colour) for name, look in looks.ADAPTERS.items()]
    handles = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="", label=said)
        for said, colour, marker, face in (*marks, ("shown another picture", INK, "o", "white"))
    ]
    title = "What is read through each adapter, before any unified training; a dot per seed"
    return looks.titled(made, title, [*handles, *looks.labelled(axes)])


def cosines(continuous: Float[Tensor, "pictures n dim"], discrete: Float[Tensor, "pictures n dim"]) -> Float[Tensor, "n n"]:  # fmt: skip
    """Mean cosine, over pictures, of the continuous vector of square i and the discrete vector of square j, each less its adapter's mean
    over all pictures at that square: what a place always looks like is no meaning."""
    first, second = (torch.nn.functional.normalize(x - x.mean(dim=0), dim=-1) for x in (continuous, discrete))
    return torch.einsum("bid,bjd->ij", first, second) / len(first)


def alignment(continuous: Float[Tensor, "pictures n dim"], discrete: Float[Tensor, "pictures n dim"]) -> float:
    """Linear CKA of the two, 0 ... 1: whether squares that are alike for one adapter are alike for the other (Kornblith et al. 2019)."""
    x, y = (part.flatten(0, 1) - part.flatten(0, 1).mean(dim=0) for part in (continuous, discrete))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


@plot.use_style()
def common_space(table: pd.DataFrame) -> Figure:
    """Cosines of the two adapters' vectors, square by square, a panel for each tokenizer: tokenizer, continuous, discrete (numbers of
    squares), cosine."""
    names = list(pd.unique(table["tokenizer"]))
    made, panels = plot.figure(2.5 * len(names) + 0.6, 2.6, columns=len(names))
    for axes, name in zip(panels, names, strict=True):
        grid = table[table["tokenizer"] == name].pivot(index="continuous", columns="discrete", values="cosine")
        shown = axes.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set(xlabel="square, discrete adapter", title=name, xticks=range(len(grid)), yticks=range(len(grid)))
        axes.grid(False)
    panels[0].set_ylabel("square, continuous adapter")
    made.colorbar(shown, ax=panels, label="mean cosine", shrink=0.8)
    return looks.titled(made, "Both adapters say the same of a square where the diagonal is dark and the rest pale")


@plot.use_style()
def code_use(table: pd.DataFrame) -> Figure:
    """Perplexity of the codes at every square of a picture, a map for each codebook, mean over seeds."""
    kinds = list(pd.unique(table["codes"]))
    made, panels = plot.figure(3.1 * len(kinds), 2.7, columns=len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        own = table[table["codes"] == kind]
        squares = own.groupby("position", as_index=False)["perplexity"].mean()
        squares["row"], squares["column"] = np.divmod(squares["position"], round(len(squares) ** 0.5))
        plot.heat_map(
            squares, row="row", column="column", value="perplexity", number=".0f", x_label="", y_label="", axes=axes,
            value_label="perplexity of the codes",
        )  # fmt: skip
        axes.set(xticks=[], yticks=[], title=f"{kind}: {own['used'].mean():.0f} of {own['size'].iloc[0]:,} codes used")
        axes.title.set_fontsize(7)
    return looks.titled(
        made, "Codes in use, square by square: cells above, text at the bottom; each panel has its own colours"
    )


@plot.use_style()
def stages(curves: pd.DataFrame, phases: Sequence[int]) -> Figure:
    """Validation losses of the three stages of the hybrid arm: tokenizer by adapter (its ``phases`` end at lines), language model by
    modality, image decoder."""
    made, (first, second, third) = plot.figure(7.2, 2.7, columns=3)
    own = curves[curves["part"] == "tokenizer"]
    tasks = sorted({measure.split("/")[1] for measure in own["measure"] if measure.endswith("/loss")})
    for (adapter, look), width in zip(looks.ADAPTERS.items(), (1.6, 1.0), strict=True):
        for task, style in zip(tasks, ("-", "--", ":"), strict=False):
            part = own[own["measure"] == f"{adapter}/{task}/loss"]
            first.plot(
                part["step"], part["value"], style, color=look.colour, linewidth=width, label=f"{adapter}: {looks.stream(task)}"
            )  # fmt: skip
    for step in phases:
        first.axvline(step, color=INK, linewidth=0.6)
    own = curves[curves["part"] == "hybrid"]
    for measure, colour in (("text_loss", PALETTE[2]), ("image_loss", PALETTE[4])):
        part = own[own["measure"] == measure]
        second.plot(part["step"], part["value"], color=colour, label=f"{measure.removesuffix('_loss')} targets")
    own = curves[(curves["part"] == "image decoder of hybrid codes") & (curves["measure"] == "validation_loss")]
    third.plot(own["step"], own["value"], color=PALETTE[5], label="image decoder")
    names = (
        ("0: tokenizer", "nats a slot"),
        ("1 to 3: language model", "nats a target"),
        ("4: image decoder", "squared error"),
    )
    for axes, (name, unit) in zip((first, second, third), names, strict=True):
        axes.set(title=name, xlabel="step", ylabel=unit, ylim=(0, None))
    return looks.titled(
        made,
        "Validation losses of the stages; thin lines: where a phase of stage 0 ends",
        looks.labelled(first, second),
    )


@plot.use_style()
def arms(curves: pd.DataFrame) -> Figure:
    """Validation losses of all arms by modality."""
    own = curves[curves["part"].isin(list(looks.LOOKS)) & curves["measure"].isin(["text_loss", "image_loss"])]
    told, known = looks.named(own.rename(columns={"part": "arm"}))
    made, panels = plot.figure(7.0, 3.1, columns=2)
    for axes, measure in zip(panels, ("text_loss", "image_loss"), strict=True):
        part = told[(told["measure"] == measure) & (told["value"] > 0)]  # 0: no targets of this kind
        plot.learning_curves(
            part, x="step", y="value", x_label="step", y_label=f"{measure.removesuffix('_loss')} targets (nats)", axes=axes, known=known
        )  # fmt: skip
        axes.get_legend().remove()  # type: ignore[union-attr]
    lines = {line.get_label(): line for line in looks.labelled(*panels)}
    title = (
        "How the arms learn; arms with other codes predict other targets, so compare image losses within one codebook"
    )
    return looks.titled(made, title, list(lines.values()))


@plot.use_style()
def mixture(table: pd.DataFrame, image_weight: float = 0.5) -> Figure:
    """One arm: shares of sequences, of targets, and of the weight in the loss, as bars."""
    counts = table.set_index("kind")["share"].reindex(["understanding", "generation", "text"])
    targets = table[["text_targets", "image_targets"]].iloc[0].to_numpy(dtype=float)
    weight = np.array([1, image_weight]) * (targets > 0)
    rows = {
        "sequences": dict(counts[counts > 0]),
        "targets": dict(zip(("text", "image"), targets / targets.sum(), strict=True)),
        "weight in the loss": dict(zip(("text", "image"), weight / weight.sum(), strict=True)),
    }
    colours = {"understanding": PALETTE[0], "generation": PALETTE[1], "text": PALETTE[2], "image": PALETTE[1]}
    made, (axes,) = plot.figure(width=5.6, height=1.9)
    for place, parts in enumerate(rows.values()):
        start = 0.0
        for kind, share in parts.items():
            axes.barh(place, share, left=start, color=colours[kind], height=0.62, edgecolor="white")
            axes.text(start + share / 2, place, f"{kind}\n{share:.0%}", ha="center", va="center", fontsize=6, color="white")  # fmt: skip
            start += share
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlim=(0, 1), xlabel="share")
    axes.invert_yaxis()
    axes.grid(False)
    return looks.titled(made, "What a batch holds: counted as sequences, as targets, and as weight in the loss")


@plot.use_style()
def ceilings(table: pd.DataFrame) -> Figure:
    """What the parser still finds in pictures that were drawn from true codes, a dot for each seed."""
    rows = list(table.groupby(["codes", "drawn by"], sort=False))
    made, (axes,) = plot.figure(width=5.0, height=1.3 + 0.4 * len(rows))
    marks = {"objects": (PALETTE[0], "o"), "characters": (PALETTE[1], "s"), "overall": (PALETTE[2], "D")}
    said = {"overall": "GenEval-mini, mean of tags"}
    for place, (_, own) in enumerate(rows):
        for shift, (column, (colour, marker)) in zip((-0.2, 0, 0.2), marks.items(), strict=True):
            label = said.get(column, column) if place == 0 else "_"
            axes.plot(own[column], [place + shift] * len(own), marker, color=colour, label=label)
    looks.downwards(axes, [f"codes: {codes}\ndrawn by: {by}" for (codes, by), _ in rows], size=6.0)
    axes.axvline(0.6, color=INK, linewidth=0.9, linestyle="--", label="gate of the drawing claims, for overall")
    axes.set(xlim=(-0.03, 1.03), xlabel="share right")
    return looks.titled(
        made, "Ceilings: what survives of a picture when its own codes are drawn", looks.labelled(axes), 2
    )


@plot.use_style()
def gallery(table: pd.DataFrame, height: int, width: int, count: int = 6) -> Figure:
    """Prompts across, arms downwards; a frame says whether the parser finds what was asked."""
    arms_ = list(pd.unique(table["arm"]))
    made, panels = plot.figure(1.15 * count + 0.8, 1.2 * len(arms_) + 0.6, rows=len(arms_), columns=count)
    for row, arm in enumerate(arms_):
        own = table[(table["arm"] == arm) & (table["number"] < count)]
        for column, item in enumerate(own.itertuples()):
            axes = panels[row * count + column]
            said = textwrap.fill(str(item.prompt), 19) if row == 0 else ""
            looks.picture(axes, picture(str(item.pixels), height, width), said)
            looks.framed(axes, bool(item.score))
            if column == 0:
                axes.set_ylabel(looks.words(arm).replace(": ", ":\n").replace(", ", ",\n"), fontsize=6)
    title = "Drawings of the same prompts; green frame: the reader finds what was asked; orange: it does not"
    return looks.titled(made, title)

"""Figures of 01_build: components to scale, a scene, rounding, sequences, what codes can carry, decoders, the paper's own numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from orchard import plot
from orchard.papers.manzano.data import published
from orchard.papers.manzano.data.parser import blurred, characters_right, objects_right, read
from orchard.papers.manzano.data.scene_world import LAYOUT, PATCH, TOKEN, Scenes, SceneWorld, readable
from orchard.papers.manzano.figures.looks import KINDS, labelled, picture, titled
from orchard.papers.manzano.method.decoder import BLOCKS, block_weights
from orchard.papers.manzano.method.flow import euler, noised
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.models import DIT_AIR
from orchard.papers.manzano.method.tokenizer import byte_pixels, unit_pixels
from orchard.papers.manzano.method.unified import IMAGE, SLOT, TEXT, Sequences
from orchard.plot.style import GREY, INK, PALETTE

PARTS = {"tokenizer": PALETTE[9], "language model": PALETTE[0], "image decoder": PALETTE[1]}
ARROWS = {"tokenizer": ("continuous vectors, to read", "codes, to write"), "language model": ("", "codes")}
PRINTED = {  # rows of the published table
    "MMDiT": "MMDiT/{}", "MMDiT, shared modulation": "MMDiT/{}, shared AdaLN", "DiT-Air": "DiT-Air/{}",
    "DiT-Air Lite, attention shared": "DiT-Air/{} Lite, attention", "DiT-Air Lite, all shared": "DiT-Air/{} Lite, full",
}  # fmt: skip


@plot.use_style()
def components(table: pd.DataFrame) -> Figure:
    """A row for each scale: the parts as squares whose area is their number of weights, and what goes between them.

    ``table``: scale, part (of PARTS), label, parameters.
    """
    scales = list(pd.unique(table["scale"]))
    made, panels = plot.figure(6.8, 1.55 * len(scales) + 0.2, rows=len(scales))
    for axes, scale in zip(panels, scales, strict=True):
        own = table[table["scale"] == scale].set_index("part")
        for i, (part, colour) in enumerate(PARTS.items()):
            side = (own.loc[part, "parameters"] / own["parameters"].max()) ** 0.5
            axes.add_patch(Rectangle((2.6 * i - side / 2, -side / 2), side, side, color=colour, alpha=0.85))
            axes.text(2.6 * i, -0.58, f"{part}: {own.loc[part, 'label']}", ha="center", va="top", fontsize=6.5)
            for height, said in zip((0.17, -0.17), ARROWS.get(part, ("", "")), strict=True):
                if said:
                    start, end = (2.6 * i + 0.6, height), (2.6 * i + 2.0, height)
                    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 0.8})
                    axes.text(2.6 * i + 1.3, height + 0.05, said, ha="center", va="bottom", fontsize=6)
        axes.set_title(f"{scale}: area = weights", fontsize=7)
        axes.set(xlim=(-1.0, 6.2), ylim=(-0.85, 0.55), aspect="equal")
        axes.axis("off")
    return titled(
        made, "One tokenizer makes what is read and what is written; the language model and the decoder share only code ids"
    )  # fmt: skip


def in_short(count: float | int) -> str:
    """A number of weights as "2.9 B", "364 M", "190 k"."""
    unit, letter = next((unit, letter) for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1, "")) if count >= unit)  # fmt: skip
    return f"{count / unit:.3g} {letter}".strip()


@plot.use_style()
def scene(world: SceneWorld, own: Scenes, other: Scenes, told: Sequence[str]) -> Figure:
    """A picture with its tokens (solid) and patches (dotted), the same record with other nuisance, its words and texts about it."""
    made, (left, middle, right) = plot.figure(7.2, 2.3, columns=3)
    picture(left, world.pixels(own)[0], "tokens and patches")
    picture(middle, world.pixels(other)[0], "the same record, drawn again")
    for step, width, style in ((TOKEN, 0.8, "-"), (PATCH, 0.35, ":")):
        for at in range(step, world.cfg.height, step):
            left.axhline(at - 0.5, color=INK, linewidth=width, linestyle=style)
            left.axvline(at - 0.5, color=INK, linewidth=width, linestyle=style)
    name = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for cell in range(world.cells):
        down, across = divmod(cell, world.columns)
        left.text(TOKEN * across, TOKEN * down + 0.2, f"p{cell}", fontsize=5.5, color=INK, va="top", bbox=name)
    said = own.records.words(0)
    things = [f"  p{thing['cell']}  {thing['colour']} {thing['shape']}" for thing in said["objects"]]
    lines = ["record:", *things, f"  text  {' '.join(said['text'])}", ""]
    lines += [textwrap.fill(text, 44, subsequent_indent="    ") for text in told]
    right.text(0, 1, "\n".join(lines), va="top", fontsize=6, linespacing=1.5, transform=right.transAxes)
    right.axis("off")
    left.get_subplotspec().get_gridspec().set_width_ratios([1, 1, 1.15])  # type: ignore[union-attr]
    return titled(made, f"One object fills a token, {world.cfg.k} characters do; what no text tells is drawn anew each time")  # fmt: skip


def rounding_table(level: int) -> pd.DataFrame:
    """One channel of FSQ: z, the bounded value, the value it is rounded to, the digit of its id."""
    fsq: FSQ = FSQ.Config(levels=[level]).build()
    z = torch.linspace(-4, 4, 401)[:, None]
    values, ids = fsq(z)
    columns = {"z": z[:, 0], "bounded": fsq.bounded(z)[:, 0], "value": values[:, 0], "digit": ids}
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()}).assign(levels=level)


@plot.use_style()
def rounding(table: pd.DataFrame) -> Figure:
    """Bounded and rounded value of a channel against z, a panel for each number of levels."""
    levels = list(pd.unique(table["levels"]))
    made, panels = plot.figure(2.6 * len(levels) + 0.3, 2.4, columns=len(levels))
    for axes, level in zip(panels, levels, strict=True):
        own = table[table["levels"] == level]
        axes.plot(own["z"], own["value"], color=PALETTE[0], label="rounded: what is read")
        axes.plot(own["z"], own["bounded"], color=PALETTE[1], linestyle="--", label="bounded: its gradient")
        axes.set(xlabel="z", ylim=(-1.1, 1.1), title=f"{level} levels: {level // 2} below 0, {(level - 1) // 2} above")
    panels[0].set_ylabel("value of the channel")
    return titled(made, "A channel is squashed, then rounded to one of its levels", labelled(panels[0]), 2)


def sequence_table(sequences: Mapping[str, Sequences], names: Sequence[str], image_weight: float = 0.5) -> pd.DataFrame:
    """Positions of the sequences of a batch, one by name: sequence, position, kind, word, and the weight of a target in the loss.

    ``names``: words by id, of text and of the two marks; what lies beyond is a code.
    """
    counts = {kind: sum(int((part.kinds == kind).sum()) for part in sequences.values()) for kind in (TEXT, IMAGE)}
    share = {TEXT: 1.0, IMAGE: image_weight}
    rows = []
    for name, part in sequences.items():
        positions = zip(part.tokens[0].tolist(), part.kinds[0].tolist(), strict=True)
        for place, (token, kind) in enumerate(positions):
            word = names[token] if token < len(names) else f"{token - len(names)}"
            weight = share[kind] / counts[kind] if kind in counts else 0.0
            rows.append({"sequence": name, "position": place, "kind": kind, "word": word, "weight": weight})
    return pd.DataFrame(rows)


@plot.use_style()
def sequence_strip(table: pd.DataFrame) -> Figure:
    """Each sequence as a strip of boxes, coloured by what a position is; above a target its weight in the loss of the batch."""
    names = list(pd.unique(table["sequence"]))
    made, panels = plot.figure(7.2, 1.1 * len(names) + 0.6, rows=len(names))
    for axes, name in zip(panels, names, strict=True):
        own = table[table["sequence"] == name]
        for row in own.itertuples():
            axes.add_patch(Rectangle((row.position, 0), 0.94, 1, color=KINDS[row.kind][1], linewidth=0))
            word, ink = "vector" if row.kind == SLOT else row.word, "white" if row.kind == TEXT else INK
            axes.text(row.position + 0.47, 0.5, word, rotation=90, ha="center", va="center", fontsize=5.5, color=ink)
            if row.weight:
                axes.text(row.position + 0.47, 1.06, f"{row.weight:.3f}"[1:], ha="center", va="bottom", fontsize=4.8)
        axes.set(xlim=(0, table["position"].max() + 1), ylim=(-0.2, 1.3))
        axes.set_title(name, fontsize=6.5)
        axes.axis("off")
    handles = [Patch(color=colour, label=said) for said, colour in KINDS.values()]
    return titled(made, "Three kinds of sequences, one next-token loss: above each target its weight", handles, 4)


def capacity_table(codes: Sequence[int], alphabet: int = 10) -> pd.DataFrame:
    """By characters of a token k and size of the codebook: rho, bits of a code over bits of k characters, and the greatest share of
    characters that anything can read from one code."""
    rows = [
        {"k": k, "codes": size, "rho": np.log2(size) / (k * np.log2(alphabet)), "readable": readable(size, k, alphabet)}
        for size in codes for k in LAYOUT
    ]  # fmt: skip
    return pd.DataFrame(rows)


@plot.use_style()
def capacity(table: pd.DataFrame) -> Figure:
    """The greatest share of characters that can be read from codes, by characters of a token, a line for each size of the codebook."""
    made, (axes,) = plot.figure(width=4.2, height=2.6)
    for (size, own), colour, marker in zip(table.groupby("codes"), PALETTE, "osD^v", strict=False):
        axes.plot(own["k"], own["readable"], color=colour, marker=marker, label=f"{size:,} codes")
        counted = own[own["rho"] < 1]
        axes.plot(counted["k"], counted["readable"], marker, color=colour, markerfacecolor="white")
    axes.plot([], [], "o", color=INK, markerfacecolor="white", label="ρ < 1: counting")
    axes.set(xlabel="characters of a token, k", ylabel="characters right, at most", ylim=(0, 1.05), xticks=list(LAYOUT))
    axes.axhline(0.1, color=INK, linewidth=0.9, linestyle=":", label="guessing")
    return titled(made, "Where ρ < 1 a code is too small for its characters, whoever trains it", labelled(axes))


def blocks_table(size: str = "B") -> pd.DataFrame:
    """The weights in blocks of each kind of decoder at a size of DiT-Air: kind, weights, saved (against MMDiT), published totals."""
    layers, dim = DIT_AIR[size].num_layers, DIT_AIR[size].dim
    table = pd.DataFrame({"kind": list(BLOCKS), "weights": [block_weights(kind, layers, dim) for kind in BLOCKS]})
    printed = 1e6 * published.table("DiT-Air")["parameters"]
    names = table["kind"].map(lambda kind: PRINTED.get(kind, "").format(size))
    return table.assign(saved=1 - table["weights"] / table["weights"].iloc[0], published=names.map(printed))


@plot.use_style()
def decoder_blocks(table: pd.DataFrame) -> Figure:
    """Weights in blocks of kinds of decoders; ``published``, where it is, with embedders and heads."""
    made, (axes,) = plot.figure(width=5.2, height=2.3)
    axes.barh(table["kind"], table["weights"] / 1e6, color=PALETTE[0], height=0.55, label="blocks, by formula and by count")  # fmt: skip
    axes.plot(
        table["published"] / 1e6, table["kind"], "D", color=GREY, markerfacecolor="white", label="published, with embedders"
    )  # fmt: skip
    ends = table[["weights", "published"]].max(axis=1) / 1e6
    for place, (end, weights, saved) in enumerate(zip(ends, table["weights"] / 1e6, table["saved"], strict=True)):
        axes.text(end + 25, place, f"{weights:.0f} M" + (f", {saved:.0%} saved" if saved else ""), va="center", fontsize=6)  # fmt: skip
    axes.set_xlim(0, ends.max() * 1.15)
    axes.invert_yaxis()
    axes.set_xlabel("weights (millions)")
    axes.grid(False, axis="y")
    return titled(made, "Two streams of weights become one: DiT-Air has a third of MMDiT's blocks", labelled(axes), 2)


@plot.use_style()
def noise_path(pixels: UInt8[np.ndarray, "height width 3"], steps: int = 4) -> Figure:
    """The way of a picture to noise, and back by Euler with the exact velocity; the title says how far the end is from the start."""
    x0 = unit_pixels(torch.from_numpy(pixels)[None])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    made, panels = plot.figure(1.05 * (steps + 1), 2.7, rows=2, columns=steps + 1)
    back: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        back.append(x)
        return noise - x0

    back.append(euler(velocity, noise, steps))
    for i in range(steps + 1):
        picture(panels[i], byte_pixels(noised(x0, noise, torch.tensor([i / steps])))[0], f"t = {i / steps:g}")
        picture(panels[steps + 1 + i], byte_pixels(back[i])[0], f"t = {1 - i / steps:g}")
    panels[0].set_ylabel("to noise", fontsize=7)
    panels[steps + 1].set_ylabel("Euler, back", fontsize=7)
    apart = float((back[-1] - x0).abs().max())
    return titled(made, f"A straight way: {steps} steps back end within {apart:.0e} of the picture")


@plot.use_style()
def blur(world: SceneWorld, scenes: Scenes, table: pd.DataFrame, row: int = 0) -> Figure:
    """A scene under growing blur with what the reader finds in it, and below the shares over many scenes (``parser.blur_curve``)."""
    sigmas = [0.0, 0.75, 1.25, 2.0, 3.0]
    made = Figure(figsize=(6.4, 3.2))
    grid = made.add_gridspec(2, 1, height_ratios=[1, 1.25])
    above, under = made.add_subfigure(grid[0]), made.add_subfigure(grid[1])
    own, pixels = scenes.take([row]), world.pixels(scenes.take([row]))
    for axes, sigma in zip(above.subplots(1, len(sigmas)), sigmas, strict=True):
        seen = blurred(pixels, sigma)
        found = read(world, seen).records
        right = objects_right(found, own.records)[0], characters_right(found, own.records)[0]
        picture(axes, seen[0], f"σ = {sigma:g} px: {right[0]:.0%}, {right[1]:.0%}")
    axes = under.subplots()
    for part, colour, marker in (("objects", PALETTE[0], "o"), ("characters", PALETTE[1], "s")):
        axes.plot(table["sigma"], table[part], color=colour, marker=marker, label=f"{part} read right")
    axes.set(xlabel="blur σ (pixels)", ylabel="share", ylim=(0, 1.05))
    axes.legend()
    return titled(made, "The reader is right on clean pictures and fails smoothly; above each: objects, characters")


@plot.use_style()
def overall_scores(table: pd.DataFrame) -> Figure:
    """What overall score is printed against what follows from its parts, a panel per benchmark; models outside of rounding are named.

    ``table``: benchmark, model, printed, follows, agrees.
    """
    made, panels = plot.figure(6.0, 2.7, columns=2)
    title = f"{table['agrees'].sum()} of {len(table)} printed overall scores follow from their parts; those that do not are named"
    for axes, (benchmark, own) in zip(panels, table.groupby("benchmark", sort=False), strict=True):
        low, high = own[["printed", "follows"]].min().min() - 0.03, own[["printed", "follows"]].max().max() + 0.03
        axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle="--", label="equal")
        for agrees, colour, said in ((True, GREY, "rounding explains it"), (False, PALETTE[3], "it does not")):
            part = own[own["agrees"] == agrees]
            axes.plot(part["follows"], part["printed"], "o", color=colour, label=said)
        for model, x, y in own.loc[~own["agrees"], ["model", "follows", "printed"]].itertuples(index=False):
            axes.annotate(model, (x, y), (-4, 3), textcoords="offset points", ha="right", fontsize=6)
        axes.set(xlabel="mean of its parts", title=benchmark, xlim=(low, high), ylim=(low, high))
    panels[0].set_ylabel("overall score, printed")
    return titled(made, title, labelled(panels[0]))

"""Codes under sliders: regrouping, the lattice, one code swapped for another's, and an edit asked of three arms.

The first two need no model. The others are made from configs of runs, whose finished models answer at every move; the parser reads
what they draw. Each returns what `orchard.widgets.explorer` needs, a figure of a choice and its controls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from orchard import plot
from orchard.nn import Sampling, patches, space_to_channel
from orchard.papers.manzano.data.captions import BOS, INSTRUCTION, encode, spoken
from orchard.papers.manzano.data.parser import read
from orchard.papers.manzano.data.scene_world import COLOURS, LAYOUT, SHAPES, TOKEN, SceneWorld
from orchard.papers.manzano.figures.looks import labelled, picture, titled
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.tokenizer import byte_pixels, unit_pixels
from orchard.papers.manzano.method.unified import draw_codes
from orchard.papers.manzano.runs.image_decoder import TrainDecoder, drawn, load_decoder, quantizer_of
from orchard.papers.manzano.runs.scores import SPLIT, Drawings, Edits, Painter
from orchard.papers.manzano.runs.unified import as_read, load_unified, vocabulary_of
from orchard.plot.style import INK, PALETTE
from orchard.runs import Runner

Explored = tuple[Callable[..., Figure], dict[str, Any]]
Pixels = UInt8[np.ndarray, "..."]
LEVELS = ["8 5 5 5", "8 6 5", "7 5 5 5 5", "8 8 8 6 5", "8 8 8 5 5 5", "4 4 4 4 4 4 4 4"]
PICTURES = 8  # of the test split, in menus
KINDS = ("recolour", "remove", "add")  # of edits, in the menu
POINTS = 400  # on the lattice


@plot.use_style()
def regrouping(side: int = 3, r: int = 3, dim: int = 48) -> Figure:
    """A scene of ``side`` x ``side`` tokens of r x r patches, and the same patches in the order of space-to-channel: a row a token."""
    world: SceneWorld = SceneWorld.Config(height=TOKEN * side, width=TOKEN * side, k=1, test=1).build()
    cut, grid = TOKEN // r, side * r
    pixels = torch.from_numpy(world.pixels(world.scenes("test")))
    rows = space_to_channel(patches(pixels, cut), grid, grid, r)[0].reshape(side**2, r**2, cut, cut, 3)
    made, (left, right) = plot.figure(6.6, 2.9, columns=2)
    left.imshow(pixels[0])
    for at in range(1, grid):
        for line in (left.axhline, left.axvline):
            line(cut * at - 0.5, color=INK, linewidth=0.9 if at % r == 0 else 0.3)
    framed = torch.full((side**2, r**2, cut + 1, cut + 1, 3), 255, dtype=torch.uint8)  # a white line after every patch
    framed[:, :, :cut, :cut] = rows
    shown = framed.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    right.imshow(shown)
    numbers = np.arange(0, side**2, 1 if side == 3 else side)
    right.set_yticks((cut + 1) * (numbers + 0.5) - 0.5, numbers)
    left.set(xticks=[], yticks=[], title=f"{grid} x {grid} patches of {cut} px, {dim} channels each")
    right.set(xticks=[], ylabel="token", title=f"{side**2} tokens of {r**2} x {dim} = {r**2 * dim} channels")
    for axes in (left, right):
        axes.grid(False)
        axes.title.set_fontsize(6.5)
    return titled(made, f"Space to channel: {grid**2} vectors become {side**2}, and no number is lost")


def cloud(fsq: FSQ) -> tuple[Float[Tensor, "points channels"], Float[Tensor, "points channels"]]:
    """Random z ~ N(0, 1.5²), bounded, and the codes that they are rounded to."""
    z = 1.5 * torch.randn(POINTS, fsq.dim, generator=torch.Generator().manual_seed(0))
    return fsq.bounded(z), fsq(z)[0]


@plot.use_style()
def lattice(levels: str = LEVELS[0], first: int = 1, second: int = 2) -> Figure:
    """Two channels of the lattice with what is rounded to it, and the bits of codes beside those of what a picture tells. A channel
    beyond the last is the last."""
    fsq: FSQ = FSQ.Config(levels=[int(level) for level in levels.split()]).build()
    both = [min(channel, fsq.dim) - 1 for channel in (first, second)]
    smooth, codes = (points[:, both] for points in cloud(fsq))
    made, (left, right) = plot.figure(6.6, 2.8, columns=2)
    left.plot(*torch.stack((smooth, codes)).movedim(2, 0), color=PALETTE[9], linewidth=0.5)
    left.plot(*smooth.T, ".", color=PALETTE[9], markersize=2, label="z, bounded")
    sizes = fsq.levels[both].tolist()
    every = torch.cartesian_prod(*((torch.arange(size) - size // 2) / (size // 2) for size in sizes))
    left.plot(*every.T, "s", color=PALETTE[0], markersize=3.5, label="code")
    for axis, channel, size in zip(("x", "y"), both, sizes, strict=True):
        left.set(**{f"{axis}label": f"channel {channel + 1}: {size} levels"})
    left.locator_params(nbins=5)
    told = {k: SceneWorld.Config(k=k).build().bits() for k in LAYOUT}
    bits = {"9 codes of a picture": 9 * fsq.bits, "3 codes of the strip": 3 * fsq.bits, "objects": told[1]["objects"]}
    bits |= {f"text, k = {k}": of["text"] for k, of in told.items()}
    right.barh(list(bits), list(bits.values()), color=[PALETTE[0 if "codes" in name else 1] for name in bits], height=0.6)  # fmt: skip
    for place, value in enumerate(bits.values()):
        right.text(value + 1, place, f"{value:.1f}", va="center", fontsize=6)
    right.set(xlabel="bits", xlim=(0, 165))
    right.invert_yaxis()
    right.grid(False, axis="y")
    return titled(
        made,
        f"The levels {levels.replace(' ', ', ')} make {fsq.size:,} codes, {fsq.bits:.2f} bits each",
        labelled(left),
        2,
    )


def surgery(run: Runner, cfg: Drawings.Config) -> Explored:
    """One code of a test picture is that of another picture at the same place: both are drawn by the decoder of some drawings, and read."""
    codes, done = run([cfg.decoder.codes, cfg.decoder])
    decoder, quantizer, (world, pixels) = load_decoder(done, cfg.decoder), quantizer_of(codes), _shown(cfg.decoder)
    ids = codes.tensors("ids")[SPLIT][:PICTURES]

    def draw(scene: int = 0, other: int = 1, place: int = ids.shape[1] - 2) -> Figure:  # in the strip of text
        swapped = ids[scene].clone()
        swapped[place] = ids[other, place]
        made = _drawn(cfg, decoder, quantizer, torch.stack((ids[scene], swapped, ids[other])))
        change = f"code {place}: {ids[scene, place]} → {swapped[place]}"
        titles = ["picture", "drawn from its codes", change, "the other, drawn"]
        figure = _row(world, [pixels[scene], *made], titles, place, first=2)
        return titled(figure, f"One of {len(swapped)} codes is exchanged; below each picture what the reader finds")

    one = (0, PICTURES - 1)
    return draw, {"scene": one, "other": one, "place": (0, ids.shape[1] - 1)}


def editing(run: Runner, arms: Mapping[str, Edits.Config]) -> Explored:
    """An instruction about a cell of a test picture, and what each arm makes of it. ``arms``: name in words -> config of its edits."""
    models = {name: _editor(run, cfg) for name, cfg in arms.items()}
    world, pixels = _shown(next(iter(arms.values())).decoder)
    shapes, colours = list(SHAPES[: world.cfg.shapes]), list(COLOURS)[: world.cfg.colours]

    def draw(scene: int = 0, instruction: str = KINDS[0], cell: int = 0, colour: str = "red", shape: str = "square") -> Figure:  # fmt: skip
        said = spoken(shapes.index(shape), colours.index(colour))
        text = INSTRUCTION[instruction][0].format(p=f"p{cell}", **said)
        made = [model(scene, text) for model in models.values()]
        figure = _row(world, [pixels[scene], *made], ["before", *models], cell, first=0)
        return titled(figure, f'"{text}": who sees the picture? Below each what the reader finds')

    places = {"scene": (0, PICTURES - 1), "instruction": list(KINDS), "cell": (0, world.cells - 1)}
    return draw, places | {"colour": colours, "shape": shapes}


def _editor(run: Runner, cfg: Edits.Config) -> Callable[[int, str], Pixels]:
    """The picture that an arm makes of a test picture and an instruction; the same one for the same choice."""
    unified = cfg.model
    assert unified is not None
    tokenizer, codes, done, painted = run([unified.features.tokenizer, unified.features, unified, cfg.decoder])
    model, decoder = load_unified(done, unified, codes, tokenizer), load_decoder(painted, cfg.decoder)
    before, vocabulary = unit_pixels(torch.from_numpy(_shown(cfg.decoder)[1])), vocabulary_of(codes)
    seen = None
    if unified.edits_read:
        seen = as_read(model.tokenizer, unified.reads, codes.tensors(f"squares_{SPLIT}")["squares"][:PICTURES])
    sampling = Sampling(cfg.temperature, top_p=cfg.top_p)

    @torch.no_grad()
    def edited(scene: int, text: str) -> Pixels:
        one, prompt = slice(scene, scene + 1), [[BOS, *encode(text)]]
        vectors, generator = None if seen is None else seen[one], torch.Generator().manual_seed(0)
        ids = draw_codes(model.language_model, vocabulary, prompt, model.tokenizer.n, sampling, generator, vectors)
        return _drawn(cfg, decoder, quantizer_of(codes), ids, before[one] if cfg.decoder.edits else None)[0]

    return edited


def _shown(cfg: TrainDecoder.Config) -> tuple[SceneWorld, Pixels]:
    """The world of a decoder and its first test pictures."""
    world: SceneWorld = getattr(cfg.codes, "world").build()  # noqa: B009  # of features and of auto-encoders
    return world, world.pixels(world.scenes(SPLIT).take(np.arange(PICTURES)))


def _drawn(
    cfg: Painter.Config, decoder: Any, quantizer: FSQ, ids: Int[Tensor, "pictures n"], reference: Tensor | None = None
) -> Pixels:
    """Pictures of codes, all from the same noise, so that what differs is what their codes say."""
    rows = quantizer.values(ids).split(1)
    made = [drawn(decoder, row, cfg.steps, cfg.guidance, torch.Generator().manual_seed(0), reference) for row in rows]
    return byte_pixels(torch.cat(made)).numpy()


def _row(world: SceneWorld, pixels: Sequence[Pixels], titles: Sequence[str], place: int, first: int) -> Figure:
    """Pictures side by side, below each what the parser reads in it; from the ``first`` on the square of a token is framed."""
    made, panels = plot.figure(1.65 * len(pixels), 2.75, columns=len(pixels))
    records = read(world, np.stack(pixels)).records
    down, across = divmod(place, world.columns)
    for i, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        picture(axes, pixels[i], title)
        found = records.words(i)
        lines = [f"p{thing['cell']} {thing['colour']} {thing['shape']}" for thing in found["objects"]]
        axes.set_xlabel("\n".join([*lines, f"text {found['text']}"]), fontsize=6, loc="left")
        if i >= first:
            corner = TOKEN * across - 0.5, TOKEN * down - 0.5
            axes.add_patch(Rectangle(corner, TOKEN, TOKEN, fill=False, edgecolor=PALETTE[3], linewidth=1.2))
    return made

"""Dropping experts by hand: a trained model answers at once, by masking, with its loss by domain and its routing.

A choice costs two passes over a few test windows: no fine-tuning, no table that was made before.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from orchard import plot
from orchard.nn import Decoder
from orchard.papers.moe_lottery.experiments.profiles import models
from orchard.papers.moe_lottery.figures.training import layer_map
from orchard.papers.moe_lottery.method.dropping import Drop, ExpertsError, masked
from orchard.papers.moe_lottery.runs.scoring import Text, nats
from orchard.papers.moe_lottery.runs.suite import usage
from orchard.plot.style import PALETTE
from orchard.runs import Runner, Setting
from orchard.train import choose, load_model

WINDOWS = 8  # of the test split
MOST_BOXES = 64  # tick boxes, one for each expert; of a larger model the lowest layers can be taken apart
BEFORE, AFTER = "#c9dcea", PALETTE[0]


@dataclass(frozen=True)
class Readings:
    """Test loss by domain and of "all" (nats/byte); load of every expert."""

    loss: dict[str, float]
    load: Float[Tensor, "layers n"]


@dataclass(frozen=True)
class Live:
    """A model, what it is measured on, and its readings while nothing is dropped."""

    model: Decoder
    text: Text
    full: Readings

    def read(self, dropped: Drop) -> Readings:
        """Readings without some experts. Raises ExpertsError for a choice that leaves a router too few."""
        with masked(self.model, dropped):
            return readings(self.model, self.text)


def readings(model: Decoder, text: Text) -> Readings:
    """One pass over the text for the loss, one for the routing."""
    sums, size = nats(model, text).sum(dim=0), text.counts().sum(dim=0)
    loss = {"all": float(sums.sum() / size.sum())}
    loss |= {name: float(sums[d] / size[d]) for d, name in enumerate(text.names) if size[d]}
    routed = usage(model, text).routed.sum(dim=2).double()
    return Readings(loss, routed / routed.sum(dim=1, keepdim=True))


def live(setting: Setting, run: Runner, name: str | None = None) -> Live:
    """A trained model of a setting, by default the first, ready to be taken apart."""
    found = next(model for model in models(setting) if name in (None, model.name))
    model = load_model(run([found.run])[0], found.run).to(choose("auto").device)
    text = Text.evaluation(found.run, "test", WINDOWS)
    return Live(model, text, readings(model, text))


def hand(model: Live, first: Drop | None = None) -> tuple[Callable[..., Figure], dict[str, Any]]:
    """What `orchard.widgets.explorer` needs: a figure for a set of experts, and a tick box for each of the first `MOST_BOXES`.
    `first`: what is dropped in the beginning."""
    cells = [(place, e) for place in range(len(model.full.load)) for e in range(model.full.load.shape[1])][:MOST_BOXES]
    boxes = {f"L{place} E{e}": (place, e) for place, e in cells}

    def draw(**ticked: bool) -> Figure:
        gone = [cell for name, cell in boxes.items() if ticked[name]]
        return drawn(model, {place: [e for p, e in gone if p == place] for place in dict(gone)})

    return draw, {name: e in (first or {}).get(place, ()) for name, (place, e) in boxes.items()}


@torch.no_grad()
@plot.use_style()
def drawn(model: Live, dropped: Drop) -> Figure:
    """The figure of a choice; a choice that cannot be is named in its place."""
    try:
        now = model.read(dropped)
    except ExpertsError as error:
        figure, (axes,) = plot.figure(width=5.2, height=1.2)
        axes.set_axis_off()
        words = textwrap.fill(str(error), 80)
        axes.text(0, 0.5, words, transform=axes.transAxes, va="center", fontsize=8, color=PALETTE[3])
        return figure
    return _compared(model.full, now, dropped)


def _compared(full: Readings, now: Readings, dropped: Drop) -> Figure:
    """Loss by domain, the full model pale behind; the load of every expert before and now."""
    layers, n = now.load.shape
    figure, (left, *maps) = plot.figure(width=7.0, height=2.0 + 0.12 * layers, columns=3)
    for loss, height, colour, label in ((full.loss, 0.8, BEFORE, "full model"), (now.loss, 0.4, AFTER, "without them")):
        left.barh(list(loss), list(loss.values()), height=height, color=colour, label=label)
    left.invert_yaxis()
    left.grid(False, axis="y")
    left.set_xlabel("test loss (nats/byte)")
    top = float(max(full.load.max(), now.load.max())) * n
    for axes, one, name in zip(maps, (full, now), ("load, full model", "load now"), strict=True):
        grid = pd.DataFrame(one.load.numpy() * n)
        for layer, experts in dropped.items() if one is now else ():
            grid.loc[layer, list(experts)] = np.nan
        image = layer_map(axes, grid, Normalize(0, top), ".1f")
        axes.set(title=name, xlabel="expert")
    figure.colorbar(image, ax=maps, pad=0.02, label="times an even share")
    figure.suptitle(
        f"{sum(map(len, dropped.values()))} of {layers * n} experts dropped: {now.loss['all']:.3f} nats/byte, "
        f"{now.loss['all'] - full.loss['all']:+.3f}", fontsize=8, x=0.02, ha="left",
    )  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure

"""Figure of the explorer in which the reader drops experts by hand: loss by domain, probes and routing, before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from orchard import plot
from orchard.papers.moe_lottery.figures.training import layer_map
from orchard.papers.moe_lottery.method import Drop
from orchard.plot.style import INK, PALETTE

BEFORE, AFTER = "#c9dcea", PALETTE[0]


@dataclass(frozen=True)
class Readings:
    """Test loss by domain and of "all" (nats/byte); load of every expert; share of right answers by capability."""

    loss: dict[str, float]
    load: Float[Tensor, "layers n"]
    right: dict[str, float]


@plot.use_style()
def by_hand(full: Readings, now: Readings, dropped: Drop, guess: Mapping[str, float]) -> Figure:
    """Loss by domain and right answers by capability as bars, the full model pale behind; below, the load of what is left."""
    layers, n = now.load.shape
    figure = plot.figure(width=5.2, height=3.1 + 0.12 * layers, rows=2, columns=2)[0]
    left, right, *below = figure.axes
    _bars(left, full.loss, now.loss)
    left.set_xlabel("test loss (nats/byte)")
    _bars(right, {k: 100 * v for k, v in full.right.items()}, {k: 100 * v for k, v in now.right.items()})
    for place, name in enumerate(now.right):
        right.vlines(100 * guess[name], place - 0.42, place + 0.42, color=INK, linestyle=":", linewidth=1)
    right.set_xlim(0, 100)
    right.set_xlabel("right answers (%; dotted: guessing)")
    for axes, readings, name in zip(below, (full, now), ("load, full model", "load now"), strict=True):
        grid = pd.DataFrame(readings.load.numpy() * n)
        if readings is now:
            for layer, experts in dropped.items():
                grid.loc[layer, list(experts)] = np.nan
        top = float(max(full.load.max(), now.load.max())) * n
        image = layer_map(axes, grid, Normalize(0, top), ".1f")
        axes.set_title(name)
        axes.set_xlabel("expert")
    figure.colorbar(image, ax=below, pad=0.02, label="times an even share")
    count = sum(map(len, dropped.values()))
    figure.suptitle(
        f"{count} of {layers * n} experts dropped: {now.loss['all']:.3f} nats/byte, "
        f"{now.loss['all'] - full.loss['all']:+.3f}", fontsize=8, x=0.02, ha="left",
    )  # fmt: skip
    handles = [Patch(color=BEFORE, label="full model"), Patch(color=AFTER, label="without them")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _bars(axes: Axes, full: Mapping[str, float], now: Mapping[str, float]) -> None:
    places = np.arange(len(now))
    axes.barh(places, [full[name] for name in now], height=0.8, color=BEFORE)
    axes.barh(places, list(now.values()), height=0.4, color=AFTER)
    axes.set_yticks(places, list(now))
    axes.set_ylim(len(now) - 0.4, -0.6)
    axes.grid(False, axis="y")


def refused(reason: str) -> Figure:
    """A choice that cannot be made, and why."""
    figure, (axes,) = plot.figure(width=5.2, height=1.2)
    axes.set_axis_off()
    axes.text(0, 0.5, textwrap.fill(reason, 80), transform=axes.transAxes, va="center", fontsize=8, color=PALETTE[3])
    return figure

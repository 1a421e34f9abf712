"""Figures of 01_build: what a router does, what its weights do when experts go, what scores count, what dropping saves."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from orchard import plot
from orchard.data import ByteTokenizer
from orchard.nn import Decoder, MixtureOfExperts
from orchard.nn.moe import Dispatch
from orchard.papers.moe_lottery.figures.training import headline
from orchard.papers.moe_lottery.method.collect import Collector
from orchard.papers.moe_lottery.method.criteria import CRITERIA
from orchard.papers.moe_lottery.method.dropping import masked, mixture_layers, route
from orchard.plot.style import GREY, PALETTE

EXAMPLES = (
    "import numpy as np", "The colour of the", '{"id": 4051, "city":', "8 + 7 => 15\n1 + 12 =>", "Returns the value"
)  # fmt: skip


@cache
def toy(renormalise: bool = True) -> MixtureOfExperts:
    """An untrained mixture of eight experts, two per token, with a decided router."""
    cfg = MixtureOfExperts.Config(dim=16, hidden_dim=32, num_experts=8, top_k=2, renormalise=renormalise)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer: MixtureOfExperts = cfg.build()
        nn.init.normal_(layer.gate.weight, std=0.5)
    return layer.eval()


@torch.no_grad()
def mass_table() -> pd.DataFrame:
    """Mean sum of the weights of the two chosen experts when 0 to 6 random ones of 8 are dropped; ten draws."""
    hidden = torch.randn(1, 512, 16, generator=torch.Generator().manual_seed(1))
    rows = []
    for name, renormalise in (("renormalised (Mixtral)", True), ("softmax as it is (OLMoE)", False)):
        layer = toy(renormalise)
        for draw in range(10):
            order = torch.randperm(8, generator=torch.Generator().manual_seed(draw)).tolist()
            for dropped in range(7):
                with masked(layer, {0: order[:dropped]}):
                    weights = layer.gate(hidden[0])[1]
                mean = weights.sum(dim=-1).mean().item()
                rows.append({"router": name, "draw": draw, "dropped": dropped, "mass": mean})
    return pd.DataFrame(rows)


def mass(table: pd.DataFrame) -> Figure:
    """The sum of the router's weights against experts dropped."""
    return plot.learning_curves(
        table, x="dropped", y="mass", hue="router", seed="draw", x_label="experts dropped, of 8",
        y_label="mean sum of the two weights",
    )  # fmt: skip


@torch.no_grad()
def counting_table() -> pd.DataFrame:
    """Scores of one expert after 8 to 2,048 tokens of the same distribution, relative to 8: columns criterion, tokens, score."""
    rows = []
    for tokens in (2**power for power in range(3, 12)):
        statistics = Collector(mixture_layers(toy()), vocab_size=1).statistics[0]
        outputs = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(2))  # of one expert
        index = torch.zeros(tokens, 1, dtype=torch.int64)
        statistics.add(outputs, Dispatch.of(index, 8), index, torch.ones(tokens, 1), index[:, 0])
        scores = {name: float(CRITERIA[name].score(statistics)[0]) for name in ("ean", "ean_row", "man")}
        rows += [{"criterion": name, "tokens": tokens, "score": score} for name, score in scores.items()]
    table = pd.DataFrame(rows)
    first = table.groupby("criterion")["score"].transform("first")
    names = {"ean": "EAN: equation 13", "ean_row": "EAN row: sum of row norms", "man": "MAN: mean row norm"}
    return table.assign(score=table["score"] / first, criterion=table["criterion"].map(names))


@plot.use_style()
def counting(table: pd.DataFrame) -> Figure:
    """How three readings of "activation norm" grow with the number of tokens that an expert sees."""
    made, (axes,) = plot.figure()
    for (name, rows), colour, marker in zip(table.groupby("criterion"), PALETTE, "os^", strict=False):
        axes.plot(rows["tokens"], rows["score"], marker=marker, color=colour, label=str(name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="tokens routed to the expert", ylabel="score, relative to 8 tokens")
    made.legend(loc="outside lower center", ncols=1)
    return headline(made, "two of three readings of the activation norm grow with usage")


@plot.use_style()
def savings(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Mixtral-8x7B: share of parameters and of FLOPs per token that is left, against experts dropped."""
    made, (axes,) = plot.figure()
    flops = table["GFLOPs per token"] / table["GFLOPs per token"].iloc[0]
    axes.plot(table["s (%)"], table["memory (%)"] / 100, marker="o", color=PALETTE[0], label="parameters")
    axes.plot(table["s (%)"], flops, marker="s", color=PALETTE[1], label="FLOPs per token")
    memory = published[published["metric"] == "memory (×)"]
    axes.plot(memory["s"], memory["value"], "D", color=GREY, markerfacecolor="white", label="memory, paper")
    axes.set(xlabel="experts dropped (%)", xticks=table["s (%)"], ylabel="share of the full model", ylim=(0, 1.05))
    axes.tick_params(axis="x", labelsize=6)
    made.legend(loc="outside lower center", ncols=2)
    return headline(made, "Mixtral-8x7B by counting: memory falls with the experts, FLOPs per token stay")


@torch.no_grad()
def routing_table(model: Decoder, text: str) -> pd.DataFrame:
    """Where a trained model sends each byte of `text`: columns layer, position, byte, expert, weight."""
    tokens = torch.tensor([ByteTokenizer.Config().build().encode(text)])
    rows = [
        {"layer": layer, "position": t, "byte": chr(int(tokens[0, t])), "expert": int(e), "weight": float(w)}
        for layer, (_, weights, index) in enumerate(route(model.eval(), tokens))
        for t in range(tokens.shape[1])
        for w, e in zip(weights[t], index[t], strict=True)
    ]
    return pd.DataFrame(rows)


@plot.use_style()
def routing(table: pd.DataFrame, num_experts: int) -> Figure:
    """A panel per layer: byte against expert, the darker the larger its weight."""
    layers = sorted(table["layer"].unique())
    text = table[table["layer"] == 0].drop_duplicates("position").sort_values("position")["byte"]
    made, panels = plot.figure(height=1.1 * len(layers) + 0.4, rows=len(layers))
    for layer, axes in zip(layers, panels, strict=True):
        grid = np.zeros((num_experts, len(text)))
        own = table[table["layer"] == layer]
        grid[own["expert"], own["position"]] = own["weight"]
        axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.grid(False)
        axes.set_ylabel(f"layer {layer}")
        axes.set_yticks(range(0, num_experts, max(1, num_experts // 4)))
        axes.set_xticks(range(len(text)), ["⏎" if c == "\n" else "␣" if c == " " else c for c in text], fontsize=6.5)
    panels[-1].set_xlabel("byte of the text (white to dark blue: weight 0 to 1)")
    return headline(made, f"{num_experts} experts (rows), two for each byte (columns)")

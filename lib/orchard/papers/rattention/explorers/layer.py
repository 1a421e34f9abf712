"""What a slider moves: the attention a token really receives, and the spectrum of the state.

One head of a RAttention layer is a weighted sum of values, and the weights can be read off (arXiv 2506.15545, section 3):

    out_t = g_swa * sum_s a_ts v_s + g_rla * sum_s b_ts v_s
    a_ts  = softmax_{t-w <= s <= t}(q'_t . k'_s / sqrt(d)) / RMS(o_swa[t])        the window part
    b_ts  = [s <= t-w-1] phi(q_t) . phi(k_s) / RMS(o_rla[t])                      the recurrent part

The gains g [heads, head_dim] scale channels, after the sum. q [batch, time, heads, d]; k, v [batch, time, kv_heads, d],
all raw. Weights are [batch, heads, query, key]; a state S_t is [kv_heads, features, d].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import einsum, repeat
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from orchard import plot
from orchard.kernels.residual import feature_map as phi
from orchard.nn import Decoder, RMSNorm, window_mask
from orchard.papers.rattention.figures.looks import LOOKS
from orchard.papers.rattention.method.attention import RAttention
from orchard.plot.style import GREY, INK, PALETTE

WINDOW, STATE, CHUNK = "window (softmax)", "saved state", "own chunk"
PARTS = {WINDOW: LOOKS["swa"].colour, STATE: LOOKS["la"].colour, CHUNK: "#ecd0e7"}
MOST_TOKENS = 64  # as many characters can be read under one column
VISIBLE = {" ": "␣", "\n": "↵", "\t": "→"}


@dataclass(frozen=True)
class Probe:
    """A RAttention layer and what its projections made of one text; `tokens` are the labels of the positions."""

    layer: RAttention
    q: Float[Tensor, "1 time heads head_dim"]
    k: Float[Tensor, "1 time kv_heads head_dim"]
    v: Float[Tensor, "1 time kv_heads head_dim"]
    tokens: tuple[str, ...]

    def varied(self, window: int, chunk: int | None = None, feature_map: str = "softmax") -> RAttention:
        """The same layer, weights shared, with another window (0 or more), chunk size or feature map."""
        if window < 0:
            raise ValueError(f"window={window}: the explorers need a window branch, give 0 or more tokens")
        layer = copy.copy(self.layer)
        layer.window, layer.delay, layer.feature_map = window, window + 1, feature_map
        layer.chunk_size = layer.chunk_size if chunk is None else chunk
        return layer


@torch.no_grad()
def probe(model: Decoder, text: str, layer: int = 0) -> Probe:
    """q, k, v of one RAttention layer of a byte model, trained or not, that reads `text`.

    Raises ValueError where `layer` (counted from 0) is not RAttention with a window.
    """
    found = model.layers[layer].attention
    if not isinstance(found, RAttention) or found.window < 0:
        raise ValueError(f"layer {layer} is {type(found).__name__}, not RAttention with a window: choose another layer")
    ids = torch.tensor([list(text.encode())], device=model.embedding.weight.device)
    x = model.embedding(ids)
    for block in model.layers[:layer]:
        x = block(x)
    q, k, v = found.project(model.layers[layer].attention_norm(x))
    return Probe(found, q, k, v, tuple(bytes([byte]).decode("ascii", "replace") for byte in ids[0].tolist()))


@torch.no_grad()
def token_weights(
    layer: RAttention,
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
) -> tuple[Float[Tensor, "batch heads query key"], Float[Tensor, "batch heads query key"]]:
    """The weights a (window part) and b (recurrent part) of every value in every output of `layer.attend`, before the gains.

    Raises ValueError without a window branch, and for a learned initial state, which is no token's value.
    """
    if layer.window < 0:
        raise ValueError(f"token_weights: window={layer.window} has no window part; use a layer with 0 or more tokens")
    if layer.init_k is not None:
        raise ValueError(
            "token_weights: use_learned_init adds a state that belongs to no token; use a layer without it"
        )
    time, groups = q.shape[1], layer.num_heads // layer.num_kv_heads
    positions = torch.arange(time, device=q.device)
    values = repeat(v, "b s h d -> b s (h g) d", g=groups)

    def scores(queries: Tensor, keys: Tensor) -> Tensor:
        return einsum(queries, repeat(keys, "b s h d -> b s (h g) d", g=groups), "b t h d, b s h d -> b h t s")

    def normed(weights: Tensor, norm: RMSNorm | None) -> Tensor:
        if norm is None:
            return weights
        output = einsum(weights, values, "b h t s, b s h d -> b h t d")
        return weights * torch.rsqrt(output.square().mean(dim=-1, keepdim=True) + norm.eps)

    near = window_mask(positions, positions, layer.window)
    placed = (layer.place(x, norm, positions, time) for x, norm in ((q, layer.q_norm), (k, layer.k_norm)))
    swa = (scores(*placed) * layer.head_dim**-0.5).masked_fill(~near, float("-inf")).softmax(dim=-1)
    raw = (x if scale is None else x * scale for x, scale in ((q, layer.q_scale), (k, layer.k_scale)))
    older = window_mask(positions, positions, None) & ~near
    rla = scores(*(phi(x, layer.feature_map) for x in raw)) * older
    return normed(swa, layer.swa_norm), normed(rla, layer.rla_norm)


def weighted_values(
    layer: RAttention, weights: tuple[Tensor, Tensor], v: Float[Tensor, "batch time kv_heads head_dim"]
) -> Float[Tensor, "batch time heads head_dim"]:
    """g_swa * (a v) + g_rla * (b v): what `layer.attend` must return."""
    values = repeat(v, "b s h d -> b s (h g) d", g=layer.num_heads // layer.num_kv_heads)
    swa, rla = (einsum(part, values, "b h t s, b s h d -> b t h d") for part in weights)
    return swa * _gain(layer.swa_norm) + rla * _gain(layer.rla_norm)


def _gain(norm: RMSNorm | None) -> Tensor | float:
    return 1.0 if norm is None else norm.gain


@torch.no_grad()
def received_table(
    probe: Probe, position: int, window: int = 7, chunk: int = 8, feature_map: str = "softmax", head: int = 0
) -> pd.DataFrame:
    """The weight of every key in the output of `head` at `position`: columns key, token, part, weight.

    A trained layer's weights are multiplied by the root mean square of the branch's gain for this head (1 without
    training), so that the two parts stay on one scale. `part` is `STATE` for keys that the chunked form folded
    before the query's own chunk and `CHUNK` for those it multiplies within; a later key has no part. `attrs`
    holds `gap`: the largest difference, over all positions and heads, of the weighted values from the layer's output.
    """
    if not (0 <= position < len(probe.tokens) and 0 <= head < probe.layer.num_heads):
        raise ValueError(
            f"position={position}, head={head}: the text has positions 0 to {len(probe.tokens) - 1}, the layer heads "
            f"0 to {probe.layer.num_heads - 1}"
        )
    layer = probe.varied(window, chunk, feature_map)
    weights = token_weights(layer, probe.q, probe.k, probe.v)
    gap = weighted_values(layer, weights, probe.v) - layer.attend(probe.q, probe.k, probe.v)
    norms = (layer.swa_norm, layer.rla_norm)
    sizes = [1.0 if norm is None else float(norm.gain[head].square().mean().sqrt()) for norm in norms]
    row = sum(size * part[0, head, position] for size, part in zip(sizes, weights, strict=True))
    folded = position - window  # as many tokens have left the window: 0 ... t-w-1
    saved = chunk * ((folded - 1) // chunk) if folded > 0 else 0  # the chunked form cuts the tokens behind the window
    keys = np.arange(len(probe.tokens))
    part = np.select([keys < saved, keys < folded, keys <= position], [STATE, CHUNK, WINDOW], "")
    table = pd.DataFrame({"key": keys, "token": probe.tokens, "part": part, "weight": torch.as_tensor(row).numpy()})
    table.attrs["gap"] = float(gap.abs().max())
    return table


@plot.use_style()
def received(
    probe: Probe, position: int, window: int = 7, chunk: int = 8, feature_map: str = "softmax", head: int = 0
) -> Figure:
    """The attention that the query at `position` really pays to each token: window part and recurrent part on one scale."""
    table = received_table(probe, position, window, chunk, feature_map, head)
    figure, (axes,) = plot.figure(height=2.5)
    for part, colour in PARTS.items():
        chosen = table[table["part"] == part]
        axes.bar(chosen["key"], chosen["weight"], width=0.85, color=colour, label=part)
    cuts = np.arange(chunk, position - window, chunk) - 0.5 if chunk > 1 else np.empty(0)
    for cut in cuts:
        axes.axvline(cut, color=GREY, linewidth=0.5, linestyle=":", zorder=0)
    axes.axhline(0, color=INK, linewidth=0.7)
    axes.set_xlim(-0.8, len(table) - 0.2)
    _label_tokens(axes, probe.tokens, position)
    axes.set_xlabel("key position s" if len(table) > MOST_TOKENS else "key token s (bold: the query t)")
    axes.set_ylabel("weight of vₛ in the output")
    axes.set_title(
        f"t = {position}, {feature_map}, head {head}, chunks of {chunk}, W = {window + 1}:\n"
        f"|Σ weight · v − layer output| ≤ {table.attrs['gap']:.0e}"
    )
    figure.legend(
        handles=[Patch(color=c, label=p) for p, c in PARTS.items()], loc="outside lower center", ncols=3, handlelength=1
    )
    return figure


def _label_tokens(axes: Axes, tokens: Sequence[str], position: int) -> None:
    """Characters under the axis where they can be read, the query's in bold; numbers for a longer text."""
    if len(tokens) > MOST_TOKENS:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return
    axes.set_xticks(
        range(len(tokens)), [VISIBLE.get(token, token) for token in tokens], family="monospace", fontsize=5.5
    )
    axes.tick_params(axis="x", length=0, pad=1.5)
    axes.grid(False, axis="x")
    axes.get_xticklabels()[position].set(fontweight="bold", color=PALETTE[3])


@torch.no_grad()
def state_spectrum_table(
    probe: Probe, window: int = 15, feature_map: str = "softmax", scale: float = 1.0, points: int = 40
) -> pd.DataFrame:
    """Singular values of the state that token t reads, at about `points` positions behind the window.

    Columns head (kv head), position, index (from 1), value, and per state: effective_rank = exp of the entropy of
    value / sum of values (Roy and Vetterli, 2007), top_share = largest value^2 / sum of values^2, constant_share = the
    part of that sum along the constant feature 1 / sqrt(features). `scale` multiplies the keys before phi. A window that
    nothing leaves gives no rows.
    """
    keys, values = phi(probe.k[0] * scale, feature_map), probe.v[0].to(torch.float32)
    columns = ["head", "position", "index", "value", "effective_rank", "top_share", "constant_share"]
    if window >= len(keys) - 1:
        return pd.DataFrame(columns=columns)
    positions = np.unique(np.linspace(window + 1, len(keys) - 1, points).round().astype(int))
    states = [einsum(keys[:end], values[:end], "s h f, s h d -> h f d") for end in positions - window]
    stacked = torch.stack(states)  # [points, heads, features, d]
    s = torch.linalg.svdvals(stacked)
    shares = s / s.sum(-1, keepdim=True)
    rank = torch.special.entr(shares).sum(-1).exp()
    energy = s.square().sum(-1)
    top, constant = s[..., 0].square() / energy, stacked.mean(-2).square().sum(-1) * stacked.shape[-2] / energy
    point, head, index = (axis.ravel() for axis in np.indices(s.shape))
    per_state = (x.numpy()[point, head] for x in (rank, top, constant))
    values_of = (head, positions[point], index + 1, s.numpy().ravel(), *per_state)
    return pd.DataFrame(dict(zip(columns, values_of, strict=True)))


@plot.use_style()
def state_spectrum(
    probe: Probe, window: int = 15, feature_map: str = "softmax", scale: float = 1.0, head: int = 0
) -> Figure:
    """Singular values of one head's state against time; below, how much the first has, and what it is."""
    table = state_spectrum_table(probe, window, feature_map, scale)
    table = table[table["head"] == head]
    figure, (above, middle, below) = plot.figure(height=3.9, rows=3)
    above.set_title(f"{feature_map}, kv head {head}, key scale {scale:g}, window of {window + 1}")
    if table.empty:
        above.text(0.5, 0.5, "no token has left the window: S = 0", transform=above.transAxes, ha="center")
    else:
        values = table.pivot(index="position", columns="index", values="value")
        one, dot = table[table["index"] == 1], "o" if len(values) == 1 else ""
        above.plot(values.index, values, color=PALETTE[0], linewidth=0.7, alpha=0.6, marker=dot)
        above.plot(values.index, values[1], color=PALETTE[1], linewidth=1.6, marker=dot)
        above.set_yscale("log")
        largest = float(table["value"].max())
        above.set_ylim(max(float(table["value"].min()), largest * 1e-4), largest * 1.6)
        middle.plot(one["position"], one["effective_rank"], color=PALETTE[2], marker=dot)
        middle.set_ylim(0, len(values.columns))
        below.plot(one["position"], one["top_share"], color=PALETTE[1], marker=dot, label="first direction")
        below.plot(one["position"], one["constant_share"], "--", color=INK, marker=dot, label="constant feature")
        figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    below.set_ylim(0, 1.05)
    for axes, label in ((above, "singular values"), (middle, "effective rank"), (below, "share of energy")):
        axes.set_ylabel(label)
        axes.set_xlim(0, 1.02 * len(probe.tokens))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in (above, middle):
        axes.tick_params(axis="x", labelbottom=False)
    below.set_xlabel("position t (tokens)")
    return figure

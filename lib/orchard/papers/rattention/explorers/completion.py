"""What a trained model writes: the chances of the next token, and the text that is drawn from them."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from orchard import plot
from orchard.nn import Sampling
from orchard.papers.rattention.figures.looks import titled
from orchard.plot.style import PALETTE
from orchard.train import TextModel

SHOWN = 10  # candidates for the next token


def next_token_table(
    saved: TextModel, prompt: str, temperature: float = 0.8, top_k: int = 50, top_p: float = 1.0
) -> pd.DataFrame:
    """The likeliest tokens after a prompt with the chance that each has to be drawn: columns token, probability."""
    with torch.no_grad():
        logits = saved.model.logits(saved.model.features(saved.encode(prompt))[:, -1])
    chances = Sampling(temperature, top_k, top_p).probabilities(logits)[0]
    best = (chances / chances.sum()).topk(SHOWN)
    return pd.DataFrame(
        {"token": [repr(saved.tokenizer.table[int(i)])[1:] for i in best.indices], "probability": best.values.tolist()}
    )


def completion(
    saved: TextModel, prompt: str, temperature: float = 0.8, top_k: int = 50, top_p: float = 1.0, seed: int = 0
) -> Figure:
    """Left: the chances of the next token. Right: the text that is drawn from them, one token after the other."""
    figure, (left, right) = plot.figure(width=7.0, height=2.8, columns=2)
    with plot.use_style():
        table = next_token_table(saved, prompt, temperature, top_k, top_p)[::-1]
        left.barh(table["token"], table["probability"], color=PALETTE[0])
        left.set(xlim=(0, 1), xlabel="probability", ylabel="next token")
        text = prompt + saved.complete(prompt, 160, temperature, seed, top_k=top_k, top_p=top_p)
        shown = "\n".join(
            part for line in text.splitlines() for part in textwrap.wrap(line, 40, drop_whitespace=False) or [""]
        )
        look: dict[str, Any] = {"va": "top", "family": "monospace", "fontsize": 6, "clip_on": True}
        right.text(0, 1, shown.replace("$", r"\$"), transform=right.transAxes, **look)
        right.set_axis_off()
        right.set_title(f"drawn after {prompt!r} at temperature {temperature:g}")
    likeliest = table.iloc[-1]
    return titled(
        figure, f"the likeliest token after {prompt!r} is {likeliest['token']}, {likeliest['probability']:.0%}"
    )

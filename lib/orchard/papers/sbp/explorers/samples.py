"""From a seed to its samples: a trained synthesizer is sampled anew at every choice of seed and temperature.

What is drawn is d1 with P(c | d1), some samples with P(c | d2), and in each sample the n-grams (n >= 2) that it shares with d1. The
sampling seed follows from the choice alone, so the same choice shows the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from orchard import plot
from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.experiments.arms import ran
from orchard.papers.sbp.experiments.comparison import studies, synthetic_arms
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.runs.synthesise import seed_numbers, written
from orchard.papers.sbp.runs.tune import load_synthesizer
from orchard.plot.style import INK, PALETTE
from orchard.runs import Runner, Setting
from orchard.train import choose

SYNTHESIZERS = ("sbp-nn-lm", "sbp-true", "sbp-random", "uncond")
SEEDS, SAMPLES = 8, 5
TEMPERATURES = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]


@dataclass(frozen=True)
class Live:
    """Synthesizers of one cell by arm, the corpus they know, and held-out documents to seed them with, by name."""

    models: dict[str, Decoder]
    corpus: Any
    seeds: Documents
    seed: int

    @property
    def names(self) -> list[str]:
        """The seed documents as they stand in the menu: their number and concept."""
        return [f"{i} (concept {label})" for i, label in enumerate(self.corpus.relations(self.seeds)["concept"])]


def live(setting: Setting, run: Runner) -> Live:
    """The synthesizers of the first cell of `dep`."""
    cell, chosen = studies(setting, run, "dep")[0]
    arms = [arm for arm in SYNTHESIZERS if arm in synthetic_arms(setting, cell)]
    tuned = [chosen.synthesizer(arm) for arm in arms]
    device, done = choose("auto").device, ran(run, zip(arms, tuned, tuned, strict=True))
    models = {arm: load_synthesizer(found, cfg).to(device) for arm, cfg, found in done}
    corpus = chosen.corpus.build()
    held_out = corpus.documents("test")
    return Live(models, corpus, held_out.take(seed_numbers(held_out, SEEDS, cell.seed)), cell.seed)


def browse(model: Live) -> tuple[Callable[..., Figure], dict[str, Any]]:
    """What `orchard.widgets.explorer` needs: a figure for a seed, a synthesizer and a temperature, and the controls of the three."""
    names, arms = model.names, list(model.models)

    def draw(seed: str = names[0], synthesizer: str = arms[0], temperature: float = 1.0) -> Figure:
        return browsed(page(model, names.index(seed), synthesizer, temperature))

    return draw, {"seed": names, "synthesizer": arms, "temperature": TEMPERATURES}


def page(model: Live, number: int, synthesizer: str, temperature: float) -> Page:
    """A seed document and what a synthesizer writes after it."""
    decoder, corpus, first = model.models[synthesizer], model.corpus, model.seeds.take([number])
    chosen = int(np.random.default_rng([model.seed, 15, number, round(100 * temperature)]).integers(2**62))
    seeds, alone = np.zeros(SAMPLES, np.int64), synthesizer == "uncond"
    documents = first + written(decoder, corpus, first, seeds, alone, Sampling(temperature), chosen)[0]
    posterior = corpus.world.posterior(documents)
    rows = [
        Row([corpus.text(body[i : i + 1]) for i in range(len(body))], shared(body, first[0]) if place else None, law)
        for place, (body, law) in enumerate(zip(documents, posterior, strict=True))
    ]
    same = np.nan_to_num(posterior[1:] @ posterior[0]).tolist()  # 0 for an impossible one
    return Page(rows[0], rows[1:], f"{synthesizer}, temperature {temperature:g}", same)


def shared(body: Integer[np.ndarray, "_"], seed: Integer[np.ndarray, "_"], least: int = 2) -> Bool[np.ndarray, "_"]:
    """Which tokens of a body lie in an n-gram, n >= ``least``, that the seed has too."""
    known = {tuple(seed[i : i + least].tolist()) for i in range(len(seed) - least + 1)}
    inside = np.zeros(len(body), dtype=bool)
    for i in range(len(body) - least + 1):
        if tuple(body[i : i + least].tolist()) in known:
            inside[i : i + least] = True
    return inside


LINE, LINES = 14, 3  # tokens in a line, lines of a document that are shown
SHOWN = 3  # concepts with a colour of their own: those that the seed may have
ROW = 0.17  # inches of a line of tokens, and of the line above them
OTHER, MARKED = "#c8c8c8", "#ffe08a"


@dataclass(frozen=True)
class Row:
    """A document: its tokens as words, which of them the seed has too, and P(c | d) (NaN: impossible)."""

    words: Sequence[str]
    marked: Bool[np.ndarray, "_"] | None
    law: Float64[np.ndarray, "concepts"]


@dataclass(frozen=True)
class Page:
    """A seed and its samples; ``same``: P(same concept as the seed) of each sample."""

    seed: Row
    samples: list[Row]
    title: str
    same: list[float]


@plot.use_style()
def browsed(page: Page) -> Figure:
    """Documents as lines of tokens on the left, what d1 shares marked; on the right the concepts of each as a bar."""
    rows = [page.seed, *page.samples]
    lines = max(1, min(LINES, max(-(-len(row.words) // LINE) for row in rows)))
    height = ROW * (lines + 1) + 0.04
    made, panels = plot.figure(7.4, 0.75 + height * len(rows), columns=2)
    left, right = panels
    top = np.argsort(-np.nan_to_num(page.seed.law), kind="stable")[:SHOWN]
    left.set_axis_off()
    left.set_xlim(0, LINE)
    for axes in panels:
        axes.set_ylim(len(rows) - 0.5, -0.5)
    for place, row in enumerate(rows):
        chance = f"P(same concept) = {page.same[place - 1]:.2f}" if np.isfinite(row.law).all() else "impossible"
        name, colour = ("seed d₁", PALETTE[0]) if place == 0 else (f"sample {place}: {chance}", INK)
        left.text(0, place - 0.5 + ROW / 2 / height, name, fontsize=6.5, color=colour, va="center", weight="bold")
        _words(left, row, place - 0.5, lines, height)
        _bar(right, row.law, place, top)
    right.set(xlim=(0, 1), yticks=[], xlabel="P(c | d)")
    right.grid(False)
    left.set_title(page.title, fontsize=8)
    left.get_subplotspec().get_gridspec().set_width_ratios([4.2, 1])  # type: ignore[union-attr]
    handles = [Patch(color=PALETTE[i], label=f"concept {c}") for i, c in enumerate(top)]
    handles += [
        Patch(color=OTHER, label="other concepts"), Patch(facecolor="white", edgecolor=INK, hatch="////", label="impossible"),
        Patch(color=MARKED, label="2-grams or more of d₁"),
    ]  # fmt: skip
    made.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=1.2, columnspacing=1.0)
    return made


def _words(axes: Axes, row: Row, top: float, lines: int, height: float) -> None:
    """The tokens in lines below the name of the document; what does not fit is told by three dots."""
    room = LINE * lines
    for i, word in enumerate(row.words[:room]):
        line, column = divmod(i, LINE)
        cut = i == room - 1 and len(row.words) > room
        inside = row.marked is not None and bool(row.marked[i])
        axes.text(
            column + 0.5, top + ROW * (line + 1.5) / height, "…" if cut else word.replace("[genre ", "G").rstrip("]"), fontsize=6.2,
            color=INK, ha="center", va="center", bbox={"facecolor": MARKED, "edgecolor": "none", "pad": 1.2} if inside else None,
        )  # fmt: skip


def _bar(axes: Axes, law: Float64[np.ndarray, "concepts"], place: int, top: np.ndarray) -> None:
    if not np.isfinite(law).all():
        axes.barh(place, 1, height=0.5, facecolor="white", edgecolor=INK, hatch="////", linewidth=0.6)
        return
    start = 0.0
    for number, concept in enumerate(top):
        axes.barh(place, law[concept], left=start, height=0.5, color=PALETTE[number])
        start += float(law[concept])
    axes.barh(place, max(0.0, 1 - start), left=start, height=0.5, color=OTHER)

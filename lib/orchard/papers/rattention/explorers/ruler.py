"""The sample viewer: a test sequence of RULER-lite as words, its needle, what a trained model answers, and how far it had to look."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from matplotlib.figure import Figure

from orchard import plot
from orchard.errors import BadInput, closest
from orchard.nn import Decoder
from orchard.papers.rattention.data.ruler_tokens import RULER_TASKS, VOCAB_SIZE, Examples, spell
from orchard.papers.rattention.experiments.long_context import trained
from orchard.papers.rattention.runs.ruler import TEST, examples, found
from orchard.runs import Runner, Setting

WIDTH = 106  # characters of 7 points in a line of 6.8 inches
AROUND = 12  # words shown on each side of the needle, and at the start
TINT = {"text": "#777777", "needle": "#0173b2", "question": "#333333", "answer": "#029e73", "wrong": "#d55e00"}


def viewer(setting: Setting, run: Runner) -> Callable[..., Figure]:
    """A figure of (arm, task, multiple, example) for :func:`orchard.widgets.explorer`, over the trained models of the first seed."""
    runs = {arm: (cfg, done) for arm, seed, cfg, done in reversed(trained(setting, run))}

    @lru_cache(maxsize=len(runs))
    def model(arm: str) -> Decoder:
        cfg, done = runs[arm]
        decoder: Decoder = cfg.clone().model.set(vocab_size=VOCAB_SIZE[cfg.needles]).build()
        decoder.load_state_dict(done.tensors("model"))
        return decoder.eval()

    def draw(arm: str, task: str, multiple: int = 1, example: int = 0) -> Figure:
        if arm not in runs:
            raise BadInput(f"no trained arm {arm!r}: {closest(arm, runs)}")
        cfg, _ = runs[arm]
        part = examples(cfg, TEST, task, multiple * cfg.length, cfg.test_examples)
        return sample(model(arm), part, cfg.needles, example, arm)

    return draw


def sample(model: Decoder, part: Examples, needles: str, example: int, arm: str) -> Figure:
    """One test sequence and the greedy answer of ``model`` to its last question. BadInput for an example that is not there."""
    if not 0 <= example < len(part.tokens):
        raise BadInput(f"example {example} does not exist: there are 0 … {len(part.tokens) - 1}")
    names, tokens = spell(needles), part.tokens[example]
    start, needle = int(part.answers[example, -1]), int(part.needles[example, -1])
    prompt = torch.from_numpy(tokens[None, :start])
    said = model.generate(prompt, part.size)[0, start:].numpy()
    points = float(found(said[None], tokens[None, start:], part.items)[0])
    words = [names[token] for token in tokens]
    width = 0 if needle < 0 else _needle_width(words, needle)
    pieces = _shown(words, needle, width, part.tail, start)
    answer = "answer" if points == 1 else "wrong"
    lines = [
        ("true answer", " ".join(words[start:]), "answer"),
        ("the model says", f"{' '.join(names[t] for t in said)}   ({points:.0%} right)", answer),
        ("distance", _far(part, example), "question"),
    ]
    own = "" if part.task in RULER_TASKS else " (ours, not RULER's)"
    return _draw(f"{part.task}{own}, {len(tokens) - 1} tokens, {arm}", pieces, lines)


def _needle_width(words: list[str], needle: int) -> int:
    """Words of the needle that begins at an index: a pair is one, any other ends before the next separator that closes it."""
    if words[needle] != "|":
        return 1
    return 2 + next(i for i, word in enumerate(words[needle + 1 :]) if word == "|")


def _far(part: Examples, example: int) -> str:
    distance = int(part.distance[example, -1])
    if distance < 0:
        return "the whole text is asked for"
    return f"{distance} tokens from the needle to the answer (depth {part.depth[example, -1]:.0%})"


def _shown(words: list[str], needle: int, width: int, tail: int, start: int) -> list[tuple[str, str]]:
    """Words with their kind: the beginning, what surrounds the needle, and the questions; dots say how much is left out."""
    keep = np.zeros(len(words), dtype=bool)
    keep[: AROUND * 2] = True
    keep[max(tail - AROUND, start - 4 * AROUND) : start] = True
    if needle >= 0:
        keep[max(0, needle - AROUND) : needle + width + AROUND] = True
    keep[start:] = False
    kinds = ["question" if i >= tail else "text" for i in range(start)]
    kinds[needle : needle + width] = ["needle"] * width
    pieces = []
    for kept, group in groupby(range(start), key=keep.tolist().__getitem__):
        places = list(group)
        pieces += [(words[i], kinds[i]) for i in places] if kept else [(f"… {len(places)} words …", "text")]
    return pieces


def _draw(title: str, pieces: list[tuple[str, str]], lines: list[tuple[str, str, str]]) -> Figure:
    rows: list[list[tuple[int, str, str]]] = [[]]
    column = 0
    for word, kind in pieces:
        if column + len(word) > WIDTH:
            rows.append([])
            column = 0
        rows[-1].append((column, word, kind))
        column += len(word) + 1
    count = len(rows) + len(lines) + 1
    made, (axes,) = plot.figure(6.8, 0.3 + 0.15 * count)

    def put(x: int, y: int, text: str, kind: str, bold: bool = False) -> None:
        axes.text(x, y, text, color=TINT[kind], family="DejaVu Sans Mono", fontsize=7, va="center",
                  fontweight="bold" if bold else "normal")  # fmt: skip

    with plot.use_style():
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_title(title)
        for y, row in enumerate(rows):
            for x, word, kind in row:
                put(x, y, word, kind, bold=kind == "needle")
        for y, (label, text, kind) in enumerate(lines, len(rows) + 1):
            put(0, y, f"{label}:", "question")
            put(18, y, text, kind, bold=kind != "question")
    return made

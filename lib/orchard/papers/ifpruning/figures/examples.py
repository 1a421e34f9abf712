"""Figures of Stdlib-10: an example with what is read and what counts of it, and how long prompts and answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from orchard import plot
from orchard.plot.style import COLUMN, INK, PALETTE

LINE = 92  # characters
ROW = 0.16  # inches
POINTS = 7.6  # of the type: its characters are a little narrower than a place of the line
INDENT = 11  # places for who reads it
COUNTED = "#ffe08a"


@dataclass(frozen=True)
class Piece:
    """A stretch of text; ``style``: read, counts or mark."""

    text: str
    style: str


@plot.use_style()
def example_text(title: str, parts: Mapping[str, Sequence[Piece]]) -> Figure:
    """Who reads what, line by line; what counts on a yellow ground, marks in grey."""
    lines = {name: _lines(pieces) for name, pieces in parts.items()}
    height = sum(map(len, lines.values())) + 0.4 * len(lines)
    made, [axes] = plot.figure(7.2, 0.45 + ROW * height)
    axes.set_axis_off()
    axes.set_xlim(0, INDENT + LINE)
    axes.set_ylim(height, 0)
    axes.set_title(title)
    top = 0.2
    for name, rows in lines.items():
        axes.text(0, top + 0.5, name, va="center", weight="bold", fontsize=7, color=PALETTE[0])
        for row in rows:
            _draw(axes, row, top)
            top += 1
        top += 0.4
    axes.legend(
        handles=[Patch(facecolor=COUNTED, label="counts in the loss")],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        handlelength=1,
    )
    return made


def _lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces broken into lines of at most ``LINE`` characters, at their own line ends and anywhere else."""
    lines: list[list[Piece]] = [[]]
    room = LINE
    for piece in pieces:
        for number, text in enumerate(piece.text.split("\n")):
            if number:
                lines.append([])
                room = LINE
            while text:
                if not room:
                    lines.append([])
                    room = LINE
                lines[-1].append(Piece(text[:room], piece.style))
                text, room = text[room:], max(0, room - len(text))
    return lines


def _draw(axes: Axes, row: Sequence[Piece], top: float) -> None:
    place = float(INDENT)
    for piece in row:
        if piece.style == "counts":
            axes.add_patch(Rectangle((place, top + 0.05), len(piece.text), 0.9, color=COUNTED, lw=0))
        for number, character in enumerate(piece.text):  # one by one: a place is wider than a character
            axes.text(
                place + number + 0.5,
                top + 0.5,
                character.replace("$", r"\$"),
                family="DejaVu Sans Mono",
                fontsize=POINTS,
                ha="center",
                va="center",
                color="#7a7a7a" if piece.style == "mark" else INK,
            )
        place += len(piece.text)


@plot.use_style()
def prompt_lengths(table: pd.DataFrame) -> Figure:
    """Median bytes of prompts and answers of each domain (`composition`), with how many facts there are to train on."""
    made, [axes] = plot.figure(COLUMN, 2.6)
    places = range(len(table))
    axes.barh(places, table.prompt, color=PALETTE[0], label="prompt")
    axes.barh(places, table.answer, left=table.prompt, color=PALETTE[1], label="answer")
    ends = (table.prompt + table.answer).tolist()
    for place, (end, facts) in enumerate(zip(ends, table.facts, strict=True)):
        axes.text(end + 2, place, "drawn" if pd.isna(facts) else f"{facts:,}", va="center", fontsize=6.5)
    axes.set_yticks(places, (table.domain + " (" + table.group + ")").tolist())
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(ends))
    axes.set_xlabel("median length (bytes); number: facts to learn", x=0.35)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.32))
    return made

"""An example of a corpus as a figure: who reads what, and what of it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from orchard import plot
from orchard.plot.style import INK, PALETTE

LINE = 92  # characters
ROW = 0.16  # inches
POINTS = 7.6  # of the type: its characters are a little narrower than a place of the line
INDENT = 11  # places for who reads it
COUNTED = "#ffe08a"


Piece = tuple[str, str]  # a stretch of text and its style: read, counts or mark


@plot.use_style()
def example_text(title: str, parts: Mapping[str, Sequence[Piece]]) -> Figure:
    """Who reads what, line by line; what counts on a yellow ground, marks in grey."""
    lines = {name: _lines(pieces) for name, pieces in parts.items()}
    height = sum(map(len, lines.values())) + 0.4 * len(lines)
    made, [axes] = plot.figure(7.2, 0.45 + ROW * height)
    axes.set_axis_off()
    axes.set(xlim=(0, INDENT + LINE), ylim=(height, 0), title=title)
    top = 0.2
    for name, rows in lines.items():
        axes.text(0, top + 0.5, name, va="center", weight="bold", fontsize=7, color=PALETTE[0])
        for row in rows:
            _draw(axes, row, top)
            top += 1
        top += 0.4
    handles = [Patch(facecolor=COUNTED, label="counts in the loss")]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), handlelength=1)
    return made


def _lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Characters with their styles in lines of at most ``LINE``, broken at their own line ends and anywhere else."""
    lines: list[list[Piece]] = [[]]
    for character, style in ((character, style) for text, style in pieces for character in text):
        if character == "\n" or len(lines[-1]) == LINE:
            lines.append([])
        if character != "\n":
            lines[-1].append((character, style))
    return lines


def _draw(axes: Axes, row: Sequence[Piece], top: float) -> None:
    for place, (character, style) in enumerate(row, INDENT):  # one by one: a place is wider than a character
        if style == "counts":
            axes.add_patch(Rectangle((place, top + 0.05), 1.05, 0.9, color=COUNTED, lw=0))
        axes.text(
            place + 0.5, top + 0.5, character.replace("$", r"\$"), family="DejaVu Sans Mono", fontsize=POINTS, ha="center", va="center",
            color="#7a7a7a" if style == "mark" else INK,
        )  # fmt: skip

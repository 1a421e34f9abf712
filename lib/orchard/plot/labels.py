"""Labels beside points, without overlap: a greedy search over positions around each point.

Every label takes, of the positions at three distances in eight directions, the first that covers no point, no label
placed before and no border; failing that, the one that covers least. A label that stands off gets a thin line.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase

DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 0), (-1, 1), (1, -1), (0, -1), (-1, -1))
DISTANCES = (5.0, 11.0, 19.0)  # typographic points
COVERED = 0.5  # square pixels that do not count


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], corners: np.ndarray, colour: str, size: float = 6.5
) -> None:
    """Write each (x, y, text) of ``points`` beside its point; x and y are data coordinates.

    ``corners`` [n, 2] are those of a line of horizontal and vertical pieces that the labels should leave free too.
    The layout of the figure is fixed by a draw first, and the labels are kept out of it afterwards, so they stay put.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame, radius = axes.get_window_extent(renderer), 3.2 * figure.dpi / 72
    taken = [_around(axes.transData.transform((x, y)), radius) for x, y, _ in points]
    bends = axes.transData.transform(corners)
    taken += [Bbox([np.minimum(a, b) - 2, np.maximum(a, b) + 2]) for a, b in pairwise(bends)]
    for x, y, text in points:
        note = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=size, color=colour)
        note.set_in_layout(False)
        choices = []
        for distance in DISTANCES:
            for direction in DIRECTIONS:
                _move(note, distance, direction)
                box = note.get_window_extent(renderer)
                outside = box.width * box.height - _shared(box, frame)
                covered = outside + sum(_shared(box, other) for other in taken)
                choices.append((max(covered, COVERED), distance, direction, box))
        _, distance, direction, box = min(choices, key=lambda choice: choice[0])  # the first of the best
        _move(note, distance, direction)
        taken.append(box)
        if distance > DISTANCES[0]:
            at = axes.transData.transform((x, y))
            nearest = axes.transData.inverted().transform(np.clip(at, box.min, box.max))
            line = axes.plot([x, nearest[0]], [y, nearest[1]], color=colour, linewidth=0.4, zorder=1)[0]
            line.set_in_layout(False)


def _move(note: Annotation, distance: float, direction: tuple[int, int]) -> None:
    right, up = direction
    note.set_horizontalalignment(("right", "center", "left")[right + 1])
    note.set_verticalalignment(("top", "center", "bottom")[up + 1])
    note.set_position((right * distance / np.hypot(right, up), up * distance / np.hypot(right, up)))


def _around(centre: np.ndarray, radius: float) -> Bbox:
    return Bbox.from_extents(*(centre - radius), *(centre + radius))


def _shared(first: BboxBase, second: BboxBase) -> float:
    both = Bbox.intersection(first, second)
    return 0.0 if both is None else float(both.width * both.height)

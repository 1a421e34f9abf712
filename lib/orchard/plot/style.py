"""One look for every figure: colours and markers per family of arms, sizes for one text column, files that repeat.

Figures are made with ``figure()``, not with pyplot: nothing global holds them, so a notebook shows each exactly once
(through ``show``), and they are freed with the last reference. Colours are seaborn's colour-blind-safe palette.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN = 3.4  # inches: the width of one column of a two-column paper
PALETTE = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip  # seaborn.color_palette("colorblind"), spelled out because importing seaborn takes a second
GREY = "#8a8a8a"  # published values, and nothing else
INK = "#333333"
STRIP = 0.1  # inches above a figure, for its profile

STYLE: Any = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.dpi": 200,
    "savefig.dpi": 300,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.borderaxespad": 0.3,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "svg.hashsalt": "orchard",  # ids inside the file do not change between runs
}


@dataclass(frozen=True)
class Look:
    """How one family of arms is drawn, in every figure of a paper; its ``figures/looks.py`` says which looks how."""

    colour: str
    marker: str


_SPARE = tuple(Look(PALETTE[i], marker) for i, marker in zip((0, 1, 2, 3, 4, 5, 9, 8), "osD^vPX*", strict=True))


def looks(arms: Iterable[str], known: Mapping[str, Look] | None = None) -> dict[str, Look]:
    """A look for each arm. The family is what stands before ``@`` (``swa@64`` is ``swa``), in any case of letters.

    Families in ``known`` (a paper's own, by name) always look the same; others take what is left over, in the order in
    which they come.
    """
    arms, always = list(dict.fromkeys(arms)), known or {}
    families = list(dict.fromkeys(_family(arm) for arm in arms))
    given = {family: always[family] for family in families if family in always}
    used = {look.colour for look in given.values()}
    spare = [look for look in _SPARE if look.colour not in used] or list(_SPARE)
    unknown = [family for family in families if family not in given]
    given |= {family: spare[i % len(spare)] for i, family in enumerate(unknown)}
    return {arm: given[_family(arm)] for arm in arms}


def _family(arm: str) -> str:
    return arm.split("@")[0].strip().lower()


@contextmanager
def use_style() -> Iterator[None]:
    """The look of the project, as ``with use_style():`` or ``@use_style()`` around code that draws.

    It starts from matplotlib's own defaults: a reader's matplotlibrc (LaTeX, other sizes) changes nothing here.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def figure(width: float = COLUMN, height: float = 2.4, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A Figure of ``width`` x ``height`` inches and its ``rows * columns`` axes, row by row; pyplot never sees it."""
    with use_style():
        made = Figure(figsize=(width, height))
        axes = made.subplots(rows, columns, squeeze=False)
    return made, list(axes.flat)


@use_style()
def mark_profile(figure: Figure, profile: str) -> Figure:
    """Write the profile into a strip above the figure, at the right; what is below keeps its size. Returns the figure."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if getattr(figure, "_orchard_profile", None) is not None or getattr(figure, "_orchard_drawn", None):
        return figure
    figure._orchard_profile = profile  # type: ignore[attr-defined]
    width, height = figure.get_size_inches()
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        share = height / (height + STRIP)
        left, bottom, wide, high = engine.get()["rect"]
        engine.set(rect=(left, bottom * share, wide, high * share))
        figure.set_size_inches(width, height + STRIP)
    words = f"profile {profile}" + (": its numbers mean nothing" if profile == "smoke" else "")
    mark = figure.text(1, 1, words, ha="right", va="top", fontsize=5.5, color=INK, family=STYLE["font.family"])
    mark.set_in_layout(False)
    return figure


def save(figure: Figure, stem: str | Path, table: pd.DataFrame) -> list[Path]:
    """Write ``stem.svg``, ``stem.png`` and ``stem.csv`` (the table that the figure draws); returns the three paths.

    Each file appears complete or not at all, and the same figure gives the same bytes. Folders are made as needed.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    content = {
        ".svg": _render(figure, "svg"),
        ".png": _render(figure, "png"),
        ".csv": table.to_csv(index=False, lineterminator="\n").encode(),
    }
    return [_write(stem.with_name(stem.name + ending), data) for ending, data in content.items()]


def _render(figure: Figure, kind: str) -> bytes:
    """The figure as a file, drawn once. Its layout is settled at the first call: anew, it would shift by a hair.

    After that it has no layout engine, and matplotlib draws it once less for every file.
    """
    drawn: dict[str, bytes] = figure.__dict__.setdefault("_orchard_drawn", {})
    if kind not in drawn:
        buffer = io.BytesIO()
        with use_style(), matplotlib.rc_context({"figure.constrained_layout.use": False}):
            engine = figure.get_layout_engine()
            if not drawn and engine is not None:
                engine.execute(figure)
                figure.set_layout_engine(None)
            figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
        drawn[kind] = buffer.getvalue()
    return drawn[kind]


def _write(path: Path, data: bytes) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path


def mimebundle(figure: Figure) -> tuple[dict[str, str], dict[str, Any]]:
    """What a notebook needs to show ``figure``: a PNG sharp on any screen, sized so that text has its printed ratio."""
    width, height = figure.get_size_inches()
    data = base64.b64encode(_render(figure, "png")).decode()
    axes = [(panel.get_ylabel() or "rows", panel.get_xlabel()) for panel in figure.axes if panel.get_xlabel()]
    words = "Figure: " + "; ".join(f"{y} against {x}" for y, x in axes)  # for screen readers and text front ends
    shown = {"width": round(width * 125), "height": round(height * 125), "alt": words}
    return {"image/png": data, "text/plain": words}, {"image/png": shown}


def show(figure: Figure) -> None:
    """Display ``figure`` once in a notebook, with no pyplot behind it; outside IPython nothing happens."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if get_ipython() is not None:
        data, metadata = mimebundle(figure)
        display(data, raw=True, metadata=metadata)


def check_columns(table: pd.DataFrame, columns: Mapping[str, str], chart: str) -> None:
    """Raise when ``table`` lacks a column that ``chart`` draws; ``columns`` maps the chart's argument to the column."""
    if table.empty:
        raise ValueError(f"{chart}: the table has no rows, so there is nothing to draw")
    for argument, column in columns.items():
        if column not in table.columns:
            raise ValueError(f"{chart}: no column {column!r} (argument {argument}); there are {list(table.columns)}")

"""How every arm is called and drawn, in all figures and tables of the series: arms of one colour are of one kind."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from orchard.papers.ifpruning.experiments.arms import WORDS, words
from orchard.plot import Look
from orchard.plot.style import COLUMN, INK, PALETTE

WIDE = 2 * COLUMN
_LOOKS = {
    "dense_k": Look(INK, "D"), "dense_k_long": Look(INK, "p"), "dense_k_sft_only": Look(INK, "<"),
    "dense_k_sft_short": Look(INK, ">"), "dense_D": Look(PALETTE[2], "h"), "dense_D_tag": Look(PALETTE[2], "*"),
    "static": Look(PALETTE[5], "P"), "static_kd": Look(PALETTE[5], "X"), "ifp": Look(PALETTE[0], "o"),
    "ifp_st": Look(PALETTE[9], "s"), "ifp_contrast": Look(PALETTE[9], "*"), "ifp_sft_only": Look(PALETTE[0], "<"),
    "ifp_sft_short": Look(PALETTE[0], ">"), "ifp_unread": Look(PALETTE[3], "x"), "hard_concrete": Look(PALETTE[3], "d"),
    "oracle": Look(PALETTE[2], "D"), "rand_mask": Look(PALETTE[1], "s"), "rand_lsh": Look(PALETTE[1], "v"),
    "film_k": Look(PALETTE[4], "^"), "prefix_cond": Look(PALETTE[4], "<"), "moe": Look(PALETTE[3], "v"),
    "moe_seq": Look(PALETTE[3], "P"),
}  # fmt: skip
LOOKS = {
    name.lower(): look for code, look in _LOOKS.items() for name in (code, WORDS[code])
}  # as `plot.looks` wants them


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose column ``arm`` is in words."""
    return table.assign(arm=table["arm"].map(words))


def taken_legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels of a panel whose own legend, if it has one, is taken away: its figure has one for all panels."""
    found = axes.get_legend_handles_labels()
    if (legend := axes.get_legend()) is not None:
        legend.remove()
    return found

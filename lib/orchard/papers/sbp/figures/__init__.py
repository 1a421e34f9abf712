"""Figures of the series: functions from a table to a Figure."""

from orchard.papers.sbp.figures.ablations import (
    CHECKPOINTS,
    ablation_dots,
    break_even_curve,
    cost_bars,
    dose_response,
    flop_matched,
    round_curves,
    share_curves,
    synthesis_share,
)
from orchard.papers.sbp.figures.scaling import (
    beside_published,
    claims_forest,
    compute_curves,
    recovered_share,
    saved_documents,
    scaling_compute,
    scaling_curves,
)

__all__ = [
    "CHECKPOINTS",
    "ablation_dots",
    "beside_published",
    "break_even_curve",
    "claims_forest",
    "compute_curves",
    "cost_bars",
    "dose_response",
    "flop_matched",
    "recovered_share",
    "round_curves",
    "saved_documents",
    "scaling_compute",
    "scaling_curves",
    "share_curves",
    "synthesis_share",
]

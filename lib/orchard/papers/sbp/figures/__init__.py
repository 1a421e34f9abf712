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
from orchard.papers.sbp.figures.training import (
    against,
    differences,
    ends,
    learning,
    recovered,
    recovery,
    tuning,
)

__all__ = [
    "CHECKPOINTS",
    "ablation_dots",
    "against",
    "beside_published",
    "break_even_curve",
    "claims_forest",
    "compute_curves",
    "cost_bars",
    "differences",
    "dose_response",
    "ends",
    "flop_matched",
    "learning",
    "recovered",
    "recovered_share",
    "recovery",
    "round_curves",
    "saved_documents",
    "scaling_compute",
    "scaling_curves",
    "share_curves",
    "synthesis_share",
    "tuning",
]

"""Figures of the series: functions from a table to a Figure."""

from __future__ import (
    annotations,
)

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
from orchard.papers.sbp.figures.analysis import (
    concept_divergence,
    concept_drift,
    concepts_of_seed,
    consequences,
    distances,
    novelty_of_sources,
    partner_scatter,
    pooled,
    quality_against_size,
    quality_rates,
)
from orchard.papers.sbp.figures.browser import (
    browsed,
)
from orchard.papers.sbp.figures.build import (
    cloze_accuracy,
    concept_world,
    document_bounds,
    near_duplicates,
    pair_gain,
    precision_recall,
    similarity,
    world_tables,
)
from orchard.papers.sbp.figures.pairing import (
    hub_degrees,
    pairing_speed,
)
from orchard.papers.sbp.figures.real_text import (
    paying,
    text_ends,
    text_learning,
    text_novelty,
    text_partners,
    text_relations,
)
from orchard.papers.sbp.figures.sampling import (
    rejection_rates,
    sampling_speed,
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
    "annotations",
    "beside_published",
    "break_even_curve",
    "browsed",
    "claims_forest",
    "cloze_accuracy",
    "compute_curves",
    "concept_divergence",
    "concept_drift",
    "concept_world",
    "concepts_of_seed",
    "consequences",
    "cost_bars",
    "differences",
    "distances",
    "document_bounds",
    "dose_response",
    "ends",
    "flop_matched",
    "hub_degrees",
    "learning",
    "near_duplicates",
    "novelty_of_sources",
    "pair_gain",
    "pairing_speed",
    "partner_scatter",
    "paying",
    "pooled",
    "precision_recall",
    "quality_against_size",
    "quality_rates",
    "recovered",
    "recovered_share",
    "recovery",
    "rejection_rates",
    "round_curves",
    "sampling_speed",
    "saved_documents",
    "scaling_compute",
    "scaling_curves",
    "share_curves",
    "similarity",
    "synthesis_share",
    "text_ends",
    "text_learning",
    "text_novelty",
    "text_partners",
    "text_relations",
    "tuning",
    "world_tables",
]

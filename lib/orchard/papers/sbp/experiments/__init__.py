"""The register of the series: experiments and evidence by name, profiles, published shapes, and the command for a corpus of your own.

An experiment gives a tidy table in a setting, running what the store lacks. Evidence gives rows with part, seed, unit and value from
such tables; its rules lie beside the experiments that they judge.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.evidence import Evidence
from orchard.papers.sbp.experiments import (
    ablations,
    bounds,
    checks,
    comparison,
    concepts,
    costs,
    pairs,
    partners,
    quality,
    real_text,
    rounds,
    scaling,
    speed,
)
from orchard.papers.sbp.experiments.profiles import PROFILES, scale
from orchard.papers.sbp.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["EVIDENCE", "EXPERIMENTS", "LAUNCH", "PROFILES", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    **checks.EXPERIMENTS,
    **comparison.EXPERIMENTS,
    **pairs.EXPERIMENTS,
    **speed.EXPERIMENTS,
    **bounds.EXPERIMENTS,
    **quality.EXPERIMENTS,
    **partners.EXPERIMENTS,
    **concepts.EXPERIMENTS,
    **ablations.EXPERIMENTS,
    **costs.EXPERIMENTS,
    **rounds.EXPERIMENTS,
    **scaling.EXPERIMENTS,
    **real_text.EXPERIMENTS,
}
EVIDENCE: dict[str, Evidence] = {
    **comparison.EVIDENCE,
    **checks.EVIDENCE,
    **quality.EVIDENCE,
    **partners.EVIDENCE,
    **concepts.EVIDENCE,
    **ablations.EVIDENCE,
    **costs.EVIDENCE,
}
LAUNCH = "orchard sbp run TEXT OUT   (pair, tune, synthesise, filter and mix on a corpus of your own)"

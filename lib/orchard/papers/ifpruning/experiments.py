"""The experiments of the series by name: each gives a tidy table in a setting, running what the store lacks."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.papers.ifpruning import (
    ablations,
    comparison,
    explanation,
    invariants,
    latency,
    phase,
    prefixes,
    published,
    real_text,
    replay,
    shapes,
    softtopk_speed,
    sources,
)
from orchard.papers.ifpruning.profiles import PROFILES, Profile
from orchard.papers.ifpruning.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["EXPERIMENTS", "LAUNCH", "PROFILES", "Profile", "paper_shapes"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    **published.EXPERIMENTS,
    **shapes.EXPERIMENTS,
    **comparison.EXPERIMENTS,
    **invariants.EXPERIMENTS,
    **softtopk_speed.EXPERIMENTS,
    **latency.EXPERIMENTS,
    **replay.EXPERIMENTS,
    **ablations.EXPERIMENTS,
    **phase.EXPERIMENTS,
    **sources.EXPERIMENTS,
    **prefixes.EXPERIMENTS,
    **explanation.EXPERIMENTS,
    **real_text.EXPERIMENTS,
}

LAUNCH = "orchard ifpruning train MODEL DATA OUT --predictor FOLDER --keep K   (a predictor and masks for a decoder of transformers)"

"""The experiments of the MoE lottery series by name: each gives a tidy table in a setting, running what the store lacks.

`EVIDENCE` goes from those tables to the evidence of each claim: rows with part, seed, unit and value; `CONTROLS` likewise to that of
what must not meet its rule, `GATES` to what must hold before a verdict counts.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.evidence import Evidence
from orchard.papers.moe_lottery.experiments import capabilities, checks, models, speed, strategies, suite
from orchard.papers.moe_lottery.experiments.gates import GATES
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, scale
from orchard.papers.moe_lottery.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting

__all__ = ["CONTROLS", "EVIDENCE", "EXPERIMENTS", "GATES", "LAUNCH", "PROFILES", "paper_shapes", "scale"]

EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    **checks.EXPERIMENTS, **models.EXPERIMENTS, **speed.EXPERIMENTS, **suite.EXPERIMENTS, **strategies.EXPERIMENTS,
    **capabilities.EXPERIMENTS,
}  # fmt: skip
EVIDENCE: dict[str, Evidence] = {**checks.EVIDENCE, **suite.EVIDENCE, **strategies.EVIDENCE, **capabilities.EVIDENCE}
CONTROLS: dict[str, Evidence] = {**suite.CONTROLS, **strategies.CONTROLS, **capabilities.CONTROLS}

LAUNCH = "orchard moe_lottery prune MODEL OUT --calibration TEXT --criterion ean --keep 4   (layer by layer)"

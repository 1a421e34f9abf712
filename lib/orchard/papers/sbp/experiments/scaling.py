"""Scaling: held-out loss against unique documents and against compute.

Every N has its own D, drawn from the same world, a budget of ``pool`` passes over it, an oracle with ``pool`` N documents, and as many
epochs of tuning; held-out documents are the same for all. Every arm is regularised by itself at every N. Two lines need no network:
what N documents can tell, with their concepts known and found by EM (`bounds`). Bayes is zero.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from orchard.papers.sbp.experiments.arms import COMPARED, TUNED, Study, ran, study
from orchard.papers.sbp.experiments.comparison import mean_excess, possible
from orchard.papers.sbp.experiments.costs import SYNTHESIS, costs_of
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, cells, world
from orchard.papers.sbp.experiments.regularisation import regularised, trial_study
from orchard.papers.sbp.runs.bounds import Bounds
from orchard.runs import Runner, Setting


def _studies(setting: Setting, run: Runner) -> list[tuple[Cell, int, Study]]:
    profile = PROFILES[setting.profile]
    asked = [(trial_study(setting, "dep", documents=count), COMPARED) for count in profile.scaling]
    best = dict(zip(profile.scaling, regularised(run, asked)[0], strict=True))
    return [
        (cell, count, study(setting, cell, count).regularised_as(best[count]))
        for cell in cells(setting, "dep")[: profile.scaling_cells]
        for count in profile.scaling
    ]


def about(cell: Cell, count: int, chosen: Study) -> dict[str, Any]:
    """The columns of both tables."""
    return {**cell.columns, "documents": count, "unique_tokens": chosen.budget // chosen.profile.pool}


def scaling(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per N, cell and arm: documents, unique_tokens (of D), variant, world, seed, arm, ``last`` and ``best`` (nats above
    Bayes), ``possible`` (share of raw samples; NaN without), training_flops, and flops, with embedding, tuning and sampling."""
    wanted = [(cell, count, chosen, arm) for cell, count, chosen in _studies(setting, run) for arm in COMPARED]
    rows = []
    for cell, count, chosen, arm, finished in ran(run, [(*row, row[2].arm(row[3])) for row in wanted]):
        own = costs_of(chosen.arm(arm), run)
        flops = {"training_flops": own["training"], "flops": own["training"] + sum(own[stage] for stage in SYNTHESIS)}
        share = possible(chosen, run([chosen.sampled(arm)])[0]) if arm in TUNED else math.nan
        rows.append(
            {**about(cell, count, chosen), "arm": arm, **mean_excess(chosen, finished), "possible": share, **flops}
        )
    return pd.DataFrame(rows)


def learnable(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per N, cell and line: documents, unique_tokens (of D), variant, world, seed, line (``labels known``, ``EM``), excess (nats
    per test document above Bayes)."""
    wanted = []
    for cell, count, chosen in _studies(setting, run):
        corpus, label = world(setting, cell.variant, cell.world, count), f"what documents can tell; {chosen.name}"
        cfg = Bounds.Config(corpus=corpus, held_out=chosen.profile.held_out, label=label)
        wanted.append((cell, count, chosen, cfg))
    return pd.DataFrame([
        {**about(cell, count, chosen), "line": line, "excess": finished.result[field]}
        for cell, count, chosen, finished in ran(run, wanted)
        for line, field in (("labels known", "labels"), ("EM", "em"))
    ])  # fmt: skip

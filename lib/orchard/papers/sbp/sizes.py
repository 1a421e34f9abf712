"""Quality against the size of the synthesizer (claim C6): models of several widths, tuned for longer and longer.

    rho = Spearman(rate, FLOPs of pretraining and tuning the synthesizer)      for non-factual and irrelevant documents, each seed

Every synthesizer of the ladder writes equally many documents, one for each of as many draws of a seed, and nothing is filtered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from orchard.papers.sbp.analysis import SIZES
from orchard.papers.sbp.arms import Study
from orchard.papers.sbp.joint import Tables, studies
from orchard.papers.sbp.measuring import Measure
from orchard.papers.sbp.quality import REAL, judged, measure, rate
from orchard.papers.sbp.seeded import Draws
from orchard.papers.sbp.tuning import Tune
from orchard.runs import Runner, Setting
from orchard.stats import spearman

ARM = "sbp-nn-lm"
METRICS = ("non-factual", "pair-irrelevance")


def ladder(setting: Setting, chosen: Study) -> list[Tune.Config]:
    """Synthesizers of a study: smaller models tuned for as long as the profile says, then its own size, tuned for longer and longer.

    All of them are tuned on the pairs of the study's own arm, so that the pairs are no part of what is compared."""
    sizes = SIZES[setting.profile]
    pairs, most = chosen.pairs(ARM), chosen.profile.tuning_steps
    small = [chosen.with_(size=size, name=f"{chosen.name}, width {size.dim}") for size in sizes.smaller]
    steps = [max(1, round(share * most)) for share in sizes.shares]
    return [
        *(other.tune(pairs, f"of width {other.size.dim}") for other in small),
        *(
            chosen.tune(pairs, ARM if count == most else f"{ARM}, {count} steps", steps=count)
            for count in steps
        ),
    ]  # fmt: skip


def quality_by_size(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, synthesizer and metric: ``parameters``, ``steps`` of tuning, ``flops`` (pretraining and tuning), ``loss`` on
    held-out pairs (nats per document), and ``rate`` of raw samples with its Wilson interval."""
    sizes = SIZES[setting.profile]
    wanted: list[tuple[dict[str, Any], Tune.Config, Measure.Config, Measure.Config]] = []
    for cell, chosen in studies(setting, run, "dep")[: sizes.size_cells]:
        for tuned in ladder(setting, chosen):
            name = tuned.label
            seeds = min(chosen.profile.documents, sizes.size_samples)
            drawn = Draws.Config(
                tuned=tuned, split="train", seeds=seeds, each=-(-sizes.size_samples // seeds), seed=cell.seed,
                label=f"samples of {name}",
            )  # fmt: skip
            own = Measure.Config(
                corpus=chosen.corpus, sampled=drawn, documents=sizes.size_samples, duplicates_at=sizes.size_samples,
                seed=cell.seed, label=f"quality of {name}",
            )  # fmt: skip
            wanted.append((cell.columns, tuned, own, measure(chosen, sizes, REAL)))
    rows = []
    measured, real = run([row[2] for row in wanted]), run([row[3] for row in wanted])
    tunings, bases = run([row[1] for row in wanted]), run([row[1].pretrained for row in wanted])
    for (cell_row, tuned, *_), found, anchor, tuning, base in zip(wanted, measured, real, tunings, bases, strict=True):
        _, fails = judged(found, anchor)
        flops = base.result["training_flops"] + tuning.result["flops"]
        for metric in METRICS:
            rows.append(
                cell_row
                | {"parameters": base.result["parameters"], "steps": tuned.steps, "flops": flops, "metric": metric}
                | {"loss": tuning.result["loss"], **rate(fails[metric])}
            )
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"quality_by_size": quality_by_size}


def better_with_size(tables: Tables) -> pd.DataFrame:
    """K8: rank correlation of each rate with the FLOPs of the synthesizer, seed by seed."""
    table = tables("quality_by_size")
    rows = []
    for (metric, seed), part in table.assign(seed=1000 * table["world"] + table["seed"]).groupby(["metric", "seed"]):
        rho = spearman(part["flops"], part["rate"]).rho
        rows.append({"part": metric, "seed": seed, "unit": "cell", "value": rho})
    return pd.DataFrame(rows)


EVIDENCE: dict[str, Callable[[Tables], pd.DataFrame]] = {"K8": better_with_size}

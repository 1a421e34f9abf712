"""Tokenizer strategies: what each arm reads and draws, item by item (M1, M2, M3, M11), and adapters fitted after the fact (M2b, R1).

general, knowledge, text-rich    of a test picture, the share of slots that are generated right
GenEval-mini                     of a prompt, whether the picture drawn satisfies it; the mean is that of the tags. Its ceiling: true
                                 codes through the same decoder, so that an arm is not blamed for what its codes cannot hold
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from orchard.evidence import Tables, difference, paired, together
from orchard.papers.manzano.data.prompts import TAGS
from orchard.papers.manzano.experiments.arms import (
    ADAPTERS,
    ARMS,
    BASELINE,
    DISCRETE,
    METRIC_OF,
    NEXT,
    OWN,
    PIXELS,
    Study,
    studies,
    tuned,
)
from orchard.papers.manzano.runs.scores import Answers
from orchard.papers.manzano.runs.tokenizer import Tokenizer
from orchard.runs import Finished, Run, Runner, Setting

DRAWN = "GenEval-mini"
METRICS = (*dict.fromkeys(METRIC_OF.values()), DRAWN)
COLUMNS = ["seed", "arm", "metric", "unit", "value", "ceiling", "tag", "baseline"]
GROUPS = ("general", "knowledge", "text-rich")


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """The trials of every family: family, value (learning rate), score (validation loss, nats), chosen, widened, failed."""
    return tuned(setting, run).table


def read_answers(done: Finished) -> pd.DataFrame:
    """Of every text of `Answers` that has slots: metric, unit (its picture), value (share of slots that are right)."""
    kept = done.tensors("answers")
    parts = []
    for task in {name.split("/")[0]: None for name in kept}:
        parts.append(_shares(kept, task).assign(metric=METRIC_OF[task], tag=""))
    return pd.concat(parts, ignore_index=True)


def _shares(kept: Mapping[str, Tensor], name: str) -> pd.DataFrame:
    """By picture the share of slots that are right."""
    slots = pd.DataFrame({"unit": kept[f"{name}/picture"].numpy(), "value": kept[f"{name}/right"].double().numpy()})
    return slots.groupby("unit", as_index=False).mean()


def read_drawings(done: Finished) -> pd.DataFrame:
    """Of every prompt of `Drawings`: unit (the row of its scene), tag, value (0 or 1, times what makes the mean that of the tags)."""
    kept = done.tensors("drawings")
    tag = pd.Series(kept["tag"].numpy())
    weight = len(tag) / (tag.nunique() * tag.map(tag.value_counts()))
    value = kept["score"].double().numpy() * weight
    return pd.DataFrame({"unit": kept["row"].numpy(), "tag": tag.map(dict(enumerate(TAGS))), "value": value, "metric": DRAWN})  # fmt: skip


def items(run: Runner, wanted: Iterable[tuple[dict[str, Any], Run.Config]], columns: list[str]) -> pd.DataFrame:
    """Rows of answers and drawings, with the columns that are given for each run; all are one batch of runs."""
    asked = list(wanted)
    parts = []
    for (about, cfg), done in zip(asked, run([cfg for _, cfg in asked]), strict=True):
        read = read_answers(done) if isinstance(cfg, Answers.Config) else read_drawings(done)
        parts.append(read.assign(**about))
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def strategies(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and item: seed, arm, metric, unit, value, ceiling (GenEval-mini), tag, baseline (the better discrete arm)."""
    every = studies(setting, run)
    own = [(study, arm, ARMS[arm]) for study in every for arm in ARMS if study.has(arm)]
    true = run([study.drawings(whose=what.codes) for study, _, what in own])
    chosen = dict(zip((study.seed for study in every), better(run, every), strict=True))
    wanted: list[tuple[dict[str, Any], Run.Config]] = []
    for (study, arm, what), done in zip(own, true, strict=True):
        about = {"seed": study.seed, "arm": arm, "baseline": arm == chosen[study.seed]}
        drawn = {"ceiling": done.result["overall"]}
        if what.understanding:
            wanted.append((about, study.answers(arm)))
        if what.generation:
            wanted.append((about | drawn, study.drawings(arm)))
        if arm in ("hybrid", *DISCRETE):
            wanted.append((about | {"arm": f"{arm}_other"}, study.answers(arm, other=True)))
        if arm == "hybrid":
            wanted.append((about | drawn | {"arm": "hybrid_shuffled"}, study.drawings(arm, shuffled=True)))
    return items(run, wanted, COLUMNS)


def better(run: Runner, of: Sequence[Study]) -> list[str]:
    """Of every study the discrete arm with the lower loss of text on validation pictures."""
    done = run([study.unified(arm) for study in of for arm in DISCRETE])
    losses = np.array([one.result["text_loss"] for one in done]).reshape(len(of), len(DISCRETE))
    return [DISCRETE[i] for i in losses.argmin(axis=1).tolist()]


def with_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the baseline of every seed as an arm of its own, and with it as it was shown another picture."""
    own = table[table["baseline"].astype(bool)]
    other = own["arm"].str.endswith("_other")
    name = other.map({True: f"{BASELINE}_other", False: BASELINE})
    return pd.concat([table, own.assign(arm=name)], ignore_index=True)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, arm and metric: value, ratio (GenEval-mini over its ceiling)."""
    found = with_baseline(table).groupby(["seed", "arm", "metric"], as_index=False)[["value", "ceiling"]].mean()
    return found.assign(ratio=found["value"] / found["ceiling"]).drop(columns="ceiling")


def conflict(setting: Setting, run: Runner) -> pd.DataFrame:
    """Of arms that write other codes or read too: seed, arm, ratio (of the ceiling), alone (the same codes where nothing is read; NaN where
    that was not trained), conflict (ratio - alone)."""
    found = means(strategies(setting, run)).query(f"metric == {DRAWN!r}").set_index(["arm", "seed"])["ratio"]
    after = {study.seed: study.next_seed for study in studies(setting, run)}
    rows = []
    for arm in ("hybrid", "dual_semantic", "dual_encoder"):
        for seed, ratio in found.get(arm, pd.Series(dtype=float)).items():
            key = {OWN: seed, NEXT: after[seed], PIXELS: None}[ARMS[arm].codes]
            alone = found.get(("gen_only", key), np.nan)
            rows.append({"seed": seed, "arm": arm, "ratio": ratio, "alone": alone, "conflict": ratio - alone})
    return pd.DataFrame(rows, columns=["seed", "arm", "ratio", "alone", "conflict"])


def adapters(setting: Setting, run: Runner) -> pd.DataFrame:
    """Characters read through discrete adapters, before any unified training: seed, arm (hybrid: its own, posthoc, bottleneck), shown (own,
    another picture), unit (picture), value."""
    wanted = _adapters(setting, run)
    parts = []
    for (study, arm, _), done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True):
        kept, stream = done.tensors("answers"), f"read k{study.shown.k}"
        for shown, adapter in (("own", "discrete"), ("another", "another picture through the discrete")):
            parts.append(_shares(kept, f"{adapter}/{stream}").assign(seed=study.seed, arm=arm, shown=shown))
    return pd.concat(parts, ignore_index=True)


def adapter_training(setting: Setting, run: Runner) -> pd.DataFrame:
    """Of the same adapters: seed, arm, accuracy (characters), settled (step from which on the loss hardly falls), steps."""
    wanted = _adapters(setting, run)
    rows = []
    for (study, arm, cfg), done in zip(wanted, run([cfg for *_, cfg in wanted]), strict=True):
        result, stream = done.result, f"read k{study.shown.k}"
        rows.append({
            "seed": study.seed, "arm": arm, "accuracy": result["scores"][stream]["discrete"]["accuracy"],
            "settled": result["settled"][f"discrete/{stream}"], "steps": cfg.phases[-1].until,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _adapters(setting: Setting, run: Runner) -> list[tuple[Study, str, Tokenizer.Config]]:
    return [
        (study, arm, study.after_the_fact(arm) if arm in ADAPTERS else study.tokenizer())
        for study in studies(setting, run, few=True) for arm in ("hybrid", *ADAPTERS)
    ]  # fmt: skip


# ---------------------------------------------------------------------- evidence


def gap(table: pd.DataFrame, metric: str, first: str, second: str, ratio: bool = False) -> pd.DataFrame:
    """Differences of two arms, item by item; of the shares of their ceilings where ``ratio`` is set."""
    own = with_baseline(table).query("metric == @metric")
    own = own.assign(value=own["value"] / own["ceiling"]) if ratio else own
    return paired(own, "arm", first, second, units=["unit"], value="value", part=metric)


def ahead(
    tables: Tables, metrics: Sequence[str], second: str = BASELINE, first: str = "hybrid", ratio: bool = False
) -> pd.DataFrame:
    """M1a, M1b, M3a, M3b, M11: one arm minus another, a metric a part."""
    table = tables("strategies")
    return together(gap(table, metric, first, second, ratio) for metric in metrics)


def more_on_text(tables: Tables, shown: str = "") -> pd.DataFrame:
    """M2: the gap between hybrid and pure discrete on text minus that on objects, picture by picture."""
    arms = f"hybrid{shown}", f"{BASELINE}{shown}"
    text, general = (
        gap(tables("strategies"), metric, *arms).set_index(["seed", "unit"])["value"] for metric in ("text-rich", "general")
    )  # fmt: skip
    return difference(text, general, part="text-rich - general")


def adapters_apart(tables: Tables, first: str, second: str, shown: str = "own") -> pd.DataFrame:
    """M2b, R1: characters through one discrete adapter minus another, picture by picture."""
    own = tables("adapters").query("shown == @shown")
    return paired(own, "arm", first, second, units=["unit"], value="value", part=f"{first} - {second}")

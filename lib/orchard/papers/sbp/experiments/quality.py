"""Quality of synthetic documents: the paper's five metrics, by rules instead of a judge, and novelty.

    repetition         more repeated bigrams than 99 % of the documents of D
    duplicate@K        Jaccard_5 > 0.6 with an earlier one of K documents
    non-factual        log P(d) below the 1st percentile of real documents, P the exact law of the world
    pair-irrelevance   P(same concept | d1, d2) = sum_c P(c | d1) P(c | d2) < 1/2
    pair-copying       Jaccard_5(d1, d2) > 0.6
    impossible         P(d) = 0: not a document of the world at all (ours)
    corpus-copying     Jaccard_5 > 0.6 with any document of D, not the seed alone (ours, asked for by reviewers)

An impossible document is non-factual and irrelevant, since it has no posterior; "if possible" are the rates of the others. There are
raw samples and kept ones: repetition and pair-copying are rules of the filter too, so what is kept has none by construction, and
claims are decided on raw samples.

Quality against the size of the synthesizer (claim C6): models of several widths, each tuned for four lengths.

    rho = Spearman(rate, FLOPs of pretraining and tuning the synthesizer)      for non-factual and irrelevant documents, each seed

Every synthesizer of the ladder writes equally many documents, one for each of as many draws of a seed, and nothing is filtered. The
control has as many parts of a set of real documents in their place, which no synthesizer wrote.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from orchard.evidence import COLUMNS, Tables, of, together
from orchard.papers.sbp.experiments.arms import REFERENCES, Study, ran, study
from orchard.papers.sbp.experiments.comparison import analysed, by_cell, finished, studies, synthetic_arms
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, cells, world
from orchard.papers.sbp.experiments.regularisation import regularised, trial_study
from orchard.papers.sbp.method.ngrams import NEAR
from orchard.papers.sbp.method.rules import REASONS
from orchard.papers.sbp.runs.controls import Paraphrase
from orchard.papers.sbp.runs.filter import RealRules
from orchard.papers.sbp.runs.measure import NEAREST, NOVEL, Measure
from orchard.papers.sbp.runs.synthesise import Draws
from orchard.papers.sbp.runs.tune import Tune
from orchard.runs import Finished, Run, Runner, Setting
from orchard.stats import Interval, spearman, wilson_interval

PAPERS = ("repetition", "duplicate", "non-factual", "pair-irrelevance", "pair-copying")
POSSIBLE = ("non-factual, if possible", "pair-irrelevance, if possible")  # of the possible documents alone
OURS = ("impossible", "corpus-copying", *POSSIBLE)
PAIRED = ("pair-irrelevance", "pair-copying", "pair-irrelevance, if possible")
PERCENTILE = 1.0  # of log P of real documents, below which a document is non-factual
RELEVANT = 0.5  # P(same concept | d1, d2)
COPIES, MORE_DUPLICATES = 0.02, 0.01  # bounds of K7
REAL, RANDOM, COPIED = "real", "real, random pairs", "copies of the seed"
STATES = ("raw", "kept")


def measured(setting: Setting, run: Runner) -> list[tuple[Cell, str, Finished]]:
    """Real documents and every synthetic corpus of every cell, measured; and copies of seeds with a token or none changed, which the
    rules of copying must find."""
    wanted: list[tuple[Cell, str, Measure.Config]] = []
    for cell, chosen in analysed(studies(setting, run)):
        wanted.append((cell, REAL, measure(chosen, REAL)))
        copies = Paraphrase.Config(
            corpus=chosen.corpus, tokens=chosen.needed(), dropped=0.0, replaced=0.02, seed=cell.seed, label=COPIED
        )
        wanted.append((cell, COPIED, measure(chosen, COPIED, sampled=copies)))
        for arm in synthetic_arms(setting, cell):
            wanted.append((cell, arm, measure(chosen, arm, sampled=chosen.sampled(arm))))
    return ran(run, wanted)


def measure(chosen: Study, name: str, **fields: Any) -> Measure.Config:
    """The run that measures documents of a study."""
    sizes = chosen.profile.analysis
    return Measure.Config(
        corpus=chosen.corpus, documents=sizes.documents, duplicates_at=sizes.duplicates_at, seed=chosen.seed,
        label=f"quality of {name}; {chosen.name}", **fields,
    )  # fmt: skip


def judged(found: Finished, real: Finished) -> tuple[dict[str, np.ndarray], dict[str, Bool[np.ndarray, "documents"]]]:
    """The measurements of a finished run, and for every metric but duplicates which documents fail it. ``real``: the run of the anchor."""
    values = {name: tensor.numpy() for name, tensor in found.tensors("measured").items()}
    bound = np.percentile(real.tensors("measured")["log_p"].numpy(), PERCENTILE)
    return values, {
        "repetition": values["repetition"] > found.result["repetition_bound"],
        "non-factual": values["log_p"] < bound,
        "pair-irrelevance": values["same"] < RELEVANT,
        "pair-copying": values["copying"] > NEAR,
        "impossible": ~np.isfinite(values["log_p"]),
        "corpus-copying": values["nearest_5"] > NEAR,
    }  # fmt: skip


def quality(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, source, state (raw or kept) and metric: documents that fail (``count``) of ``total``, ``rate`` with its Wilson
    interval (``low``, ``high``; shares). For duplicates ``total`` is K. Real documents are not filtered: they have one state, raw, and
    their pairs are true ones; ``real, random pairs`` has pairs of anybody."""
    rows = []
    runs = measured(setting, run)
    real = {cell: found for cell, source, found in runs if source == REAL}
    for cell, source, found in runs:
        values, fails = judged(found, real[cell])
        for state in STATES[: 1 if source == REAL else 2]:
            inside = values["kept"].astype(bool) | (state == "raw")
            flags = {metric: fails[metric][inside] for metric in fails}
            flags["duplicate"] = values[f"duplicate_{state}"][values[f"duplicate_{state}"] >= 0]
            possible = inside & ~fails["impossible"]
            flags |= {metric: fails[metric.partition(",")[0]][possible] for metric in POSSIBLE}
            about = {**cell.columns, "source": source, "state": state}
            for metric in PAPERS + OURS:
                if metric not in PAIRED or (values["seed"] >= 0).any():  # else it has no seeds
                    rows.append({**about, "metric": metric, **rate(flags[metric])})
        if source == REAL:
            far, copied = values["same_random"] < RELEVANT, values["copying_random"] > NEAR
            for metric, flag in (("pair-irrelevance", far), ("pair-copying", copied)):
                rows.append(cell.columns | {"source": RANDOM, "state": "raw", "metric": metric} | rate(flag))
    return pd.DataFrame(rows)


def rate(flags: np.ndarray) -> dict[str, int | float]:
    """count, total, rate, low and high: a share with its 95 % Wilson interval; NaN of nothing."""
    count, total = int(flags.sum()), len(flags)
    found = wilson_interval(count, total) if total else Interval(np.nan, np.nan, np.nan, 0.95)
    return {"count": count, "total": total, "rate": found.estimate, "low": found.low, "high": found.high}


MEASURES = {
    "length": "tokens", **{f"novel_{n}": "share of n-grams" for n in NOVEL}, "distance": f"1 - Jaccard_{NEAREST}", "span": "tokens",
    "span_share": "share of the document",
}  # fmt: skip


def novelty(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, source, state and measure: ``mean``, ``p5``, ``median``, ``p95``, ``most``, and the ``unit``.

    Measures: length, novel_2 ... novel_5, distance (to the nearest document of D), span and span_share (longest run that D has)."""
    rows = []
    for cell, source, found in measured(setting, run):
        values = {name: tensor.numpy() for name, tensor in found.tensors("measured").items()}
        values["distance"] = 1 - values["nearest_2"]
        values["span_share"] = values["span"] / np.maximum(values["length"], 1)
        for state in STATES[: 1 if source == REAL else 2]:
            inside = values["kept"].astype(bool) | (state == "raw")
            for measure, unit in MEASURES.items():
                value = values[measure][inside]
                value = value[np.isfinite(value)].astype(float)
                if not len(value):
                    continue
                low, middle, high = np.percentile(value, [5, 50, 95])
                rows.append({
                    **cell.columns, "source": source, "state": state, "measure": measure, "unit": unit, "mean": value.mean(),
                    "p5": low, "median": middle, "p95": high, "most": value.max(),
                })  # fmt: skip
    return pd.DataFrame(rows)


def few_copies(tables: Tables, source: str = "sbp-nn-lm") -> pd.DataFrame:
    """K7: by how much the upper ends of the intervals of a source's raw samples exceed their bounds, seed by seed: 2 % for copies of the
    seed, the rate of as many real documents plus a point for duplicates. The control are copies."""
    table = by_cell(tables("quality")).query("state == 'raw'")
    own = table[table["source"] == source].pivot(index="seed", columns="metric", values="high")
    real = table[table["source"] == REAL].pivot(index="seed", columns="metric", values="rate")
    bounds = {"pair-copying": COPIES + 0 * own["pair-copying"], "duplicate": real["duplicate"] + MORE_DUPLICATES}
    return together(of(own[metric] - bound, metric, "cell") for metric, bound in bounds.items())


REAL_HELD_OUT = "real, held out"


def rejections(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and reason: variant, world, seed, arm, reason, documents, share (of the sampled documents).

    The arm `REAL_HELD_OUT` is held-out documents under the same rules, as if they had been sampled: what the rules cost the innocent.
    """
    wanted: list[tuple[Cell, str, Run.Config]] = [
        (cell, arm, cfg.mix.synthetic) for cell, arm, _, cfg, _ in finished(setting, run) if cfg.mix.synthetic is not None
    ]  # fmt: skip
    held_out = PROFILES[setting.profile].held_out
    for cell in cells(setting):
        corpus, label = world(setting, cell.variant, cell.world), f"rules on real; {cell.name}"
        wanted.append((cell, REAL_HELD_OUT, RealRules.Config(corpus=corpus, held_out=held_out, label=label)))
    rows = []
    for cell, arm, done in ran(run, wanted):
        about, counts = {**cell.columns, "arm": arm}, done.result["rejections"]
        for reason in [name for name in REASONS if name in counts]:
            share = counts[reason] / sum(counts.values())
            rows.append({**about, "reason": reason, "documents": counts[reason], "share": share})
    return pd.DataFrame(rows)


ARM = "sbp-nn-lm"
METRICS = ("non-factual", "pair-irrelevance")


def ladder(setting: Setting, run: Runner) -> list[tuple[Cell, Study, Tune.Config]]:
    """Synthesizers of the first cells of `dep`: every width at every length of tuning, each width regularised by itself.

    All of a cell are tuned on the pairs of its own arm, so that the pairs are no part of what is compared."""
    sizes, most = PROFILES[setting.profile].analysis, PROFILES[setting.profile].tuning_steps
    asked = [(trial_study(setting, "dep", size=size), REFERENCES[:1]) for size in sizes.others]
    best, found = regularised(run, asked)[0], []
    for cell, chosen in studies(setting, run, "dep")[: sizes.size_cells]:
        pairs = chosen.pairs(ARM)
        widths = [study(setting, cell, size=one.size).regularised_as(one) for one in best]
        for width, share in product((chosen, *widths), sizes.shares):
            steps = max(1, round(share * most))
            name = ARM if steps == most else f"{ARM}, {steps} steps"
            found.append((cell, chosen, width.tune(pairs, name, steps=steps)))
    return found


def quality_by_size(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, synthesizer and metric: ``parameters``, ``steps`` of tuning, ``flops`` (pretraining and tuning), ``loss`` on
    held-out pairs (nats per document), ``possible`` (share of samples), ``rate`` of raw samples with its Wilson interval, and ``real``,
    the rate of a part of the real documents that stands in the place of the samples."""
    sizes = PROFILES[setting.profile].analysis
    count, rungs = sizes.size_samples, len(sizes.shares) * (1 + len(sizes.others))
    wanted: list[tuple[Cell, Study, Tune.Config, Run.Config]] = []
    for cell, chosen, tuned in ladder(setting, run):
        seeds = min(chosen.profile.documents, count)
        drawn = Draws.Config(
            tuned=tuned, split="train", seeds=seeds, each=-(-count // seeds), seed=cell.seed, label=f"samples of {tuned.label}"
        )  # fmt: skip
        own = Measure.Config(
            corpus=chosen.corpus, sampled=drawn, documents=count, duplicates_at=count, seed=cell.seed, label=f"quality of {tuned.label}"
        )  # fmt: skip
        wanted.append((cell, chosen, tuned, own))
    rows = []
    for number, (cell, chosen, tuned, found) in enumerate(ran(run, wanted)):
        anchor, tuning, base = run([measure(chosen, REAL), tuned, tuned.pretrained])
        _, fails = judged(found, anchor)
        _, real = judged(anchor, anchor)
        flops = base.result["training_flops"] + tuning.result["flops"]
        about = {
            "parameters": base.result["parameters"],
            "steps": tuned.steps,
            "flops": flops,
            "loss": tuning.result["loss"],
        }
        about["possible"] = float((~fails["impossible"]).mean())
        for metric in METRICS:
            part = real[metric][number % rungs :: rungs]
            rows.append({**cell.columns, **about, "metric": metric, **rate(fails[metric]), "real": float(part.mean())})
    return pd.DataFrame(rows)


def better_with_size(tables: Tables, column: str = "rate") -> pd.DataFrame:
    """K8: rank correlation of each rate with the FLOPs of the synthesizer, seed by seed."""
    found = []
    for (metric, seed), part in by_cell(tables("quality_by_size")).groupby(["metric", "seed"]):
        if len(part) >= 3:
            rho = spearman(part["flops"], part[column]).rho  # NaN, where rates are all equal, counts
            found.append({"part": metric, "seed": seed, "unit": "cell", "value": rho})
    return pd.DataFrame(found, columns=COLUMNS)

"""Pairs of the comparison: what similarity finds, and who is whose partner how often.

Hubs are documents that are among the nearest of very many others; in many dimensions they come up by themselves (Radovanović et al. 2010).
A synthesizer would write about them most of the time. Chance is the reference: ends of pairs that fall anywhere have Poisson degrees.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from orchard.papers.sbp.experiments.arms import ran
from orchard.papers.sbp.experiments.comparison import first_cells, studies
from orchard.papers.sbp.experiments.profiles import PROFILES, world
from orchard.papers.sbp.runs.pair import Pair
from orchard.papers.sbp.runs.similarity import KnownCopies, Similarity, same_label, same_of
from orchard.runs import Finished, Runner, Setting

EMBEDDERS = {"sbp-nn-lm": "states of the repetition model", "sbp-nn-tfidf": "TF-IDF"}
STAGES = {"nearest_in": "among the k nearest", "both": "both directions", "out": "within the caps"}


def degrees(setting: Setting, run: Runner) -> pd.DataFrame:
    """How many documents have each degree: variant, world, seed, pairs by, stage (those of `method.pairing.degrees`, in words),
    degree, documents."""
    cells = first_cells(studies(setting, run))
    wanted = [(cell, arm, chosen.pairs(arm)) for cell, chosen in cells for arm in EMBEDDERS]
    tables = []
    for cell, arm, done in ran(run, [(cell, arm, cfg) for cell, arm, cfg in wanted if cfg is not None]):
        found = done.tensors("degrees")
        for name, stage in STAGES.items():
            degree, count = np.unique(found[name].numpy(), return_counts=True)
            about = cell.columns | {"pairs by": EMBEDDERS[arm], "stage": stage}
            tables.append(pd.DataFrame({**about, "degree": degree, "documents": count}))
    return pd.concat(tables, ignore_index=True)


EDGES = np.linspace(-1.0, 1.0, 81)  # of the bins of cosines
VARIANTS = ("dep", "indep", "hier")  # where pairs can be scored, or must be at chance


def _pairs(setting: Setting, run: Runner) -> list[tuple[str, Pair.Config]]:
    """The pairing of the comparison in the first cell of each variant."""
    cells = first_cells(studies(setting, run, *VARIANTS))
    found = [(cell.variant, chosen.pairs("sbp-nn-lm")) for cell, chosen in cells]
    return [(variant, pairs) for variant, pairs in found if isinstance(pairs, Pair.Config)]


def _similarities(setting: Setting, run: Runner) -> list[tuple[str, Finished]]:
    found = _pairs(setting, run)
    return ran(run, [(name, Similarity.Config(pairs=cfg, label=f"similarity; {cfg.label}")) for name, cfg in found])


def similarity(setting: Setting, run: Runner) -> pd.DataFrame:
    """A histogram of cosines: one row per variant, pairs (random, nearest, true) and bin: low, high, density, count of pairs in all."""
    rows = []
    for variant, done in _similarities(setting, run):
        for pairs, score in done.tensors("scores").items():
            density, _ = np.histogram(score.numpy(), bins=EDGES, density=True)
            part = pd.DataFrame({"low": EDGES[:-1], "high": EDGES[1:], "density": density})
            rows.append(part.assign(variant=variant, pairs=pairs, count=len(score)))
    return pd.concat(rows, ignore_index=True)[["variant", "pairs", "low", "high", "density", "count"]]


def thresholds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, relation and threshold: exceedance, alpha, found, precision, recall, and chance (of a random pair)."""
    rows = []
    for variant, done in _similarities(setting, run):
        chance = done.result["chance"]
        rows += [{"variant": variant, **row, "chance": chance[row["relation"]]} for row in done.result["rows"]]
    return pd.DataFrame(rows)


def paired(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant: alpha of the comparison's own pairing, how many pairs each rule left out, and the share of pairs that have
    one concept (``precision``) and one genre (``genre``), beside those of random pairs."""
    rows = []
    for variant, pairs, finished in ran(run, [(variant, pairs, pairs) for variant, pairs in _pairs(setting, run)]):
        documents = pairs.corpus.build().documents("train")
        first, second = (finished.tensors("pairs")[name].numpy() for name in ("first", "second"))
        rows.append({"variant": variant, "alpha": finished.result["alpha"], **finished.result["pairs"]})
        genres = documents.tokens[documents.offsets[:-1]]  # a body begins with its genre
        for name, labels in (("precision", documents.labels), ("genre", genres)):
            rows[-1][name], rows[-1][f"{name}, random"] = same_of(labels, first, second), same_label(labels)
    return pd.DataFrame(rows)


def near_duplicates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per pair of the near-dup world: kind (copy with 0, 1 or 2 edits, or a neighbour that is no copy), edits, jaccard."""
    profile = PROFILES[setting.profile]
    corpus = world(setting, "near-dup", profile.worlds[0])
    cfg = KnownCopies.Config(corpus=corpus, k=profile.neighbours, label="near duplicates")
    table = pd.DataFrame(run([cfg])[0].result["rows"])
    words = {-1: "neighbour, no copy", 0: "copy, no edit", 1: "copy, 1 edit", 2: "copy, 2 edits"}
    return table.assign(kind=table["edits"].map(words))

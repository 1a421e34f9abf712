"""Pairs of the comparison: what similarity finds, and who is whose partner how often.

    Gini           0 where all documents have the same degree, near 1 where a few have all of it:  sum_i (2 i - n - 1) g_(i) / (n sum g)

Hubs are documents that are among the nearest of very many others; in many dimensions they come up by themselves (Radovanović et al. 2010).
A synthesizer would write about them most of the time. Chance is the reference: ends of pairs that fall anywhere have Poisson degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Integer

from orchard.papers.sbp.experiments.arms import Study
from orchard.papers.sbp.experiments.comparison import studies
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, world
from orchard.papers.sbp.runs.pair import Pair
from orchard.papers.sbp.runs.similarity import KnownCopies, Similarity, same_label
from orchard.runs import Finished, Runner, Setting

EMBEDDERS = {"sbp-nn-lm": "states of the repetition model", "sbp-nn-tfidf": "TF-IDF"}
STAGES = {"nearest_in": "among the k nearest", "both": "both directions", "out": "within the caps"}


def first_cells(setting: Setting, run: Runner, *variants: str) -> list[tuple[Cell, Study]]:
    """The first cell of every variant, or of the named ones."""
    first: dict[str, tuple[Cell, Study]] = {}
    for cell, chosen in studies(setting, run, *variants):
        first.setdefault(cell.variant, (cell, chosen))
    return list(first.values())


def hubs(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, pairs and stage: pairs, mean and largest degree, Gini index, share of the pairs that the top 1 % of documents
    have (at least one document), and share of documents without a pair. The stages are those of `pairing.degrees`, in words."""
    rows = []
    for cell, kind, stage, degree in _degrees(setting, run):
        rows.append({**cell.columns, "pairs by": kind, "stage": stage, **inequality(degree)})
    return pd.DataFrame(rows)


def degrees(setting: Setting, run: Runner) -> pd.DataFrame:
    """How many documents have each degree: variant, world, seed, pairs by, stage, degree, documents."""
    tables = []
    for cell, kind, stage, degree in _degrees(setting, run):
        value, count = np.unique(degree, return_counts=True)
        tables.append(
            pd.DataFrame({"degree": value, "documents": count}).assign(
                **cell.columns, **{"pairs by": kind}, stage=stage
            )
        )
    return pd.concat(tables, ignore_index=True)


def _degrees(setting: Setting, run: Runner) -> list[tuple[Cell, str, str, np.ndarray]]:
    """Cell, pairs by, stage and the degree of every document of D."""
    wanted = [(cell, arm, chosen.pairs(arm)) for cell, chosen in first_cells(setting, run) for arm in EMBEDDERS]
    found = []
    for (cell, arm, _), done in zip(wanted, run([cfg for *_, cfg in wanted if cfg is not None]), strict=True):
        tensors = done.tensors("degrees")
        found += [(cell, EMBEDDERS[arm], words, tensors[name].numpy()) for name, words in STAGES.items()]
    return found


def inequality(degree: Integer[np.ndarray, "documents"]) -> dict[str, Any]:
    """How unequal degrees are; Gini and the share of the top are missing where there is no pair."""
    count, total = len(degree), int(degree.sum())
    ordered = np.sort(degree)
    place = 2 * np.arange(1, count + 1) - count - 1
    top = ordered[-max(1, round(count / 100)) :].sum()
    return {
        "pairs": total, "mean": total / count, "largest": int(ordered[-1]),
        "Gini": float((place * ordered).sum() / (count * total)) if total else np.nan,
        "top 1 %": float(top / total) if total else np.nan, "none": float((degree == 0).mean()),
    }  # fmt: skip


EDGES = np.linspace(-1.0, 1.0, 81)  # of the bins of cosines
VARIANTS = ("dep", "indep", "hier")  # where pairs can be scored, or must be at chance


def _pairs(setting: Setting, run: Runner) -> list[tuple[str, Pair.Config]]:
    """The pairing of the comparison in the first cell of each variant."""
    found = [(cell.variant, chosen.pairs("sbp-nn-lm")) for cell, chosen in first_cells(setting, run, *VARIANTS)]
    return [(variant, pairs) for variant, pairs in found if isinstance(pairs, Pair.Config)]


def _similarities(setting: Setting, run: Runner) -> list[tuple[str, Finished]]:
    found = _pairs(setting, run)
    done = run([Similarity.Config(pairs=pairs, label=f"similarity; {pairs.label}") for _, pairs in found])
    return [(variant, finished) for (variant, _), finished in zip(found, done, strict=True)]


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
    found = _pairs(setting, run)
    done = run([pairs for _, pairs in found])
    rows = []
    for (variant, pairs), finished in zip(found, done, strict=True):
        documents = pairs.corpus.build().documents("train")
        first, second = (finished.tensors("pairs")[name].numpy() for name in ("first", "second"))
        rows.append({"variant": variant, "alpha": finished.result["alpha"], **finished.result["pairs"]})
        genres = documents.tokens[documents.offsets[:-1]]  # a body begins with its genre
        for name, labels in (("precision", documents.labels), ("genre", genres)):
            shares = {name: float((labels[first] == labels[second]).mean()), f"{name}, random": same_label(labels)}
            rows[-1] |= shares
    return pd.DataFrame(rows)


def near_duplicates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per pair of the near-dup world: kind (copy with 0, 1 or 2 edits, or a neighbour that is no copy), edits, jaccard."""
    profile = PROFILES[setting.profile]
    cfg = KnownCopies.Config(
        corpus=world(setting, "near-dup", profile.worlds[0]), k=profile.neighbours, label="near duplicates"
    )
    table = pd.DataFrame(run([cfg])[0].result["rows"])
    words = {-1: "neighbour, no copy", 0: "copy, no edit", 1: "copy, 1 edit", 2: "copy, 2 edits"}
    return table.assign(kind=table["edits"].map(words))


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "hubs": hubs, "degrees": degrees, "similarity": similarity,
    "thresholds": thresholds, "paired": paired, "near_duplicates": near_duplicates,
}  # fmt: skip

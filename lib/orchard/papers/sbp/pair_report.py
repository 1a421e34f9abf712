"""Who is whose partner how often, read from the files of pairing runs.

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

from orchard.papers.sbp.arms import Study
from orchard.papers.sbp.joint import studies
from orchard.papers.sbp.profiles import Cell
from orchard.runs import Finished, Runner, Setting

EMBEDDERS = {"sbp-nn-lm": "states of the repetition model", "sbp-nn-tfidf": "TF-IDF"}
STAGES = {"nearest_in": "among the k nearest", "both": "both directions", "out": "within the caps"}
TOP = 8


def paired(setting: Setting, run: Runner) -> list[tuple[Cell, Study, str, Finished]]:
    """The first cell of every variant with the pairs of each embedder: runs of the comparison, but for TF-IDF outside `dep`."""
    first: dict[str, tuple[Cell, Study]] = {}
    for cell, chosen in studies(setting, run):
        first.setdefault(cell.variant, (cell, chosen))
    wanted = [(cell, chosen, arm) for cell, chosen in first.values() for arm in EMBEDDERS]
    configs: list[Any] = [chosen.pairs(arm) for _, chosen, arm in wanted]
    return [(*want, done) for want, done in zip(wanted, run(configs), strict=True)]


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


def top_hubs(setting: Setting, run: Runner) -> pd.DataFrame:
    """The documents that are among the nearest of most others: variant, pairs by, document, its degrees by stage, and how it begins."""
    rows = []
    for cell, chosen, arm, done in paired(setting, run):
        corpus = chosen.corpus.build()
        documents, found = corpus.documents("train"), done.tensors("degrees")
        for i in np.argsort(-found["nearest_in"].numpy(), kind="stable")[:TOP]:
            degree = {words: int(found[name][i]) for name, words in STAGES.items()}
            begins = corpus.text(documents[i])[:60]
            rows.append({**cell.columns, "pairs by": EMBEDDERS[arm], "document": int(i), **degree, "begins": begins})
    return pd.DataFrame(rows)


def _degrees(setting: Setting, run: Runner) -> list[tuple[Cell, str, str, np.ndarray]]:
    """Cell, pairs by, stage and the degree of every document of D."""
    found = []
    for cell, _, arm, done in paired(setting, run):
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


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "hubs": hubs, "degrees": degrees, "top_hubs": top_hubs,
}  # fmt: skip

"""What pairing did, read from the files of its runs: precision against the threshold, and who is whose partner how often.

    precision(x)   share of candidates above alpha(x) whose documents have the same label;  alpha(x): exceeded by a share x of random pairs
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
from orchard.papers.sbp.pairing import threshold
from orchard.papers.sbp.profiles import Cell
from orchard.runs import Finished, Runner, Setting

EMBEDDERS = {"sbp-nn-lm": "states of the repetition model", "sbp-nn-tfidf": "TF-IDF"}
EXCEEDANCES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
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


def pair_precision(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns variant, world, seed, embedder, exceedance, alpha, pairs, precision, covered (documents with a candidate), chance.

    All candidates above the threshold count, before near-duplicates and caps. ``precision`` is missing where no candidate is above.
    """
    rows = []
    for cell, chosen, arm, done in paired(setting, run):
        labels = chosen.corpus.build().documents("train").labels
        if labels is None:
            continue
        tensors = {name: tensor.numpy() for name, tensor in done.tensors("random").items()}
        for row in precision_at(tensors, labels, EXCEEDANCES):
            rows.append({**_cell(cell), "embedder": EMBEDDERS[arm], **row})
    return pd.DataFrame(rows)


def precision_at(
    tensors: dict[str, np.ndarray], labels: Integer[np.ndarray, "documents"], exceedances: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Rows exceedance, alpha, pairs, precision, covered and chance, from the tensors of ``random.safetensors`` of a run."""
    near, score, searched = tensors["near"], tensors["nearest"], tensors["searched"]
    true = labels[searched][:, None] == labels[near]
    counts = np.unique(labels[searched], return_counts=True)[1]
    chance = float((counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1)))
    rows = []
    for exceedance in exceedances:
        alpha = threshold(tensors["score"], exceedance)
        above = score > alpha
        rows.append({
            "exceedance": exceedance, "alpha": alpha, "pairs": int(above.sum()),
            "precision": float(true[above].mean()) if above.any() else np.nan, "covered": float(above.any(axis=1).mean()),
            "chance": chance,
        })  # fmt: skip
    return rows


def hubs(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, pairs and stage: pairs, mean and largest degree, Gini index, share of the pairs that the top 1 % of documents
    have (at least one document), and share of documents without a pair. The stages are those of `pairing.degrees`, in words."""
    rows = []
    for cell, kind, stage, degree in _degrees(setting, run):
        rows.append({**_cell(cell), "pairs by": kind, "stage": stage, **inequality(degree)})
    return pd.DataFrame(rows)


def degrees(setting: Setting, run: Runner) -> pd.DataFrame:
    """How many documents have each degree: variant, world, seed, pairs by, stage, degree, documents."""
    tables = []
    for cell, kind, stage, degree in _degrees(setting, run):
        value, count = np.unique(degree, return_counts=True)
        tables.append(
            pd.DataFrame({"degree": value, "documents": count}).assign(**_cell(cell), **{"pairs by": kind}, stage=stage)
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
            rows.append({**_cell(cell), "pairs by": EMBEDDERS[arm], "document": int(i), **degree, "begins": begins})
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


def _cell(cell: Cell) -> dict[str, Any]:
    return {"variant": cell.variant, "world": cell.world, "seed": cell.seed}


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "pair_precision": pair_precision, "hubs": hubs, "degrees": degrees, "top_hubs": top_hubs,
}  # fmt: skip

"""Pairs that no embedder made: random ones, true ones, and any mixture.

A synthesizer tuned on random pairs converges to P(d2): it is the control for whether pairs tell anything. True pairs share the label
of their corpus and are the upper end; a share rho of them gives the dose-response in pair precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.data import Corpus, Documents, check_enough
from orchard.runs import Run, Workspace


class DrawnPairs(Run):
    """``k`` partners for every document of D and of the validation split: true with probability ``truth``, else anyone.

    Result and files as those of `pairing.Pair`, without scores.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        truth: float = 0.0  # share of pairs whose documents have the same label
        k: int = 8
        held_out: int = 500
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw. Raises BadInput where truth is asked of a corpus that knows none."""
        cfg = self.cfg
        corpus: Corpus = cfg.corpus.build()
        splits = {"pairs": corpus.documents("train"), "held_out": corpus.documents("validation").head(cfg.held_out)}
        check_enough(splits["pairs"], cfg.k + 1, f"drawing k = {cfg.k} partners")
        check_enough(splits["held_out"], 2, "drawing pairs of held-out documents")
        if cfg.truth > 0 and splits["pairs"].labels is None:
            raise BadInput(
                f"DrawnPairs.Config.truth is {cfg.truth:g}, but nobody knows which documents of this corpus belong together"
            )
        result = {}
        for number, (name, documents) in enumerate(splits.items()):
            first, second = drawn(documents, cfg.truth, cfg.k, np.random.default_rng([cfg.seed, 5, number]))
            save_file(
                {"first": torch.from_numpy(first), "second": torch.from_numpy(second)},
                work.folder / f"{name}.safetensors",
            )
            result[name] = {"pairs": len(first)}
        return result


def drawn(documents: Documents, truth: float, k: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and second document of every pair; a document that is alone with its label gets random partners."""
    count = len(documents)
    first = np.repeat(np.arange(count), k)
    second = (first + random.integers(1, count, size=len(first))) % count
    if truth > 0 and documents.labels is not None:
        labels = documents.labels
        order = np.argsort(labels, kind="stable")
        start, end = (np.searchsorted(labels[order], labels, side=side) for side in ("left", "right"))
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        size = (end - start)[first]
        step = 1 + (random.random(len(first)) * (size - 1)).astype(np.int64)
        partner = order[start[first] + (place[first] - start[first] + step) % size]
        use = (random.random(len(first)) < truth) & (size > 1)
        second = np.where(use, partner, second)
    return first, second

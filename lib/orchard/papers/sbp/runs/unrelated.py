"""Pairs whose documents never share a label: random pairs without the few that are true by chance.

Of random pairs one in C shares its concept, and a synthesizer tuned on them can learn to use it. One that is tuned on these has nothing
to gain from its seed but to avoid the seed's concept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Corpus, Documents, labels_of
from orchard.runs import Run, Workspace


class UnrelatedPairs(Run):
    """``k`` partners of another label for every document of D and of the validation split. Result and files as those of `DrawnPairs`."""

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        k: int = 8
        held_out: int = 500
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw. Raises BadInput for a corpus that knows no labels, or has a single one."""
        cfg, result = self.cfg, {}
        corpus: Corpus = cfg.corpus.build()
        splits = {"pairs": corpus.documents("train"), "held_out": corpus.documents("validation").head(cfg.held_out)}
        for number, (name, documents) in enumerate(splits.items()):
            first, second = unrelated(documents, cfg.k, np.random.default_rng([cfg.seed, 7, number]))
            save_file({"first": first, "second": second}, work.folder / f"{name}.safetensors")
            result[name] = {"pairs": len(first)}
        return result


def unrelated(documents: Documents, k: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and second document of every pair, the second even among those of other labels. Raises BadInput as `UnrelatedPairs`."""
    labels = labels_of(documents, "pairs of documents that share no label need labels")
    if len(np.unique(labels)) < 2:
        raise BadInput(f"all {len(labels)} documents have one label: pairs of different ones need at least two")
    order = np.argsort(labels, kind="stable")
    start, end = (np.searchsorted(labels[order], labels, side=side) for side in ("left", "right"))
    first = np.repeat(np.arange(len(labels)), k)
    others = (len(labels) - (end - start))[first]
    second = order[(end[first] + (random.random(len(first)) * others).astype(np.int64)) % len(labels)]
    return first, second

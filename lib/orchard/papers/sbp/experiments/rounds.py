"""Several rounds of bootstrapping: the joint model of one round embeds, and begins the synthesizer, of the next.

    m_0 = repetition model        S_r ~ synthesizer tuned from m_{r-1} on pairs by the states of m_{r-1}
    m_r = joint model of D and S_r, from scratch, at the budget of all others

D itself never changes and S_{r-1} is not read again, so real documents stay in every round. What a collapse would show is how the
documents of S_r differ from those of D: fewer different n-grams, fewer concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.papers.sbp.data.laws import logsumexp
from orchard.papers.sbp.experiments.arms import Study, ran
from orchard.papers.sbp.experiments.comparison import mean_excess, studies
from orchard.papers.sbp.experiments.profiles import PROFILES
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.ngrams import at_least, hashes
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.filter import Filter
from orchard.papers.sbp.runs.mix import kept_documents
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.runs import Runner, Setting


@dataclass(frozen=True)
class Round:
    """``kept`` is None in round 0, which has no synthetic documents."""

    number: int
    model: Pretrain.Config
    kept: Filter.Config | None


def rounds_of(study: Study, count: int) -> list[Round]:
    """Round 0 (the repetition model) to round ``count``. Round 1 is the arm sbp-nn-lm."""
    found = [Round(0, study.repetition(), None)]
    for number in range(1, count + 1):
        before = found[-1].model
        name = f"of round {number}"
        pairs = study.nearest(LMEmbedder.Config(pretrained=before), f"states {name}")
        sampled = study.synthesise(study.tune(pairs, name).set(pretrained=before), name)
        found.append(Round(number, study.joint(sampled, f"joint model {name}"), study.filtered(sampled, name)))
    return found


def rounds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell and round: variant, world, seed, round, ``last`` and ``best`` of the model (nats above Bayes), and of its
    synthetic documents (round 0: of D): ``distinct`` share of trigrams, ``entropy`` of their concepts (nats), ``well_formed`` share."""
    sizes = PROFILES[setting.profile].rounds
    rows = []
    chosen = studies(setting, run, "dep")[: sizes.cells]
    wanted = [(cell, study, one, one.model) for cell, study in chosen for one in rounds_of(study, sizes.rounds)]
    for cell, study, one, finished in ran(run, wanted):
        corpus: Any = study.corpus.build()
        made = corpus.documents("pool") if one.kept is None else kept_documents(run([one.kept])[0])
        rows.append({
            **cell.columns, "round": one.number, **mean_excess(study, finished),
            **diversity(made.head(sizes.judged), corpus.world),
        })  # fmt: skip
    return pd.DataFrame(rows)


def diversity(documents: Documents, world: Any) -> dict[str, float]:
    """``distinct``, ``entropy`` and ``well_formed`` of documents; the entropy is that of the mean posterior over concepts."""
    posterior = word_posterior(documents, world)
    law = posterior.mean(axis=0) if len(posterior) else np.full(len(world.prior), np.nan)
    entropy = -float(np.sum(law * np.log(np.where(law > 0, law, 1.0))))
    possible = np.isfinite(world.log_marginal(documents))
    return {"distinct": distinct(documents), "entropy": entropy, "well_formed": float(possible.mean())}


def word_posterior(documents: Documents, world: Any) -> Float64[np.ndarray, "with_words concepts"]:
    """P(c | words), wherever they stand: a document that breaks the grammar of its world still has words. Those without are left out."""
    size = world.words.shape[1]
    words = documents.tokens.astype(np.int64) - world.starts[2]
    owner = np.repeat(np.arange(len(documents)), documents.lengths)
    inside = (words >= 0) & (words < size)
    counts = np.zeros((len(documents), size))
    np.add.at(counts, (owner[inside], words[inside]), 1.0)
    joint = counts[counts.any(axis=1)] @ np.log(world.words).T + np.log(world.prior)
    return np.exp(joint - logsumexp(joint)[:, None])


def distinct(documents: Documents, n: int = 3) -> float:
    """Different n-grams / n-grams; those across the end of a document do not count. NaN where there are none."""
    grams, _ = hashes(at_least(documents, n), n)
    return len(np.unique(grams)) / len(grams) if len(grams) else float("nan")

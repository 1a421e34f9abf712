"""Concepts of what is sampled: from one seed, against its posterior (K5); of a whole corpus, against the degree of pairs (drift).

KL(P(c | d1) || q) is that of `runs.concepts`. The exact row samples from the world's own P(d2 | d1) as often: what is left there is the
error of so few samples, not of a synthesizer.

Seeds are held-out documents: a synthesizer cannot have learned by heart what follows them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from orchard.evidence import Tables, paired
from orchard.papers.sbp.experiments.arms import TUNED, UNRELATED, ran
from orchard.papers.sbp.experiments.comparison import EXACT, analysed, by_cell, studies, synthetic_arms
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.experiments.quality import REAL, measured
from orchard.papers.sbp.method.documents import labels_of
from orchard.papers.sbp.runs.concepts import ConceptLaw
from orchard.papers.sbp.runs.synthesise import Draws
from orchard.papers.sbp.runs.tune import pairs_of
from orchard.runs import Finished, Runner, Setting


def law_runs(setting: Setting, run: Runner) -> list[tuple[Cell, str, Finished]]:
    """The concept laws of the exact law and of every tuned synthesizer, in the cells that have samples without a seed."""
    sizes = PROFILES[setting.profile].analysis
    wanted: list[tuple[Cell, str, ConceptLaw.Config]] = []
    for cell, chosen in analysed(studies(setting, run)):
        arms = [arm for arm in synthetic_arms(setting, cell) if arm in TUNED]
        arms += [UNRELATED] if cell.variant == "dep" else []
        seeds = min(sizes.seeds, 2 * chosen.profile.held_out)
        own: dict[str, Any] = {"seeds": seeds, "each": sizes.each, "seed": cell.seed}
        for arm in (EXACT, *arms) if "uncond" in arms else ():
            name, drawn = f"{arm}, chosen seeds; {chosen.name}", None
            if arm != EXACT:
                drawn = Draws.Config(tuned=chosen.synthesizer(arm), label=f"samples {name}", **own)
            cfg = ConceptLaw.Config(corpus=chosen.corpus, sampled=drawn, label=f"concepts {name}", **own)
            wanted.append((cell, arm, cfg))
    return ran(run, wanted)


def concept_law(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, arm and seed document: ``kl`` (nats), ``possible`` (share of the ``samples``), and the
    ``entropy`` of P(c | d1)."""
    tables = []
    for cell, arm, found in law_runs(setting, run):
        laws = {name: value.numpy() for name, value in found.tensors("laws").items()}
        p = laws["posterior"]
        entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
        table = pd.DataFrame({"kl": laws["kl"], "possible": laws["possible"], "entropy": entropy})
        samples = found.result["documents"] // len(table)
        tables.append(table.assign(arm=arm, document=np.arange(len(table)), samples=samples, **cell.columns))
    return pd.concat(tables, ignore_index=True)


def drift(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell of a world that tells concepts apart, arm and concept, all of them shares.

    ``real``: of the documents of D with this concept; ``pairs``: of the arm's pairs whose second document has it (NaN without pairs);
    ``raw`` and ``kept``: the mean posterior of the arm's possible samples, before and after the rules."""
    chosen = {cell: found for cell, found in analysed(studies(setting, run)) if cell.variant != "indep"}
    corpora = [row for row in measured(setting, run) if row[0] in chosen and row[1] != REAL]
    with_pairs = [((cell, arm), chosen[cell].pairs(arm)) for cell, arm, _ in corpora]
    pairs = dict(ran(run, [(key, cfg) for key, cfg in with_pairs if cfg is not None]))
    tables = []
    for cell, arm, found in corpora:
        laws = {name: value.numpy() for name, value in found.tensors("laws").items()}
        own, count = labels_of(chosen[cell].corpus.build().documents("train"), "drift needs labels"), len(laws["raw"])
        table = pd.DataFrame({"concept": np.arange(count), "real": shares(own, count), **laws})
        paired = pairs.get((cell, arm))
        table["pairs"] = np.nan if paired is None else shares(own[pairs_of(paired, "pairs")[1]], count)
        tables.append(table.assign(arm=arm, **cell.columns))
    return pd.concat(tables, ignore_index=True)


def shares(concepts: Int[np.ndarray, "_"], count: int) -> Float64[np.ndarray, "count"]:
    """How often each of ``count`` concepts occurs, of all."""
    return np.bincount(concepts, minlength=count) / max(len(concepts), 1)


def drift_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and arm from the table of :func:`drift`.

    ``moved``: total variation distance between D and the raw samples, half the sum of |raw - real|; ``by_pairs``: the same between D
    and the second documents of the pairs; ``correlation``: Pearson's of raw - real with pairs - real over concepts, 1 where the
    synthesizer reweights concepts exactly as its pairs do; ``by_rules``: total variation between raw and kept."""
    keys, rows = ["variant", "world", "seed", "arm"], []
    for key, part in table.groupby(keys, sort=False):
        moved, pushed, ruled = part["raw"] - part["real"], part["pairs"] - part["real"], part["kept"] - part["raw"]
        constant = pushed.isna().any() or pushed.std() == 0 or moved.std() == 0
        rows.append({
            **dict(zip(keys, key, strict=True)), "moved": moved.abs().sum() / 2, "by_pairs": pushed.abs().sum(skipna=False) / 2,
            "correlation": np.nan if constant else float(np.corrcoef(moved, pushed)[0, 1]),
            "by_rules": ruled.abs().sum(skipna=False) / 2,
        })  # fmt: skip
    return pd.DataFrame(rows)


def follows_posterior(tables: Tables, arm: str = "sbp-nn-lm") -> pd.DataFrame:
    """K5: the divergence of an arm's samples minus that of samples without a seed, each seed document of each cell of `dep`. The control
    is a synthesizer tuned on pairs that share no concept."""
    laws = by_cell(tables("concept_law"))
    return paired(laws, "arm", arm, "uncond", units=["document"], value="kl", part="dep")

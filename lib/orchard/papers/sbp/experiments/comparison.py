"""The comparison: every arm in every cell, at equal steps and tokens, and the evidence for K1, K2, K3 and K6.

    excess = -log p(d) + log P(d)        nats per held-out document above Bayes

The exact law of the world is subtracted document by document. The best checkpoint is chosen on validation documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.evidence import Tables, difference, of, paired, rows, together
from orchard.papers.sbp.experiments import regularisation
from orchard.papers.sbp.experiments.arms import ARMS, COMPARED, REFERENCES, TUNED, Study, ran, study
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, cells
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import sampled_documents
from orchard.papers.sbp.runs.tune import pairs_of, precision
from orchard.runs import Finished, Runner, Setting

SYNTHETIC = tuple(arm for arm in ARMS if arm not in (*REFERENCES, "icp"))
EXACT = "exact"  # the world's own law, beside the arms


def studies(setting: Setting, run: Runner, *variants: str) -> list[tuple[Cell, Study]]:
    """The cells of a setting with their studies, regularised as was best in their variant."""
    chosen = cells(setting, *variants)
    best = regularisation.tuned(setting, run, list(dict.fromkeys(cell.variant for cell in chosen)))
    return [(cell, study(setting, cell).regularised_as(best[cell.variant])) for cell in chosen]


def arms_of(setting: Setting, cell: Cell) -> Sequence[str]:
    """All arms in the first cell of `dep`, the compared ones elsewhere (profile gpu: all everywhere)."""
    first = cell == cells(setting, "dep")[0]
    return ARMS if first or PROFILES[setting.profile].all_arms else COMPARED


def synthetic_arms(setting: Setting, cell: Cell) -> list[str]:
    """The arms of the comparison in a cell that have a synthetic corpus."""
    return [arm for arm in SYNTHETIC if arm in arms_of(setting, cell)]


def analysed(found: list[tuple[Cell, Study]]) -> list[tuple[Cell, Study]]:
    """Every cell of `dep`, about which the claims are, and the first one of every other variant, for comparison."""
    first = first_cells(found)
    return [row for row in found if row[0].variant == "dep" or row in first]


def first_cells(found: list[tuple[Cell, Study]]) -> list[tuple[Cell, Study]]:
    """The first cell of every variant."""
    first: dict[str, tuple[Cell, Study]] = {}
    for row in found:
        first.setdefault(row[0].variant, row)
    return list(first.values())


def finished(setting: Setting, run: Runner) -> list[tuple[Cell, str, Study, Pretrain.Config, Finished]]:
    """Every arm of every cell with its finished run."""
    found = [(cell, arm, chosen) for cell, chosen in studies(setting, run) for arm in arms_of(setting, cell)]
    wanted = [(*row, row[2].arm(row[1])) for row in found]
    return ran(run, [(*row, row[-1]) for row in wanted])


def curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and evaluation: variant, world, seed, arm, step, tokens, excess (nats per test document above Bayes)."""
    tables = []
    for cell, arm, chosen, cfg, done in finished(setting, run):
        step = done.tensors("eval")["step"].numpy()
        curve = pd.DataFrame({"step": step, "excess": excess(chosen, done).mean(axis=1)})
        tables.append(curve.assign(arm=arm, tokens=step * cfg.mix.budget / cfg.mix.steps, **cell.columns))
    return pd.concat(tables, ignore_index=True)


def documents(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and test document: variant, world, seed, arm, document, ``last`` and ``best`` (nats above Bayes)."""
    found = finished(setting, run)
    tables = [document_excess(chosen, done).assign(arm=arm, **cell.columns) for cell, arm, chosen, _, done in found]
    return pd.concat(tables, ignore_index=True)


def ledger(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and cell: what was read, and what it cost in FLOPs beside the training that all arms share."""
    wanted = [(cell, arm, done, cfg.mix) for cell, arm, _, cfg, done in finished(setting, run)]
    return pd.DataFrame([
        {**cell.columns, "arm": arm, **mixed.result, "training_flops": done.result["training_flops"]}
        for cell, arm, done, mixed in ran(run, wanted)
    ])  # fmt: skip


def stages(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per tuned arm and cell: pairs and the share of them that are true, loss of the synthesizer on held-out pairs before and
    after tuning (nats per second document), documents sampled, the share of them that the world can make at all, and the share of their
    tokens that was kept."""
    table = []
    for cell, arm, chosen, cfg, _ in [row for row in finished(setting, run) if row[1] in TUNED]:
        sampled: Any = chosen.sampled(arm)
        kept_by: Any = cfg.mix.synthetic
        tuned, samples, kept = run([sampled.tuned, sampled, kept_by])
        count, true = 0, float("nan")
        if (pairs := chosen.pairs(arm)) is not None:
            found = run([pairs])[0]
            count, true = len(pairs_of(found, "pairs")[0]), precision(found, chosen.corpus.build())
        table.append({
            **cell.columns, "arm": arm, "pairs": count, "true (%)": 100 * true, "loss before": tuned.result["loss_before"],
            "loss after": tuned.result["loss"], "sampled": samples.result["documents"], "possible (%)": 100 * possible(chosen, samples),
            "kept (%)": 100 * kept.result["kept_tokens"] / samples.result["tokens"],
        })  # fmt: skip
    return pd.DataFrame(table)


def possible(chosen: Study, sampled: Finished) -> float:
    """The share of raw samples that the world can make at all: the others have probability 0."""
    world = chosen.corpus.build().world
    return float(np.isfinite(world.log_marginal(sampled_documents(sampled)[0])).mean())


def by_cell(table: pd.DataFrame, variant: str = "dep") -> pd.DataFrame:
    """The rows of a variant, with one number for each of its cells as ``seed``: a world and a seed of the models."""
    own = table[table["variant"] == variant] if "variant" in table else table
    return own.assign(seed=1000 * own["world"] + own["seed"])


def gap(tables: Tables, second: str, variant: str = "dep", first: str = "sbp-nn-lm") -> pd.DataFrame:
    """One arm minus another on each test document of each cell of a variant, best checkpoints.

    K1: SBP minus repetition; its control where documents tell nothing of one another. K3b: neighbours minus random pairs in that world."""
    return gap_in(tables("documents"), second, variant, first)


def gap_in(table: pd.DataFrame, second: str, variant: str = "dep", first: str = "sbp-nn-lm") -> pd.DataFrame:
    """The same from a table with the columns of :func:`documents`."""
    return paired(by_cell(table, variant), "arm", first, second, units=["document"], value="best", part=variant)


def recovered(tables: Tables, variant: str = "dep") -> pd.DataFrame:
    """K2: the share of the oracle's gain over the best repetition checkpoint that SBP recovers, cell by cell."""
    mean = by_cell(tables("documents"), variant).groupby(["seed", "arm"])["best"].mean().unstack()
    return of((mean["repetition"] - mean["sbp-nn-lm"]) / (mean["repetition"] - mean["oracle"]), variant, "cell")


def pair_information(tables: Tables, first: str = "sbp-nn-lm") -> pd.DataFrame:
    """K3: neighbours minus random pairs where documents tell of one another; and that, minus the same where they do not. Its control:
    samples without a seed in the place of those of neighbours."""
    dep, indep = (gap(tables, "sbp-random", variant, first) for variant in ("dep", "indep"))
    where, elsewhere = (found.set_index(["seed", "unit"])["value"] for found in (dep, indep))
    return together([dep, difference(where, elsewhere, "dep - indep")])


EARLY = 0.15  # of the training, where K6 asks who is behind


def crossing(tables: Tables, variant: str = "dep") -> pd.DataFrame:
    """K6: repetition minus SBP at 15 % of the training, SBP minus repetition at its end: both negative where the curves cross."""
    table, found = by_cell(tables("curves"), variant), []
    for seed, part in table.groupby("seed"):
        wide = part.pivot_table(index="step", columns="arm", values="excess")[["repetition", "sbp-nn-lm"]].dropna()
        ahead = wide["repetition"] - wide["sbp-nn-lm"]
        early = ahead.iloc[(wide.index.to_series() / wide.index.max() - EARLY).abs().argmin()]
        found.append(rows(["early", "end"], seed, "cell", [early, -ahead.iloc[-1]]))
    return together(found)


_BAYES: dict[tuple[str, int], np.ndarray] = {}


def document_excess(chosen: Study, done: Finished) -> pd.DataFrame:
    """One row per test document: document, ``last`` and ``best`` (nats above Bayes, at the last and at the best checkpoint)."""
    test = excess(chosen, done)
    best = int(done.tensors("eval")["validation"].double().mean(dim=1).argmin())
    return pd.DataFrame({"document": np.arange(test.shape[1]), "last": test[-1], "best": test[best]})


def mean_excess(chosen: Study, done: Finished) -> dict[str, float]:
    """The means of :func:`document_excess`: ``last`` and ``best``."""
    table = document_excess(chosen, done)
    return {name: float(table[name].mean()) for name in ("last", "best")}


def excess(chosen: Study, done: Finished) -> Float64[np.ndarray, "evaluations documents"]:
    """Nats of every test document above Bayes, at every evaluation."""
    scores = done.tensors("eval")["test"].double().numpy()
    return scores - bayes_nll(chosen, scores.shape[1])


def bayes_nll(chosen: Study, count: int) -> Float64[np.ndarray, "documents"]:
    """-log P(d) of the first test documents of a cell; kept, since every arm of every table is measured from it."""
    key = (chosen.corpus.fingerprint(), count)
    if key not in _BAYES:
        corpus: Any = chosen.corpus.build()
        _BAYES[key] = -corpus.world.log_marginal(corpus.documents("test").head(count))
    return _BAYES[key]

"""What a partner tells: -log p(d2 | d1) of the synthesizers and of the exact law, true and random partners.

I(d1; d2) = E[-log P(d2)] - E[-log P(d2 | d1)] <= H(c)       (i)   what conditioning can give, at most
rho P(d2 | d1) + (1 - rho) P(d2)                             (ii)  what tuning on pairs that are true with probability rho tends to
P(d2)                                                        (iii) the same for random pairs
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.evidence import Tables, rows, together
from orchard.papers.sbp.experiments.arms import TUNED, UNRELATED, ran
from orchard.papers.sbp.experiments.comparison import EXACT, analysed, by_cell, studies, synthetic_arms
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.runs.partners import ExactPartners, TunedPartners
from orchard.runs import Finished, Run, Runner, Setting


def _finished(setting: Setting, run: Runner) -> list[tuple[Cell, str, Finished]]:
    """The exact law and the synthesizers of every cell: in `dep` all of them, since K4b is about each; elsewhere those compared there."""
    count = PROFILES[setting.profile].analysis.partners
    wanted: list[tuple[Cell, str, Run.Config]] = []
    for cell, chosen in analysed(studies(setting, run)):
        own = {"documents": count, "seed": cell.seed}
        exact = ExactPartners.Config(corpus=chosen.corpus, label=f"partners, exact; {chosen.name}", **own)
        wanted.append((cell, EXACT, exact))
        compared = [arm for arm in synthetic_arms(setting, cell) if arm in TUNED]
        for arm in (*TUNED, UNRELATED) if cell.variant == "dep" else compared:
            tuned, label = chosen.synthesizer(arm), f"partners, {arm}; {chosen.name}"
            wanted.append((cell, arm, TunedPartners.Config(tuned=tuned, label=label, **own)))
    return ran(run, wanted)


def partners_table(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, arm (synthesizers and ``exact``) and held-out document d2, all in nats per document.

    ``true`` and ``random``: -log p(d2 | d1) for both kinds of partner. ``exact_true``, ``exact_random``, ``exact_alone``: the exact law
    of the same document; ``entropy``: H(c). ``limit_true``, ``limit_random``: the mixture (ii) at the ``precision`` of the arm's
    pairs; NaN without pairs."""
    tables: list[pd.DataFrame] = []
    exact: dict[Cell, tuple[dict[str, np.ndarray], float]] = {}
    for cell, arm, found in _finished(setting, run):
        nll = {name: value.numpy() for name, value in found.tensors("nll").items()}
        if arm == EXACT:
            exact[cell] = nll, found.result["entropy"]
        law, entropy = exact[cell]
        table = pd.DataFrame({"document": np.arange(len(law["alone"])), "true": nll["true"], "random": nll["random"]})
        for kind in ("true", "random", "alone"):
            table[f"exact_{kind}"] = law[kind]
        rho = found.result.get("precision")
        for kind in ("true", "random"):
            table[f"limit_{kind}"] = np.nan if rho is None else mixture(rho, law[kind], law["alone"])
        tables.append(table.assign(arm=arm, precision=np.nan if rho is None else rho, entropy=entropy, **cell.columns))
    return pd.concat(tables, ignore_index=True)


def mixture(
    rho: float, conditional: Float64[np.ndarray, "documents"], alone: Float64[np.ndarray, "documents"]
) -> Float64[np.ndarray, "documents"]:
    """-log(rho P(d2 | d1) + (1 - rho) P(d2)) from the two negative logarithms."""
    with np.errstate(divide="ignore"):
        return -np.logaddexp(np.log(rho) - conditional, np.log1p(-rho) - alone)


def consequences(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell and arm, means over documents in nats per document.

    ``true``, ``random``, ``limit_true``, ``limit_random``: as in `partners`. ``gain``: -log p(d2) of `uncond` minus ``true``, what
    reading the right partner is worth (NaN in a cell without `uncond`); ``limit_gain``: the same of the mixture (ii), between 0 and
    ``information``, I(d1; d2) of these pairs, which is at most ``entropy``, H(c). ``penalty``: random - true, what a wrong partner
    costs; ``limit_penalty`` likewise. ``from_alone``: random minus -log p(d2) of `uncond`, for random pairs 0 in the limit (iii)."""
    keys = ["variant", "world", "seed", "arm"]
    table = partners_table(setting, run).drop(columns="document")
    means = table.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
    cells, uncond = pd.MultiIndex.from_frame(means[keys[:3]]), means[means["arm"] == "uncond"].set_index(keys[:3])
    alone, model = uncond["true"].reindex(cells).to_numpy(), means["arm"] != EXACT
    return means.assign(
        gain=np.where(model, alone, means["exact_alone"]) - means["true"],
        limit_gain=means["exact_alone"] - means["limit_true"],
        information=means["exact_alone"] - means["exact_true"],
        penalty=means["random"] - means["true"],
        limit_penalty=means["limit_random"] - means["limit_true"],
        from_alone=np.where(model, means["random"] - alone, np.nan),
    )


def _means(tables: Tables) -> pd.DataFrame:
    """Means over documents in `dep`, one row per arm and cell; ``alone`` is -log p(d2) of `uncond` in its cell."""
    means = by_cell(tables("partners")).groupby(["arm", "seed"], sort=False)
    found = means[["true", "random", "exact_true", "exact_alone"]].mean().reset_index()
    return found.assign(alone=found["seed"].map(found[found["arm"] == "uncond"].set_index("seed")["true"]))


def uses_seed(tables: Tables, arm: str = "sbp-nn-lm") -> pd.DataFrame:
    """K4: -log p(d2 | true partner) of a synthesizer, mean over documents of each cell, minus that with a random partner, and minus
    -log p(d2) of `uncond`, which reads no partner. The control is a synthesizer tuned on pairs that share no concept."""
    own = _means(tables).query("arm == @arm")
    parts = {"true - random partner": own["random"], "true partner - no seed": own["alone"]}
    return together(rows(part, own["seed"], "mean", own["true"] - other) for part, other in parts.items())


def not_below_exact(tables: Tables) -> pd.DataFrame:
    """K4b: -log p(d2 | true partner) minus the exact one, mean over documents, every synthesizer that reads a partner, each seed."""
    own = _means(tables).query("arm not in ('exact', 'uncond', @UNRELATED)")
    return rows(own["arm"], own["seed"], "mean", own["true"] - own["exact_true"])


def below_alone(tables: Tables) -> pd.DataFrame:
    """The control of K4b, which must break such a bound: the exact law with a partner, held against the exact law without one."""
    own = _means(tables).query("arm == 'exact'")
    return rows(own["arm"], own["seed"], "mean", own["exact_true"] - own["exact_alone"])

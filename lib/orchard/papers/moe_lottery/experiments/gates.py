"""What must hold before the verdict on a claim counts: the mixture uses its experts, fine-tuning does no harm, baselines are not broken.

A gate goes from the tables to whether it holds and what was found; it must hold in every model, but for the worth of experts, a difference
between two trainings, which is a mean. The bounds were set before any verdict,
from pilots that trained the models and compared nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from orchard.evidence import Tables
from orchard.papers.moe_lottery.data.episodes import PLAIN
from orchard.papers.moe_lottery.data.probes import STATE
from orchard.papers.moe_lottery.experiments import capabilities
from orchard.papers.moe_lottery.experiments.ranks import LEAVE_ONE_OUT
from orchard.papers.moe_lottery.runs.smaller import FULL, NO_HELP

Found = tuple[bool, str]
Gate = Callable[[Tables], Found]
ENTROPY = 0.8  # of the router, as a share of that of an even choice: at most
DEAREST = 0.05  # nats/byte that the loss of the dearest expert costs: at least
WORTH = 0.02  # nats/byte that a model from scratch with a quarter of the experts is worse, on average: at least
HARM = 0.005  # nats/byte that fine-tuning costs the full model: at most
REPEATS = 0.5  # Spearman correlation of leaving one out with itself on other text: at least
REPAIR = 0.05  # nats/byte that the most tokens repair: at least
NEW_ERRORS = 20


def together(*gates: Gate) -> Gate:
    """All of the gates."""

    def found(tables: Tables) -> Found:
        all_of = [gate(tables) for gate in gates]
        return all(holds for holds, _ in all_of), "; ".join(words for _, words in all_of)

    return found


def uses_experts(tables: Tables) -> Found:
    """The routers choose, an expert that goes is missed, and a small model from scratch does not do as well."""
    costs = tables("leave_one_out").query("split == 'test' and domain == 'all'").groupby("model")
    even = np.log(costs["expert"].nunique())
    entropy = float((tables("router").groupby("model")["entropy"].mean() / even).max())
    dearest, worth = costs["increase"].max().min(), worth_of_experts(tables("scratch")).mean()
    return bool(entropy <= ENTROPY and dearest >= DEAREST and worth >= WORTH), (
        f"router entropy up to {entropy:.2f} of an even choice ({ENTROPY:g} allowed), the dearest expert costs {dearest:.3f} nats/byte "
        f"({DEAREST:g} needed), the smallest size from scratch is on average {worth:.3f} worse than the full model ({WORTH:g} needed)"
    )


def worth_of_experts(scratch: pd.DataFrame) -> pd.Series:
    """By model, how much worse the smallest size trained from scratch is than the full model with equal tokens (nats/byte)."""
    at = scratch[scratch["s"] == scratch.loc[scratch["strategy"] == "small_scratch", "s"].max()]
    loss = at.groupby(["strategy", "model"])["loss"].mean()
    return loss["small_scratch"] - loss["full_tokens"]


def harmless(tables: Tables) -> Found:
    """Fine-tuning leaves the full model as good as it was, at rates inside of their grids."""
    loss = tables("strategies").query("criterion == 'none'").groupby(["strategy", "model"])["loss"].max()
    return _harmless(
        (loss["full_tokens"] - loss["full"]).max(), tables("rates"), ["model", "strategy", "schedule", "steps"]
    )


def _harmless(harm: float, rates: pd.DataFrame, by: list[str]) -> Found:
    chosen = rates[rates["chosen"]].set_index(by)["learning_rate"]
    ends = rates.groupby(by)["learning_rate"].agg(["min", "max"]).loc[chosen.index]
    edges = int(((chosen == ends["min"]) | (chosen == ends["max"])).sum())
    words = f"the full model's loss changes by at most {harm:+.4f} with the same tokens ({HARM:g} allowed)"
    return bool(harm <= HARM and not edges), f"{words}, {edges} of {len(chosen)} rates on the edge of their grid"


def repeats(tables: Tables) -> Found:
    """Leaving one out gives the same order on other text: what criteria are compared with is no noise."""
    table = tables("spearman")
    rho = float(table.loc[table["criterion"] == LEAVE_ONE_OUT].groupby("model")["rho"].mean().min())
    return rho >= REPEATS, f"leaving one out correlates {rho:.2f} with itself on other text ({REPEATS:g} needed)"


def repairs(tables: Tables) -> Found:
    """There is something to repair, and it is repaired."""
    table = tables("saturation").query("strategy != 'full'").groupby(["model", "strategy"])["loss"]
    repair = (table.first() - table.last()).min()
    return bool(repair >= REPAIR), f"the most tokens repair {repair:.3f} nats/byte ({REPAIR:g} needed)"


def follows(tables: Tables) -> Found:
    """The full model knows facts and follows instructions better than by guessing."""
    passed = capabilities.gates(tables("capability_units")).query("above")
    by_model = passed.groupby("model")["task"].agg(set)
    able = sum(STATE in tasks and bool(tasks & set(capabilities.INSTRUCTIONS)) for tasks in by_model)
    count = tables("capability_units")["model"].nunique()
    return able == count, f"{able} of {count} full models know facts and follow an instruction above guessing"


def errs_anew(tables: Tables) -> Found:
    """There are new errors to take apart."""
    count = len(capabilities.new_errors(tables))
    return count >= NEW_ERRORS, f"{count} new errors ({NEW_ERRORS} needed)"


def prunes(tables: Tables) -> Found:
    """2:4 pruning by magnitude and by Wanda beats 2:4 at random, and plain text does the full model no harm."""
    loss = tables("sparsity").set_index(["help", "arm", "model"])["loss"].sort_index()
    plain = loss[NO_HELP]
    better = min((plain["2:4 random"] - plain[kind]).min() for kind in ("2:4 magnitude", "2:4 wanda"))
    rates = tables("capability_rates")
    rates = rates[rates["family"].str.contains(PLAIN)]
    holds, words = _harmless((loss[PLAIN, FULL] - plain[FULL]).max(), rates, ["family"])
    return bool(
        holds and better > 0
    ), f"2:4 by weights is at least {better:.3f} nats/byte better than at random; {words}"


_TUNED, _RANKED = together(uses_experts, harmless), together(uses_experts, repeats)
GATES: dict[str, Gate] = {
    **dict.fromkeys(("M1", "M2", "M4", "M5", "M10", "M10b"), uses_experts), **dict.fromkeys(("M3", "M14", "M14b"), _RANKED),
    **dict.fromkeys(("M6", "M7", "M9"), _TUNED), "M8": together(_TUNED, repairs), "M11": follows,
    "M11b": together(follows, errs_anew), "M12": follows, "M13": together(uses_experts, prunes),
}  # fmt: skip

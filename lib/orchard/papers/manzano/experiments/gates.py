"""What must hold before a verdict counts: a tokenizer that reads, decoders that draw, arms that have learned, measured in every seed.

Gates that several claims share are one function; :func:`every` joins them.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from orchard.evidence import Tables
from orchard.papers.manzano.experiments.arms import PIXELS
from orchard.papers.manzano.experiments.density import COMPETENT
from orchard.papers.manzano.experiments.scaling import OBJECTS
from orchard.papers.manzano.experiments.strategies import DRAWN, GROUPS, means

Found = tuple[bool, str]
Gate = Callable[[Tables], Found]
DISCRETE = 0.60  # characters through the discrete adapter
RHO = 1.5  # bits of a code over bits of its text
PLATEAU = 0.9  # of the steps, within which an adapter has settled
SIGHT = 0.30  # by which understanding alone is above the blind model
DRAWS = 0.5  # of its ceiling that generation alone reaches
CEILING = 0.60  # of GenEval-mini from true codes; objects of the smallest decoder; edits from true codes
PARSED = 0.995  # objects and characters that the parser reads on clean renders
FULL = 0.97  # of what the largest model may have right
READS = 0.90  # objects that the model that edits names


def every(*gates: Gate) -> Gate:
    """All of the gates; what was found of each."""

    def gate(tables: Tables) -> Found:
        found = [one(tables) for one in gates]
        return all(holds for holds, _ in found), "; ".join(words for _, words in found)

    return gate


def _densest(tables: Tables, adapter: str) -> tuple[float, float]:
    """Of the densest text, in the worst seed: characters through an adapter, and bits of a code over bits of text."""
    table = tables("tokenizers")
    own = table[table["stream"].str.startswith("read") & (table["rho"] == table["rho"].min()) & (table["adapter"] == adapter)]  # fmt: skip
    return float(own["accuracy"].min()), float(own["rho"].min())


def reads_continuous(tables: Tables) -> Found:
    """Text of the profile's density is read through the continuous adapter, before any unified training."""
    least, _ = _densest(tables, "continuous")
    return least >= COMPETENT, f"characters through the continuous adapter at least {least:.2f} ({COMPETENT:g} needed)"


def reads_discrete(tables: Tables) -> Found:
    """So it is through the discrete one, whose codes suffice for it."""
    least, rho = _densest(tables, "discrete")
    words = f"through the discrete one at least {least:.2f} ({DISCRETE:g} needed), rho {rho:.2f} ({RHO:g} needed)"
    return least >= DISCRETE and rho >= RHO - 1e-9, words


def densities(tables: Tables) -> Found:
    """Both densities that are compared stay in the sweep."""
    table = tables("density_tokenizers").query("adapter == 'continuous' and k in (1, 3)")
    least = table.groupby("k")["accuracy"].min()
    said = ", ".join(f"{value:.2f} at k = {k}" for k, value in least.items())
    return set(least.index) == {1, 3} and bool((least >= COMPETENT).all()), f"continuous {said} ({COMPETENT:g} needed)"


def settled(tables: Tables) -> Found:
    """Adapters after the fact have settled before the end of their training."""
    table = tables("adapter_training").query("arm != 'hybrid'")
    latest = float((table["settled"] / table["steps"]).max())
    return (latest <= PLATEAU, f"adapters after the fact settled within {latest:.0%} of their steps ({PLATEAU:.0%} allowed)")  # fmt: skip


def _mean(tables: Tables, arm: str, column: str = "value") -> pd.DataFrame:
    """By seed and metric."""
    table = means(tables("strategies"))
    wide = table[table["arm"] == arm].pivot(index="seed", columns="metric", values=column)
    return wide.reindex(columns=[*GROUPS, DRAWN])


def single_tasks(tables: Tables) -> Found:
    """Each task can be learned alone: reading is above a blind model, drawing reaches a good part of its ceiling."""
    sight = float((_mean(tables, "und_only") - _mean(tables, "blind"))[list(GROUPS)].min(skipna=False).min(skipna=False))  # fmt: skip
    drawn = float(_mean(tables, "gen_only", "ratio")[DRAWN].min(skipna=False))
    words = f"understanding alone is at least {sight:.2f} above blind ({SIGHT:g} needed), generation alone reaches at least {drawn:.2f}"
    return sight >= SIGHT and drawn >= DRAWS, f"{words} of its ceiling ({DRAWS:g} needed)"


def draws(*codes: str) -> Gate:
    """True codes are drawn well enough to be told apart, and the parser reads clean pictures."""

    def gate(tables: Tables) -> Found:
        own = tables("ceilings").query("`drawn by` == 'decoder'")
        own = own[own["codes"].isin(codes)]
        least = float(own["overall"].min())
        parsed = float(tables("checks").query("claim == 'S6'")["value"].min())
        words = f"GenEval-mini of true codes at least {least:.2f} ({CEILING:g} needed), parser right on at least {parsed:.1%}"  # fmt: skip
        return least >= CEILING and parsed >= PARSED, f"{words} ({PARSED:.1%} needed)"

    return gate


def sizes_differ(tables: Tables) -> Found:
    """The smallest model is above the floor, the largest not at the ceiling."""
    table = tables("scaling")
    mean = table.groupby(["arm", "dim", "metric"])["value"].mean()
    small, large = table["dim"].min(), table["dim"].max()
    above = {metric: mean["hybrid", small, metric] - mean["blind", small, metric] for metric in ("general", "text-rich")}  # fmt: skip
    above[DRAWN] = mean["hybrid", small, DRAWN] - _mean(tables, "hybrid_shuffled")[DRAWN].mean()
    least, most = float(min(above.values())), float(mean["hybrid"][large].max())
    return least > 0 and most <= FULL, (
        f"the smallest model is at least {least:+.2f} from blind models and shuffled codes (above 0 needed), the largest at most "
        f"{most:.2f} right ({FULL:g} allowed)"
    )  # fmt: skip


def small_decoder(tables: Tables) -> Found:
    """The smallest decoder draws objects."""
    table = tables("decoder_scaling")
    table = table[(table["arm"] == "hybrid") & (table["metric"] == OBJECTS)]
    least = float(table.groupby(["dim", "seed"])["value"].mean().min())
    return least >= CEILING, f"objects right of true codes at least {least:.2f} ({CEILING:g} needed)"


def edits_can_be_read(tables: Tables) -> Found:
    """The model that edits knows what stands in a cell."""
    least = float(tables("edit_reader")["accuracy"].min())
    return least >= READS, f"objects named by the model that edits at least {least:.2f} ({READS:g} needed)"


def edits_can_be_drawn(tables: Tables) -> Found:
    """Of true codes the decoder that sees the reference makes edits that succeed."""
    table = tables("edits").query("arm == 'true codes'")
    least = float(table.groupby("seed")["success"].mean().min())
    return least >= CEILING, f"edits from true codes succeed in at least {least:.2f} ({CEILING:g} needed)"


BOTH_CODES = draws("hybrid", PIXELS)
GATES: dict[str, Gate] = {
    "M1a": every(reads_continuous, reads_discrete), "M2": every(reads_continuous, reads_discrete), "M2c": densities,
    "M2b": every(reads_continuous, settled), "R1": every(reads_continuous, settled),
    "M1b": single_tasks, "M4": single_tasks, "M3a": draws("hybrid"), "M3b": BOTH_CODES, "M11": draws("hybrid"),
    "M5": sizes_differ, "M6": small_decoder, "M6b": small_decoder, "M9": every(edits_can_be_read, edits_can_be_drawn),
}  # fmt: skip

"""Gates of the claims: what must hold for a verdict to count, measured, with what was found in words.

A gate that several claims share is one function; a claim with several has them joined by :func:`all_of`.
"""

from __future__ import annotations

from collections.abc import Callable

from orchard.evidence import Tables
from orchard.papers.sbp.experiments.comparison import EARLY, by_cell

Gate = Callable[[Tables], tuple[bool, str]]
ARM = "sbp-nn-lm"
POSSIBLE = 0.5  # of raw samples, in every cell: a majority
SPAN = 4.0  # times the FLOPs of the smallest synthesizer that the largest takes
GAIN = 1.0  # nats per document


def all_of(*gates: Gate) -> Gate:
    """Every one of several gates."""

    def gate(tables: Tables) -> tuple[bool, str]:
        found = [one(tables) for one in gates]
        return all(holds for holds, _ in found), "; ".join(words for _, words in found)

    return gate


def can_write(variant: str = "dep") -> Gate:
    """SBP's synthesizer writes documents that its world can make."""

    def gate(tables: Tables) -> tuple[bool, str]:
        own = by_cell(tables("stages"), variant).query("arm == @ARM")
        return _enough(float(own["possible (%)"].min()) / 100, f"SBP's raw samples in {variant}")

    return gate


def tuned_inside(*arms: str) -> Gate:
    """What was chosen for these arms lies inside their grids."""

    def gate(tables: Tables) -> tuple[bool, str]:
        own = by_cell(tables("tuning").assign(world=0, seed=0)).query("chosen and edge and arm in @arms")
        edges = sorted(set(own["arm"]))
        words = "inside their grids" if not edges else f"{', '.join(edges)} at an edge"
        return not edges, f"regularisation of {', '.join(arms)} in dep: {words}"

    return gate


def oracle_gains(tables: Tables) -> tuple[bool, str]:
    """There is something to gain: the oracle ends below the best checkpoint of repetition, in every cell of `dep`."""
    mean = by_cell(tables("documents")).groupby(["seed", "arm"])["best"].mean().unstack()
    least = float((mean["repetition"] - mean["oracle"]).min())
    return least >= GAIN, f"the oracle gains at least {least:.2f} nats over repetition, {GAIN:g} needed"


def no_worse(tables: Tables) -> tuple[bool, str]:
    """Pairs can only be credited with a gain: SBP ends no higher than repetition and than samples without a seed."""
    mean = by_cell(tables("documents")).groupby("arm")["best"].mean()
    gaps = {other: float(mean[ARM] - mean[other]) for other in ("repetition", "uncond")}
    words = ", ".join(f"{gap:+.2f} nats against {other}" for other, gap in gaps.items())
    return max(gaps.values()) <= 0, f"SBP ends {words}, at most 0 needed"


def seen_early(tables: Tables) -> tuple[bool, str]:
    """A curve has a point near the place where K6 looks."""
    steps = tables("curves")["step"]
    place = float(min(steps.unique() / steps.max(), key=lambda share: abs(share - EARLY)))
    return abs(place - EARLY) <= 0.02, f"curves are read at {place:.1%} of the training, {EARLY:.0%} ± 2 % needed"


def spread(tables: Tables) -> tuple[bool, str]:
    """The ladder of synthesizers is long enough, and its best one can write."""
    table = tables("quality_by_size")
    times = float(table["flops"].max() / table["flops"].min())
    holds, words = _enough(
        float(table.groupby(["world", "seed"])["possible"].max().min()), "the best synthesizer's raw samples"
    )
    return (
        times >= SPAN and holds,
        f"the largest synthesizer takes {times:.1f} times the smallest's FLOPs, {SPAN:g} needed; {words}",
    )


def both_write(tables: Tables) -> tuple[bool, str]:
    """Synthesizers of both sizes write documents that their world can make."""
    return _enough(float(tables("share_sweep").query("arm == @ARM")["possible"].min()), "the raw samples of both sizes")


def _enough(least: float, whose: str) -> tuple[bool, str]:
    return least >= POSSIBLE, f"of {whose} at least {100 * least:.0f} % are possible, {100 * POSSIBLE:.0f} needed"

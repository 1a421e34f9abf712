"""What must hold before a claim is decided, and what must fail its rule: gates and controls of `claims.yaml`, measured.

A gate says whether the regime is the one that its claim is about: the world is too large for the small decoder and not for the large
one, baselines are tuned and learn, masks depend on the prompt. A control is evidence of the same kind from where the claimed cause is
absent: a world in which all domains share everything, random masks, one mask for everybody, masks of another domain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orchard.evidence import Evidence, Tables
from orchard.papers.ifpruning.experiments import ablations, comparison, speed
from orchard.papers.ifpruning.experiments.arms import EPSILON, MULTIPLIERS
from orchard.papers.ifpruning.method.overlap import collapsed

Gate = Callable[[Tables], tuple[bool, str]]

FULL = 1.5  # bits of facts per active parameter of dense_k, at least
LEARNED = 0.9  # right answers of dense_D: the world can be learned in these steps
STEPS = 0.5  # of the gap between dense_k and dense_D that 1.8 times the pre-training may close: more would be speed of learning
EQUAL = 0.02  # right answers that one mask may be behind dense_k, the margin of C1n
ANSWERS = 0.5  # right answers of an arm that works
CEILING = 0.98  # right answers of dense_k from which two arms are equal by having learned everything
MATTER = 0.1  # right answers lost with the masks of another domain
LARGER = 0.05  # by which dense_D is ahead of dense_k
TRIALS = 6  # of HardConcrete
VARIED = 0.1  # range of overlaps and of right answers over the runs of a grid
GRID = 12  # runs of it


def every(*gates: Gate) -> Gate:
    """The gate that holds where all of these do; what was found of each, those that fail first."""

    def asked(tables: Tables) -> tuple[bool, str]:
        found = sorted((gate(tables) for gate in gates), key=lambda one: one[0])
        return all(holds for holds, _ in found), "; ".join(said for _, said in found)

    return asked


def _mean(tables: Tables, arm: str, variant: str = "win", column: str = "test") -> float:
    """The mean of a column of the table `arms` over seeds; NaN, which meets no gate, where the arm was not run."""
    table = tables("arms").query("variant == @variant and arm == @arm")
    return float(table[column].mean())


def full(tables: Tables, variant: str = "win") -> tuple[bool, str]:
    """The facts are as many as dense_k is expected to hold, 1 to 2 bits per parameter."""
    own = tables("arms")
    bits = float(own[own["variant"] == variant]["bits"].max())
    each = bits / _mean(tables, "dense_k", column="active_parameters")
    return each >= FULL, f"{each:.2f} bits of facts per parameter of dense_k ({FULL} needed)"


def not_steps(tables: Tables) -> tuple[bool, str]:
    """The large decoder has learned the world, and what the small one lacks is not steps alone."""
    base, large = _mean(tables, "dense_k"), _mean(tables, "dense_D")
    closed = (_mean(tables, "dense_k_long") - base) / (large - base)
    said = f"dense_D answers {large:.2f} ({LEARNED} needed)"
    said += f"; 1.8 times the pre-training closes {closed:.2f} of its lead on dense_k (at most {STEPS})"
    return base < large and large >= LEARNED and closed <= STEPS, said


def tuned(*families: str, trials: int = 1) -> Gate:
    """What is compared was tuned, and its best value is on no edge of its grid."""

    def asked(tables: Tables) -> tuple[bool, str]:
        table, holds, said = tables("rates"), True, []
        tried = 0
        for family in families:
            grid = table[(table["family"] == family) & (table["score"].notna())].sort_values("value")
            best = grid[grid["chosen"]]["value"]
            inside = len(grid) > 1 and bool(grid["value"].min() < best.iloc[0] < grid["value"].max())
            holds, tried = holds and inside, tried + len(grid)
            where = f"at {best.iloc[0]:g}" if inside else "on the edge of its grid" if len(grid) > 1 else "not tuned"
            said.append(f"{family} {where}")
        return holds and tried >= trials, f"best of {tried} trials: {', '.join(said)}"

    return asked


def below_ceiling(tables: Tables) -> tuple[bool, str]:
    """Where everything is shared dense_k works and has not learned everything."""
    right = _mean(tables, "dense_k", "null")
    said = f"dense_k answers {right:.2f} where all is shared ({ANSWERS} to {CEILING} needed)"
    return ANSWERS <= right <= CEILING, said


def static_learns(tables: Tables) -> tuple[bool, str]:
    """One mask for everybody is no worse than a small decoder that was never pruned."""
    base, static, distilled = (_mean(tables, arm) for arm in ("dense_k", "static", "static_kd"))
    said = f"static {static:.3f} and static_kd {distilled:.3f} beside dense_k {base:.3f} (at most {EQUAL} below)"
    return static >= base - EQUAL and distilled >= base - EQUAL, said


def answers(arm: str, variant: str = "win") -> Gate:
    """An arm works."""

    def asked(tables: Tables) -> tuple[bool, str]:
        right = _mean(tables, arm, variant)
        return right >= ANSWERS, f"{arm} answers {right:.2f} ({ANSWERS} needed)"

    return asked


def selects(arm: str = "ifp", variant: str = "win") -> Gate:
    """The masks of an arm depend on what is asked."""

    def asked(tables: Tables) -> tuple[bool, str]:
        gauge = {name: _mean(tables, arm, variant, name) for name in ("across", "union", "chance")}
        said = f"masks of {arm} overlap {gauge['across']:.2f} across domains, {gauge['union']:.2f} of the channels are in use"
        return gauge["union"] > 0 and not collapsed(gauge), said

    return asked


def masks_matter(tables: Tables) -> tuple[bool, str]:
    """With the masks of another domain ifp answers otherwise."""
    lost = _mean(tables, "ifp") - _mean(tables, "ifp", column="swapped")
    return lost >= MATTER, f"masks of another domain cost ifp {lost:.2f} ({MATTER} needed)"


def larger_is_better(tables: Tables) -> tuple[bool, str]:
    """The unpruned source holds more than the small decoder: there is something to recover."""
    gap = _mean(tables, "dense_D") - _mean(tables, "dense_k")
    return gap >= LARGER, f"dense_D is {gap:+.3f} ahead of dense_k ({LARGER} needed)"


def grid_varies(tables: Tables) -> tuple[bool, str]:
    """The runs of the grid differ in what is correlated."""
    table = tables("initial_spread")
    ranges = {name: float(table[name].max() - table[name].min()) for name in ("within", "right")}
    said = f"{len(table)} runs ({GRID} needed), overlap within a domain varies by {ranges['within']:.2f}"
    said += f", right answers by {ranges['right']:.2f} ({VARIED} needed)"
    return len(table) >= GRID and min(ranges.values()) >= VARIED, said


_memory = (full, not_steps)
GATES: dict[str, Gate] = {
    "C1": every(*_memory, tuned("dense_k")), "C1s": every(*_memory, tuned("dense_k")),
    "C1f": every(*_memory, tuned("dense_k_long")), "C1n": every(partial(full, variant="null"), below_ceiling),
    "C2": every(*_memory, static_learns, tuned("static_kd", EPSILON)),
    "C2s": every(partial(full, variant="kin"), answers("rand_lsh", "kin"), selects(variant="kin"), tuned("rand_lsh")),
    "C3": every(*_memory, larger_is_better, tuned("dense_D")), "C4": every(full, larger_is_better, selects()),
    "C5": every(selects(), masks_matter), "C6a": every(selects(), masks_matter), "C6a2": every(selects(), masks_matter),
    "C6b": every(selects(), masks_matter), "C6c": answers("ifp"), "C6d": answers("ifp"),
    "C7": speed.quiet, "C7b": speed.quiet, "C9": speed.quiet,
    "C8": every(answers("ifp_sft_only"), answers("ifp_sft_short"), tuned("ifp_sft_only")),
    "C10": every(selects("hard_concrete"), tuned("hard_concrete", MULTIPLIERS, trials=TRIALS)), "C11": grid_varies, "C11b": grid_varies,
}  # fmt: skip

CONTROLS: dict[str, Evidence] = {
    "C1": partial(comparison.beats_dense, variant="null"), "C1s": partial(comparison.beats_dense_by_seed, variant="null"),
    "C1f": partial(comparison.beats_longer, variant="null"), "C1n": partial(comparison.nothing_to_gain, variant="win"),
    "C2": partial(comparison.beats_static, variant="null"), "C2s": partial(comparison.learned_selection, first="rand_mask"),
    "C3": partial(comparison.recovery, arm="static_kd"), "C4": partial(ablations.grows_with_source, score="swapped"),
    "C5": comparison.masks_matter, "C6a": partial(comparison.structure, arm="rand_mask"),
    "C6a2": partial(comparison.above_chance, arm="rand_mask"), "C6b": partial(comparison.early_layers_agree, arm="rand_mask"),
    "C6c": comparison.collapse_is_seen, "C6d": partial(comparison.masks_matter, variant="null"),
    "C7": partial(speed.ratio, column="rebuilt"), "C7b": partial(speed.ratio, column="masked decode"),
    "C8": partial(comparison.pretraining_matters, first="dense_k"), "C9": partial(speed.ratio, column="dense", allowed=1.1),
    "C10": comparison.beats_one_mask, "C11": partial(ablations.consistency, overlap="across"),
    "C11b": partial(ablations.consistency_by_chance, overlap="across"),
}  # fmt: skip

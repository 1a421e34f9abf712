"""What synthesis gave, arm by arm: how fast, and what the rules reject of it and of real documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from orchard.papers.sbp.experiments import comparison
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, cells, world
from orchard.papers.sbp.method.rules import GopherRules
from orchard.papers.sbp.runs.filter import Filter, RealRules
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.runs import Runner, Setting

# ------------------------------------------------------------------------------- what synthesis gave, arm by arm


def _filtered(setting: Setting, run: Runner) -> Iterator[tuple[Cell, str, Filter.Config]]:
    """The synthetic arms of the comparison."""
    for cell, arm, _, cfg, _ in comparison.finished(setting, run):
        if isinstance(cfg.mix.synthetic, Filter.Config):
            yield cell, arm, cfg.mix.synthetic


def throughput(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per run of synthesis: variant, world, seed, arm, documents, tokens, seconds (of the clock), tokens_per_s, device."""
    rows = []
    for cell, arm, cfg in _filtered(setting, run):
        if isinstance(cfg.sampled, Synthesise.Config):
            done = run([cfg.sampled])[0]
            rows.append({
                "variant": cell.variant, "world": cell.world, "seed": cell.seed, "arm": arm,
                "documents": done.result["documents"], "tokens": done.result["tokens"], **done.provenance["sampling"],
                "device": done.provenance["hardware"]["device"],
            })  # fmt: skip
    return pd.DataFrame(rows)


REAL = "real, held out"


def _judged(setting: Setting, run: Runner) -> list[tuple[Cell, dict[str, Any]]]:
    """The rules on the real documents of every cell."""
    profile, chosen = PROFILES[setting.profile], cells(setting)
    cfgs = [
        RealRules.Config(corpus=world(setting, cell.variant, cell.world), held_out=profile.held_out, label=f"rules on real; {cell.name}")
        for cell in chosen
    ]  # fmt: skip
    return [(cell, done.result) for cell, done in zip(chosen, run(cfgs), strict=True)]


def rejections(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and reason: variant, world, seed, arm, reason, documents, share (of the sampled documents).

    The arm `REAL` is held-out documents under the same rules, as if they had been sampled: what the rules cost the innocent.
    """
    rows = []
    for cell, arm, cfg in _filtered(setting, run):
        rows += _shares(cell, arm, run([cfg])[0].result["rejections"])
    for cell, judged in _judged(setting, run):
        rows += _shares(cell, REAL, judged["rejections"])
    return pd.DataFrame(rows)


def _shares(cell: Cell, arm: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    about = {"variant": cell.variant, "world": cell.world, "seed": cell.seed, "arm": arm}
    total = sum(counts.values())
    order = [name for name in GopherRules.reasons if name in counts]
    return [{**about, "reason": name, "documents": counts[name], "share": counts[name] / total} for name in order]


def rules_on_real(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per world and rule: variant, rule, share of the documents of D that break it, Gopher's rules among them.

    Why the bound on repetition is a percentile of D: fixed bounds reject much of one world and nothing of another.
    """
    first = {cell.variant: judged for cell, judged in reversed(_judged(setting, run))}
    return pd.DataFrame([
        {"variant": variant, "rule": name, "share": share}
        for variant, judged in reversed(first.items())
        for name, share in judged["broken"].items()
    ])  # fmt: skip


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "sampling_throughput": throughput,
    "rejections": rejections,
    "rules_on_real": rules_on_real,
}

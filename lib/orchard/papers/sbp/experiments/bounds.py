"""What documents and pairs can tell at most, and four-way cloze beside the best possible choice: tables of `runs.bounds`, `runs.cloze`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from orchard.papers.sbp.data.world import VARIANTS
from orchard.papers.sbp.experiments.comparison import COMPARED, studies
from orchard.papers.sbp.experiments.profiles import PROFILES, world
from orchard.papers.sbp.runs.bounds import Information, bounds_of
from orchard.papers.sbp.runs.cloze import Cloze
from orchard.runs import Runner, Setting


def bounds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world, size of D and bound: variant, world, seed (of the world), documents, per_concept, tokens, bound
    (``labels`` or ``em``), excess (nats per test document above Bayes), bayes."""
    profile = PROFILES[setting.profile]
    wanted = [
        (variant, number, each * profile.concepts)
        for variant in profile.variants
        for number in profile.worlds
        for each in profile.per_concept
    ]
    cfgs = [
        bounds_of(world(setting, variant, number, count), profile.held_out, f"{variant}, world {number}, {count} documents")
        for variant, number, count in wanted
    ]  # fmt: skip
    rows = []
    for (variant, number, _), done in zip(wanted, run(cfgs), strict=True):
        facts = {key: done.result[key] for key in ("documents", "per_concept", "tokens", "bayes")}
        about = {"variant": variant, "world": number, "seed": number, **facts}
        rows += [{**about, "bound": bound, "excess": done.result[bound]} for bound in ("labels", "em")]
    return pd.DataFrame(rows)


def information(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world and precision of the pairs: gain and its standard error (nats per document), entropy H(c), concepts."""
    wanted = [(variant, number) for variant in VARIANTS for number in PROFILES[setting.profile].worlds]
    cfgs = [
        Information.Config(corpus=world(setting, *which), label=f"what a pair can tell; {which[0]}, world {which[1]}")
        for which in wanted
    ]
    rows = []
    for (variant, number), done in zip(wanted, run(cfgs), strict=True):
        whole = {"entropy": done.result["entropy"], "concepts": done.result["concepts"]}
        rows += [{"variant": variant, "world": number, **row, **whole} for row in done.result["rows"]]
    return pd.DataFrame(rows)


def cloze(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and cell: variant, world, seed, arm, accuracy (last checkpoint), items; arms ``Bayes`` and ``exact law`` too."""
    wanted = [(cell, arm, chosen.arm(arm)) for cell, chosen in studies(setting, run) for arm in COMPARED]
    cfgs = [Cloze.Config(pretrained=cfg, label=f"cloze; {cfg.label}") for *_, cfg in wanted]
    rows: list[dict[str, Any]] = []
    for (cell, arm, _), done in zip(wanted, run(cfgs), strict=True):
        where = {"variant": cell.variant, "world": cell.world, "seed": cell.seed, "items": done.result["items"]}
        found = {arm: done.result["accuracy"]}
        if arm == COMPARED[0]:
            found |= {"Bayes": done.result["ceiling"], "exact law": done.result["law"]}
        rows += [{**where, "arm": name, "accuracy": value} for name, value in found.items()]
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "bounds": bounds, "information": information, "cloze": cloze,
}  # fmt: skip

"""What documents and pairs can tell at most, and four-way cloze beside the best possible choice: tables of `runs.bounds`, `runs.cloze`."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from orchard.papers.sbp.data.world import VARIANTS
from orchard.papers.sbp.experiments.arms import COMPARED, ran
from orchard.papers.sbp.experiments.comparison import studies
from orchard.papers.sbp.experiments.profiles import PROFILES, world
from orchard.papers.sbp.runs.bounds import Bounds, Information
from orchard.papers.sbp.runs.cloze import Cloze
from orchard.runs import Runner, Setting


def bounds(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world, size of D and bound: variant, world, seed (of the world), documents, per_concept, tokens, bound
    (``labels`` or ``em``), excess (nats per test document above Bayes), bayes."""
    profile = PROFILES[setting.profile]
    wanted = []
    for variant, number, each in product(profile.variants, profile.worlds, profile.per_concept):
        count, about = each * profile.concepts, {"variant": variant, "world": number, "seed": number}
        label = f"what documents can tell; {variant}, world {number}, {count} documents"
        corpus = world(setting, variant, number, count)
        wanted.append((about, Bounds.Config(corpus=corpus, held_out=profile.held_out, label=label)))
    facts = ("documents", "per_concept", "tokens", "bayes")
    return pd.DataFrame([
        {**about, **{key: done.result[key] for key in facts}, "bound": bound, "excess": done.result[bound]}
        for about, done in ran(run, wanted) for bound in ("labels", "em")
    ])  # fmt: skip


def information(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per variant, world and precision of the pairs: gain and its standard error (nats per document), entropy H(c), concepts."""
    wanted = []
    for variant, number in product(VARIANTS, PROFILES[setting.profile].worlds):
        label = f"what a pair can tell; {variant}, world {number}"
        cfg = Information.Config(corpus=world(setting, variant, number), label=label)
        wanted.append(({"variant": variant, "world": number}, cfg))
    rows = []
    for about, done in ran(run, wanted):
        whole = {"entropy": done.result["entropy"], "concepts": done.result["concepts"]}
        rows += [{**about, **row, **whole} for row in done.result["rows"]]
    return pd.DataFrame(rows)


def cloze(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and cell: variant, world, seed, arm, accuracy (last checkpoint), items; arms ``Bayes`` and ``exact law`` too."""
    trained = [(cell, arm, chosen.arm(arm)) for cell, chosen in studies(setting, run) for arm in COMPARED]
    wanted = [(cell, arm, Cloze.Config(pretrained=cfg, label=f"cloze; {cfg.label}")) for cell, arm, cfg in trained]
    rows: list[dict[str, Any]] = []
    for cell, arm, done in ran(run, wanted):
        found = {arm: done.result["accuracy"]}
        if arm == COMPARED[0]:
            found |= {"Bayes": done.result["ceiling"], "exact law": done.result["law"]}
        where = {**cell.columns, "items": done.result["items"]}
        rows += [{**where, "arm": name, "accuracy": value} for name, value in found.items()]
    return pd.DataFrame(rows)

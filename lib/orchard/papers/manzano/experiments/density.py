"""How much text a code has to hold: strips of text alone at k = 1, 2, 3, 6 characters a token, one tokenizer for each (M2's dose-response).

rho = log2(codes) / (k log2 A)        A characters of the alphabet; below 1 no code can hold its text, and hybrid wins by counting:
                                      at most `data.scene_world.readable` of the characters can be read, whoever reads
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from orchard.evidence import Tables, difference, paired, together
from orchard.papers.manzano.data.scene_world import readable
from orchard.papers.manzano.experiments.arms import BASELINE, DISCRETE, Study, studies, untuned
from orchard.papers.manzano.experiments.strategies import better, items, with_baseline
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.runs import Run, Runner, Setting

COMPETENT = 0.90  # characters through the continuous adapter: what is needed of a density, in every seed
COLUMNS = ["seed", "k", "codes", "arm", "unit", "value", "baseline"]


def _cells(few: Sequence[Study]) -> list[Study]:
    profile = few[0].profile
    cells = [study.strips(k, profile.levels) for study in few for k in profile.strips.densities]
    return cells + [few[0].strips(profile.world.k, levels) for levels in profile.strips.more_levels]


def _about(study: Study) -> dict[str, Any]:
    return {"seed": study.seed, "k": study.shown.k, "codes": codebook_size(study.codebook)}


def density(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per strip: seed, k, codes, arm ("_other": shown another picture), unit, value (share of characters), baseline."""
    cells = _cells(studies(setting, run, few=True))
    wanted: list[tuple[dict[str, Any], Run.Config]] = []
    for study, chosen in zip(cells, better(run, cells), strict=True):
        for arm in ("hybrid", *DISCRETE):
            about = _about(study) | {"baseline": arm == chosen}
            for name, other in ((arm, False), (f"{arm}_other", True)):
                wanted.append((about | {"arm": name}, study.answers(arm, other=other)))
    return items(run, wanted, COLUMNS)


def density_tokenizers(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per tokenizer of strips and adapter: seed, k, codes, adapter, accuracy (characters), settled, steps, rho, bound, counting,
    kept (whether its density stays in the sweep)."""
    cells = _cells(untuned(setting, few=True))
    rows = []
    for study, done in zip(cells, run([study.tokenizer() for study in cells]), strict=True):
        about, k, stream = _about(study), study.shown.k, f"read k{study.shown.k}"
        rho = math.log2(codebook_size(study.codebook)) / (k * math.log2(study.shown.alphabet))
        for adapter in ("continuous", "discrete"):
            rows.append(about | {
                "adapter": adapter, "accuracy": done.result["scores"][stream][adapter]["accuracy"],
                "settled": done.result["settled"][f"{adapter}/{stream}"], "steps": study.lessons[-1].until, "rho": rho,
                "bound": readable(codebook_size(study.codebook), k, study.shown.alphabet), "counting": rho < 1 - 1e-9,
            })  # fmt: skip
    table = pd.DataFrame(rows)
    worst = table.query("adapter == 'continuous'").groupby(["k", "codes"])["accuracy"].min().to_dict()
    return table.assign(kept=[worst[key] >= COMPETENT for key in zip(table["k"], table["codes"], strict=True)])


def gaps(table: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """Hybrid minus pure discrete, strip by strip: k, codes, seed, unit, value; ``suffix`` "_other" where another picture was shown."""
    parts = []
    for k, codes in table[["k", "codes"]].drop_duplicates().to_numpy().tolist():
        own = with_baseline(table[(table["k"] == k) & (table["codes"] == codes)])
        found = paired(own, "arm", f"hybrid{suffix}", f"{BASELINE}{suffix}", units=["unit"], value="value", part="gap")
        parts.append(found.assign(k=k, codes=codes))
    return pd.concat(parts, ignore_index=True)[["k", "codes", "seed", "unit", "value"]]


def gap_at(tables: Tables, k: int) -> pd.DataFrame:
    """The gap at a density with as many codes as elsewhere, as evidence: the control of M1a at k = 1."""
    table = _of_main(tables("density"))
    return gaps(table).query("k == @k").assign(part=f"k = {k}")


def grows(tables: Tables, suffix: str = "", low: int = 1, high: int = 3) -> pd.DataFrame:
    """M2c: the gap at three characters a token minus that at one."""
    found = gaps(_of_main(tables("density")), suffix).set_index(["seed", "unit"])
    first, second = (found.query(f"k == {k}")["value"] for k in (high, low))
    if first.empty or second.empty:
        return together([])
    return difference(first, second, part=f"k = {high} - k = {low}")


def _of_main(table: pd.DataFrame) -> pd.DataFrame:
    """Without the further codebooks, which were trained at one density alone."""
    counts = table.groupby("codes")["k"].nunique()
    return table[table["codes"] == counts.idxmax()]

"""Editing: who sees the picture that is edited (M9). An edit succeeds where its cells are as wanted and the rest is as it was.

success = right and error outside of the mask < tau        tau: twice the error outside of true codes through the same decoder
"""

from __future__ import annotations

import pandas as pd

from orchard.evidence import Tables, paired
from orchard.papers.manzano.experiments.arms import PROFILES, Shuffled, Study, studies
from orchard.runs import Runner, Setting

SEES = ("language model", "decoder", "both")  # the arms: who sees the reference
TRUE = "true codes"
NOTHING: Shuffled = "nothing"
SHUFFLED: tuple[Shuffled, ...] = ("reference", "instruction")
TAU = 2.0
COLUMNS = ["seed", "arm", "shuffled", "kind", "unit", "right", "inside", "outside", "tau", "success"]


def _keys(few: list[Study]) -> list[tuple[Study, str, Shuffled]]:
    arms: list[tuple[str, Shuffled]] = [(arm, NOTHING) for arm in (*SEES, TRUE)] + [("both", what) for what in SHUFFLED]
    return [(study, arm, shuffled) for study in few for arm, shuffled in arms]


def edits(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per edit: seed, arm, shuffled, kind, unit (kind and row of the scene), right, inside, outside, tau, success."""
    keys = _keys(studies(setting, run, few=True))
    parts = []
    for (study, arm, shuffled), done in zip(keys, run([study.edits(arm, what) for study, arm, what in keys]), strict=True):  # fmt: skip
        kept = done.tensors("edits")
        for kind in PROFILES[setting.profile].edits:
            columns = {name: kept[f"{kind}/{name}"].double().numpy() for name in ("right", "inside", "outside")}
            unit = [f"{kind} {row}" for row in kept[f"{kind}/row"].tolist()]
            parts.append(pd.DataFrame(columns).assign(unit=unit, kind=kind, seed=study.seed, arm=arm, shuffled=shuffled))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    tau = TAU * table[table["arm"] == TRUE].groupby("seed")["outside"].mean()
    table["tau"] = table["seed"].map(tau)
    table["success"] = ((table["right"] == 1) & (table["outside"] < table["tau"])).astype(float)
    return table[COLUMNS]


def edit_gallery(setting: Setting, run: Runner) -> pd.DataFrame:
    """The first edits of the first seed: arm, kind, number, side (source, target, made), pixels (hex of uint8 [height, width, 3])."""
    keys = [key for key in _keys(studies(setting, run, few=True)[:1]) if key[2] == NOTHING]
    rows = []
    for (study, arm, _), done in zip(keys, run([study.edits(arm) for study, arm, _ in keys]), strict=True):
        for name, pictures in done.tensors("pictures").items():
            kind, side = name.split("/")
            for number, picture in enumerate(pictures.numpy()):
                about = {"seed": study.seed, "arm": arm, "kind": kind, "number": number, "side": side}
                rows.append(about | {"pixels": picture.tobytes().hex()})
    return pd.DataFrame(rows)


def edit_reader(setting: Setting, run: Runner) -> pd.DataFrame:
    """Whether the language model that edits knows what stands in a cell: seed, accuracy (slots of objects)."""
    few = studies(setting, run, few=True)
    done = run([study.edit_reader() for study in few])
    return pd.DataFrame([
        {"seed": study.seed, "accuracy": one.result["objects"]["accuracy"]} for study, one in zip(few, done, strict=True)
    ])  # fmt: skip


# ---------------------------------------------------------------------- evidence


def _better(table: pd.DataFrame, column: str, names: tuple[str, ...]) -> pd.DataFrame:
    """Of every seed the rows of the name with more success."""
    own = table[table[column].isin(names)]
    best = own.groupby(["seed", column])["success"].mean().unstack().idxmax(axis=1)
    return own[own[column] == own["seed"].map(best)]


def both_needed(tables: Tables, shuffled: bool = False) -> pd.DataFrame:
    """M9: both see the reference, minus the better of the arms in which one does. ``shuffled``, the control: both see it, but either the
    decoder's or the instruction is another's, whichever has more success."""
    table = tables("edits")
    plain = table[table["shuffled"] == NOTHING]
    ours = _better(table, "shuffled", SHUFFLED) if shuffled else plain[plain["arm"] == "both"]
    theirs = _better(plain, "arm", SEES[:2])
    joined = pd.concat([ours.assign(side="both"), theirs.assign(side="one")], ignore_index=True)
    return paired(joined, "side", "both", "one", units=["unit"], value="success", part="both - one")

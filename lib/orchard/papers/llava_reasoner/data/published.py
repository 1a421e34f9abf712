"""What follows from the paper's own numbers: averages, gains, and where a total is not the sum of its parts.

Everything is computed from ``papers/llava_reasoner/published.csv`` (table, part, row, column, value, unit, tag): Tables 2 and
6 (3 in ACL), the appendix; part = prompt. No number has seeds or an interval.
"""

from __future__ import annotations

import pandas as pd

from orchard.data.published import published
from orchard.errors import BadInput, closest

TABLES = ("Table 2", "DPO table")  # of all eight sets with their average
ROUNDED = 0.05  # half of the last digit printed


def table(name: str, part: str | None = None) -> pd.DataFrame:
    """A table as printed: index (part, row), sets across. Raises BadInput for a table or part that there is not."""
    rows = published("llava_reasoner")
    for column, wanted in (("table", name), ("part", part)):
        if wanted is not None and wanted not in set(rows[column]):
            raise BadInput(f"published.csv has no {column} {wanted!r}; {closest(wanted, set(rows[column]))}")
        rows = rows if wanted is None else rows[rows[column] == wanted]
    wide = rows.pivot(index=["part", "row"], columns="column", values="value")
    order = pd.MultiIndex.from_frame(rows[["part", "row"]].drop_duplicates())
    return wide.reindex(index=order, columns=pd.unique(rows["column"])).rename_axis(columns=None)


def averages() -> pd.DataFrame:
    """S5: every printed average of eight sets beside their mean: table, prompt, model, printed, follows, difference, agrees."""
    found = []
    for name in TABLES:
        scores = table(name)
        rows = pd.DataFrame({"printed": scores["average"], "follows": scores.drop(columns="average").mean(axis=1)})
        found.append(rows.rename_axis(["prompt", "model"]).reset_index().assign(table=name))
    rows = pd.concat(found, ignore_index=True)[["table", "prompt", "model", "printed", "follows"]]
    rows["difference"] = rows["follows"] - rows["printed"]
    return rows.assign(agrees=rows["difference"].abs() <= ROUNDED + 1e-9)


def gains() -> pd.DataFrame:
    """Points over another model, by prompt (L1, L2, L4 over format, L6 and L7 over SFT): claim, model, over, prompt, then the sets."""
    scores = pd.concat([table(name) for name in TABLES])
    pairs = (
        ("L1", "direct", "format"), ("L2", "CoT", "format"), ("L4", "SFT", "format"), ("L6", "DPO", "SFT"), ("L7", "DPO, RLAIF-V", "SFT"),
    )  # fmt: skip
    found = [
        {"claim": claim, "model": model, "over": over, "prompt": prompt}
        | (scores.loc[(prompt, model)] - scores.loc[(prompt, over)]).round(1).to_dict()
        for claim, model, over in pairs
        for prompt in ("direct", "CoT")
    ]
    return pd.DataFrame(found)


def totals() -> pd.DataFrame:
    """The stated sizes of the two data sets beside the sums of their parts, thousands: data, printed, follows, difference, agrees."""
    found = []
    for part, column in (("distilled", "chains"), ("pairs", "pairs")):
        sizes = table("data", part)[column].droplevel("part")
        found.append({"data": part, "printed": sizes["stated total"], "follows": sizes.drop("stated total").sum()})
    rows = pd.DataFrame(found).assign(difference=lambda rows: rows["follows"] - rows["printed"])
    return rows.assign(agrees=rows["difference"].abs() <= 0.5)  # rounded to whole thousands

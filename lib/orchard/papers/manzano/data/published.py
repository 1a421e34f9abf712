"""What follows from the paper's own numbers, and where they contradict one another or the text.

    GenEval = mean of its six tags        WISE = 0.4 culture + 0.167 time + 0.133 space + 0.1 (biology + physics + chemistry)

Everything is computed from ``papers/manzano/published.csv`` (table, part, row, column, value, unit, tag): Tables 1 to 3, Figures 5 and 6.
No number has seeds or an interval. Which panel of Figure 5 is which was inferred, the weights of WISE are recalled.
"""

from __future__ import annotations

import pandas as pd

from orchard.data.published import published
from orchard.errors import BadInput, closest

METRICS = ("General", "Knowledge", "Text-rich", "GenEval", "DPG", "WISE")
GENEVAL = ("single object", "two objects", "counting", "colors", "position", "color attribution")
ROUNDED = 0.005  # half of the last digit printed in Table 3


def table(name: str, part: str | None = None) -> pd.DataFrame:
    """A table or figure as printed: its rows downwards, its columns across. Raises BadInput for a table or part that there is not."""
    rows = published("manzano")
    for column, wanted in (("table", name), ("part", part)):
        if wanted is not None and wanted not in set(rows[column]):
            raise BadInput(f"published.csv has no {column} {wanted!r}; {closest(wanted, set(rows[column]))}")
        rows = rows if wanted is None else rows[rows[column] == wanted]
    wide = rows.pivot(index="row", columns="column", values="value")
    wide = wide.reindex(index=pd.unique(rows["row"]), columns=pd.unique(rows["column"]))
    return wide.rename_axis(index=None, columns=None)


def _beside(printed: pd.Series, follows: pd.Series, slack: float) -> pd.DataFrame:
    found = pd.DataFrame({"printed": printed, "follows": follows}).dropna()
    found["difference"] = found["follows"] - found["printed"]
    return found.assign(agrees=found["difference"].abs() <= slack + 1e-9)


def geneval_means() -> pd.DataFrame:
    """Table 3, by model: the overall score that is printed, the mean of its six tags, their difference, whether rounding explains it, and
    ``colors_needed``, what the tag of colours would have to be for the printed overall score."""
    rows = table("Table 3", "GenEval")
    tags = rows[list(GENEVAL)]
    found = _beside(rows["GenEval"], tags.mean(axis=1), 2 * ROUNDED)
    return found.assign(
        colors=rows["colors"], colors_needed=6 * rows["GenEval"] - tags.drop(columns="colors").sum(axis=1)
    )


def wise_means() -> pd.DataFrame:
    """Table 3, by model: the printed overall score of WISE, the weighted mean of its six parts, and whether rounding explains it."""
    rows, weights = table("Table 3", "WISE"), table("weights", "WISE").loc["overall"]
    return _beside(rows["WISE"], (rows[weights.index] * weights).sum(axis=1, skipna=False), 2 * ROUNDED)


def strategies() -> pd.DataFrame:
    """Table 1, hybrid minus each other tokenizer, points: positive where the hybrid one is ahead."""
    rows = table("Table 1")[list(METRICS)]
    return (rows.loc["Hybrid"] - rows.drop(index="Hybrid")).round(2)


def _listed(gaps: pd.Series) -> str:
    return ", ".join(f"{metric} {gap:+.1f}" for metric, gap in gaps.items()) or "none"


def contradictions() -> pd.DataFrame:
    """What was printed or said beside what follows from other numbers of the paper: what, printed, against, agrees, remark."""
    geneval, wise, ahead = geneval_means(), wise_means(), strategies()
    joint, limit = table("Figure 5"), table("text")["gap below"].astype(float)["3B"]
    rows: list[tuple[str, object, object, bool, str]] = [
        (f"GenEval of {model}", row["printed"], round(row["follows"], 3), bool(row["agrees"]),
         f"mean of six tags; colors is {row['colors']:.2f}, {row['colors_needed']:.2f} would give the printed score")
        for model, row in geneval.iterrows()
    ]  # fmt: skip
    rows += [
        (
            f"WISE of {model}",
            row["printed"],
            round(row["follows"], 3),
            bool(row["agrees"]),
            "weighted mean of six parts",
        )
        for model, row in wise.iterrows()
    ]
    for other, gaps in ahead.iterrows():
        what, behind = f"hybrid is ahead of {str(other).lower()} on all tasks", gaps[gaps < 0]
        rows.append((what, "all", f"behind on: {_listed(behind)}", behind.empty, "text; Table 1"))
    wider = joint.T["3B"][joint.T["3B"].abs() >= limit]
    against, remark = f"not below: {_listed(wider)}", "text; Figure 5, panels inferred"
    rows.append(("unified against single-task, 3B", f"gap below {limit:g}", against, wider.empty, remark))
    return pd.DataFrame(rows, columns=["what", "printed", "against", "agrees", "remark"])

"""The paper's own numbers, what follows from them, and what its text says that its tables do not give.

    R = (IFP - dense 3B) / (dense 9B - dense 3B)        gap recovery: unit-free, and negative where pruning loses
    fall = 1 - time / time of the source model           of prefill, time to first token, decoding

Everything is computed from ``papers/ifpruning/published.csv`` (table, part, row, column, value, unit, tag), where each number has its
provenance: the paper's tables, its abstract, its figures read off (0.1 for lines, 0.01 for heat maps), closed forms, the authors' logs.
No number has seeds or an interval. Sections 4 and 5 of the paper, appendices A.1 and A.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchard.data.published import published
from orchard.errors import BadInput

SMALL, LARGE, STATIC = "dense 3B", "dense 9B", "prune+distill 3B"  # columns of Table 1
SIZES = ("6B", "9B", "12B")  # of the models that are pruned to 3B
AVERAGES = ("coding avg", "core-text avg", "translation avg")
PARTS = ("select", "load", "prefill", "decode")  # of one request, seconds
ROUNDED = 0.05  # half of the last digit printed in Tables 1 and 2


def _table(name: str) -> pd.DataFrame:
    rows = published("ifpruning")
    return rows[rows["table"] == name].drop(columns="table")


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the paper's table downwards, its columns across, both in the paper's order."""
    wide = rows.pivot(index="row", columns="column", values="value")
    return wide.reindex(index=pd.unique(rows["row"]), columns=pd.unique(rows["column"]))


def ifp(size: str) -> str:
    """Name of the model of ``size`` that is pruned to 3B, in Tables 1 to 3."""
    return f"IFP {size}→3B"


def widths() -> dict[str, int]:
    """Inner width D of the feed-forward layers by size (Table 4); that of the 3B model is k."""
    return {str(row): int(value) for row, value in shapes()["FFN width"].items()}


def shapes() -> pd.DataFrame:
    """Table 4: one row per size, columns width, layers, head dim, query heads, key-value heads, FFN width."""
    rows = _table("Table 4")
    return _wide(rows[rows["part"] == "shape"]).astype(int)


def table1() -> pd.DataFrame:
    """Table 1, scores in per cent: part and dataset down, models across."""
    rows = _table("Table 1")
    parts = rows.drop_duplicates("row").set_index("row")["part"]
    wide = _wide(rows)
    return wide.set_index(pd.MultiIndex.from_arrays([parts.loc[wide.index], wide.index], names=["part", "dataset"]))


def datasets() -> pd.DataFrame:
    """Table 1 by dataset, without the averages."""
    return table1().droplevel("part").drop(index=list(AVERAGES), errors="ignore")


def per_task() -> pd.DataFrame:
    """Table 2, one row per dataset and size of source: part, dataset, unit, size, dense (3B), per_input, per_task, gap (of the two)."""
    rows = _table("Table 2")
    wide, facts = _wide(rows), rows.drop_duplicates("row").set_index("row")
    tables = [
        pd.DataFrame({
            "part": facts["part"], "dataset": wide.index, "unit": facts["unit"], "size": size, "dense": wide[SMALL],
            "per_input": wide[f"{ifp(size)}, per input"], "per_task": wide[f"{ifp(size)}, per task"],
        })
        for size in SIZES
    ]  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    return table.assign(gap=table["per_input"] - table["per_task"])


def averages() -> pd.DataFrame:
    """Every printed average beside the mean of the rows above it: table, average, column, printed, mean, difference, agrees.

    Rows and average are rounded to one digit, so that they may be ``2 * ROUNDED`` apart and still come from the same scores."""
    found = []
    for name, average in zip(("Table 1", "Table 1", "Table 2"), AVERAGES, strict=True):
        rows = _table(name)
        wide = _wide(rows[rows["part"] == rows.loc[rows["row"] == average, "part"].iloc[0]])
        table = pd.DataFrame({"printed": wide.loc[average], "mean": wide.drop(average).mean()}).rename_axis("column")
        found.append(table.reset_index().assign(table=name, average=average))
    table = pd.concat(found, ignore_index=True)[["table", "average", "column", "printed", "mean"]]
    table = table.assign(difference=lambda rows: rows["mean"] - rows["printed"])
    return table.assign(agrees=table["difference"].abs() <= 2 * ROUNDED)


def changes(times: pd.DataFrame, source: str) -> pd.DataFrame:
    """Times of requests, and what they are against those of the model named ``source``.

    ``times``: one row per ``model``, columns select, load, prefill, decode (seconds; the first two are 0 for a dense model). Added:
    ttft and total (seconds), overhead (select + load, seconds), overhead share (per cent of total), fall of prefill, ttft, decode and
    total (per cent), ttft speed-up.

    Raises:
        BadInput: a column is missing, or no row has that model.
    """
    if lacking := [name for name in ("model", *PARTS) if name not in times.columns]:
        raise BadInput(f"the table of times lacks {', '.join(lacking)}: it has {', '.join(times.columns)}")
    if (times["model"] == source).sum() != 1:
        raise BadInput(f"no single row of the times is the source {source!r}: there are {', '.join(times['model'])}")
    table = times.assign(overhead=times["select"] + times["load"])
    if "ttft" not in table:
        table["ttft"] = table["overhead"] + table["prefill"]
    table["total"] = table["ttft"] + table["decode"]
    table["overhead share (%)"] = 100 * table["overhead"] / table["total"]
    reference = table[table["model"] == source].iloc[0]
    for name in ("prefill", "ttft", "decode", "total"):
        table[f"{name} fall (%)"] = 100 * (1 - table[name] / reference[name])
    return table.assign(**{"ttft speed-up": reference["ttft"] / table["ttft"]})


def latency() -> pd.DataFrame:
    """Tables 3 and A.5, one row per model: family, model, seconds by part, and what :func:`changes` adds.

    The source of ``IFP 9B→3B`` is ``dense 9B``. A family without a pruned model (the mixture of experts) is its own source. The time to
    first token is the printed one."""
    rows = pd.concat([_table("Table 3"), _table("Table A.5")])
    rows = rows[rows["unit"] == "s"]
    tables = []
    for family, part in rows.groupby("part", sort=False):
        wide = _wide(part).reindex(columns=["select", "load", "prefill", "TTFT", "decode"])
        times = wide.fillna({"select": 0.0, "load": 0.0}).rename(columns={"TTFT": "ttft"})
        times = times.rename_axis("model").reset_index()
        pruned = [name for name in times["model"] if "→" in name]
        source = f"dense {pruned[0].split()[1].split('→')[0]}" if pruned else times["model"].iloc[0]
        tables.append(changes(times, source).assign(family=family))
    table = pd.concat(tables, ignore_index=True).rename_axis(columns=None)
    return table[["family", *table.columns.drop("family")]]


def overlaps() -> pd.DataFrame:
    """Figure 3 as three symmetric matrices, one row per layer and ordered pair of sets: layer, row, column, overlap (mean |A and B| / k),
    row_block, column_block, chance (k / D, two random masks)."""
    rows = _table("Figure 3")
    blocks = rows[rows["part"] == "block"].set_index("row")["column"]
    pairs = rows[~rows["part"].isin(["block", "protocol"])][["part", "row", "column", "value"]]
    mirrored = pairs.rename(columns={"row": "column", "column": "row"})
    both = pd.concat([pairs, mirrored[mirrored["row"] != mirrored["column"]]])
    both = both.rename(columns={"part": "layer", "value": "overlap"})
    layers, sets = list(pd.unique(pairs["part"])), list(blocks.index)
    both = both.sort_values(["layer", "row", "column"], key=lambda names: names.map((layers + sets).index))
    width = widths()
    return both.assign(
        row_block=both["row"].map(blocks), column_block=both["column"].map(blocks), chance=width["3B"] / width["6B"]
    ).reset_index(drop=True)[["layer", "row", "column", "overlap", "row_block", "column_block", "chance"]]


def overlap_means(table: pd.DataFrame) -> pd.DataFrame:
    """Means of a table as :func:`overlaps` gives it, one row per layer: on and off the diagonal, within and across the blocks (off the
    diagonal), the smallest pair, chance. Each unordered pair counts once, as often as it is in a symmetric matrix over two."""
    found = []
    for layer, part in table.groupby("layer", sort=False):
        own = part["row"] == part["column"]
        within = part["row_block"] == part["column_block"]
        values = part["overlap"]
        found.append({
            "layer": layer, "diagonal": values[own].mean(), "off_diagonal": values[~own].mean(),
            "within_blocks": values[~own & within].mean(), "across_blocks": values[~within].mean(),
            "smallest": values.min(), "chance": part["chance"].iloc[0],
        })  # fmt: skip
    return pd.DataFrame(found)


def gap_recovery() -> pd.DataFrame:
    """R of Table 1, one row per dataset or average and size of source: part, dataset, size, gap (dense 9B - dense 3B, points), recovery."""
    table = table1()
    gap = table[LARGE] - table[SMALL]
    recovery = {size: (table[ifp(size)] - table[SMALL]) / gap for size in SIZES}
    rows = [pd.DataFrame({"size": size, "gap": gap, "recovery": found}) for size, found in recovery.items()]
    return pd.concat(rows).reset_index()


def figure2() -> pd.DataFrame:
    """Figure 2, one row per benchmark, line and size: panel (the benchmark), line (dense: D grows and all of it is used; IFP: k of D),
    size, ratio (D / k), score (%)."""
    rows = _table("Figure 2").rename(columns={"row": "panel", "part": "line", "column": "size", "value": "score"})
    width = widths()
    rows["ratio"] = [width[size] / width["3B"] for size in rows["size"]]
    return rows[["panel", "line", "size", "ratio", "score"]].reset_index(drop=True)


Row = dict[str, object]


def _listed(values: Mapping[Any, float], digits: int) -> str:
    return "; ".join(f"{name} {value:.{digits}f}".replace(" -", " −") for name, value in values.items())


def _row(statement: str, text: str, tables: str, agreeing: int, compared: int, remark: str) -> Row:
    follows = "yes" if agreeing == compared else "in part" if agreeing else "no"
    return {
        "statement": statement, "text": text, "tables": tables, "agreeing": agreeing, "compared": compared, "follows": follows,
        "remark": remark,
    }  # fmt: skip


def _number(statement: str, ends: tuple[float, float], unit: str, values: Mapping[Any, float], remark: str) -> Row:
    """The row of a number, or of a range from one to another, and the values of the tables that should be it, or lie in it."""
    low, high = ends
    digits = max(len(f"{number:g}".partition(".")[2]) for number in ends)
    agreeing = int(sum(low <= round(value, digits) <= high for value in values.values()))
    text = f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"
    return _row(statement, text, _listed(values, digits + 1), agreeing, len(values), remark)


def text_against_tables() -> pd.DataFrame:
    """What the text says beside what the tables give: statement, text, tables, agreeing (of) compared values, follows, remark.

    A value agrees with the text when it is what the text says, or lies in the range that it gives, after rounding to the digits of the
    text. ``follows`` is "yes" where all values agree, "in part" where some do, "no" where none does; a "mostly" needs more than half."""
    groups = _table("text").groupby("row")
    said = {str(row): dict(zip(part["column"], part["value"].astype(float), strict=True)) for row, part in groups}
    return pd.DataFrame([*_said_of_time(said), *_said_of_scores(said), *_said_of_models()])


def _said_of_time(said: dict[str, dict[str, float]]) -> list[Row]:
    """Numbers of the text about time (claims C7 and C7a), against every pruned model that was timed."""
    times = latency()
    times = times[times["model"].str.contains("→")]
    times = times.assign(model=times["model"].str.split().str[1]).set_index("model")
    limit, share = said["overhead"]["below"], said["overhead of total"]
    prefill, total = (_listed(dict(times[f"{name} fall (%)"]), 1) for name in ("prefill", "total"))

    def one(statement: str, number: float, unit: str, column: str, remark: str) -> Row:
        return _number(statement, (number, number), unit, dict(times[column]), remark)

    return [
        one("fall of the time to first token", said["time to first token"]["fall"], "%", "ttft fall (%)",
            f"of prefill alone, without selecting and loading: {prefill}"),
        one("fall of the generation time", said["generation time"]["fall"], "%", "decode fall (%)", f"of the whole request: {total}"),
        one("speed-up", said["speed-up"]["times"], "×", "ttft speed-up", "of the time to first token"),
        _row("overhead (select and load)", f"below {limit:g} s", _listed(dict(times["overhead"]), 3),
             int((times["overhead"] < limit).sum()), len(times), "seconds; the main text's own model is above it"),
        _number("overhead, of the total time", (share["from"], share["to"]), "%", dict(times["overhead share (%)"]),
                "of the authors' requests; shorter answers make it larger"),
    ]  # fmt: skip


def _said_of_scores(said: dict[str, dict[str, float]]) -> list[Row]:
    """Numbers of the text about scores and tokens."""
    table, tasks = table1().droplevel("part"), per_task()
    gains = (table[ifp("9B")] - table[SMALL])[[AVERAGES[0], "MATH", "GSM8K"]]
    points = said["mathematics and coding, 9B→3B over dense 3B"]
    long = tasks[tasks["part"] == "translation"].melt(
        ["dataset", "size", "dense"], ["per_input", "per_task"], var_name="mask", value_name="score"
    )
    long = long.assign(gain=long["score"] - long["dense"], mask=long["mask"].str.replace("_", " "))
    mean = long["dataset"].isin(AVERAGES)
    means = dict(zip(long["size"][mean] + " " + long["mask"][mean], long["gain"][mean], strict=True))
    best, bleu = long[~mean].sort_values("gain").iloc[-1], said["translation, over dense 3B"]["gain"]
    tasks = tasks[~tasks["dataset"].isin(AVERAGES)]
    gaps, limit = tasks["gap"].abs().round(1), said["per input against per task"]["below"]
    under, scores, worst = gaps < limit, tasks["part"] != "translation", tasks.loc[gaps == gaps.max()].iloc[0]
    mostly = _row(
        "per input against per task", f"mostly under {limit:g} point", f"{under.sum()} of {len(gaps)} gaps are", int(under.sum()),
        len(gaps),
        f"{under[scores].sum()} of {scores.sum()} without translation; mean {gaps.mean():.2f}; "
        f"largest: {worst['dataset']} {worst['size']}, {worst['gap']:+.1f} for per input",
    )  # fmt: skip
    tokens, times = _table("set-up").set_index(["row", "column"])["value"], said["tokens of dense 3B over IFP"]["times"]
    ratio = float(tokens["pre-training", "tokens, dense 3B"] / tokens["pre-training", "tokens"])
    return [
        _number("gain on mathematics and coding, 9B→3B", (points["from"], points["to"]), "points", dict(gains),
                "abstract; GSM8K is mathematics too"),
        _number("mean gain in translation", (bleu, bleu), "BLEU", means,
                f"best single pair: {best['dataset']} {best['size']} {best['mask']}, {best['gain']:.1f}"),
        mostly | {"follows": "yes" if under.sum() > len(gaps) / 2 else "no"},
        _number("tokens of dense 3B over those of IFP", (times, times), "×", {"pre-training": ratio},
                "before continued pre-training, whose tokens are not stated"),
    ]  # fmt: skip


def _said_of_models() -> list[Row]:
    """On how many datasets of Table 1 the 9B source is ahead of others (C1, C2, and the evidence against them), on how many the score
    grows with every step of the source's size (C4), and whether the ablated model of Table 5, of the same name, is that of Table 1 (C8)."""
    table, rows = datasets(), []
    for other in (SMALL, STATIC):
        gaps = (table[ifp("9B")] - table[other]).round(1)
        behind, ahead = gaps[gaps <= 0].sort_values(), int((gaps > 0).sum())
        rows.append(_row(f"{ifp('9B')} is better than {other}", "better", f"on {ahead} of {len(gaps)} datasets", ahead, len(gaps),
                         f"behind or level: {_listed(behind.to_dict(), 1)} points"))  # fmt: skip
    grows = (table[[ifp(size) for size in SIZES]].diff(axis=1).iloc[:, 1:].round(1) > 0).all(axis=1)
    ablated = _wide(_table("Table 5"))["CPT + SFT"]
    gaps = ablated - table.loc[ablated.index, ifp("6B")]
    return [
        *rows,
        _row("quality grows with the source", "6B, 9B, 12B", f"at both steps on {grows.sum()} of {len(grows)} datasets",
             int(grows.sum()), len(grows), f"not on {', '.join(grows.index[~grows])}"),
        _row(f"{ifp('6B')} of Table 5 is that of Table 1", "same name", f"Table 5 − Table 1: {_listed(gaps.to_dict(), 1)}",
             int((gaps.abs() <= 2 * ROUNDED).sum()), len(gaps), "another, weaker set-up; the paper does not say which"),
    ]  # fmt: skip


def derived_latency() -> pd.DataFrame:
    """What :func:`latency` derives beside what was derived from them by hand: quantity, model, unit, value, stated."""
    columns = {
        "prefill fall": "prefill fall (%)", "TTFT fall": "ttft fall (%)", "decode fall": "decode fall (%)",
        "TTFT speed-up": "ttft speed-up", "overhead": "overhead", "overhead of total": "overhead share (%)",
    }  # fmt: skip
    times, rows = latency().set_index("model"), _table("derived")
    rows = rows[(rows["part"] == "latency") & rows["row"].isin(columns)]
    rows = rows.rename(columns={"row": "quantity", "column": "model", "value": "stated"})
    found = [float(times[columns[name]][model]) for name, model in zip(rows["quantity"], rows["model"], strict=True)]
    return rows.assign(value=found).reset_index(drop=True)[["quantity", "model", "unit", "value", "stated"]]

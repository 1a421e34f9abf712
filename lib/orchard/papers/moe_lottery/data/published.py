"""The paper's tables, and where they do not agree with one another or with the text."""

from __future__ import annotations

import pandas as pd

from orchard.data.published import published

GUESSING = 25.0  # per cent, of MMLU's four choices
BEST = ("ean min", "ege min")


def inconsistencies() -> pd.DataFrame:
    """What was printed beside what follows from other numbers of the paper: columns what, printed, against, remark."""
    table = published("moe_lottery").set_index(["table", "model", "arm", "s", "metric"])["value"]

    def value(number: str, arm: str, s: float, metric: str, model: str = "Base") -> float:
        return float(table.loc[(number, model, arm, s, metric)])

    tasks = [f"{task} (%)" for task in ("ARC-c", "ARC-e", "HellaSwag", "MMLU", "WinoGrande")]
    wanda = sum(value("Table 4", "Wanda 2:4", 50, task) for task in tasks) / len(tasks)
    drop = value("Table 4", "full model", 0, "mean (%)") - value("Table 4", "ean min lottery", 50, "mean (%)")
    perplexity = {
        arm: value("Table 2", arm, 75, "C4 perplexity") for c in BEST for arm in (f"{c} one-shot", f"{c} lottery")
    }
    ratios = [perplexity[f"{c} one-shot"] / perplexity[f"{c} lottery"] for c in BEST]
    mmlu = {s: value("Table 3", "ean min one-shot", s, "MMLU (%)") for s in (12.5, 25, 37.5, 50, 62.5, 75)}
    below = min(s for s, score in mmlu.items() if score < GUESSING)
    rows: list[tuple[str, object, object, str]] = [
        ("mean of Wanda 2:4, Base (Table 4)", value("Table 4", "Wanda 2:4", 50, "mean (%)"), round(wanda, 2),
         "recomputed from the five tasks beside it"),
        ("MMLU of Min-EAN at 50 %, Base (Tables 3, 4)", value("Table 3", "ean min lottery", 50, "MMLU (%)"),
         value("Table 4", "ean min lottery", 50, "MMLU (%)"), "the same model in two tables"),
        ("drop of Min-EAN at 50 % (Table 7)", value("Table 7", "ean min lottery", 50, "drop of the mean accuracy (points)"),
         round(drop, 2), "full model minus pruned, Table 4"),
        ("random at 12.5 %, one-shot (Table 2)", value("Table 2", "random one-shot", 12.5, "C4 perplexity"),
         value("Table 2", "random iterative", 12.5, "C4 perplexity"),
         "with one round one-shot and iterative are one algorithm: a single draw of a random baseline means little"),
        ("one-shot falls below guessing (text; Table 3)", 25.0, below, "s in %: the text says 25, the table shows it later"),
        ("lottery against one-shot at 75 % (text)", "about 3×", " and ".join(f"{r:.1f}×" for r in ratios), "EAN, EGE: Table 2"),
        ("MMLU, one-shot, 75 % (Table 3)", mmlu[75], GUESSING,
         "four choices: far below guessing, so answers that could not be parsed count as wrong"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "printed", "against", "remark"])

"""The exact claims as `runs.checks` measures them, the paper's own numbers, and where these contradict one another."""

from __future__ import annotations

import pandas as pd

from orchard.data.published import published as published_numbers
from orchard.evidence import Tables, rows, together
from orchard.papers.manzano.data import published as from_paper
from orchard.papers.manzano.runs.checks import exact_checks
from orchard.papers.manzano.runs.shapes import paper_shapes
from orchard.runs import Runner, Setting, tabulated, tabulation

CONTROL = "control: "  # parts of S3 that training must change


def checks(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns claim, part, seed, unit, value."""
    return tabulated(run, tabulation(exact_checks, "exact claims"))


def published_shapes(setting: Setting, run: Runner) -> pd.DataFrame:
    """The rows of `paper_shapes`."""
    return tabulated(run, tabulation(paper_shapes, "published shapes"))


def published(setting: Setting, run: Runner) -> pd.DataFrame:
    """The paper's tables, with the provenance of every number."""
    return published_numbers("manzano")


def contradictions(setting: Setting, run: Runner) -> pd.DataFrame:
    """What was printed beside what follows from other numbers: what, printed, against, agrees, remark."""
    return from_paper.contradictions()


def unchanged(tables: Tables, control: bool = False) -> pd.DataFrame:
    """S3: what training may not change, or, as the control, what it must."""
    table = tables("checks").query("claim == 'S3'")
    own = table[table["part"].str.startswith(CONTROL) == control]
    return rows(own["part"], own["seed"], own["unit"], own["value"])


def consistent(tables: Tables) -> pd.DataFrame:
    """P1: by how much overall scores of the paper's models differ from those that follow from their parts."""
    found = {"GenEval": from_paper.geneval_means(), "WISE": from_paper.wise_means()}
    own = {name: table[table.index.str.startswith("Manzano")] for name, table in found.items()}
    return together(
        rows([f"{name} of {model}" for model in table.index], 0, name, table["difference"].abs())
        for name, table in own.items()
    )

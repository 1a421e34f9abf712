"""The paper's Figure 4 against memory: bytes by the cost model, and the point that a slider moves."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchard.data import published as numbers
from orchard.errors import BadInput
from orchard.papers.rattention.figures import sweep
from orchard.papers.rattention.figures.looks import LOOKS
from orchard.papers.rattention.method import costs


def test_published_points_have_the_bytes_of_the_cost_model() -> None:
    published = numbers.published("rattention")
    table = sweep.published_pareto_table(published, context=8192, batch=3, state="fp32 per kv head")
    assert len(table) == 12
    at = table.set_index(["arm", "window"])
    assert at.loc[("RAtt", 512), "bytes"] == 3 * costs.kv_budget(8192, 511, state="fp32").total
    assert at.loc[("RAtt", 0), "bytes"] == 3 * costs.kv_budget(8192, -1, state="fp32").total
    assert at.loc[("SWA", 2048), "bytes"] == 3 * costs.kv_budget(8192, 2047, state=None).total
    assert table[table["arm"] == "Full"]["bytes"].item() == 3 * costs.kv_budget(8192, None).total
    assert at.loc[("RAtt", 512), "value"] == 42.2
    per_query = sweep.published_pareto_table(published, state="bf16 per query head").set_index(["arm", "window"])
    assert per_query.loc[("RAtt", 0), "bytes"] == costs.kv_budget(4096, -1, state="bf16", per_query_head=True).total
    with pytest.raises(BadInput, match="state 'fp8' is not known: use one of bf16 per kv head"):
        sweep.published_pareto_table(published, state="fp8")


def test_an_arm_looks_the_same_beside_others_and_alone() -> None:
    table = pd.DataFrame(
        {"arm": "rattn@8", "family": "rattn", "step": [1, 2], "seed": 0, "validation_loss": [3.0, 2.0]}
    )
    both = pd.concat([table.assign(arm="new"), table])
    drawn = [sweep.learning_curves(rows, ["new", "rattn@8"]).axes[0].get_lines()[-1] for rows in (table, both)]
    assert [line.get_color() for line in drawn] == [LOOKS["rattn"].colour] * 2


def shown(figure: Figure) -> str:
    figure.draw_without_rendering()
    return figure.axes[0].get_title(loc="left")


def test_the_published_point_moves_and_says_where_there_is_none() -> None:
    published = numbers.published("rattention")
    held = costs.kv_budget(4096, 511, state=None).total / 2**30
    assert f"SWA@512: 33.4 % at {held:.3g} GiB" in shown(sweep.published_pareto(published))
    assert "SWA@64: no value" in shown(sweep.published_pareto(published, window=64, context=1024))
    assert "RAtt@2048: no value" in shown(sweep.published_pareto(published, window=2048, context=131072, batch=256))

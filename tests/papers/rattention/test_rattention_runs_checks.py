"""The exact claims hold under the rules of their specification, and the checks can fail."""

from __future__ import annotations

from importlib.util import find_spec

import pandas as pd
import pytest
import torch

from orchard.claims import load_claims
from orchard.kernels.residual.naive import recurrent
from orchard.nn import Attention
from orchard.papers.rattention.method.attention import RAttention
from orchard.papers.rattention.runs import checks
from orchard.papers.rattention.runs.checks import GOLDEN, golden_inputs
from orchard.series import papers_folder

LIMITS = {"C1": 1e-5, "C2": 2e-5, "C3": 1e-4, "C4": 0, "C4b": 1e-4, "C5": 1e-9, "C6": 0.3, "C17": 0.06}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    table = checks.exact_checks()
    assert list(table.columns) == ["claim", "part", "seed", "unit", "value"]
    return {str(name): rows for name, rows in table.groupby("claim")}


def test_every_claim_has_its_table(tables):
    assert set(tables) == set(checks.CHECKS) == {*LIMITS, "C16"}
    for name, rows in tables.items():
        assert rows["value"].notna().all(), name
        assert not rows.duplicated(["part", "seed", "unit"]).any(), name


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_values_are_within_the_limit(tables, name):
    rows = tables[name]
    assert (rows["value"] <= LIMITS[name]).all(), rows.nlargest(3, "value")


def test_receptive_field(tables):
    assert (tables["C16"]["value"] == 1).all()


def test_receptive_field_can_fail():
    cfg = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    assert not checks.reach(Attention.Config(**cfg, window=3), layers=2)[13, 13 - 7]
    assert checks.reach(Attention.Config(**cfg, window=3), layers=2)[13, 13 - 6]
    assert checks.reach(Attention.Config(**cfg, window=4), layers=2)[13, 13 - 7]
    assert checks.reach(RAttention.Config(**cfg, window=3), layers=1)[13, 0]


def test_golden_components_are_those_of_the_definition_in_fp64():
    """To half a unit of the last printed digit for softmax; ReLU's larger numbers carry the fp32 of the official code."""
    for name, window, heads, *_ in GOLDEN:
        output, _ = recurrent(*(x.double() for x in golden_inputs()), window, name)
        gap = (output[0, -1] - torch.tensor(heads, dtype=torch.float64)).abs().max()
        assert gap <= (5.01e-6 if name == "softmax" else 2e-5), (name, window)


def test_golden_check_notices_a_wrong_scale(monkeypatch):
    form = checks.residual_linear_attention
    monkeypatch.setattr(checks, "residual_linear_attention", lambda q, *rest, **more: form(q * 0.5, *rest, **more))
    values = [value for part, *_, value in checks.c2_golden_vectors() if part == "output at the last token"]
    assert max(values) > 1e-2


def test_published_means_need_all_nine_scores():
    rows = [("Table 1", "3B", 4096, "Full", name, 60.0, "[paper]") for name in (*checks.COMMONSENSE, "Avg")]
    rows.append(("Table 4", "3B", 4096, "Full", "Avg", 68.4, "[paper]"))
    table = pd.DataFrame(rows, columns=["table", "model", "context", "arm", "metric", "value", "tag"])
    assert list(checks.c17_published_means(table)) == [("Table 1: Full", 0, 0, 0.0)]
    assert not list(checks.c17_published_means(table[1:]))


def test_published_tables_are_the_thirteen_columns(tables):
    assert len(tables["C17"]) == 6 + 7


def test_checks_leave_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(checks.c3_decode_equals_parallel())
    next(checks.c16_receptive_field())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it is Linux only)")
def test_the_kernels_are_parts_of_c1(tables):
    """With the other forms they make the seven parts that the claim requires."""
    kernels = checks.kernel_checks()
    assert (kernels["value"] <= LIMITS["C1"]).all()
    required = next(claim.parts_required for claim in load_claims(papers_folder("rattention")) if claim.id == "C1")
    assert kernels["part"].nunique() + tables["C1"]["part"].nunique() == required


def test_c1_lacks_the_kernels_where_triton_is_not_installed(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert checks.kernel_checks().empty

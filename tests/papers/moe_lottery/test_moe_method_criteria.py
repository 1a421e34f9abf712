"""Every criterion against its definition by loops, closed forms, planted controls, and what must leave scores unchanged."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.nn.moe import Dispatch
from orchard.papers.moe_lottery.experiments.checks import EVIDENCE, invariants
from orchard.papers.moe_lottery.method import criteria, naive
from orchard.papers.moe_lottery.method.collect import LayerStatistics, collect
from orchard.papers.moe_lottery.method.criteria import CRITERIA, PAPER, chosen, criterion
from orchard.papers.moe_lottery.method.dropping import mixture_layers
from orchard.papers.moe_lottery.runs.checks import VOCAB, batches, gap, tiny
from orchard.runs import Finished, Run, Setting, execute


def statistics(model: Decoder) -> list[LayerStatistics]:
    return collect(model, batches(), VOCAB, gradients=True)


def of_rows(rows: list[Tensor], gates: list[list[float]] | None = None) -> LayerStatistics:
    """Statistics of made-up rows, one list entry [t_p, d] per expert; every pair is a token of its own, with one expert."""
    n, d = len(rows), rows[0].shape[1]
    index = torch.repeat_interleave(torch.arange(n), torch.tensor([len(part) for part in rows]))[:, None]
    weights = torch.ones(len(index), 1) if gates is None else torch.tensor([g for part in gates for g in part])[:, None]
    zeros = torch.zeros(n, d)
    stats = LayerStatistics(
        count=torch.zeros(n, dtype=torch.int64), soft=torch.zeros(n).double(), together=torch.zeros(n, n, dtype=torch.int64),
        seen=torch.zeros(n, VOCAB, dtype=torch.int32), total=zeros.double(), squares=zeros.double(), norms=torch.zeros(n).double(),
        weighted=torch.zeros(n).double(), units=zeros.double(), outliers=torch.zeros(n, dtype=torch.int64),
        router=zeros, gate_up=torch.zeros(n, 2, d), down=torch.zeros(n, d, 1),
    )  # fmt: skip
    stats.add(torch.cat(rows), Dispatch.of(index, n), index, weights, torch.zeros(len(index), dtype=torch.long))
    return stats


def test_the_table_is_whole() -> None:
    assert set(naive.NAIVE) == set(CRITERIA)
    assert len(PAPER) == 16
    groups = [CRITERIA[name].group for name in PAPER]
    assert [groups.count(group) for group in ("weight", "inference", "activation", "gradient")] == [4, 4, 4, 4]


# -- 2: closed forms -----------------------------------------------------------------------------------------------


def weights_only(gate: Tensor, up: Tensor, down: Tensor) -> LayerStatistics:
    """Statistics of one expert or more of which only the weights matter: [n, f, d], [n, f, d], [n, d, f]."""
    stats = of_rows([torch.randn(2, down.shape[1]) for _ in down])
    return replace(stats, gate_up=torch.cat([gate, up], dim=1), down=down)


def test_stable_rank() -> None:
    matrix = torch.diag(torch.tensor([3.0, 4.0, 0.0]))[None]
    torch.testing.assert_close(criteria.wsr(weights_only(matrix, matrix, matrix)), torch.tensor([25 / 16]).double())
    vector = torch.randn(1, 3, 1)
    one = vector @ torch.randn(1, 1, 3)
    torch.testing.assert_close(criteria.wsr(weights_only(one, one, one)), torch.ones(1).double(), atol=1e-6, rtol=0)
    assert not criteria.wsr(weights_only(0 * one, 0 * one, 0 * one)).isnan().any()


def test_norms_of_two_rows() -> None:
    """Rows (3, 4) and (5, 12): norms 5 and 13."""
    rows = [torch.tensor([[3.0, 4.0], [5.0, 12.0]]), torch.zeros(2, 2)]
    stats = of_rows(rows, [[0.25, 0.75], [1.0, 1.0]])
    values = {
        "ean_row": 18.0, "man": 9.0, "reap": (0.25 * 5 + 0.75 * 13) / 2, "ean": math.hypot(3, 5) + math.hypot(4, 12),
    }  # fmt: skip
    for name, wanted in values.items():
        torch.testing.assert_close(criterion(name).score(stats), torch.tensor([wanted, 0.0]).double(), msg=name)


def test_entropy_of_normal_columns() -> None:
    """Columns N(0, s^2): log s each, within the error 1 / sqrt(2 t) of a standard deviation."""
    generator = torch.Generator().manual_seed(0)
    spreads = torch.tensor([0.01, 1.0, 30.0])
    tokens = 20_000
    rows = torch.randn(tokens, 3, generator=generator) * spreads
    found = float(criteria.eae(of_rows([rows]))[0])
    assert abs(found - float(spreads.double().log().sum())) < 4 * math.sqrt(3 / (2 * tokens))


# -- 3: planted controls -------------------------------------------------------------------------------------------


def most_similar(scores: Tensor) -> list[int]:
    return sorted(scores.topk(2).indices.tolist())


def test_a_duplicated_expert_is_the_most_similar_pair() -> None:
    model = tiny()
    with torch.no_grad():
        for layer in mixture_layers(model):
            for parameter in (layer.gate.weight, layer.experts.gate_up_proj, layer.experts.down_proj):
                parameter[4] = parameter[1]
    for stats in statistics(model):
        assert most_similar(criteria.ews(stats)) == [1, 4]
        assert stats.grad_gate_up is not None
        gradients = torch.nn.functional.normalize(stats.grad_gate_up.flatten(1), dim=1)
        similar = (gradients @ gradients.T).fill_diagonal_(-math.inf)
        assert divmod(int(similar.argmax()), stats.num_experts) == (1, 4)


def test_two_experts_whose_rows_point_one_way_are_similar() -> None:
    """EAS compares all rows of one expert with all of another: copies that answer each token differently do not stand out in it."""
    model = tiny()
    with torch.no_grad():
        for layer in mixture_layers(model):
            gate = torch.randn(4, 24)
            for expert in (1, 4):  # rows = direction * sum of silu(x) x, which is hardly ever negative
                layer.experts.gate_up_proj[expert] = torch.cat([gate, gate])
                layer.experts.down_proj[expert] = torch.randn(24, 1, generator=torch.Generator().manual_seed(3)).expand(
                    -1, 4
                )
    for stats in statistics(model):
        rows = stats.units / stats.count[:, None]
        similar = (rows @ rows.T).fill_diagonal_(-math.inf)
        assert divmod(int(similar.argmax()), stats.num_experts) == (1, 4)
        assert float(similar[1, 4]) > 0.9
        assert most_similar(criteria.eas(stats)) == [1, 4]


def test_a_silent_expert_has_the_least_norm() -> None:
    model = tiny()
    with torch.no_grad():
        for layer in mixture_layers(model):
            layer.experts.down_proj[3] = 0
    for stats in statistics(model):
        assert int(stats.count[3]) >= 2
        for name in ("ean", "ean_row", "man", "reap"):
            assert chosen(stats, name, 1, "min") == [3], name


def test_an_unused_expert_is_dropped_first_and_nothing_is_nan() -> None:
    model = tiny()
    for layer in mixture_layers(model):
        plain = layer.gate.forward
        layer.gate.forward = lambda hidden, plain=plain: _without(plain, hidden, 2)
    with pytest.warns(UserWarning, match=r"fewer than 2 of 67 tokens .*layer 0: 2; layer 1: 2"):
        found = statistics(model)
    for stats in found:
        assert int(stats.count[2]) == 0
        for name, entry in CRITERIA.items():
            scores = entry.score(stats)
            assert not scores.isnan().any(), name
            if entry.drop == "min" or entry.group in ("activation", "gradient"):
                assert int(scores.argmin()) == 2, name
                assert chosen(stats, name, 1, "min") == [2], name


def _without(plain: object, hidden: Tensor, expert: int) -> tuple[Tensor, Tensor, Tensor]:
    logits = plain(hidden)[0].index_fill(1, torch.tensor([expert]), -math.inf)  # type: ignore[operator]
    weights, index = logits.softmax(dim=-1).topk(2, dim=-1)
    return logits, weights / weights.sum(dim=-1, keepdim=True), index


# -- 4: what leaves scores alone -----------------------------------------------------------------------------------


def test_matched_similarity_ignores_the_order_of_hidden_units() -> None:
    model = tiny()
    shuffled = copy.deepcopy(model)
    with torch.no_grad():
        for layer in mixture_layers(shuffled):
            gate, up = layer.experts.gate_up_proj[1].chunk(2)
            order = [2, 0, 3, 1]
            layer.experts.gate_up_proj[1] = torch.cat([gate[order], up[order]])
            layer.experts.down_proj[1] = layer.experts.down_proj[1][:, order]
    torch.testing.assert_close(model(batches()[0]), shuffled(batches()[0]))  # one function
    for before, after in zip(statistics(model), statistics(shuffled), strict=True):
        torch.testing.assert_close(criteria.ews_matched(before), criteria.ews_matched(after))
        assert gap(criteria.ews(after), criteria.ews(before)) > 1e-2


# -- 5: choosing ---------------------------------------------------------------------------------------------------


def with_pairs(together: list[list[int]], count: list[int]) -> LayerStatistics:
    stats = of_rows([torch.randn(2, 3) for _ in count])
    return replace(stats, together=torch.tensor(together), count=torch.tensor(count))


def test_pairs_drop_the_less_used_member_and_look_again() -> None:
    """Pairs: (0, 1) 9, (0, 2) 7, (2, 3) 5, others fewer. From (0, 1) goes 1; then (0, 2) leads, from which 0 goes."""
    together = [[0, 9, 7, 1], [9, 0, 8, 0], [7, 8, 0, 5], [1, 0, 5, 0]]
    stats = with_pairs(together, [20, 10, 30, 25])
    assert chosen(stats, "ecc", 1, "max") == [1]
    assert chosen(stats, "ecc", 3, "max") == [1, 0, 3]  # then (2, 3), of which 3 is less used
    assert chosen(stats, "ecc", 2, "min") == [1, 0]  # (1, 3) share nothing: 1; then (0, 3) one: 0
    assert chosen(stats, "ecc", 4, "max") == [1, 0, 3, 2]
    # equally used: the first goes
    assert chosen(with_pairs(together, [20, 20, 30, 25]), "ecc", 1, "max") == [0]


def test_bad_input() -> None:
    stats = of_rows([torch.randn(2, 3)])
    with pytest.raises(BadInput, match=r"criterion 'eam' does not exist.*ean"):
        criterion("eam")
    with pytest.raises(BadInput, match="gradients=True"):
        criteria.egn(stats)
    with pytest.raises(ValueError, match="direction is 'least'"):
        chosen(stats, "ean", 1, "least")
    many = naive.Rows([[torch.zeros(8, 2), torch.zeros(8, 2), torch.zeros(2, 8)]], [torch.zeros(2)], VOCAB)
    with pytest.raises(BadInput, match="8 hidden units have too many orders to try: at most 7"):
        naive.ews_matched(many)


# -- 6: claim M15 --------------------------------------------------------------------------------------------------


def test_every_invariant_holds() -> None:
    def run(configs: list[Run.Config]) -> list[Finished]:
        return execute(configs, jobs=1, device="cpu", report=lambda line: None)

    table = EVIDENCE["M15"](lambda name: invariants(Setting(), run))
    assert list(table.columns) == ["part", "seed", "unit", "value"]
    assert table["part"].nunique() == 8
    assert not table.duplicated(["part", "seed", "unit"]).any()
    assert table["value"].max() <= 1e-5, table.sort_values("value").tail(3)

"""The paper's numbers: provenance, what follows from them by hand, the published sizes on the meta device, figures that draw them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from orchard.data.published import published
from orchard.errors import BadInput
from orchard.papers.ifpruning.data import published as paper
from orchard.papers.ifpruning.experiments import checks
from orchard.papers.ifpruning.figures.published import latency_bars, overlap_maps, recovery_bars, source_scaling
from orchard.papers.ifpruning.runs import shapes

TAGS = {"[paper]", "[abstract]", "[fig]", "[inferred]", "[code:hbr690188270/IFPruning]"}


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return published("ifpruning")


@pytest.fixture(scope="module")
def sizes() -> pd.DataFrame:
    return shapes.paper_shapes()


def derived(numbers: pd.DataFrame, part: str) -> pd.DataFrame:
    """What the specification derived by hand."""
    return numbers[(numbers["table"] == "derived") & (numbers["part"] == part)]


def test_every_number_has_its_place_unit_and_provenance(numbers: pd.DataFrame) -> None:
    assert list(numbers.columns) == ["table", "part", "row", "column", "value", "unit", "tag"]
    assert not numbers.isna().any(axis=None)
    assert not numbers.duplicated(["table", "part", "row", "column"]).any()
    assert set(numbers["tag"]) == TAGS
    by_table = numbers.groupby("table")["tag"].agg(set)
    assert by_table[["Figure 2", "Figure 3"]].map(lambda tags: tags == {"[fig]"} or tags == {"[fig]", "[paper]"}).all()
    assert by_table["Table 1"] == by_table["Table 2"] == by_table["Table 5"] == {"[paper]"}
    twelve = numbers[(numbers["table"] == "Table 4") & (numbers["row"] == "12B")]
    assert set(twelve["tag"]) == {"[inferred]"}


def test_tables_that_print_a_score_twice_print_it_alike(numbers: pd.DataFrame) -> None:
    first = paper.table1().droplevel("part")
    for row in paper.per_task().itertuples():
        if row.dataset in first.index:
            assert row.dense == first.loc[row.dataset, "dense 3B"]
            assert row.per_input == first.loc[row.dataset, f"IFP {row.size}→3B"]
    columns = {("dense", "3B"): "dense 3B", ("dense", "9B"): "dense 9B"}
    columns |= {("IFP", size): f"IFP {size}→3B" for size in ("6B", "9B", "12B")}
    drawn = paper.figure2()
    assert drawn["ratio"].groupby(drawn["size"]).first()["9B"] == pytest.approx(24576 / 6656)
    for row in drawn.itertuples():
        if (row.line, row.size) in columns:
            assert row.score == pytest.approx(first.loc[row.panel, columns[row.line, row.size]], abs=0.1)


def test_averages_follow_from_their_rows_within_rounding() -> None:
    """One is rounded another way than the mean of the printed rows would be: translation of dense 3B, 36.07 printed as 36.0."""
    table = paper.averages()
    assert len(table) == 6 + 6 + 7
    assert table["agrees"].all()
    apart = table[table["difference"].abs() > paper.ROUNDED]
    assert apart[["average", "column", "printed"]].values.tolist() == [["translation avg", "dense 3B", 36.0]]


def test_latency_gives_the_percentages_of_the_specification() -> None:
    table = paper.derived_latency().set_index(["quantity", "model"])
    percent = table[table["unit"] == "%"]
    assert (percent["value"] - percent["stated"]).abs().max() < 0.1
    five = [("prefill fall", "IFP 9B→3B"), ("TTFT fall", "IFP 9B→3B"), ("TTFT fall", "IFP 8B→3B")]
    five += [("decode fall", "IFP 9B→3B"), ("decode fall", "IFP 8B→3B")]
    np.testing.assert_allclose(table.loc[five, "value"], [57.7, 44.3, 42.7, 22.1, 35.5], atol=0.1)
    assert table.loc[("TTFT speed-up", "IFP 9B→3B"), "value"] == pytest.approx(1.80, abs=0.005)
    assert table.loc[("overhead", "IFP 9B→3B"), "value"] == pytest.approx(0.113)
    evidence = checks.v5({"published_latency": paper.derived_latency()}.__getitem__)
    assert (evidence["value"] < 0.1).all()
    assert len(evidence) == 7


def test_printed_times_to_the_first_token_are_the_sums_of_their_parts() -> None:
    table = paper.latency()
    np.testing.assert_allclose(table["ttft"], table["overhead"] + table["prefill"], atol=0.0011)
    assert table.set_index("model").loc["MoE-A2.7B", "decode fall (%)"] == 0


def test_changes_of_times_of_our_own_and_what_they_refuse() -> None:
    times = pd.DataFrame({
        "model": ["dense", "ifp"], "select": [0, 0.1], "load": [0, 0.1], "prefill": [1.0, 0.2], "decode": [3.0, 1.6],
    })  # fmt: skip
    found = paper.changes(times, "dense").set_index("model").loc["ifp"]
    assert found["ttft fall (%)"] == pytest.approx(60)
    assert found["total fall (%)"] == pytest.approx(50)
    assert found["overhead share (%)"] == pytest.approx(10)
    assert found["ttft speed-up"] == pytest.approx(2.5)
    with pytest.raises(BadInput, match=r"no single row of the times is the source 'large': there are dense, ifp"):
        paper.changes(times, "large")
    with pytest.raises(BadInput, match=r"lacks load: it has model, select, prefill"):
        paper.changes(times.drop(columns="load"), "dense")


def test_overlaps_are_symmetric_and_give_the_means_of_the_specification(numbers: pd.DataFrame) -> None:
    table = paper.overlaps()
    for _, part in table.groupby("layer"):
        grid = part.pivot(index="row", columns="column", values="overlap")
        np.testing.assert_array_equal(grid, grid.T)
    means = paper.overlap_means(table).set_index("layer")
    stated = derived(numbers, "overlap").set_index(["row", "column"])["value"]
    for layer, row in means.iterrows():
        assert row["diagonal"] == pytest.approx(stated[layer, "on the diagonal"], abs=0.005)
        assert row["off_diagonal"] == pytest.approx(stated[layer, "off the diagonal"], abs=0.005)
        assert row["chance"] == pytest.approx(stated["chance", "6B"], abs=0.005)
    assert (means["within_blocks"] > means["across_blocks"]).all()
    assert means["smallest"].min() == 0.58
    pair = table.set_index(["row", "column", "layer"])["overlap"].sort_index()
    layers = ["first layer", "layer 16", "last layer"]
    assert pair["MMLU-CS", "CodeAlpaca"][layers].tolist() == [0.93, 0.87, 0.89]
    assert pair["MMLU-Hist", "CodeAlpaca"][layers].tolist() == [0.82, 0.58, 0.60]


def test_gap_recovery_is_that_of_the_specification(numbers: pd.DataFrame) -> None:
    found = paper.gap_recovery().set_index(["dataset", "size"])["recovery"]
    stated = derived(numbers, "gap recovery")
    assert len(stated) == 8
    for row in stated.itertuples():
        assert found[row.row, "9B"] == pytest.approx(row.value, abs=0.0051)


def test_text_against_tables_says_what_does_not_follow(numbers: pd.DataFrame) -> None:
    table = paper.text_against_tables().set_index("statement")
    follows = table["follows"]
    assert follows["fall of the time to first token"] == "no"
    assert follows["fall of the generation time"] == "no"
    assert follows["overhead (select and load)"] == "in part"
    assert follows["speed-up"] == "in part"
    assert follows["overhead, of the total time"] == "yes"
    assert follows["mean gain in translation"] == "no"
    assert follows["tokens of dense 3B over those of IFP"] == "yes"
    assert follows["gain on mathematics and coding, 9B→3B"] == "in part"
    assert "GSM8K 2.7" in table.loc["gain on mathematics and coding, 9B→3B", "tables"]
    tasks = table.loc["per input against per task"]
    assert (tasks["agreeing"], tasks["compared"], tasks["follows"]) == (23, 48, "no")  # counted by hand
    static = table.loc["IFP 9B→3B is better than prune+distill 3B"]
    assert (static["agreeing"], static["compared"]) == (16, 19)
    for name in ("IFEval-instruction", "IFEval-prompt", "WinoGrande"):
        assert name in static["remark"]
    assert "−16.1" in table.loc["IFP 6B→3B of Table 5 is that of Table 1", "tables"]
    bleu = [float(part.split()[-1]) for part in table.loc["mean gain in translation", "tables"].split("; ")]
    stated = derived(numbers, "translation").set_index("column")["value"]
    assert min(bleu) == pytest.approx(stated["smallest"], abs=0.11)  # 1.8 of printed averages, 1.77 of their rows
    assert max(bleu) == pytest.approx(stated["largest"], abs=0.01)
    assert (table["agreeing"] <= table["compared"]).all()


def test_published_sizes_on_the_meta_device(sizes: pd.DataFrame, numbers: pd.DataFrame) -> None:
    assert sizes["model"].tolist() == ["3B", "6B", "9B", "12B"]
    np.testing.assert_allclose(sizes["parameters"], [2.82e9, 6.17e9, 8.98e9, 11.80e9], rtol=0.005)
    evidence = checks.v4({"paper_shapes": sizes, "published": numbers}.__getitem__)
    assert (evidence["value"] < 0.5).all()
    assert len(evidence) == 4
    assert sizes["active parameters"].nunique() == 1
    assert (paper.shapes().drop(columns="FFN width").nunique() == 1).all()
    np.testing.assert_allclose(sizes["k / D (chance overlap)"], [1, 0.406, 0.271, 0.203], atol=5e-4)


def test_predictor_has_the_stated_backbone_and_head(sizes: pd.DataFrame) -> None:
    assert shapes.size(shapes.BACKBONE)[0] == pytest.approx(302e6, rel=2e-3)
    np.testing.assert_allclose(sizes["predictor head"], [0, 117e6, 176e6, 235e6], rtol=6e-3)
    assert sizes["predictor"].iloc[0] == 0
    assert (sizes["active with predictor"] == sizes["active parameters"] + sizes["predictor"]).all()


def test_masked_training_costs_what_the_source_costs(sizes: pd.DataFrame) -> None:
    model = sizes.set_index("model")
    assert (model["GFLOPs per token, masked"].iloc[1:] > model["GFLOPs per token, pruned"].iloc[1:]).all()
    assert model.loc["9B", "GFLOPs per token, masked"] * 1e9 > 2 * model.loc["9B", "parameters"]  # and attention
    assert model.loc["9B", "training FLOPs"] > 6 * 8.98e9 * 5e12
    assert model.loc["3B", "tokens"] / model.loc["9B", "tokens"] == 1.8
    np.testing.assert_allclose(model["GB in bf16"], 2e-9 * model["parameters"])


def test_figures_take_the_papers_tables_and_ours() -> None:
    ours = pd.DataFrame({
        "panel": "FactGrid", "line": ["dense", "dense", "IFP", "IFP"], "ratio": [1.0, 3.0, 3.0, 6.0],
        "score": [50.0, 70.0, 60.0, 65.0], "seed": 0,
    })  # fmt: skip
    made = source_scaling(paper.figure2(), ours)
    assert [axes.get_title("left") for axes in made.axes][-2:] == ["MMLU, paper", "FactGrid, ours"]
    assert len({axes.get_xlim() for axes in made.axes}) == 1
    bars = pd.DataFrame(
        {"dataset": ["all", "held out"], "recovery": [0.8, -0.1], "low": [0.6, -0.3], "high": [0.9, 0.2]}
    )
    left, right = recovery_bars(paper.gap_recovery(), bars).axes
    assert left.get_xlim() == right.get_xlim()
    assert len(left.get_yticks()) == 21
    times = pd.DataFrame(
        {"model": ["dense D", "IFP"], "select": [0, 0.1], "load": [0, 0.1], "prefill": [1, 0.5], "decode": [2, 1.5]}
    )
    assert len(latency_bars(paper.latency(), times).axes) == 4


def test_overlap_maps_reach_down_to_chance_and_frame_blocks_that_were_not_adjacent() -> None:
    made = overlap_maps(paper.overlaps())
    *maps, _ = made.axes  # and the colour bar
    scales = [axes.collections[0].norm for axes in maps]
    assert [(scale.vmin, scale.vmax) for scale in scales] == [(0.4, 1.0)] * 3  # chance is 0.41
    assert [len(axes.patches) for axes in maps] == [2, 2, 2]
    names = [f"domain {i}" for i in range(5)]
    rows = [
        {"layer": "layer 0", "row": a, "column": b, "overlap": 1.0 if a == b else 0.3, "chance": 0.25,
         "row_block": i % 2, "column_block": j % 2}
        for i, a in enumerate(names) for j, b in enumerate(names)
    ]  # fmt: skip
    small, _ = overlap_maps(pd.DataFrame(rows)).axes
    assert small.collections[0].norm.vmin == 0.2
    assert [label.get_text() for label in small.get_yticklabels()] == [names[i] for i in (0, 2, 4, 1, 3)]

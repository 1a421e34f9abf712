"""Ablations: configs are well formed and share the runs they can; tables of known results; evidence of tables made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchard.papers.ifpruning.experiments import EVIDENCE, ablations
from orchard.papers.ifpruning.experiments.ablations import PREFIX_ARMS, shared_prefixes
from orchard.papers.ifpruning.experiments.arms import Study, compared, named
from orchard.papers.ifpruning.experiments.profiles import Start, cells, grid_cells
from orchard.papers.ifpruning.figures import ablation as figures
from orchard.papers.ifpruning.figures.published import source_scaling
from orchard.runs import Finished, Run, Setting

PROFILES = ("smoke", "laptop", "gpu")
SMOKE = Setting("smoke", seeds=(0,))


class Known(Finished):
    """A finished run with this result."""

    def __init__(self, accuracy: dict[str, float], gauge: dict[str, float]) -> None:
        super().__init__(Path())
        known = {"accuracy": accuracy, "gauge": gauge, "right": 0.25, "validation_accuracy": 0.5, "failed": ""}
        object.__setattr__(self, "known", known)

    @property
    def result(self) -> dict[str, Any]:
        return self.known  # type: ignore[attr-defined,no-any-return]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {"masks": torch.tensor([[[True, False, True, False]], [[True, True, False, False]]])}


def runner(scores: Callable[[Any], Known]) -> Any:
    def run(cfgs: Sequence[Run.Config]) -> list[Known]:
        return [scores(cfg) for cfg in cfgs]

    return run


def masked(accuracy: float) -> Known:
    gauge = {"within": 0.9, "across": 0.3, "union": 0.75, "chance": 0.5, "spread": 2.0}
    return Known({"test": accuracy, "mixed": accuracy / 2, "swapped": 0.1}, gauge)


@pytest.mark.parametrize("profile", PROFILES)
def test_points_are_well_formed(profile: str) -> None:
    cell = grid_cells(Setting(profile))[0]
    points = list(ablations.points(Study(cell), ablations.ABLATIONS[profile]))
    own = [point for point in points if point.own]
    assert [point.ablation for point in own] == list(dict.fromkeys(point.ablation for point in points))
    assert len({point.arm.fingerprint() for point in own}) == 1  # one run for all of them
    others = [point.arm.fingerprint() for point in points if not point.own and not point.binarised]
    assert len(set(others)) == len(others)
    assert own[0].arm.fingerprint() not in others
    assert sum(point.binarised for point in points) == 1


def test_gpu_ablations_change_what_they_say() -> None:
    cell = grid_cells(Setting("gpu"))[0]
    points = {(p.ablation, p.value): p.arm for p in ablations.points(Study(cell), ablations.ABLATIONS["gpu"])}
    chunked = points["chunks", "4"]
    assert chunked.start is not None
    assert (chunked.corpus.chunks, chunked.start.corpus.chunks) == (2, 4)  # type: ignore[attr-defined]
    assert chunked.start.start is not None
    assert chunked.start.start.fingerprint() == Study(cell).dense(1024).fingerprint()  # the same dense decoder
    frozen = points["frozen", "in fine-tuning"]
    assert frozen.start is not None
    assert (frozen.selector_rate, frozen.start.selector_rate) == (0.0, 5e-4)
    faded = points["fade-in", "0.5"]
    assert faded.start is not None
    assert (faded.warmup, faded.start.warmup) == (0.0, 0.5)
    assert all(stage.decay_channels for stage in ablations.masked_stages(points["decay", "on"]))


def test_smoke_shares_runs_with_the_comparison() -> None:
    """The base of the grid, one start of the spread, and the D = 4k sources are runs that exist anyway."""
    known, study = compared(SMOKE, runner(lambda cfg: masked(0.5))), Study(grid_cells(SMOKE)[0])
    assert study.arm("ifp").fingerprint() in known
    starts = [ablations.begun(study.arm("ifp"), start).fingerprint() in known for start in ablations.STARTS["smoke"]]
    assert sum(starts) == 1
    cell = cells(SMOKE)[0]
    for arm in ("dense_D", "ifp"):
        assert ablations.of_width(Study(cell), 4).arm(arm).fingerprint() in known
        assert ablations.of_width(Study(cell), 2).arm(arm).fingerprint() not in known


def test_named_leaves_the_comparison_as_it_is() -> None:
    known, study = compared(SMOKE, runner(lambda cfg: masked(0.5))), Study(cells(SMOKE)[0])
    assert named(study.arm("ifp"), known, "x").fingerprint() in known
    other = named(ablations.begun(study.arm("ifp"), Start(r=0.1, reads=False)), known, "new")
    assert other.label == "new: ifp, sft, seed 0"
    assert other.start is not None
    assert other.start.start is not None
    assert other.start.start.label == "dense_D, pretrain, seed 0"  # not this ablation's alone
    assert [stage.reader for stage in ablations.masked_stages(other)] == [None, None]
    assert [stage.selector.spread for stage in ablations.masked_stages(other) if stage.selector] == [0.1, 0.1]


def test_phase_gains_are_over_the_dense_model_of_the_same_point() -> None:
    def scores(cfg: Any) -> Known:
        base = 0.2 + 0.1 * cfg.corpus.tagless
        return masked(base + 0.3) if cfg.selector is not None else Known({"test": base, "mixed": base / 2}, {})

    table = ablations.phase(SMOKE, runner(scores))
    gains = table[table["arm"] == "ifp"]
    assert gains[gains["mix"] == 1]["gain"].to_list() == pytest.approx([0.3] * (gains["mix"] == 1).sum())
    assert gains[gains["mix"] == 2]["gain"].to_list() == pytest.approx([0.15])
    assert (table[table["arm"] == "dense_k"]["gain"] == 0).all()
    assert table[table["arm"] == "dense_k"]["across"].isna().all()


def test_one_change_is_against_the_own_value_and_binarised_scores_are_its_own() -> None:
    def scores(cfg: Any) -> Known:
        hard = getattr(getattr(getattr(cfg, "selector", None), "gates", None), "mode", "") == "st_full"
        return masked(0.4 if hard else 0.6)

    table = ablations.one_change(SMOKE, runner(scores)).set_index(["ablation", "value"])
    assert table.loc[("mode", "st_full"), "change"] == pytest.approx(-0.2)
    assert table.loc[("mode", "soft_binarize"), "change"] == pytest.approx(0.25 - 0.6)
    assert (table.loc[table["own"], "change"] == 0).all()
    assert table.loc[("mode", "st_full"), "never"] == 0.25  # the last channel of four


def test_gpu_grids_give_whole_tables_and_figures() -> None:
    """The larger grids through to their figures, from results that are made up."""
    setting, run = Setting("gpu"), runner(lambda cfg: masked(0.3 + 0.1 * (getattr(cfg, "selector", None) is not None)))
    diagram = ablations.phase(setting, run)
    assert set(diagram["arm"]) == {"dense_k", "ifp", "moe"}
    spread = ablations.initial_spread(setting, run)
    assert len(spread) == len(ablations.STARTS["gpu"])
    assert not spread.duplicated(["r", "epsilon", "mode", "reads", "rate", "seed"]).any()
    changes = ablations.one_change(setting, run)
    widths = ablations.source_sizes(setting, run)
    assert widths[widths["line"] == "IFP"]["D"].nunique() == 4
    assert len(widths) == 3 * (1 + 2 * 4)
    drawn = [
        figures.phase_maps(diagram), figures.spread_lines(spread), figures.consistency(spread), figures.one_change_dots(changes),
        source_scaling(None, widths, y_label="right answers (%)"),
    ]  # fmt: skip
    for figure in drawn:
        assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


def test_c11_is_a_rank_correlation_of_three_runs_or_more() -> None:
    table = pd.DataFrame({"within": [0.2, 0.5, 0.9, 0.95], "right": [0.1, 0.4, 0.3, 0.8], "seed": 1})
    assert EVIDENCE["C11"](lambda _: table)["value"].to_list() == pytest.approx([0.8])
    assert EVIDENCE["C11b"](lambda _: table)["value"].to_list() == pytest.approx(
        [4 / 24], abs=0.02
    )  # pairings as good, of 4!
    assert EVIDENCE["C11"](lambda _: table[:2]).empty


def test_c4_is_the_one_sided_p_of_growth() -> None:
    grows = [{"line": "IFP", "D": d, "score": 10 * d + seed, "seed": seed} for d in (2, 3, 4, 6) for seed in range(3)]
    table = pd.DataFrame([*grows, {"line": "dense", "D": 2, "score": 1000, "seed": 0}])
    assert EVIDENCE["C4"](lambda _: table)["seed"].to_list() == [0, 1, 2]
    assert (EVIDENCE["C4"](lambda _: table)["value"] < 0.01).all()
    assert (EVIDENCE["C4"](lambda _: table.assign(score=-table["score"]))["value"] > 0.9).all()
    assert EVIDENCE["C4"](lambda _: table[:2]).empty


class Kept(Finished):
    """Masks of a finished run: four wordings of 8 domains, identical within a domain; those of one group share half."""

    @property
    def result(self) -> dict[str, Any]:
        return {"chance": 0.25}

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        domain = torch.arange(8).repeat_interleave(4)
        masks = torch.zeros(32, 1, 16, dtype=torch.bool)
        for row, d in enumerate(domain.tolist()):
            masks[row, 0, [d // 4 * 2, d // 4 * 2 + 1, 8 + d % 4, 12 + d % 4]] = True
        return {"raw": masks, "shared": masks, "own": masks, "domain": domain}


def test_table_tells_within_related_and_other_apart() -> None:
    def run(cfgs: Any) -> Any:
        return [Kept(Path()) for _ in cfgs]

    table = shared_prefixes(Setting("smoke", seeds=(0,)), run)
    assert len(table) == len(PREFIX_ARMS) * 3
    assert isinstance(table, pd.DataFrame)
    assert table["within"].unique().tolist() == [1.0]
    assert table["related"].unique().tolist() == [0.5]
    # every fourth pair of two groups has the same place in its group: half of its channels
    assert table["other"].unique() == pytest.approx([0.125])

"""The runs of MC-Suite on a tiny model that nobody trained: losses, sets, orders, tables, figures, the explorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from orchard.data import LocalText
from orchard.papers.moe_lottery.data.domains import FiveDomains
from orchard.papers.moe_lottery.data.probes import CAPABILITY, STATE, likelihoods
from orchard.papers.moe_lottery.experiments import suite
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, Model, Shape, SuiteSize, model_of
from orchard.papers.moe_lottery.explorers import dropping
from orchard.papers.moe_lottery.figures import suite as figures
from orchard.papers.moe_lottery.figures import training as training_figures
from orchard.papers.moe_lottery.method.criteria import CRITERIA
from orchard.papers.moe_lottery.method.dropping import drop_experts, masked, mixture_layers, route
from orchard.papers.moe_lottery.runs import suite as suite_runs
from orchard.papers.moe_lottery.runs.scoring import Text, nats, trained, window_losses
from orchard.papers.moe_lottery.runs.suite import per_layer, random_order
from orchard.runs import Finished, Run, Setting, Workspace
from orchard.runs.run import to_json
from orchard.train import TrainLM
from orchard.widgets import Explorer

SIZE = SuiteSize(leave_one_out=(5, 5), curves=(3, 2), samples=(2,), subsets=100, subset_windows=3, reconstruction=2)
SHAPE = Shape(num_experts=8, top_k=2, hidden_dim=8)
PROFILE = dataclasses.replace(
    PROFILES["smoke"], suite=SIZE, dim=16, num_layers=2, num_heads=2, num_kv_heads=2, models=((SHAPE, 1),), seq_len=37,
    batch_size=4, calibration=8, draws=3,
)  # fmt: skip


class Computer:
    """Computes runs in this process, each once; a training is an untrained model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, dict[str, Finished]()

    def one(self, cfg: Run.Config) -> Finished:
        key = cfg.fingerprint()
        if key not in self.done:
            folder = self.folder / key[:16]
            folder.mkdir()
            result: dict[str, Any] = {}
            if isinstance(cfg, TrainLM.Config):
                torch.manual_seed(cfg.seed)
                model = cfg.clone().model.set(vocab_size=257).build()
                for layer in mixture_layers(model):  # outputs and choices that matter
                    layer.experts.down_proj.data.mul_(40)
                    layer.gate.weight.data.mul_(20)
                save_file(dict(model.state_dict()), folder / "model.safetensors")
            else:
                result = cfg.build().compute(Workspace(folder, folder, "cpu", finished=self.one))
            (folder / "result.json").write_text(to_json(result))
            self.done[key] = Finished(folder)
        return self.done[key]

    def __call__(self, cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [self.one(cfg) for cfg in cfgs]


def models(source: FiveDomains.Config) -> list[Model]:
    return [
        Model(f"seed {seed}", shape, seed, TrainLM.Config(
            model=model_of(shape, PROFILE), source=source, seq_len=PROFILE.seq_len, batch_size=PROFILE.batch_size, steps=1, seed=seed,
        )) for shape, seed in PROFILE.models
    ]  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The studies of the model, what computes them, and the tables of all experiments."""
    folder = tmp_path_factory.mktemp("suite")
    text = folder / "text"
    text.mkdir()
    words = np.random.default_rng(0).choice(["river", "stone", "light", "over", "under", "the"], (40, 300))
    for number, row in enumerate(words):
        (text / f"note{number}.txt").write_text(f"Note {number}.\n" + " ".join(row))
    source = FiveDomains.Config(text=LocalText.Config(path=str(text)), bytes_per_domain=8_000, entities=16)
    patch = pytest.MonkeyPatch()
    patch.setitem(suite.PROFILES, "smoke", PROFILE)
    patch.setattr(suite, "models", lambda setting: models(source))
    patch.setattr(dropping, "models", lambda setting: models(source))
    run = Computer(folder)
    tables = {name: experiment(Setting(), run) for name, experiment in suite.EXPERIMENTS.items()}
    yield suite.studies(Setting()), run, tables
    patch.undo()


@pytest.fixture
def studied(computed: Any) -> Any:
    """The study, its model, and what computes runs."""
    studies, run, _ = computed
    model, _ = trained(Workspace(run.folder, run.folder, "cpu", finished=run.one), studies[0].model.run)
    return studies[0], model, run


def test_losses_by_domain_add_up_to_those_of_the_windows(studied: Any) -> None:
    study, model, _ = studied
    text = Text.evaluation(study.model.run, "test", 5)
    sums, counts = nats(model, text), text.counts()
    assert counts.sum(dim=1).tolist() == [PROFILE.seq_len] * len(counts)
    torch.testing.assert_close(
        sums.sum(dim=1) / PROFILE.seq_len,
        torch.cat([window_losses(model, [tokens]) for tokens in text.tokens]),
    )
    assert bool(((sums > 0) == (counts > 0)).all())


def test_calibration_and_choice_read_different_windows(studied: Any) -> None:
    cfg = studied[0].model.run
    first = torch.cat(Text.calibration(cfg, 10_000).tokens)
    second = torch.cat(Text.evaluation(cfg, "validation", 10_000).tokens)
    alike = (first[:, None] == second[None]).all(dim=-1)
    assert len(first) - len(second) in (0, 1)
    assert not alike.any()


def test_leaving_one_out_is_removing_it(studied: Any) -> None:
    study, model, run = studied
    losses = run.one(study.runs["test"]).tensors("losses")
    drop_experts(model, {1: [3]})
    text = Text.evaluation(study.model.run, "test", SIZE.leave_one_out[0])
    without = nats(model, text)
    torch.testing.assert_close(without, losses["without"][1, 3], rtol=1e-5, atol=1e-4)
    assert torch.equal(losses["bytes"], text.counts())
    cost = suite_runs.increase(losses)
    assert cost.shape == (2, 8, 5)
    expected = (without - losses["full"]).sum(dim=1) / PROFILE.seq_len
    torch.testing.assert_close(cost[1, 3], expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 1e-3


def test_usage_counts_every_choice_once_and_leaves_no_hook(studied: Any) -> None:
    study, model, run = studied
    found = run.one(study.runs["measure"])
    tensors = found.tensors("usage")
    pairs = PROFILE.calibration * (PROFILE.seq_len + 1) * SHAPE.top_k
    assert tensors["routed"].sum(dim=(1, 2)).tolist() == tensors["seen"].sum(dim=(1, 2)).tolist() == [pairs] * 2
    assert torch.equal(tensors["routed"].sum(dim=2), tensors["seen"].sum(dim=2))
    for row in found.result["router"]:
        assert row["mass"] == pytest.approx(1, abs=1e-5)
    route(model, torch.randint(256, (1, 5)))
    assert not any(module._forward_hooks for module in model.modules())


def test_orders_name_each_expert_once_and_rounds_are_nested(studied: Any) -> None:
    study, _, run = studied
    orders = run.one(study.runs["measure"]).tensors("orders")
    assert set(orders) == {f"{name} {direction}" for name in CRITERIA for direction in ("min", "max")}
    for order in orders.values():
        assert order.shape == (2, 6)
        assert all(len(set(layer)) == 6 for layer in order.tolist())
    rounds = per_layer(random_order(2, 8, 3), 1)
    assert [len(r[0]) for r in rounds] == [1, 2, 3, 4, 5, 6]
    for smaller, larger in pairwise(rounds):
        assert all(set(smaller[place]) < set(larger[place]) for place in (0, 1))
    assert random_order(2, 8, 3) == random_order(2, 8, 3) != random_order(2, 8, 4)


def test_a_curve_is_the_loss_with_its_experts_masked(studied: Any) -> None:
    study, model, run = studied
    order = run.one(study.runs["measure"]).tensors("orders")["ege max"]
    text = Text.evaluation(study.model.run, "test", SIZE.curves[0])
    with masked(model, {place: order[place, :3].tolist() for place in (0, 1)}):
        expected = nats(model, text)
    torch.testing.assert_close(run.one(study.runs["max"]).tensors("test")["ege"][2], expected)


def test_references_hold_every_draw_and_all_rankings_meet_where_only_k_are_left(studied: Any) -> None:
    study, _, run = studied
    curves = run.one(study.runs["references"]).tensors("test")
    assert {name for name in curves if name.startswith("random")} == {f"random {draw}" for draw in range(3)}
    least = run.one(study.runs["min"]).tensors("test")
    torch.testing.assert_close(curves["global ean"][-1], least["ean"][-1])
    assert len(curves["full"]) == 1
    assert len(curves["naee"]) == 6


def test_naee_leaves_out_an_expert_without_output(studied: Any) -> None:
    study, model, _ = studied
    mixture_layers(model)[1].experts.down_proj.data[6] = 0
    mixture_layers(model)[1].gate.weight.data[6] = 0  # chosen now and then, with a small weight
    rounds = suite_runs.reconstructing(model, Text.calibration(study.model.run, 4), 1)
    assert [len(dropped[1]) for dropped in rounds] == [1, 2, 3, 4, 5, 6]
    assert rounds[0][1] == [6]


def test_curves_are_complete_and_start_at_the_full_model(computed: Any) -> None:
    table = computed[2]["criteria_curves"]
    assert sorted(table["s"].unique()) == [0.0, 12.5, 25.0, 37.5, 50.0, 62.5, 75.0]
    real = table[table["criterion"].isin(CRITERIA) & (table["budget"] == "per layer")]
    assert len(real) == len(CRITERIA) * 2 * 6 * 2
    units = computed[2]["criteria_units"]
    area = (
        units.query("criterion == 'ean' and direction == 'min' and budget == 'per layer'")
        .groupby("model")["value"]
        .mean()
    )
    own = real.query("criterion == 'ean' and direction == 'min' and split == 'test'").groupby("model")["loss"].mean()
    pd.testing.assert_series_equal(area, own, check_names=False)


def test_no_choice_is_better_than_the_best_of_all_sets(computed: Any) -> None:
    table = computed[2]["subset_regret"]
    assert (table["regret"] >= 0).all()
    assert set(table["drop"]) == {4}
    assert len(table) == 2 * len(CRITERIA) + 2  # leave-one-out and NAEE beside them


def test_a_model_with_too_many_sets_has_no_regret() -> None:
    big = Model("big", Shape(num_experts=64, top_k=8, hidden_dim=8), 0, TrainLM.Config())
    few = dataclasses.replace(big, shape=Shape(num_experts=16, top_k=2, hidden_dim=8))
    assert suite._subsets(big, 8, PROFILES["gpu"].suite) == {}
    found = suite._subsets(few, 8, PROFILES["gpu"].suite)["subsets"]
    assert (found.layer, found.drop) == (4, 2)


def test_shares_of_a_domain_add_up_and_rounds_agree_with_orders(computed: Any) -> None:
    studies, run, tables = computed
    shares = tables["specialisation"].groupby(["model", "layer", "domain"])["share"].sum()
    np.testing.assert_allclose(shares, 1)
    goes = tables["dropped_experts"]
    own = goes.query("criterion == 'ecc' and direction == 'max' and layer == 1")
    order = run.one(studies[0].runs["measure"]).tensors("orders")["ecc max"][1].tolist()
    assert own.sort_values("round").query("round > 0")["expert"].tolist() == order


def test_stability_has_no_criterion_of_weights(computed: Any) -> None:
    table = computed[2]["stability"]
    assert set(table["windows"]) == {2}
    assert set(table["criterion"]) == {name for name, criterion in CRITERIA.items() if criterion.cost != "none"}
    assert table["rho"].abs().max() <= 1 + 1e-12


def from_scratch(costs: pd.DataFrame) -> pd.DataFrame:
    """A made-up table of models from scratch."""
    rows = [
        (model, name, 75.0, loss)
        for model in costs["model"].unique()
        for name, loss in (("small_scratch", 1.2), ("full_tokens", 1.0))
    ]
    return pd.DataFrame(rows, columns=["model", "strategy", "s", "loss"])


FIGURES: dict[str, Callable[[dict[str, pd.DataFrame]], Figure]] = {
    "leave_one_out": lambda t: training_figures.leave_one_out(t["leave_one_out"]),
    "leave_one_out_by_domain": lambda t: training_figures.leave_one_out_by_domain(t["leave_one_out"]),
    "increases": lambda t: training_figures.increases(t["leave_one_out"]),
    "competence": lambda t: training_figures.competence(
        t["router"], t["leave_one_out"], from_scratch(t["leave_one_out"])
    ),
    "specialisation": lambda t: training_figures.specialisation(t["specialisation"]),
    "load_and_coverage": lambda t: training_figures.load_and_coverage(t["specialisation"]),
    "trust": lambda t: figures.trust(t["trust"], t["spearman"]),
    "agreement": lambda t: figures.agreement(t["agreement_of_criteria"]),
    "scatter": lambda t: figures.scatter(t["importance"], ["ean", "rwn", "ege", "evtc"]),
    "maps": lambda t: figures.maps(t["importance"], ["ean", "rwn", "ecc"]),
    "stability": lambda t: figures.stability(t["stability"]),
    "curves": lambda t: figures.curves(t["criteria_curves"]),
    "later_criteria": lambda t: figures.later_criteria(t["criteria_curves"], [("reap", "min"), ("aimer", "max")]),
    "budgets": lambda t: figures.budgets(t["criteria_curves"]),
    "pareto": lambda t: figures.pareto(t["criteria_curves"]),
    "regret": lambda t: figures.regret(t["subset_regret"]),
    "curve_and_mask": lambda t: figures.curve_and_mask(t["criteria_curves"], t["dropped_experts"], "ets", "max", 37.5),
}


def test_figures_are_drawn_and_name_their_axes(computed: Any) -> None:
    for name, draw in FIGURES.items():
        figure = draw(computed[2])
        labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]
        labels += [text.get_text() for text in (figure._supxlabel, figure._supylabel) if text is not None]
        assert any(labels), name


def test_a_map_shows_the_increases(computed: Any) -> None:
    table = computed[2]["leave_one_out"]
    own = table.query("split == 'test' and domain == 'all'")
    image = training_figures.leave_one_out(table).axes[0].collections[0]
    np.testing.assert_allclose(image.get_array(), own["increase"].to_numpy().reshape(2, 8))


def test_what_validation_text_chooses_is_reported_on_test_text(computed: Any) -> None:
    table = computed[2]["criteria_curves"]
    best = figures.on_validation(table)
    assert len(best) == 6
    assert set(best["split"]) == {"test"}
    own = table[table["criterion"].isin(CRITERIA) & (table["budget"] == "per layer") & (table["split"] == "validation")]
    chosen = best.merge(own, on=["model", "s", "criterion", "direction"], suffixes=("", "_chosen"))
    np.testing.assert_array_equal(chosen["loss_chosen"], own.groupby(["model", "s"], sort=False)["loss"].min())


def test_the_choices_stand_over_the_experts_that_are_kept(computed: Any) -> None:
    table = computed[2]["criteria_curves"]
    lines = {line.get_label(): line for line in figures.pareto(table).axes[0].lines}
    full = table.query("criterion == 'full' and split == 'test'")
    assert lines["full model"].get_xdata().tolist() == [100]
    assert lines["full model"].get_ydata() == pytest.approx([full["loss"].mean()])
    best = figures.on_validation(table).set_index("s")["loss"]
    chosen = lines["best on validation text"]
    assert dict(zip(100 - chosen.get_xdata(), chosen.get_ydata(), strict=True)) == pytest.approx(best.to_dict())
    assert len(lines["random, mean of the draws"].get_xdata()) == len(best)


def test_the_explorer_measures_what_is_ticked(computed: Any) -> None:
    live = dropping.live(Setting(), computed[1], "seed 1")
    draw, boxes = dropping.hand(live, {1: [4]})
    assert [name for name, ticked in boxes.items() if ticked] == ["L1 E4"]
    assert len(boxes) == 16
    whole = live.read({})
    assert whole.loss == live.full.loss
    assert torch.equal(whole.load, live.full.load)
    assert set(whole.right) == {"knowledge", "instructions", "reasoning"}
    assert {item.task for item in live.items} == set(CAPABILITY)
    known = [item for item in live.items if item.task == STATE]
    best = [
        item.options[int(scores.argmax())] for item, scores in zip(known, likelihoods(live.model, known), strict=True)
    ]
    right = [guess == item.answer for guess, item in zip(best, known, strict=True)]
    assert whole.right["knowledge"] == pytest.approx(np.mean(right))
    assert len(known) == dropping.ITEMS
    made = Explorer(draw, boxes)
    now = live.read({1: [4]})
    assert now.load[1, 4] == 0
    assert made.figure.get_suptitle().startswith(f"1 of 16 experts dropped: {now.loss['all']:.3f} nats/byte")
    bars = [patch.get_width() for patch in made.figure.axes[1].patches]
    assert bars == pytest.approx([100 * share for readings in (live.full, now) for share in readings.right.values()])
    too_many = draw(**{name: name.startswith("L0") for name in boxes})
    assert "dropping 8 of 8 experts leaves 0, but its router" in too_many.axes[0].texts[0].get_text().replace("\n", " ")

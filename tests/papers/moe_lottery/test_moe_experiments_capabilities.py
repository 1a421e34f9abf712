"""05_capabilities: one run of each kind on a tiny model, the tables made of them, and the evidence against values known by hand."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from orchard.data import text_source
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, MixtureOfExperts, Rotary
from orchard.papers.moe_lottery.data.domains import FiveDomains, windows
from orchard.papers.moe_lottery.data.episodes import HELPS, PLAIN, SFT, TASKLESS
from orchard.papers.moe_lottery.data.probes import OUTCOMES, questions
from orchard.papers.moe_lottery.data.world import World
from orchard.papers.moe_lottery.experiments import capabilities
from orchard.papers.moe_lottery.experiments.capabilities import CONTROLS, EVIDENCE, cells, drops, gates, helped_by
from orchard.papers.moe_lottery.experiments.profiles import PROFILES
from orchard.papers.moe_lottery.explorers.examination import Examination
from orchard.papers.moe_lottery.figures import capabilities as figures
from orchard.papers.moe_lottery.runs.smaller import SPARSE, Smaller, dropped, five_domains, items_of, without_tasks
from orchard.runs import Finished, Run, Setting, Store, execute
from orchard.series import papers_folder
from orchard.train import TrainLM

SHOTS, SUMS, WINDOWS = [0, 1], 3, 6
KEYS = ["seed", "arm", "s", "draw", "help", "task", "unit", "options", "outcome", "correct", "rank_score", "first"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrainLM.Config:
    words = np.random.default_rng(0).choice(["river", "stone", "light", "over"], (3000, 10))
    text = tmp_path_factory.mktemp("text") / "notes.txt"
    text.write_text("\n\n".join(" ".join(row) for row in words))
    source = FiveDomains.Config(text=text_source(str(text)), bytes_per_domain=40_000, entities=8)
    attention = Attention.Config(num_heads=2, num_kv_heads=2, head_dim=8, rotary=Rotary.Config())
    mixture = MixtureOfExperts.Config(hidden_dim=8, num_experts=8, top_k=2)
    layers = [Block.Config(attention=attention, feed_forward=mixture) for _ in range(2)]
    return TrainLM.Config(
        model=Decoder.Config(vocab_size=257, dim=16, layers=layers), source=source, seq_len=64, batch_size=4, steps=2,
        eval_windows=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(base: TrainLM.Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    common = Smaller.Config(base=base, calibration=4, windows=WINDOWS, sums=SUMS, shots=SHOTS)
    tuned = {"steps": 2, "batch_size": 2, "shots": [0]}
    cfgs = {
        "full": common.clone(), "ege": common.clone().set(removal="ege", shares=[0.25, 0.75]),
        "random": common.clone().set(removal="random", shares=[0.5], draws=2, shots=[0]),
        "wanda": common.clone().set(removal="2:4 wanda", shares=[0.5], help=PLAIN, **tuned),
        "sft": common.clone().set(removal="ean", shares=[0.5], help=SFT, **tuned),
        "full sft": common.clone().set(help=SFT, **tuned), "base": base,
    }  # fmt: skip
    store = Store(tmp_path_factory.mktemp("store"))
    return dict(zip(cfgs, execute(list(cfgs.values()), store, jobs=1, device="cpu"), strict=True))


def test_a_run_has_a_cell_for_every_share_and_draw_and_a_row_for_every_question(done: dict[str, Finished]) -> None:
    battery = len(questions(World.of(8), SHOTS, SUMS))
    zero = len(questions(World.of(8), [0], SUMS))
    expected = {
        "full": [(0.0, 0)], "ege": [(25.0, 0), (75.0, 0)], "random": [(50.0, 0), (50.0, 1)], "wanda": [(50.0, 0)], "sft": [(50.0, 0)],
    }  # fmt: skip
    for name, places in expected.items():
        cells_of = done[name].result["cells"]
        assert [(cell["s"], cell["draw"]) for cell in cells_of] == places
        assert all(len(cell["windows"]) == WINDOWS and "know" in cell["domains"] for cell in cells_of)
        each = zero if name in ("random", "wanda", "sft") else battery
        assert len(items_of(done[name])) == each * len(places)
    first, second = done["random"].result["cells"]
    assert first["windows"] != second["windows"] != done["full"].result["cells"][0]["windows"]


def test_the_full_model_scores_what_its_training_said(done: dict[str, Finished], base: TrainLM.Config) -> None:
    run = execute(
        [Smaller.Config(base=base, calibration=4, windows=4, sums=1)], Store(done["base"].folder.parent), device="cpu"
    )[0]
    assert np.mean(run.result["cells"][0]["windows"]) == pytest.approx(done["base"].result["loss"], rel=1e-5)


def test_drawn_experts_are_as_many_as_asked_and_new_in_every_draw(base: TrainLM.Config) -> None:
    model = base.model.build()
    found = [dropped(model, "random", 0.75, None, f"0 {draw}") for draw in range(2)]
    assert all(len(set(experts)) == 6 for drop in found for experts in drop.values())
    assert found[0] != found[1]
    assert dropped(model, "random", 0.75, None, "0 0") == found[0]
    assert dropped(model, "full", 0.0, None, "0 0") == {0: [], 1: []}


def test_the_explorer_gives_what_the_battery_gives(done: dict[str, Finished], base: TrainLM.Config) -> None:
    examination = Examination(Smaller.Config(base=base, calibration=4, windows=4, sums=1), done["base"])
    fact = questions(World.of(8), [0], 0)[0].unit
    items = examination.items(fact, "name", 1)
    full, smaller = examination.answers(items, "ege", 75)
    own = items_of(done["ege"])
    row = own[(own["s"] == 75) & (own["unit"] == fact) & (own["task"] == "name") & (own["shots"] == 1)].iloc[0]
    assert (smaller.text, smaller.outcome) == (row["text"], row["outcome"])
    assert [sum(chances) for chances in full.chances] == pytest.approx([1, 1])
    assert [axes.get_title(loc="left") for axes in examination.draw(fact).axes[1:]] == [
        "after the arrow",
        "in a statement",
    ]
    assert examination.smaller("ege", 75) is examination.smaller("ege", 75)


def test_bad_values_are_named(base: TrainLM.Config, done: dict[str, Finished]) -> None:
    with pytest.raises(BadInput, match="the probes ask about the facts of FiveDomains"):
        five_domains(base.clone().set(source=text_source("embedded")))
    bad = Smaller.Config(base=base, calibration=4, windows=4, sums=1, help="prayer")
    with pytest.raises(
        Exception, match=r"Smaller.Config.help is 'prayer': choose none, fine-tuning, shuffled answers, plain text"
    ):
        execute([bad], Store(done["base"].folder.parent), device="cpu")


@pytest.mark.parametrize("profile", ["laptop", "gpu"])
def test_every_arm_has_its_counterpart(profile: str) -> None:
    planned = list(cells(Setting(profile)))
    size = PROFILES[profile].capabilities
    for model in {model.name for model, _ in planned}:
        own = [cfg for m, cfg in planned if m.name == model]
        assert {(c.removal, c.help) for c in own} >= {("full", help) for help in ("none", *HELPS)}
        assert {c.removal for c in own if c.help == PLAIN} == {
            "full",
            *size.helped,
            "2:4 magnitude",
            "2:4 wanda",
            "random",
        }
        tuned = [c for c in own if c.help != "none"]
        assert {(c.steps, c.batch_size) for c in tuned} == {(size.steps, size.batch_size)}
        for help in HELPS:
            assert len({c.learning_rate for c in tuned if c.help == help}) == 1
        drawn = [c for c in own if "random" in c.removal and c.help == "none"]
        assert {c.removal for c in drawn} == {"random", "2:4 random"}
        assert {c.draws for c in drawn} == {PROFILES[profile].draws}
        assert PROFILES[profile].draws >= 10


def row(
    arm: str, task: str, unit: str, right: float, *, help: str = "none", outcome: str = "", score: float = 0.0,
    seed: int = 0,
) -> list[object]:  # fmt: skip
    s = 0.0 if arm == "full" else 50.0
    options = 2 if task == "choose" else 4
    said = outcome or ("correct" if right else "wrong")
    return [0, arm, s, 0, help, task, unit, options, None if task == "state" else said, right, score, right]


@pytest.fixture(scope="module")
def units() -> pd.DataFrame:
    """Ten facts. The full model knows them and names them all, and guesses in `choose`. EAN at one half: rank score 0.8, two of ten
    names right, six unparseable; with an example six names right, the full one ten."""
    rows = []
    for i in range(10):
        fact = f"fact {i}"
        rows += [row("full", "state", fact, 1, score=1.0), row("ean", "state", fact, 0, score=0.8)]
        rows += [row("full", "choose", fact, i % 2), row("ean", "choose", fact, 0)]
        outcome = "" if i < 4 else "unparseable"
        rows += [
            row("full", "name", fact, 1),
            row("ean", "name", fact, float(i < 2), outcome=outcome if i >= 2 else ""),
        ]
        for help, right in (("1 example", i < 6), (SFT, i < 2)):
            rows += [row("full", "name", fact, 1, help=help), row("ean", "name", fact, float(right), help=help)]
    return pd.DataFrame(rows, columns=KEYS).assign(model="m")


def tables(units: pd.DataFrame, name: str) -> pd.DataFrame:
    assert name == "capability_units"
    return units


def test_only_tasks_above_guessing_pass_the_gate(units: pd.DataFrame) -> None:
    gate = gates(units).set_index("task")
    assert gate["above"].to_dict() == {"state": True, "choose": False, "name": True}
    assert gate.loc["choose", ["right", "count", "guess"]].tolist() == [5, 10, 0.5]


def test_evidence_of_the_claims_about_instructions(units: pd.DataFrame) -> None:
    evidence = {name: EVIDENCE[name](functools.partial(tables, units)) for name in ("M11", "M11b", "M12")}
    knowledge, instructions = (1 - 0.8) / (1 - 0.5), (1 - 0.2) / (1 - 0.25)
    assert len(evidence["M11"]) == 10
    assert evidence["M11"]["value"].mean() == pytest.approx(knowledge - instructions)
    assert len(evidence["M11b"]) == 8
    assert evidence["M11b"]["value"].mean() == pytest.approx(6 / 8)
    by_part = evidence["M12"].groupby("part")["value"].mean()
    assert by_part.to_dict() == pytest.approx({"examples": (1 - 0.6) - (1 - 0.2), SFT: 0.0})
    for rows in evidence.values():
        assert list(rows.columns) == ["part", "seed", "unit", "value"]
        assert not rows.duplicated(["part", "seed", "unit"]).any()


def test_controls_of_the_claims_about_instructions(units: pd.DataFrame) -> None:
    plain = units[(units["help"] == SFT)].assign(help=TASKLESS)
    controls = {
        name: CONTROLS[name](functools.partial(tables, pd.concat([units, plain]))) for name in ("M11", "M11b", "M12")
    }
    assert controls["M11"]["value"].mean() == pytest.approx((1 - 0.8) / (1 - 0.5) - 1 / (1 - 0.25))
    assert controls["M11b"].empty  # the full model makes no errors
    assert controls["M12"].groupby("part")["value"].mean().to_dict() == pytest.approx({"examples": 0.0, SFT: 0.0})


def test_text_without_tasks_holds_whole_documents_of_the_other_domains(base: TrainLM.Config) -> None:
    whole = windows(base.source, "train", 64)
    left = without_tasks(whole)
    assert {name.partition("/")[0] for name in left.corpus.names} == {"text", "records"}
    text = bytes(left.corpus.tokens[left.corpus.tokens != left.corpus.bos].astype(np.uint8))
    assert len(text) == left.corpus.bytes
    assert not any(words in text for words in (b"### task", b" => ", *(n.encode() for n in World.of(8).values)))
    first = whole.corpus.names.index(left.corpus.names[-1])
    start, end = whole.corpus.offsets[first : first + 2]
    assert np.array_equal(left.corpus.tokens[left.corpus.offsets[-2] :], whole.corpus.tokens[start:end])


def test_rates_of_episodes_are_chosen_by_tasks_that_the_full_model_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`choose` is at guessing level in the full model; there the largest rate gets most right, in `name` the middle one."""
    made: dict[Path, Run.Config] = {}

    def run(cfgs: Sequence[Run.Config]) -> list[Finished]:
        folders = [tmp_path / str(len(made) + number) for number in range(len(cfgs))]
        for folder, cfg in zip(folders, cfgs, strict=True):
            folder.mkdir()
            cell = {"windows": [1.0], "domains": {"prose": 1.0}}
            result = {"failed": "", "help": getattr(cfg, "help", ""), "cells": [cell]}
            (folder / "result.json").write_text(json.dumps(result))
        made.update(zip(folders, cfgs, strict=True))
        return [Finished(folder) for folder in folders]

    def items(done: Finished) -> pd.DataFrame:
        cfg = made[done.folder]
        assert isinstance(cfg, Smaller.Config)
        rate = cfg.learning_rate
        right = {"name": {3e-4: 30}.get(rate, 10), "choose": 20}
        if cfg.help != "none":
            right["choose"] = {1e-3: 40}.get(rate, 0)
        return pd.DataFrame([
            {"s": 0.0, "draw": 0, "task": task, "shots": 0, "unit": str(i), "wording": 0, "options": 2 if task == "choose" else 8,
             "rank": 1.0, "rank_score": 1.0, "first": 1.0, "text": "", "outcome": "correct" if i < count else "wrong"}
            for task, count in right.items() for i in range(40)
        ])  # fmt: skip

    monkeypatch.setattr(capabilities, "items_of", items)
    chosen = capabilities.tuned(Setting("laptop"), run).chosen
    assert {rate for family, rate in chosen.items() if SFT in family} == {3e-4}


def test_a_model_at_guessing_level_gives_no_evidence(units: pd.DataFrame) -> None:
    guessing = units.assign(correct=(units["unit"].str[-1].astype(int) % 4 == 0).astype(float))
    for name in ("M11", "M11b", "M12"):
        assert EVIDENCE[name](functools.partial(tables, guessing)).empty
        assert CONTROLS[name](functools.partial(tables, guessing)).empty == (name != "M11")  # facts are still known


def test_evidence_against_sparsity() -> None:
    losses = {"ean": 1.3, "2:4 magnitude": 1.2, "2:4 wanda": 1.5, "full": 1.0, "random": 2.0}
    rows = [
        {"seed": 0, "unit": str(i), "arm": arm, "help": help, "loss": loss + 0.01 * i + (help == PLAIN) * (arm == "ean") * -0.2, "draw": 0}
        for i in range(3) for arm, loss in losses.items() for help in ("none", PLAIN)
    ]  # fmt: skip
    found = EVIDENCE["M13"](lambda name: pd.DataFrame(rows)).groupby("part")["value"].mean()
    assert found.to_dict() == pytest.approx({
        "2:4 magnitude": 0.1, "2:4 wanda": -0.2, "2:4 magnitude, fine-tuned": -0.1, "2:4 wanda, fine-tuned": -0.4,
    })  # fmt: skip


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch, done: dict[str, Finished]) -> dict[str, pd.DataFrame]:
    """The tables of the experiments, from the runs of this module."""
    arms = {
        "full": ("full", "none"), "ege": ("ege", "none"), "random": ("random", "none"), "wanda": ("2:4 wanda", PLAIN),
        "sft": ("ean", SFT), "full sft": ("full", SFT),
    }  # fmt: skip
    runs = [({"model": "m", "seed": 0, "arm": arm, "help": help}, done[name]) for name, (arm, help) in arms.items()]
    monkeypatch.setattr(capabilities, "_runs", lambda setting, run: runs)
    return {name: make(Setting(), lambda cfgs: []) for name, make in capabilities.EXPERIMENTS.items()}


def test_tables_agree_with_one_another(experiments: dict[str, pd.DataFrame], done: dict[str, Finished]) -> None:
    table, units = experiments["capabilities"], experiments["capability_units"]
    assert set(units["help"]) == {"none", "1 example", PLAIN, SFT}
    assert helped_by(3, "none") == "3 examples"
    errors = experiments["errors"]
    keys = ["model", "arm", "s", "help", "task"]
    assert np.allclose(errors.groupby(keys)["share"].sum(), 1)
    assert set(errors["outcome"]) == set(OUTCOMES)
    wide = errors.pivot(index=keys, columns="outcome", values="share")
    means = table.groupby([*keys, "metric"])["value"].mean().unstack()
    both = wide.join(means)
    assert np.allclose(both["correct"], both["exact match"])
    assert np.allclose(1 - both["unparseable"], both["parsed"])
    relative = drops(table, gates(units))
    loss = relative[relative["metric"] == "test loss"]
    assert torch.isfinite(torch.tensor(loss["drop"].to_numpy())).all()
    assert len(loss) == 3 * loss["task"].nunique()
    gaps = experiments["recovery"]
    assert (gaps.loc[gaps["arm"] == "full", "gap"] == 0).all()
    assert {"parsed", "full_parsed"} <= set(gaps)
    half = experiments["sparsity"].set_index(["arm", "help"])
    windows = done["random"].result["cells"]
    assert half.loc[("random", "none"), "loss"] == pytest.approx(np.mean([cell["windows"] for cell in windows]))
    assert half.loc[("random", "none"), "draws"] == 2
    assert ("2:4 wanda", PLAIN) in half.index


def widths(panel: Axes) -> list[float]:
    """Lengths of the bars of a panel (%)."""
    return [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)]


def test_figures_draw_the_numbers_of_their_tables(experiments: dict[str, pd.DataFrame]) -> None:
    table, errors, recovery = (experiments[name] for name in ("capabilities", "errors", "recovery"))
    stacked = figures.error_bars(errors).axes
    rows = 4  # full, ege at 25 and 75 %, random at 50 %
    assert [sum(widths(panel)) for panel in stacked] == pytest.approx([100 * rows] * 2)
    bars = figures.recovery_bars(recovery).axes[0]
    own = recovery[(recovery["arm"] == "ean") & (recovery["task"] == "name")].iloc[0]
    assert sorted(widths(bars)) == pytest.approx(sorted([100 * own["full"], 100 * own["value"]]))
    grid = figures.capability_grid(table).axes
    helps = table.loc[~table["arm"].isin(SPARSE) & (table["metric"] == "exact match"), "help"].nunique()
    assert len(grid) == 3 * helps
    exact = table[(table["metric"] == "exact match") & (table["task"] == "name") & (table["help"] == "none")]
    (line,) = [line for line in grid[0].lines if line.get_label() == "EGE"]
    shown = exact[exact["arm"].isin(["full", "ege"])].sort_values("s")
    assert np.asarray(line.get_ydata(), dtype=float).tolist() == pytest.approx((100 * shown["value"]).tolist())
    published = pd.read_csv(papers_folder("moe_lottery") / "published.csv")
    assert len(figures.against_sparsity(experiments["sparsity"], published).axes) == 3

"""Arms of the strategy comparison: original numbers, equal tokens, frozen parts, the same numbers twice, errors."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_recipe import compute, two_steps
from orchard.data import LocalText
from orchard.errors import BadInput
from orchard.papers.moe_lottery.data.domains import windows
from orchard.papers.moe_lottery.experiments import arms, strategies
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, model_of
from orchard.papers.moe_lottery.method.collect import collect
from orchard.papers.moe_lottery.method.criteria import chosen
from orchard.papers.moe_lottery.method.dropping import ExpertsError, drop_experts, masked
from orchard.papers.moe_lottery.method.models import Shape
from orchard.papers.moe_lottery.runs import finetune
from orchard.papers.moe_lottery.runs.finetune import Piece
from orchard.papers.moe_lottery.runs.scoring import Text, window_losses
from orchard.papers.moe_lottery.runs.trajectory import (
    PER_ROUND,
    WHOLE,
    Arm,
    Stretch,
    budget,
    counting,
    is_router,
    random_order,
    rate_at,
)
from orchard.runs import Finished, Store, Workspace
from orchard.train import AdamW, TrainLM, load_model

EXPERTS, LAYERS, STEPS = 7, 2, [1, 2, 2]


def base_config(folder: Path) -> TrainLM.Config:
    """A mixture of seven experts in two layers, hardly trained."""
    words = ["apple", "pear", "root", "leaf", "branch", "window", "state"]
    text = "\n\n".join(" ".join(words[(i * j + j) % 7] + str(i) for j in range(1, 50)) for i in range(90))
    path = folder / "text.txt"
    path.write_text(text)
    profile = PROFILES["smoke"]
    small = profile.__class__(
        **{**profile.__dict__, "dim": 16, "num_layers": LAYERS, "num_heads": 2, "num_kv_heads": 1}
    )
    return TrainLM.Config(
        model=model_of(Shape(EXPERTS, 2, 8), small), source=LocalText.Config(path=str(path)), seq_len=12, batch_size=4, steps=3,
        validate_every=3, eval_windows=6, log_every=3, label="base",
    )  # fmt: skip


def arm_config(base: TrainLM.Config, criterion: str, names: list[str], **fields: object) -> Arm.Config:
    given = {
        "per_round": 1, "steps": STEPS, "controls": [1, 3], "batch_size": 3, "learning_rates": [[1, 1e-2]], "calibration": 8,
        "load_round": 2, **fields,
    }  # fmt: skip
    return Arm.Config(base=base, criterion=criterion, strategies=names, **given)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("strategies") / "runs")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TrainLM.Config:
    return base_config(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def done(store: Store, base: TrainLM.Config) -> Finished:
    names = ["one_shot", "iterative", "lottery", "lottery_balanced"]
    return store.compute(arm_config(base, "ean", names, saturation=[1, 2]), "cpu")


def rows_of(done: Finished, strategy: str) -> list[dict]:
    return [row for row in done.result["rows"] if row["strategy"] == strategy]


def calibration(base: TrainLM.Config) -> list[torch.Tensor]:
    return [b[:, :-1] for b in Text.spread(base, "validation", 8).tokens]


def test_budget_doubles_up_to_the_paper_s_cap():
    assert budget(200_000, 6) == [200_000, 400_000, 800_000, 1_130_000, 1_130_000, 1_130_000]
    assert budget(1, 6) == [1, 2, 4, 5, 5, 5]


def test_a_fine_tuning_has_the_rate_of_the_nearest_number_of_steps():
    rates = [[8.0, 1e-3], [32.0, 3e-4], [128.0, 1e-4]]
    assert [rate_at(rates, steps) for steps in (1, 8, 15, 45, 191)] == [1e-3, 1e-3, 1e-3, 3e-4, 1e-4]


def test_stretches_follow_one_another_through_the_stream(base):
    whole = windows(base.source, "train", base.seq_len)
    size = len(whole)
    together = Stretch(whole, 3, 0, 2 * size + 5).places
    parts = [Stretch(whole, 3, start, count).places for start, count in ((0, 4), (4, size), (size + 4, size + 1))]
    assert np.array_equal(np.concatenate(parts), together)
    assert sorted(together[:size]) == sorted(together[size : 2 * size]) == list(range(size))
    assert not np.array_equal(together[:size], together[size : 2 * size])
    stretch = Stretch(whole, 3, 4, 6)
    assert torch.equal(stretch.batch(np.array([2]))["tokens"], whole.batch(together[6:7])["tokens"])


@pytest.mark.parametrize(("experts", "dropped"), [(8, 4), (5, 2), (6, 5), (16, 8)])
def test_chance_is_the_mean_over_all_sets(experts, dropped):
    first = set(range(dropped))
    overlaps = [len(first & set(x)) / len(first | set(x)) for x in combinations(range(experts), dropped)]
    assert strategies.chance(experts, dropped) == pytest.approx(np.mean(overlaps), abs=1e-12)


def test_dropped_experts_keep_their_original_numbers(done, store, base):
    for strategy in ("one_shot", "iterative", "lottery"):
        kept = [row["kept"] for row in rows_of(done, strategy)]
        for t, layers in enumerate(kept, start=1):
            assert [len(layer) for layer in layers] == [EXPERTS - t] * LAYERS
            assert all(layer == sorted(layer) for layer in layers)
            if t > 1:
                assert all(set(now) < set(before) for now, before in zip(layers, kept[t - 2], strict=True))
    model = load_model(store.compute(base, "cpu"), base)
    numbers = [list(range(EXPERTS)) for _ in range(LAYERS)]
    for row in rows_of(done, "iterative"):  # by hand: scores of what is left, mapped back
        statistics = collect(model, calibration(base), 257)
        kept = drop_experts(model, {i: chosen(stats, "ean", 1, "min") for i, stats in enumerate(statistics)})
        numbers = [[numbers[i][place] for place in kept[i]] for i in range(LAYERS)]
        assert row["kept"] == numbers


def test_one_shot_is_the_full_model_with_its_worst_experts_masked(done, store, base):
    model = load_model(store.compute(base, "cpu"), base)
    statistics = collect(model, calibration(base), 257)
    scored = Text.spread(base, "test", base.eval_windows).tokens
    for row in rows_of(done, "one_shot"):
        out = {i: chosen(stats, "ean", row["round"], "min") for i, stats in enumerate(statistics)}
        assert row["kept"] == [[e for e in range(EXPERTS) if e not in out[i]] for i in range(LAYERS)]
        with masked(model, out):
            assert row["loss"] == pytest.approx(window_losses(model, scored).mean().item(), abs=1e-6)


def test_controls_get_the_tokens_of_the_lottery(done):
    per_step = 3 * 12
    used = {row["round"]: row["tokens"] for row in rows_of(done, "lottery")}
    assert used == {1: per_step, 2: 3 * per_step, 3: 5 * per_step}
    for control in ("one_shot_tokens", "iterative_tokens"):
        assert {row["round"]: row["tokens"] for row in rows_of(done, control)} == {1: used[1], 3: used[3]}
    assert all(row["tokens"] == 0 for name in ("one_shot", "iterative") for row in rows_of(done, name))


def test_with_one_round_all_strategies_are_one(done):
    first = {
        name: rows_of(done, name)[0]["loss"]
        for name in ("one_shot", "iterative", "lottery", "one_shot_tokens", "iterative_tokens")
    }
    assert first["one_shot"] == first["iterative"]
    assert first["lottery"] == first["one_shot_tokens"] == first["iterative_tokens"] != first["one_shot"]


def test_one_schedule_makes_lottery_and_control_one_where_order_does_not_matter(store, base, done):
    """With nothing left to drop after the first round, a lottery and its control are one if both have a cosine per round."""
    fields = {"steps": [2, 3], "controls": [1, 2], "load_round": 1, "per_round": 0}
    per_round = store.compute(
        arm_config(base, "ean", ["one_shot", "lottery"], control_schedule=PER_ROUND, **fields), "cpu"
    )
    lottery = [row["loss"] for row in rows_of(per_round, "lottery")]
    assert [row["loss"] for row in rows_of(per_round, "one_shot_tokens")] == lottery
    whole = store.compute(arm_config(base, "ean", ["lottery"], lottery_schedule=WHOLE, **fields), "cpu")
    again = [row["loss"] for row in rows_of(whole, "lottery")]
    assert [row["round"] for row in rows_of(whole, "lottery")] == [1, 2]
    assert again[0] == lottery[0]  # that trajectory ends there: its cosine is the round's
    assert again[1] != lottery[1]
    assert [row["tokens"] for row in rows_of(whole, "lottery")] == [
        row["tokens"] for row in rows_of(per_round, "lottery")
    ]
    other = store.compute(arm_config(base, "ean", ["lottery"], lottery_factor=0.5, **fields), "cpu")
    halved = store.compute(arm_config(base, "ean", ["lottery"], learning_rates=[[1, 5e-3]], **fields), "cpu")
    assert rows_of(other, "lottery") == rows_of(halved, "lottery")


def test_a_piece_follows_the_cosine_of_the_whole():
    cfg = AdamW.Config()
    scales = [Piece(cfg, first, 50).scale(step, 10) for first in range(0, 50, 10) for step in range(10)]
    assert scales == [cfg.build().scale(step, 50) for step in range(50)]


def test_windows_loads_and_saturation_agree_with_the_rows(done):
    losses = done.tensors("units")["loss"]
    assert [row["loss"] for row in done.result["rows"]] == pytest.approx(losses.mean(dim=1).tolist(), abs=1e-12)
    loads = [row for row in done.result["loads"] if row["strategy"] == "lottery"]
    assert [row["layer"] for row in loads] == list(range(LAYERS))
    for row in loads:
        assert row["kept"] == rows_of(done, "lottery")[1]["kept"][row["layer"]]
        assert sum(row["before"]) == pytest.approx(1) == sum(row["after"])
        assert row["before"] != row["after"]
    for strategy in ("one_shot", "lottery"):
        points = [row for row in done.result["saturation"] if row["strategy"] == strategy]
        assert [row["tokens"] for row in points] == [0, 36, 72]
    at_once = [row["loss"] for row in done.result["saturation"] if row["strategy"] == "one_shot"]
    assert at_once[0] == rows_of(done, "one_shot")[-1]["loss"]
    assert next(row for row in done.result["saturation"] if row["strategy"] == "lottery" and row["tokens"] == 72)[
        "loss"
    ] == pytest.approx(rows_of(done, "lottery")[-1]["loss"], abs=1e-12)  # the last round has two steps


def test_the_load_balance_loss_is_off_unless_asked_for(done):
    assert rows_of(done, "lottery_balanced")[0]["loss"] != rows_of(done, "lottery")[0]["loss"]


def test_random_draws_drop_the_same_experts_with_and_without_fine_tuning(store, base):
    found = store.compute(arm_config(base, "random", ["one_shot", "lottery"], draws=[3, 4], controls=[]), "cpu")
    kept = {(row["strategy"], row["draw"], row["round"]): row["kept"] for row in found.result["rows"]}
    order = random_order(0, 4, EXPERTS, LAYERS)
    for t in (1, 2, 3):
        assert kept["one_shot", 4, t] == kept["lottery", 4, t] == [sorted(layer[t:]) for layer in order]
        assert kept["one_shot", 3, t] != kept["one_shot", 4, t]


def test_the_same_numbers_twice(done, base, tmp_path):
    names = ["one_shot", "iterative", "lottery", "lottery_balanced"]
    again = Store(tmp_path / "other").compute(arm_config(base, "ean", names, saturation=[1, 2]), "cpu")
    assert again.result == done.result
    assert torch.equal(again.tensors("units")["loss"], done.tensors("units")["loss"])


def test_router_alone_and_all_but_the_router_learn(store, base, tmp_path):
    full = load_model(store.compute(base, "cpu"), base)
    batches = windows(base.source, "train", base.seq_len)
    work = Workspace(tmp_path, tmp_path, "cpu")
    for number, trains in enumerate((is_router, lambda name: not is_router(name))):
        model = copy.deepcopy(full)
        finetune.finetune(
            model, batches, steps=2, batch_size=3, learning_rate=1e-2, seed=0, work=work, name=str(number),
            trains=trains,
        )  # fmt: skip
        moved = {
            name for name, p in model.named_parameters() if not torch.equal(p, dict(full.named_parameters())[name])
        }
        assert moved == {name for name, _ in full.named_parameters() if trains(name)}
        assert all(p.requires_grad for p in model.parameters())


def test_a_finished_fine_tuning_is_not_repeated_and_a_damaged_one_is(store, base, tmp_path, monkeypatch):
    full = load_model(store.compute(base, "cpu"), base)
    batches = windows(base.source, "train", base.seq_len)
    work = Workspace(tmp_path / "files", tmp_path / "checkpoints", "cpu")
    (tmp_path / "files").mkdir()

    def tuned() -> torch.Tensor:
        model = copy.deepcopy(full)
        finetune.finetune(model, batches, steps=2, batch_size=3, learning_rate=1e-2, seed=0, work=work, name="one")
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = tuned()
    file = tmp_path / "checkpoints" / "one" / "finished.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    assert torch.equal(tuned(), first)
    monkeypatch.setattr("orchard.train.loop.train_loop", lambda *_: pytest.fail("trained again"))
    assert torch.equal(tuned(), first)


def test_what_a_gpu_gets(base, tmp_path):
    """bf16-mixed, the fused optimizer and clipping, in the base and in its fine-tuning."""
    two_steps(base, tmp_path, compile=False, eval_windows=2)
    done = compute(arm_config(base, "ege", ["lottery"], per_round=2, steps=[2], controls=[], load_round=1), tmp_path)
    assert done.provenance["hardware"]["precision"] == "bf16-mixed"
    assert all(np.isfinite(row["loss"]) for row in done.result["rows"])


def test_counting_gives_every_choice_to_an_expert(store, base):
    model = load_model(store.compute(base, "cpu"), base)
    batches = calibration(base)
    with counting(model) as counts, torch.no_grad():
        for tokens in batches:
            model(tokens)
    statistics = collect(model, batches, 257)
    assert [layer.tolist() for layer in counts] == [stats.count.tolist() for stats in statistics]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategies": ["one-shot"]}, "'one-shot' does not exist.*one_shot"),
        ({"criterion": "eam"}, "criterion 'eam' does not exist"),
        ({"criterion": "none"}, "the full model alone goes with criterion 'none'"),
        ({"strategies": ["full"]}, "the full model alone goes with criterion 'none'"),
        ({"controls": [4]}, "controls holds 4: there are the rounds 1 to 3"),
        ({"criterion": "random", "strategies": ["iterative"]}, "its iterative arm is one_shot"),
    ],
)
def test_bad_arms_are_refused_before_anything_runs(base, fields, message):
    cfg = arm_config(base, "ean", ["one_shot"]).set(**fields)
    with pytest.raises(BadInput, match=message):
        cfg.build()


def test_dropping_below_what_the_router_chooses_is_refused(store, base):
    with pytest.raises(ExpertsError, match="leaves 1, but its router chooses 2"):
        store.compute(arm_config(base, "ean", ["one_shot"], per_round=3, steps=[1, 1], controls=[]), "cpu")


def test_small_models_get_the_tokens_of_both_trainings():
    setting = strategies.Setting("smoke")
    model = strategies.models(setting)[0]
    small, sizes = arms.small(setting, model, 6, 0.02), PROFILES["smoke"].arms
    assert small.optim.learning_rate == 0.02
    tokens = sum(budget(sizes.first, 6)) * sizes.batch_size * model.run.seq_len
    per_step = model.run.batch_size * model.run.seq_len
    assert 0 <= (small.steps - model.run.steps) * per_step - tokens < per_step
    assert small.model.layers[0].feed_forward.num_experts == 2
    assert small.source.fingerprint() == model.run.source.fingerprint()

"""Training in stages, end to end at a tiny size: every arm, what a static mask leaves, a killed run, collapse, and both ledgers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpu_recipe import two_steps
from orchard.nn import Decoder
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import ARMS, Study
from orchard.papers.ifpruning.experiments.explanation import unread
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Cell, Steps
from orchard.papers.ifpruning.method.masks import Predictor
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.method.overlap import Collapsed
from orchard.papers.ifpruning.method.pruning import gathered
from orchard.papers.ifpruning.method.selectors import Static
from orchard.papers.ifpruning.runs import train as training
from orchard.papers.ifpruning.runs.train import Loss, Train
from orchard.runs import Finished, Store, Workspace
from orchard.train import AdamW, choose

WORLD = FactGrid.Config(num_domains=4, group_size=2, num_keys=16, num_values=5, seen=3, queries=4)
TINY = replace(
    PROFILES["smoke"], size=Size(dim=8, num_layers=2, num_heads=2, num_kv_heads=1, width=12, keep=4),
    reader=Reader(dim=8, num_layers=1, num_heads=2, width=8, rank=4), steps=Steps(pretrain=2, cpt=2, sft=2), batch_size=5,
    corpus=WORLD, validate_every=2,
)  # fmt: skip
STUDY = Study(Cell(TINY, WORLD, WORLD, 0))
MASKED = {
    "ifp", "ifp_st", "ifp_contrast", "ifp_sft_only", "ifp_sft_short", "hard_concrete", "oracle", "rand_mask", "rand_lsh", "moe_seq",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def done(store: Store) -> dict[str, Finished]:
    """Every arm, trained for two steps a stage."""
    return {name: store.compute(STUDY.arm(name), "cpu") for name in ARMS}


def chain(cfg: Train.Config) -> list[Train.Config]:
    return [cfg] if cfg.start is None else [*chain(cfg.start), cfg]


def test_every_arm_answers_every_question(done: dict[str, Finished]) -> None:
    assert set(done) == set(ARMS)
    for name, run in done.items():
        kept = run.tensors("answers")
        assert kept["test.right"].shape == (4 * 16,), name
        assert torch.equal(kept["test.domain"].bincount(), torch.full((4,), 16))
        assert run.result["accuracy"]["test"] == pytest.approx(kept["test.right"].float().mean().item())
        assert bool(run.result["gauge"]) is (name in MASKED), name
        reads = name.startswith(("ifp", "hard_concrete", "moe_seq", "prefix", "rand_lsh"))
        assert ("swapped" in run.result["accuracy"]) is reads, name


def test_arms_have_equal_steps_unless_they_say_so() -> None:
    total = {name: sum(cfg.steps for cfg in chain(STUDY.arm(name))) for name in ARMS}
    assert total.pop("ifp_sft_short") == total.pop("dense_k_sft_short") == 4
    assert total.pop("dense_k_long") == 2 + 5 + 2 - 0  # round(0.8 * (2 + 2)) more before fine-tuning
    assert set(total.values()) == {6}


def test_active_parameters_are_those_of_what_is_served(done: dict[str, Finished]) -> None:
    small = done["dense_k"].result["active_parameters"]
    for name in (*MASKED, "static", "static_kd", "film_k", "prefix_cond", "dense_k_long"):
        assert done[name].result["active_parameters"] == small, name
    wide: Decoder = STUDY.dense(12).model.clone().set(vocab_size=WORLD.build().vocab_size).build()
    assert (
        done["dense_D"].result["active_parameters"]
        == wide.num_parameters(embedding=False)
        == small + 2 * 3 * (12 - 4) * 8
    )
    cfg = STUDY.arm("ifp")
    decoder, selector = training.load(done["ifp"], cfg)
    assert selector is not None
    model = cfg.model.clone().set(vocab_size=WORLD.build().vocab_size)
    served = gathered(model, decoder, selector(WORLD.build().evaluation("test").take([0]))[0, 0])
    assert served.num_parameters(embedding=False) == small
    routers = 2 * 8 * 3  # per layer, one row for each of D / k experts
    assert done["moe"].result["active_parameters"] == small + routers


def test_training_flops_are_those_of_the_source_and_of_its_chooser(done: dict[str, Finished]) -> None:
    spent = {name: run.result["training_flops"] + run.result["flops_before"] for name, run in done.items()}
    assert (
        spent["dense_k"] < spent["dense_D"] == spent["oracle"] == spent["rand_mask"] < spent["rand_lsh"] < spent["ifp"]
    )
    assert spent["static"] < spent["static_kd"]
    assert spent["film_k"] == spent["dense_k"] < spent["prefix_cond"]
    assert done["ifp"].result["reader_flops"] > 0
    assert done["dense_D"].result["reader_flops"] == done["oracle"].result["reader_flops"] == 0
    decoder = training.load(done["dense_D"], STUDY.arm("dense_D"))[0]
    batch = vars(WORLD.build().batch("sft", 5, 0, 0))
    time = batch["tokens"].shape[1]
    by_hand = 2 * 3 * decoder.flops_per_token(time) * 5 * time
    assert done["dense_D"].result["training_flops"] == pytest.approx(by_hand)


def test_static_pruning_starts_with_what_its_mask_computes(store: Store, done: dict[str, Finished]) -> None:
    cfg = STUDY.arm("static").set(optim=AdamW.Config(learning_rate=0.0))
    assert cfg.start is not None
    assert cfg.prune_start
    pruned = training.load(store.compute(cfg, "cpu"), cfg)[0]  # two steps that change nothing
    decoder, selector = training.load(store.compute(cfg.start, "cpu"), cfg.start)
    assert isinstance(selector, Static)
    test = WORLD.build().evaluation("test")
    with torch.no_grad():
        expected = training.conditioned_logits(decoder, selector, test)
        torch.testing.assert_close(training.counted_logits(pruned, test), expected, atol=1e-5, rtol=1e-5)
    assert pruned.layers[0].feed_forward.down_proj.in_features == 4


def test_a_new_predictor_begins_with_the_language_model(
    store: Store, tmp_path: Path, done: dict[str, Finished]
) -> None:
    cfg = STUDY.arm("ifp").start
    assert cfg is not None
    assert cfg.reader is not None
    corpus = WORLD.build()
    decoder, selector = training.build(cfg, corpus)
    assert isinstance(selector, Predictor)
    work = Workspace(tmp_path, tmp_path, "cpu", finished=lambda own: store.compute(own, "cpu"))
    Train(cfg)._begin(work, corpus, decoder, selector)
    read = store.compute(cfg.reader, "cpu").tensors("model")
    for name, value in selector.backbone.state_dict().items():
        assert torch.equal(value, read[name]), name
    spread = training.mask_gauge(selector, corpus, choose("cpu"))["spread"]
    assert spread == pytest.approx(
        cfg.selector.spread, rel=0.35
    )  # exact on the calibration prompts, near on held-out ones


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = STUDY.arm("ifp_st").start
    assert cfg is not None
    cfg = cfg.clone().set(steps=6, checkpoint_every=2)
    honest, calls = Loss.__call__, []

    def compute(name: str) -> dict[str, Any]:
        for part in ("files", "checkpoints"):
            (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
        folder = tmp_path / name
        made: Train = cfg.clone().build()
        return made.compute(
            Workspace(folder / "files", folder / "checkpoints", "cpu", finished=lambda own: store.compute(own, "cpu"))
        )

    def dies(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("killed")
        return honest(*args)

    whole = compute("whole")
    monkeypatch.setattr(Loss, "__call__", dies)
    with pytest.raises(RuntimeError, match="killed"):
        compute("broken")
    assert compute("broken") == whole
    assert len(calls) == 5 + 2  # steps 5 and 6, from the checkpoint of step 4
    for name in ("model", "selector", "answers", "masks"):
        first, second = (load_file(tmp_path / side / "files" / f"{name}.safetensors") for side in ("whole", "broken"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_collapsed_masks_stop_the_run_unless_they_are_studied(store: Store) -> None:
    cfg = STUDY.arm("ifp").clone().set(label="squeezed")
    assert cfg.start is not None
    for stage in (cfg, cfg.start):
        stage.selector.set(bias_share=1e6)  # the first logits are the importance of the channels, the same for all
        stage.set(selector_rate=0.0)
    recorded = store.compute(cfg.clone(), "cpu")
    assert recorded.result["gauge"]["across"] >= 0.9
    work = Workspace(store.path / "x", store.path / "x", "cpu", finished=lambda own: store.compute(own, "cpu"))
    work.folder.mkdir()
    with pytest.raises(
        Collapsed, match=r"squeezed: masks of different domains overlap by .* after 2 steps of sft.*mode 'st'"
    ):
        cfg.set(on_collapse="raise").build().compute(work)


def test_unread_differs_in_its_reader_alone() -> None:
    read, cfg = STUDY.arm("ifp_sft_short"), unread(STUDY)
    assert read.reader is not None
    assert cfg.reader is None
    assert cfg.set(reader=read.reader).fingerprint() == read.fingerprint()


def test_two_steps_as_a_gpu_does_them(tmp_path: Path) -> None:
    done = two_steps(STUDY.arm("ifp"), tmp_path, compile=False)
    assert 0 <= done.result["accuracy"]["test"] <= 1
    assert done.tensors("masks")["masks"].sum(dim=-1).eq(4).all()  # exactly k, in bf16 too

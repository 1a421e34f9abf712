"""What every training run shares: sizes, accumulation, precision, losses as functions, observers, the recipe of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

import gpu_recipe
from gpu_recipe import two_steps
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward, MixtureOfExperts, RMSNorm
from orchard.runs import Finished, Store, Workspace
from orchard.train import AdamW, Linear, TrainLM, choose, fit
from orchard.train.callbacks import ClipGradients
from orchard.train.hardware import COMPILING
from orchard.train.loop import LanguageModel
from orchard.train.losses import counted_logits, counted_loss, counted_losses, next_token_loss, token_losses
from orchard.train.optim import parameter_groups
from toy_runs import corpus, tiny_lm


def decoder() -> Decoder:
    layer = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=16))
    return Decoder.Config(vocab_size=13, dim=8, layers=[layer]).build()


def computed(cfg: TrainLM.Config, store: Path) -> Finished:
    return Store(store).compute(cfg, "cpu")


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [("steps", 0, "1 or more"), ("steps", -3, "1 or more"), ("log_every", 0, "1 or more"), ("validate_every", 0, "1 or more"),
     ("checkpoint_every", 0, "1 or more"), ("accumulate", 0, "1 or more"), ("batch_size", 0, "1 or more"),
     ("seq_len", 0, "1 or more"), ("eval_windows", 0, "1 or more"), ("clip", -1.0, "0 or more"), ("seed", -1, "0 or more")],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused_before_anything_is_computed(
    tmp_path: Path, field: str, value: Any, fix: str
) -> None:
    cfg = tiny_lm(tmp_path / "absent.txt").set(**{field: value})
    with pytest.raises(BadInput, match=rf"TrainLM\.Config\.{field} is {value}: give {fix}"):
        fit(cfg, Store(tmp_path / "store"), device="cpu")
    assert not (tmp_path / "store").exists()


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """The same windows in the same order: the same training but for the rounding of a mean of means."""
    path = corpus(tmp_path)
    whole = computed(tiny_lm(path, steps=8, validate_every=4), tmp_path / "whole")
    parts_cfg = tiny_lm(path, steps=8, validate_every=4, batch_size=8, accumulate=4)
    parts = computed(parts_cfg, tmp_path / "parts")
    assert parts.result["tokens"] == whole.result["tokens"] == 8 * 32 * 64
    ours, theirs = parts.metrics(), whole.metrics()
    assert ours["step"].tolist() == theirs["step"].tolist()
    assert ours["loss"].tolist() == pytest.approx(theirs["loss"].tolist(), abs=2e-3)
    assert ours["validation_loss"].dropna().tolist() == pytest.approx(
        theirs["validation_loss"].dropna().tolist(), abs=1e-3
    )


def test_epochs_are_whole_steps(tmp_path: Path) -> None:
    run = tiny_lm(corpus(tmp_path), accumulate=3).build()
    module = LanguageModel(decoder(), AdamW.Config().build(), 1, True)
    with pytest.raises(BadInput, match="an epoch has 4 batches: give a loader whose epochs are whole steps"):
        run.train(Workspace(tmp_path, tmp_path), choose("cpu"), module, range(4), dict, tokens=1, flops=1.0)


def test_an_accumulated_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Stopped inside a step: the batches of that step are read again."""
    cfg = tiny_lm(corpus(tmp_path), steps=7, batch_size=8, accumulate=3, checkpoint_every=2, validate_every=4)
    whole = computed(cfg, tmp_path / "whole")

    class Dies(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx + 1 == 5 * 3 + 1:
                raise KeyError("killed")

    store = Store(tmp_path / "broken")
    with pytest.raises(KeyError):
        fit(cfg, store, "cpu", callbacks=[Dies()])
    done = store.compute(cfg, "cpu")
    assert "goes on from step 4" in (done.folder / "log.txt").read_text()
    for name in ("model.safetensors", "metrics.jsonl", "result.json"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


class Kept(Logger):
    """Keeps its rows."""

    name, version = "kept", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, metrics))


class Steps(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(trainer.global_step)


def test_fit_takes_callbacks_and_loggers_that_change_nothing(tmp_path: Path) -> None:
    cfg = tiny_lm(corpus(tmp_path), steps=4, validate_every=2)
    plain = fit(cfg, Store(tmp_path / "plain"), "cpu")
    steps, kept = Steps(), Kept()
    watched = fit(cfg, Store(tmp_path / "watched"), "cpu", callbacks=[steps], loggers=[kept])
    assert watched.id == plain.id
    assert (watched.folder / "model.safetensors").read_bytes() == (plain.folder / "model.safetensors").read_bytes()
    assert steps.seen == [1, 2, 3, 4]
    assert [step for step, _ in kept.rows] == watched.metrics()["step"].tolist()
    assert fit(cfg, Store(tmp_path / "watched"), "cpu", callbacks=[steps]).id == plain.id
    assert steps.seen == [1, 2, 3, 4]  # found finished


def test_precision_is_a_field_that_changes_numbers(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    exact = computed(tiny_lm(path, steps=3), tmp_path / "store")
    mixed = computed(tiny_lm(path, steps=3, precision="bf16-mixed"), tmp_path / "store")
    assert mixed.id != exact.id
    assert mixed.provenance["hardware"]["precision"] == "bf16-mixed"
    assert exact.provenance["hardware"]["precision"] == "32-true"
    assert mixed.result["loss"] != exact.result["loss"]
    assert mixed.result["loss"] == pytest.approx(exact.result["loss"], abs=0.05)
    with pytest.raises(BadInput, match="precision is '16-mixed' on the device cpu: only CUDA has it"):
        choose("cpu", "16-mixed")


def test_the_rate_falls_as_its_decay_says() -> None:
    constant = AdamW.Config(decay=Linear.Config(final_fraction=1.0), warmup_fraction=0.1).build()
    assert [constant.scale(step, 20) for step in (0, 1, 2, 10, 20)] == [0.5, 1.0, 1.0, 1.0, 1.0]
    line = AdamW.Config(decay=Linear.Config(final_fraction=0.2), warmup_fraction=0.0).build()
    assert [line.scale(step, 5) for step in (1, 3, 5)] == pytest.approx([1.0, 0.6, 0.2])


def test_losses_over_the_tokens_that_count_are_those_of_all_tokens_picked() -> None:
    model, tokens = decoder(), torch.randint(0, 13, (3, 7))
    counts = torch.rand(3, 6) < 0.5
    all_of_them = token_losses(model, tokens)
    torch.testing.assert_close(counted_losses(model, tokens, counts), all_of_them[counts])
    torch.testing.assert_close(counted_loss(model, {"tokens": tokens, "counts": counts}), all_of_them[counts].mean())
    target = tokens[:, 1:][counts]
    torch.testing.assert_close(
        F.cross_entropy(counted_logits(model, tokens, counts), target), all_of_them[counts].mean()
    )
    torch.testing.assert_close(next_token_loss(model, {"tokens": tokens}), all_of_them.mean())


def test_modules_learn_at_rates_of_their_own_and_frozen_parameters_not_at_all() -> None:
    model, other = decoder(), torch.nn.Linear(3, 2)
    other.bias.requires_grad_(False)
    spared = {id(model.layers[0].attention.q_proj.weight)}
    groups = parameter_groups([(model, 1e-3), (other, 5e-3)], 0.1, spared)
    placed = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert placed[id(other.weight)] == (5e-3, 0.1)
    assert placed[id(model.layers[0].attention.q_proj.weight)] == (1e-3, 0.0)
    assert placed[id(model.layers[0].attention.k_proj.weight)] == (1e-3, 0.1)
    assert placed[id(next(model.norm.parameters()))] == (1e-3, 0.0)
    assert id(other.bias) not in placed
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) + 1


def test_weight_decay_is_for_what_multiplies_as_a_matrix_does() -> None:
    class LlamaRMSNorm(torch.nn.Module):  # as `transformers` has it
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 3))

    class State(torch.nn.Module):  # a module that nobody knows
        def __init__(self) -> None:
            super().__init__()
            self.start, self.scale = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(3))

    experts = MixtureOfExperts.Config(dim=4, hidden_dim=4, num_experts=2)
    modules = torch.nn.ModuleDict(
        {"linear": torch.nn.Linear(2, 3), "embedding": torch.nn.Embedding(2, 3), "heads": RMSNorm.Config(dim=[2, 4]).build(),
         "layer_norm": torch.nn.LayerNorm((2, 3)), "llama": LlamaRMSNorm(), "state": State(), "mixture": experts.build()}
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in modules.named_parameters()}
    groups = {
        group["weight_decay"]: group["params"]
        for group in AdamW.Config().build().optimizer(modules, False).param_groups
    }
    assert {names[id(parameter)] for parameter in groups[0.1]} == {
        "linear.weight", "embedding.weight", "state.start", "mixture.gate.weight", "mixture.experts.gate_up_proj",
        "mixture.experts.down_proj",
    }  # fmt: skip
    assert {names[id(parameter)] for parameter in groups[0.0]} == {
        "linear.bias", "heads.gain", "layer_norm.weight", "layer_norm.bias", "llama.weight", "state.scale",
    }  # fmt: skip


def test_a_parameter_that_two_modules_share_is_trained_once() -> None:
    model = decoder()
    groups = parameter_groups([(torch.nn.ModuleList([model.embedding, model]), 1.0), (model, 2.0)], 0.1)
    assert {group["lr"] for group in groups} == {1.0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("compile", [True, False])
def test_two_steps_of_a_gpu(tmp_path: Path, compile: bool) -> None:
    losses = two_steps(tiny_lm(corpus(tmp_path)), tmp_path / "store", compile=compile).metrics()["loss"]
    assert losses[1] < losses[0]


def test_gradients_are_clipped_after_the_scale_of_fp16_is_divided_out() -> None:
    """The whole of Lightning's step under fp16, whose scaler lies on the CPU here: the gradients that the optimizer steps with."""
    seen: list[torch.Tensor] = []

    class Fitted(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1, bias=False)
            torch.nn.init.ones_(self.layer.weight)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return 4 * self.layer(batch).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.0, fused=True)
            optimizer.register_step_pre_hook(lambda *_: seen.append(self.layer.weight.grad.clone()))
            return optimizer

    module, data = Fitted(), torch.utils.data.DataLoader(torch.eye(4), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))], callbacks=[ClipGradients(0.5)],
    )  # fmt: skip
    trainer.fit(module, data)
    torch.testing.assert_close(seen[0], torch.full((1, 4), 0.25))  # of norm 0.5, and not of 0.5 / 1024
    torch.testing.assert_close(module.layer.weight.detach(), torch.full((1, 4), 0.9))


def test_a_long_training_is_compiled_where_the_rules_compile_and_a_short_one_never() -> None:
    from dataclasses import replace

    gpu = replace(choose("cpu"), device="cuda", compile=True, peak_flops=989e12)
    assert not gpu.compiles(500, 3e12)
    assert gpu.compiles(100_000, 1e9)  # small steps, many of them
    assert gpu.compiles(2_000, 1e14)
    assert not replace(gpu, compile=False).compiles(10**9, 1e15)
    seconds = 0.01 * 0.4  # saved by a step that launching takes all of
    assert not gpu.compiles(int(COMPILING["cuda"].seconds / seconds) - 1, 1.0)
    assert gpu.compiles(int(COMPILING["cuda"].seconds / seconds) + 2, 1.0)
    cpu = replace(gpu, device="cpu", peak_flops=None)
    assert not cpu.compiles(400, 2.6e9)
    assert cpu.compiles(1_500, 2.6e9)


def test_what_is_compiled(tmp_path: Path) -> None:
    """Long trainings of one shape by themselves, others where the config says so, and never a training step of one's own."""
    from dataclasses import replace

    gpu = replace(choose("cpu"), compile=True)

    class Own(LanguageModel):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            return next_token_loss(self.model, batch)

    def compiles(kind: type[LanguageModel] = LanguageModel, dynamic: bool = False, **fields: Any) -> bool:
        cfg = tiny_lm(tmp_path / "x").set(**fields)
        module = kind(decoder(), AdamW.Config().build(), cfg.steps, True)
        before = module.loss
        found = cfg.build()._compile(module, gpu, 1e9, dynamic)
        assert found == (module.loss is not before)
        return found

    assert compiles(steps=100_000)
    assert not compiles(steps=100)
    assert not compiles(steps=100_000, compile=False)
    assert not compiles(dynamic=True, steps=100_000)
    assert compiles(dynamic=True, steps=100, compile=True)
    assert not compiles(Own, steps=100_000)
    with pytest.raises(BadInput, match="compile is True, and Own has a training step of its own"):
        compiles(Own, compile=True)


def test_the_workspace_of_a_training_says_how_it_was_computed(tmp_path: Path) -> None:
    done = computed(tiny_lm(corpus(tmp_path), steps=2), tmp_path / "store")
    notes = done.provenance["hardware"]
    assert notes["device"] == "cpu"
    assert notes["compiled"] is False


def test_an_attempt_in_another_precision_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, first on hardware whose rule says 32 bits and then on one that says bf16."""
    cfg, store = tiny_lm(corpus(tmp_path), steps=5, checkpoint_every=2), Store(tmp_path / "store")

    class Dies(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                raise KeyError("killed")

    with pytest.raises(KeyError):
        fit(cfg, store, "cpu", callbacks=[Dies()])
    monkeypatch.setattr("orchard.train.hardware.RULES", gpu_recipe.GPU)
    done = store.compute(cfg, "cpu")
    log = (done.folder / "log.txt").read_text()
    assert "goes on from step" not in log
    assert "begun anew with precision bf16-mixed: an earlier attempt had precision 32-true" in log
    assert done.metrics()["step"].tolist() == [1, 2, 3, 4, 5]

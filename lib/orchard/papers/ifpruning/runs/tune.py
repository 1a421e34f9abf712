"""Two-stage training of a decoder of `transformers` with a predictor, on the reader's own data: `plan`, then `train`.

    cpt:  loss on chunk 2 under the mask of chunk 1          sft:  loss on the answer under the mask of the instruction
    AdamW at two learning rates (decoder, predictor and head); no weight decay on the masked layers, where it would only
    shrink the channels that are not chosen (they have no gradient)

Each stage is a run: a killed training goes on from its last checkpoint, and a second command that differs in fine-tuning alone starts
from the continued pre-training that is there. Sections 3.3 and 3.5 of arXiv 2501.02086; the learning rates are ours, it has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import Source
from orchard.errors import BadInput
from orchard.files import share
from orchard.papers.ifpruning.data.instructions import instruction_source
from orchard.papers.ifpruning.integrations.folder import load_predictor, save_pruned
from orchard.papers.ifpruning.integrations.text import VALIDATED, Lengths, TuneText
from orchard.papers.ifpruning.integrations.wrapper import PrunedModel, Settings
from orchard.papers.ifpruning.method.masks import evaluating
from orchard.papers.ifpruning.method.overlap import Collapsed, collapsed
from orchard.papers.ifpruning.runs.train import CALIBRATION, Batches
from orchard.pretrained.folder import ModelFolder, check_new, load_model, load_tokenizer, model_folder, model_shape
from orchard.runs import Finished, Store, Workspace
from orchard.train import AdamW
from orchard.train.hardware import Hardware
from orchard.train.run import TrainingRun, check_sizes
from orchard.train.saved import TextModel
from orchard.train.seeding import seed_everything

Say = Callable[[str], None]
CALIBRATION_TEXTS = 16  # texts that say which channels are important


class Tune(TrainingRun):
    """One stage for one decoder.

    Result: ``loss`` (nats per token that counts of held-out conversations), ``loss_before`` this stage, ``gauge`` of the masks of held-out
    prompts, with ``domains``; ``collapsed``: why masks no longer depend on the domain, or nothing.
    Files: ``model.safetensors`` (everything that was trained), ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        decoder: ModelFolder.Config = REQUIRED
        predictor: ModelFolder.Config = REQUIRED
        source: Source.Config = REQUIRED
        stage: str = REQUIRED  # cpt or sft
        start: Tune.Config | None = None  # the stage before; None: the weights of the folders and a new head
        keep: int = REQUIRED
        mode: str = "soft"
        epsilon: float = 0.3
        spread: float = 3.5
        rank: int = 128
        head_activation: str = "gelu"
        block: int = 512  # tokens of a chunk
        longest: int = 1024  # tokens of a conversation
        longest_prompt: int = 512  # tokens that the predictor reads
        optim: AdamW.Config = AdamW.Config(learning_rate=1e-5, warmup_fraction=0.05)
        predictor_rate: float = 1e-4
        batch_size: int = 16
        gradient_checkpointing: bool = False
        validate_every: int = 100

    sizes = (*TrainingRun.sizes, "block", "longest", "longest_prompt", "batch_size")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        from orchard.papers.ifpruning.runs.lightning import RatedParts

        cfg = self.cfg
        hardware = self.set_up(work)
        seed_everything(cfg.seed)
        pruned = build(cfg).to(hardware.device)
        text = text_of(cfg, pruned)
        if cfg.start is None:
            calibrate(pruned, text, cfg)
        else:
            read_weights(pruned, work.result_of(cfg.start))
        if cfg.gradient_checkpointing:
            pruned.checkpoint_activations()
        before = validation_loss(pruned, text, cfg, hardware)

        def nats(pruned: PrunedModel, batch: dict[str, Tensor]) -> Tensor:
            loss: Tensor = pruned(**batch, use_cache=False).loss  # of the tokens that count
            return loss

        parts, spared, optim = rated_parts(pruned, cfg), masked_parameters(pruned), cfg.optim.build()
        module = RatedParts(pruned, parts, spared, optim, cfg.steps, hardware.fused_optimizer, nats)

        def batch(number: int) -> dict[str, Tensor]:
            return text.batch(text.draw(cfg.stage, cfg.batch_size, cfg.seed, number))

        def validate() -> dict[str, float]:
            found = measure(pruned, text, hardware)
            return {"validation_loss": validation_loss(pruned, text, cfg, hardware), **found}

        pruned.train()  # Lightning leaves modules as they are, and gates are others in evaluation
        longest = 2 * cfg.block if cfg.stage == "cpt" else cfg.longest
        tokens, flops = cfg.batch_size * longest, 2.0 * sum(p.numel() for p in pruned.decoder.parameters())
        loader = Batches(cfg, tokens, batch).loader()
        self.train(work, hardware, module, loader, validate, tokens=tokens, flops=flops, dynamic=True)
        pruned.to(hardware.device)
        found = measure(pruned, text, hardware)
        why = collapsed(found) if found["domains"] > 1 else ""
        after = validation_loss(pruned, text, cfg, hardware)
        save_model(pruned.cpu(), str(work.folder / "model.safetensors"))
        share(work.folder / "model.safetensors")
        return {"loss": after, "loss_before": before, "gauge": found, "collapsed": why}


def rated_parts(pruned: PrunedModel, cfg: Tune.Config) -> list[tuple[torch.nn.Module, float]]:
    """What is trained with its learning rate: predictor and head have their own."""
    slow = [(pruned.decoder, cfg.optim.learning_rate)]
    return [*slow, *((part, cfg.predictor_rate) for part in (pruned.predictor, pruned.head_in, pruned.head_out))]


def masked_parameters(pruned: PrunedModel) -> set[int]:
    """Ids of the parameters of layers that a mask may leave channels of out."""
    return {id(p) for name in pruned.layer_names for p in pruned.decoder.get_submodule(name).parameters()}


def plan(
    model: str | Path, data: str, predictor: str | Path, keep: int, cpt_steps: int, sft_steps: int, **fields: Any
) -> Tune.Config:
    """The run of fine-tuning, with that of continued pre-training inside (``cpt_steps`` 0: none). ``fields`` are those of `Tune.Config`.

    Everything that can be wrong before anything is computed is found here. Raises BadInput and DataError.
    """
    if cpt_steps < 0:
        raise BadInput(f"cpt_steps is {cpt_steps}: give 0 or more")
    if not Path(data).expanduser().exists():
        raise BadInput(f"{data} does not exist: give a file or folder of .jsonl or .parquet; nothing is downloaded")
    cfg = Tune.Config(
        decoder=model_folder(model), predictor=model_folder(predictor), source=instruction_source(data), stage="sft", keep=keep,
        steps=sft_steps, label=f"sft of {Path(model).name} on {Path(data).name}", **fields,
    )  # fmt: skip
    check_sizes(cfg, Tune.sizes)
    text = text_of(cfg, build(cfg, weights=False))
    if cpt_steps:
        text.stream  # noqa: B018  # says now that it is too short
        label = f"cpt of {Path(model).name} on {Path(data).name}"
        cfg.set(start=cfg.clone().set(stage="cpt", steps=cpt_steps, label=label))
    return cfg


def train(
    cfg: Tune.Config, out: str | Path, store: Store, device: str = "auto", on_collapse: str = "raise", say: Say = print
) -> Finished:
    """Compute both stages, where the store lacks them, and write the trained model to a new folder; see `load_pruned`.

    Raises Collapsed when the masks no longer depend on the domain of the rows, unless ``on_collapse`` is "record"; the runs are kept, so
    that asking again with "record" trains nothing. Raises BadInput for a folder that exists.
    """
    if on_collapse not in ("raise", "record"):
        raise BadInput(f"on_collapse is {on_collapse!r}: choose raise or record")
    check_new(out)
    for stage in (cfg.start, cfg) if cfg.start is not None else (cfg,):
        done = store.compute(stage, device)
        result, gauge = done.result, done.result["gauge"]
        masks = f"masks overlap {gauge['across']:.2f} (chance {gauge['chance']:.2f}), {gauge['union']:.0%} of channels in use"
        say(f"{stage.stage}  {result['loss_before']:.3f} -> {result['loss']:.3f} nats per held-out token; {masks}")
        if result["collapsed"] and (stage is not cfg or on_collapse == "record"):
            say(f"warning: {result['collapsed']}")
    if gauge["domains"] == 1:
        say("warning: the rows name one domain, so masks are compared prompt by prompt and collapse is not judged")
    if result["collapsed"] and on_collapse == "raise":
        raise Collapsed(
            f"{cfg.label}: {result['collapsed']}. Raise the predictor's rate (now {cfg.predictor_rate:g}) or the spread of the first "
            f"logits (now {cfg.spread:g} epsilon), use mode 'st', or write it all the same with on_collapse 'record'"
        )
    save_pruned(trained(done, cfg), out)
    return done


def trained(run: Finished, cfg: Tune.Config) -> PrunedModel:
    """The model of a finished run, on the CPU, in evaluation mode."""
    pruned = build(cfg)
    read_weights(pruned, run)
    return pruned.eval()


def build(cfg: Tune.Config, weights: bool = True) -> PrunedModel:
    """The model of a stage with the weights of its folders and a new head; without ``weights`` on the meta device, to check it."""
    folder, reads = Path(cfg.decoder.folder), Path(cfg.predictor.folder)
    decoder = load_model(folder, dtype=torch.float32) if weights else model_shape(folder)
    predictor = load_predictor(reads, weights=weights)
    names = load_tokenizer(folder), None if isinstance(predictor, TextModel) else load_tokenizer(reads)
    settings = Settings(cfg.keep, cfg.mode, cfg.epsilon, cfg.spread, cfg.rank, cfg.head_activation)
    return PrunedModel(decoder, predictor, settings, *names)


def text_of(cfg: Tune.Config, pruned: PrunedModel) -> TuneText:
    """The data of a stage. Raises BadInput and DataError."""
    return TuneText(cfg.source.build(), pruned, Lengths(cfg.block, cfg.longest, cfg.longest_prompt))


def calibrate(pruned: PrunedModel, text: TuneText, cfg: Tune.Config) -> None:
    """The first masks, from the prompts and texts of the first steps."""
    readings = text.draw(cfg.stage, CALIBRATION, cfg.seed, 0)
    parts, device = (
        (text.batch(part) for part in (readings, readings[:CALIBRATION_TEXTS])),
        pruned.head_in.weight.device,
    )
    prompts, texts = ({name: value.to(device) for name, value in part.items()} for part in parts)
    pruned.eval()
    pruned.calibrate(prompts["prompt_ids"], prompts["prompt_mask"], texts["input_ids"], texts["attention_mask"])


def validation_loss(pruned: PrunedModel, text: TuneText, cfg: Tune.Config, hardware: Hardware) -> float:
    """Nats per token that counts of held-out conversations, under the mask of each."""
    nats = counted = 0.0
    for start in range(0, min(VALIDATED, len(text.validation)), cfg.batch_size):
        batch = text.batch(text.validation[start : min(start + cfg.batch_size, VALIDATED)])
        there = {name: value.to(hardware.device) for name, value in batch.items()}
        count = int((batch["labels"][:, 1:] >= 0).sum())
        autocast = torch.autocast(hardware.device, torch.bfloat16, enabled=hardware.precision == "bf16-mixed")
        with evaluating(pruned), autocast:
            nats += pruned(**there, use_cache=False).loss.item() * count
        counted += count
    return nats / counted


def measure(pruned: PrunedModel, text: TuneText, hardware: Hardware) -> dict[str, float]:
    """The gauge on held-out prompts, without what it cannot say, and the number of ``domains``."""
    ids, mask, domain, count = text.gauged()
    with evaluating(pruned):
        found = pruned.gauge(ids.to(hardware.device), mask.to(hardware.device), domain)
    return {name: value for name, value in found.items() if not math.isnan(value)} | {"domains": float(count)}


def read_weights(pruned: PrunedModel, run: Finished) -> None:
    """Load what a stage trained."""
    load_weights(pruned, str(run.folder / "model.safetensors"))
    pruned.calibrated = True

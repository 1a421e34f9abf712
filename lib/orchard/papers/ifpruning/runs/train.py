"""Training an arm in stages: a dense decoder, continued pre-training under chunk masks, fine-tuning on answers (section 3.3).

    read       the predictor's small model  loss on all of a text
    pretrain   dense                        loss on all answers of a text
    cpt        mask of chunk j              loss on chunk j + 1:   sum_j sum_{x_i in chunk j+1} CE(f(x_<i; theta, m_j), x_i)
    sft        mask of the instruction      loss on the answers

One run is one stage of one arm and holds the run that it starts from, so that arms share what they have in common. An optional
teacher adds the divergence from its top tokens (`static_kd`); an optional contrast pulls the logits of one domain's masks together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.data import OrderedLoader
from orchard.nn import Decoder, MixtureOfExperts, auxiliary_loss
from orchard.papers.ifpruning.data.corpus import Corpus
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import (
    Predictor,
    Selector,
    channel_importance,
    conditioned_logits,
    counted_logits,
    evaluating,
    masked_layers,
)
from orchard.papers.ifpruning.method.overlap import Collapsed, collapsed, gauge
from orchard.papers.ifpruning.method.pruning import gathered
from orchard.papers.ifpruning.method.selectors import Static
from orchard.runs import Finished, Workspace
from orchard.train.hardware import Hardware
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

CALIBRATION = 256  # prompts
EVALUATED_AT_ONCE = 256  # examples
TEMPERATURE = 0.1  # of the contrast
Batch = dict[str, Tensor]


class Train(TrainingRun):
    """One stage of one arm.

    Result: ``accuracy`` per evaluation (share of right answers) and ``loss`` (nats per token that counts), ``gauge`` of the masks on
    held-out prompts, ``active_parameters`` (without embeddings), ``training_flops`` of this stage and ``flops_before`` of those it
    starts from; ``reader_flops`` of the predictor's language model, which the paper does not count.
    Files: ``model.safetensors``, ``selector.safetensors``; ``answers.safetensors``: per evaluation ``right`` and ``domain`` [answers];
    ``masks.safetensors``: ``masks`` and ``z`` [prompts, layers, width], ``domain``, ``split``; ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        model: Decoder.Config = REQUIRED  # vocab_size is set from the corpus
        corpus: Corpus.Config = REQUIRED
        stage: str = REQUIRED
        selector: Selector.Config | None = None
        reader: Train.Config | None = None  # the language model that a new predictor reads with; None: new weights
        start: Train.Config | None = None  # weights to begin with; None: new ones
        prune_start: bool = False  # the start has a static mask, this model is what it leaves
        teacher: Train.Config | None = None
        teacher_top: int = 16  # tokens of the teacher's distribution
        contrast: float = 0.0  # factor of the contrastive loss
        warmup: float = 0.0  # share of the steps in which the masks fade in: h ((1 - w) + w g)
        decay_channels: bool = False  # weight decay on masked layers too, where it only shrinks channels not chosen
        on_collapse: str = "raise"  # or "record"
        selector_rate: float = 4e-3  # learning rate of the selector
        batch_size: int = REQUIRED
        evaluations: list[str] = ["test"]
        checkpoint_every: int = 500

    sizes = (*TrainingRun.sizes, "batch_size")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, then evaluate. Raises Collapsed, unless told to record it."""
        from orchard.papers.ifpruning.runs.lightning import RatedParts

        cfg = self.cfg
        hardware = self.set_up(work)
        corpus: Corpus = cfg.corpus.build()
        seed_everything(cfg.seed)
        decoder, selector = build(cfg, corpus)
        before, reading = self._begin(work, corpus, decoder, selector)
        teacher = None if cfg.teacher is None else load(work.result_of(cfg.teacher), cfg.teacher)[0]

        def batch(number: int) -> Batch:
            examples = corpus.batch(cfg.stage, cfg.batch_size, cfg.seed, number)
            return {**vars(examples), "step": torch.tensor(number // cfg.accumulate)}

        first = batch(0)
        flops, tokens = training_flops(decoder, selector, teacher, first), first["tokens"].numel()
        parts = nn.ModuleDict({"decoder": decoder})
        rated: list[tuple[nn.Module, float]] = [(decoder, cfg.optim.learning_rate)]
        spared: set[int] = set()
        if selector is not None:
            parts["selector"] = selector
            rated.append((selector, cfg.selector_rate))
            if not cfg.decay_channels:
                spared = {id(p) for layer in masked_layers(decoder) for p in layer.parameters()}
        loss = Loss(cfg, decoder, selector, teacher)
        module = RatedParts(parts, rated, spared, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss)

        def validate() -> dict[str, float]:
            scores = evaluate(decoder, selector, corpus, corpus.evaluation("validation"), hardware)
            right = scores["right"].float().mean().item()
            gauge = mask_gauge(selector, corpus, hardware)
            return {"validation_loss": scores["loss"], "validation_accuracy": right, **gauge}

        validated = self.train(
            work, hardware, module, Batches(cfg, tokens, batch).loader(), validate, tokens=tokens, flops=flops / (3 * tokens),
            dynamic=True,
        )  # fmt: skip
        result = self._evaluate(work, corpus, decoder, selector, hardware)
        if (why := result.pop("collapsed")) and cfg.on_collapse == "raise":
            raise Collapsed(
                f"{cfg.label or 'this run'}: {why} after {cfg.steps} steps of {cfg.stage}. Raise the spread of the first logits "
                f"(now {cfg.selector.spread if cfg.selector else 0} epsilon), use mode 'st', or set on_collapse='record' to study it"
            )
        save_weights(decoder, work.folder / "model.safetensors")
        if selector is not None:
            save_weights(selector, work.folder / "selector.safetensors")
        return {
            **result, **validated, "active_parameters": active_parameters(decoder), "training_flops": flops * cfg.batches,
            "flops_before": before, "reader_flops": reading, "tokens": cfg.batches * tokens,
        }  # fmt: skip

    def _begin(
        self, work: Workspace, corpus: Corpus, decoder: Decoder, selector: Selector | None
    ) -> tuple[float, float]:
        """Load the weights that this stage starts from; calibrate a selector that is new. Returns the FLOPs spent so far, and those
        of the language model that the predictor reads with."""
        cfg = self.cfg
        before = reading = 0.0
        inherited = False
        if cfg.start is not None:
            done = work.result_of(cfg.start)
            before = done.result["training_flops"] + done.result["flops_before"]
            reading = done.result["reader_flops"]
            first, chosen = load(done, cfg.start)
            if cfg.prune_start:
                assert isinstance(chosen, Static)
                first = gathered(_known(cfg.start, corpus), first, chosen.eval()(corpus.batch("sft", 1, 0, 0))[0, 0])
            decoder.load_state_dict(first.state_dict())
            if selector is not None and type(chosen) is type(selector):
                selector.load_state_dict(chosen.state_dict())
                inherited = True
        if selector is not None and not inherited:
            if cfg.reader is not None and isinstance(selector, Predictor):
                read = work.result_of(cfg.reader)
                reading = read.result["training_flops"]
                selector.backbone.load_state_dict(load(read, cfg.reader)[0].state_dict())
            examples = corpus.batch(cfg.stage, CALIBRATION, cfg.seed, 0)
            layers = masked_layers(decoder)
            selector.calibrate(examples, channel_importance(decoder, examples) if layers else torch.ones(1, 1))
        return before, reading

    def _evaluate(
        self, work: Workspace, corpus: Corpus, decoder: Decoder, selector: Selector | None, hardware: Hardware
    ) -> dict[str, Any]:
        """Right answers on every evaluation; for masks also with those of another domain (``swapped``) and of the task (``task``)."""
        asked = {name: corpus.evaluation(name) for name in self.cfg.evaluations}
        if isinstance(selector, Predictor):
            test = corpus.evaluation("test")
            asked["swapped"] = with_prompts_of(test, test, other_domain(test.domain))
            asked["task"] = with_prompts_of(test, corpus.tasks(), test.domain)
        scores = {name: evaluate(decoder, selector, corpus, part, hardware) for name, part in asked.items()}
        kept = {f"{name}.{part}": one[part] for name, one in scores.items() for part in ("right", "domain")}
        save_file(kept, work.folder / "answers.safetensors")
        if selector is not None and (found := masks(selector, corpus, hardware)):
            save_file(found, work.folder / "masks.safetensors")
        measured = mask_gauge(selector, corpus, hardware)
        return {
            "accuracy": {name: one["right"].float().mean().item() for name, one in scores.items()},
            "loss": {name: one["loss"] for name, one in scores.items()},
            "gauge": measured, "collapsed": collapsed(measured) if measured and isinstance(selector, Predictor) else "",
        }  # fmt: skip


class Loss:
    """Mean nats of the tokens that count, and what an arm adds; ``batch`` has the fields of `Examples`, and ``step``."""

    def __init__(self, cfg: Train.Config, decoder: Decoder, selector: Selector | None, teacher: Decoder | None) -> None:
        self.cfg, self.decoder, self.selector = cfg, decoder, selector
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        cfg, examples = self.cfg, Examples(**{name: value for name, value in batch.items() if name != "step"})
        warmth = min(1.0, (int(batch["step"]) + 1) / (cfg.warmup * cfg.steps)) if cfg.warmup else 1.0
        logits = conditioned_logits(self.decoder, self.selector, examples, warmth)
        loss = F.cross_entropy(logits, examples.tokens[examples.counts]) + auxiliary_loss(self.decoder)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = counted_logits(self.teacher.to(logits.device), examples)
            loss = loss + divergence(wanted, logits, cfg.teacher_top)
        if cfg.contrast and isinstance(self.selector, Predictor):
            loss = loss + cfg.contrast * contrast(self.selector.logits(examples)[:, 0], examples.domain)
        if self.selector is not None and self.selector.penalty is not None:
            loss = loss + self.selector.penalty
        return loss


def divergence(
    teacher: Float[Tensor, "counted vocab"], student: Float[Tensor, "counted vocab"], top: int
) -> Float[Tensor, ""]:
    """KL(teacher | student) on the teacher's ``top`` likeliest tokens, both renormalised there (Minitron, arXiv 2407.14679)."""
    best, index = teacher.topk(min(top, teacher.shape[-1]), dim=-1)
    own = student.gather(-1, index).log_softmax(dim=-1)
    return F.kl_div(own, best.log_softmax(dim=-1), log_target=True, reduction="batchmean")


def contrast(z: Float[Tensor, "examples layers logits"], domain: Int[Tensor, "examples"]) -> Float[Tensor, ""]:
    """Supervised contrast (Khosla et al. 2020, arXiv 2004.11362) of mask logits: prompts of one domain near, others far.

    The paper names such a loss as future work; it reads the domain of the training prompts, which `ifp` does not.
    """
    unit = F.normalize((z - z.mean(dim=-1, keepdim=True)).flatten(1), dim=-1)
    scores = (unit @ unit.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    same = (domain[:, None] == domain[None, :]).fill_diagonal_(False)
    likely = scores.log_softmax(dim=-1).masked_fill(~same, 0.0).sum(dim=-1) / same.sum(dim=-1).clamp_min(1)
    return -likely[same.any(dim=-1)].mean()


class Batches:
    """The batches of a training, of ``length`` tokens about, which ``make`` gives by number, as the loader wants them."""

    def __init__(self, cfg: TrainingRun.Config, length: int, make: Callable[[int], Batch]) -> None:
        self.cfg, self.length, self.make = cfg, length, make

    def __len__(self) -> int:
        return self.cfg.batches

    def batch(self, indices: Sequence[int] | Int[np.ndarray, "one"]) -> Batch:
        """The batch with this number."""
        return self.make(int(indices[0]))

    def loader(self) -> Any:
        """One pass in order."""
        return OrderedLoader(self, batch_size=1, seed=self.cfg.seed)


def build(cfg: Train.Config, corpus: Corpus) -> tuple[Decoder, Selector | None]:
    """The decoder and the selector of a stage, with new weights; sizes that follow from the model and the corpus are pushed down."""
    model = _known(cfg, corpus)
    decoder: Decoder = model.build()
    if cfg.selector is None:
        return decoder, None
    chosen = cfg.selector.clone()
    layers = masked_layers(decoder)
    known: dict[str, Any] = {
        "num_layers": len(layers), "vocab_size": corpus.vocab_size, "num_domains": len(corpus.domains), "dim": cfg.model.dim,
    }  # fmt: skip
    chosen.set(**{name: value for name, value in known.items() if name in chosen._fields})
    chosen.gates.set(width=layers[0].down_proj.in_features, keep=layers[0].keep)
    if isinstance(chosen, Predictor.Config):
        chosen.backbone.set(vocab_size=corpus.vocab_size)
    return decoder, chosen.build()


def load(run: Finished, cfg: Train.Config) -> tuple[Decoder, Selector | None]:
    """The decoder and the selector of a finished run, on the CPU, in evaluation mode."""
    decoder, selector = build(cfg, cfg.corpus.build())
    decoder.load_state_dict(run.tensors("model"))
    if selector is not None:
        selector.load_state_dict(run.tensors("selector"))
    return decoder.eval(), None if selector is None else selector.eval()


def _known(cfg: Train.Config, corpus: Corpus) -> Decoder.Config:
    return cfg.model.clone().set(vocab_size=corpus.vocab_size)


def evaluate(
    decoder: Decoder, selector: Selector | None, corpus: Corpus, examples: Examples, hardware: Hardware
) -> dict[str, Any]:
    """``right`` [answers]: whether all tokens of an answer are the likeliest, given those before; with ``domain`` [answers] of each,
    and ``loss``, nats per token that counts. For greedy decoding this is exact match: a first wrong token is wrong in both."""
    device = torch.device(hardware.device)
    right, domain, nats = [], [], []
    for start in range(0, len(examples), EVALUATED_AT_ONCE):
        part = examples.take(slice(start, start + EVALUATED_AT_ONCE))
        there = part.to(device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision == "bf16-mixed")
        with evaluating(decoder, selector), autocast:
            logits = conditioned_logits(decoder, selector, there)
        target = there.tokens[there.counts]
        nats.append(F.cross_entropy(logits, target, reduction="none").double().cpu())
        answer = corpus.answers(part)[part.counts]
        row = torch.arange(len(part))[:, None].expand_as(part.tokens)[part.counts]
        key, inverse = torch.unique(torch.stack([row, answer]), dim=1, return_inverse=True)
        hit = (logits.argmax(-1) == target).cpu()
        hits = torch.ones(key.shape[1], dtype=torch.int8).scatter_reduce(0, inverse, hit.to(torch.int8), "amin")
        exact = key[1] >= 0  # -1: a loss and no right answer
        right.append(hits[exact])
        domain.append(part.domain[key[0, exact]])
    return {"right": torch.cat(right), "domain": torch.cat(domain), "loss": torch.cat(nats).mean().item()}


def with_prompts_of(examples: Examples, others: Examples, index: Int[Tensor, "examples"]) -> Examples:
    """The examples with the prompts of other examples: their masks, the same text."""
    return dataclasses.replace(examples, prompts=others.prompts[index], prompt_lengths=others.prompt_lengths[index])


def other_domain(domain: Int[Tensor, "examples"]) -> Int[Tensor, "examples"]:
    """For every example the number of one of another domain: half of the examples further on, in order of their domains."""
    order = domain.argsort(stable=True)
    moved = torch.empty_like(order)
    moved[order] = order.roll(-(len(order) // 2))
    return moved


def masks(selector: Selector, corpus: Corpus, hardware: Hardware) -> dict[str, Tensor]:
    """Masks and logits of one prompt per wording: ``masks`` [prompts, layers, width], ``z``, ``domain``, ``split`` (0 seen, 1 validation,
    2 test). Empty for what selects nothing."""
    if not selector.prunes:
        return {}
    found: list[dict[str, Tensor]] = []
    for number, split in enumerate(("seen", "validation", "test")):
        examples = corpus.prompts(split)
        with evaluating(selector):
            z = selector.logits(examples.to(hardware.device))[:, 0]
        about = {"domain": examples.domain, "split": torch.full_like(examples.domain, number)}
        found.append({"masks": selector.gates.top(z).cpu(), "z": z.float().cpu(), **about})
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def mask_gauge(selector: Selector | None, corpus: Corpus, hardware: Hardware) -> dict[str, float]:
    """The gauge of the masks of held-out prompts, and the spread of their logits in epsilon; empty without masks."""
    if selector is None or not (found := masks(selector, corpus, hardware)):
        return {}
    held_out = found["split"] > 0
    measured = gauge(found["masks"][held_out], found["domain"][held_out], len(corpus.domains))
    return {**measured, "spread": found["z"][held_out].std(dim=-1).mean().item() / selector.gates.cfg.epsilon}


def training_flops(decoder: Decoder, selector: Selector | None, teacher: Decoder | None, batch: Batch) -> float:
    """FLOPs of a step: a backward pass counts as two forward passes, and a masked model is trained at its full width."""
    time = batch["tokens"].shape[1]
    per_token = 3 * decoder.flops_per_token(time) + (0.0 if teacher is None else teacher.flops_per_token(time))
    flops = per_token * batch["tokens"].numel()
    if selector is not None:
        flops += selector.training_flops(batch["prompts"])
    return flops


def active_parameters(decoder: Decoder) -> int:
    """Parameters that a token meets at inference, without embeddings: of a masked model those of its k channels."""
    total = decoder.num_parameters(embedding=False)
    for layer in masked_layers(decoder):
        width, dim = layer.down_proj.in_features, layer.down_proj.out_features
        total -= 3 * (width - layer.keep) * dim
    for module in decoder.modules():
        if isinstance(module, MixtureOfExperts):
            experts = sum(p.numel() for p in module.experts.parameters())
            total -= experts - experts * module.gate.top_k // module.gate.num_experts
    return total

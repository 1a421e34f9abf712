"""A decoder trained from scratch on a mixture of documents: every arm of the comparison is this run.

    loss = - 1/N sum log p(x_t | x_<t)      over the N tokens of a step that count
    NLL(d) = - log p(body eos | bos)        nats per document, comparable with the exact law of a world

Held-out documents are scored at every validation, each on its own: the whole curve, the best checkpoint (chosen on validation
documents) and the last one come from one training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.data import OrderedLoader
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Batch, Corpus, Documents, Symbols, document_batch, pair_batch
from orchard.papers.sbp.runs.mix import Mix, MixBatches
from orchard.runs import Finished, Workspace
from orchard.train import choose
from orchard.train.losses import Loss, counted_loss, counted_losses
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

SCORED_AT_ONCE = 65_536  # tokens of held-out documents in a forward pass


class Pretrain(TrainingRun):
    """Train from scratch on a mixture, score held-out documents along the way.

    Result: ``loss`` and ``validation_loss`` (nats per document) at the ``last`` and the ``best`` checkpoint, ``tokens``, ``steps``,
    ``parameters``, ``training_flops``.
    Files: ``model.safetensors`` (the last weights); ``eval.safetensors``: ``step`` [evaluations], ``validation`` and ``test``
    [evaluations, documents], nats per document; ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        model: Decoder.Config = REQUIRED  # vocab_size is set from the corpus
        mix: Mix.Config = REQUIRED
        steps: int = 0  # those of the mixture
        validate_every: int = 20
        eval_documents: int = 500  # of validation and of test, at most
        checkpoint_every: int = 500

    cfg: Config

    def __init__(self, cfg: Pretrain.Config) -> None:
        if cfg.accumulate != 1:
            raise BadInput(
                f"Pretrain.Config.accumulate is {cfg.accumulate}: a step is one of the mixture, leave it at 1"
            )
        super().__init__(cfg.set(steps=cfg.mix.steps))

    def loss(self, work: Workspace) -> Loss:
        """What is minimised; `ensemble.Distill` has another."""
        return counted_loss

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        from orchard.train.loop import LanguageModel

        cfg, hardware = self.cfg, self.set_up(work)
        corpus = cfg.mix.corpus.build()
        symbols = corpus.symbols
        synthetic = None if cfg.mix.synthetic is None else work.result_of(cfg.mix.synthetic)
        steps = MixBatches(cfg.mix, work.result_of(cfg.mix), synthetic)
        held_out = held_out_documents(corpus, cfg.eval_documents)
        seed_everything(cfg.seed)
        model: Decoder = cfg.model.set(vocab_size=symbols.vocab_size).build()
        flops = model.flops_per_token(corpus.cap + 2)

        def validate() -> dict[str, float]:
            scored = {name: document_nll(model, documents, symbols) for name, documents in held_out.items()}
            np.savez(work.checkpoints / f"eval_{module.global_step:09d}.npz", **scored)  # type: ignore[arg-type]
            return {"validation_loss": float(scored["validation"].mean()), "test_loss": float(scored["test"].mean())}

        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss=self.loss(work))
        loader = OrderedLoader(steps, batch_size=1, seed=cfg.seed)
        self.train(work, hardware, module, loader, validate, tokens=steps.length, flops=flops, dynamic=True)
        files = sorted(work.checkpoints.glob("eval_*.npz"))
        scores = [np.load(file) for file in files]
        curves = {name: np.stack([score[name] for score in scores]) for name in held_out}
        step = np.array([int(file.stem.partition("_")[2]) for file in files])
        save_scores(work, step, curves)
        save_weights(model, work.folder / "model.safetensors")
        best = int(curves["validation"].mean(axis=1).argmin())
        return {
            "last": _scores(curves, step, -1), "best": _scores(curves, step, best), "tokens": cfg.mix.budget, "steps": cfg.steps,
            "parameters": model.num_parameters(), "training_flops": 3 * flops * cfg.mix.budget,
        }  # fmt: skip


def _scores(curves: dict[str, np.ndarray], step: np.ndarray, at: int) -> dict[str, float | int]:
    return {
        "step": int(step[at]), "loss": float(curves["test"][at].mean()), "validation_loss": float(curves["validation"][at].mean())
    }  # fmt: skip


def held_out_documents(corpus: Corpus, count: int) -> dict[str, Documents]:
    """The documents that a model is scored on, ``count`` of each split at most."""
    return {name: corpus.documents(name).head(count) for name in ("validation", "test")}


def save_scores(work: Workspace, step: Int64[np.ndarray, "evaluations"], curves: dict[str, np.ndarray]) -> None:
    """``eval.safetensors``: nats [evaluations, documents] of both splits, and the step of each evaluation."""
    scores = {name: curve.astype(np.float32) for name, curve in curves.items()}
    save_file({"step": step, **scores}, work.folder / "eval.safetensors")


@torch.no_grad()
def sequence_nll(model: Decoder, batches: Iterator[Batch]) -> Float64[np.ndarray, "sequences"]:
    """Nats of every sequence, over the tokens that count. The model's mode is left as it was."""
    device, was_training = model.embedding.weight.device, model.training
    model.eval()
    found = [np.empty(0)]
    for batch in batches:
        tokens, counts = batch.tokens.to(device), batch.counts.to(device)
        nats = torch.zeros(counts.shape, dtype=torch.float64, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            nats[counts] = counted_losses(model, tokens, counts).double()
        found.append(nats.sum(dim=1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(found)


def document_nll(model: Decoder, documents: Documents, symbols: Symbols) -> Float64[np.ndarray, "documents"]:
    """-log p(d) of every document, in nats."""
    return sequence_nll(model, (document_batch(documents.take(part), symbols) for part in in_parts(documents.lengths)))


def pair_nll(model: Decoder, first: Documents, second: Documents, symbols: Symbols) -> Float64[np.ndarray, "pairs"]:
    """-log p(d2 | d1) of every pair, in nats."""
    parts = in_parts(first.lengths + second.lengths)
    return sequence_nll(model, (pair_batch(first.take(part), second.take(part), symbols) for part in parts))


def in_parts(lengths: Int64[np.ndarray, "sequences"]) -> list[Int64[np.ndarray, "_"]]:
    """Sequences in order, in parts of at most about ``SCORED_AT_ONCE`` tokens with their padding."""
    size = max(1, SCORED_AT_ONCE // (int(lengths.max(initial=0)) + 4))
    return [np.arange(start, min(start + size, len(lengths))) for start in range(0, len(lengths), size)]


def load_pretrained(run: Finished, cfg: Pretrain.Config) -> Decoder:
    """The trained decoder of a finished run, on the CPU, in evaluation mode."""
    symbols = cfg.mix.corpus.build().symbols
    model: Decoder = cfg.clone().model.set(vocab_size=symbols.vocab_size).build()
    model.load_state_dict(run.tensors("model"))
    return model.eval()


class Adopt(Pretrain):
    """A local model as it is, in the place of one that was pretrained on the corpus. Its ``mix`` names the corpus.

    Result as of `Pretrain`, with equal ``best`` and ``last``; FLOPs are zero, what made the model is not known. The file of weights holds
    none: they are those of the folder.
    """

    preload = "torch"

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus = cfg.mix.corpus.build()
        model: Decoder = cfg.model.set(vocab_size=corpus.symbols.vocab_size).build().to(choose(work.device).device)
        held_out, step = held_out_documents(corpus, cfg.eval_documents), np.zeros(1, np.int64)
        nll = {name: document_nll(model, documents, corpus.symbols)[None] for name, documents in held_out.items()}
        save_scores(work, step, nll)
        save_file({}, work.folder / "model.safetensors")
        loss = _scores(nll, step, 0)
        count = model.num_parameters()
        return {"last": loss, "best": loss, "tokens": 0, "steps": 0, "parameters": count, "training_flops": 0.0}

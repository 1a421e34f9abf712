"""Stage 2, tune: a pretrained decoder learns to write the second document of a pair.

    bos d1 sep bos d2 eos      loss on d2 alone: - log p(d2 | d1)

AdamW at a quarter of the pretraining rate, cosine to a tenth; the weights kept are those with the smallest loss on held-out pairs,
which are pairs of held-out documents: a synthesizer that has memorised the d2 of D is stopped there.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from jaxtyping import Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import ResumableLoader
from orchard.errors import BadInput
from orchard.files import write
from orchard.nn import Decoder
from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols, document_batch, labels_of, pair_batch
from orchard.papers.sbp.runs.pretrain import Pretrain, document_nll, load_pretrained, pair_nll
from orchard.runs import Finished, Run, Workspace
from orchard.train.losses import counted_loss
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

Pairs = tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]  # numbers of first and second documents


class Tune(TrainingRun):
    """Tune a synthesizer.

    Result: ``loss_before`` and ``loss`` on held-out pairs (nats per second document), ``best_step``, ``tokens``, the predicted and the
    read ones, ``flops``.
    Files: ``model.safetensors`` (the best weights), ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):  # steps: at most, since the best weights are kept
        pretrained: Pretrain.Config = REQUIRED  # gives architecture, corpus and, unless scratch, weights
        pairs: Run.Config | None = None  # a run of pairs; None: documents of D alone, the unconditional control
        scratch: bool = False  # begin with new weights
        batch_size: int = REQUIRED  # pairs per step
        validate_every: int = 20
        held_out: int = 500  # pairs of held-out documents
        checkpoint_every: int = 500

    sizes = (*TrainingRun.sizes, "batch_size")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Tune from the newest checkpoint, if there is one."""
        from orchard.train.loop import LanguageModel

        cfg, hardware = self.cfg, self.set_up(work)
        corpus = cfg.pretrained.mix.corpus.build()
        symbols = corpus.symbols
        pairs = None if cfg.pairs is None else work.result_of(cfg.pairs)
        found = {name: None if pairs is None else pairs_of(pairs, name) for name in ("pairs", "held_out")}
        train = TuningSequences(corpus.documents("train"), found["pairs"], symbols)
        check = TuningSequences(corpus.documents("validation"), found["held_out"], symbols).some(cfg.held_out, cfg.seed)
        for what, sequences in (("D", train), ("held-out documents", check)):
            if not len(sequences):
                raise BadInput(
                    f"{cfg.label or 'tuning'}: there is no pair of {what}: raise the exceedance of the pairs, or give more documents"
                )
        batch = min(cfg.batch_size, len(train))
        seed_everything(cfg.seed)
        if cfg.scratch:
            model: Decoder = cfg.pretrained.model.clone().set(vocab_size=symbols.vocab_size).build()
        else:
            model = load_pretrained(work.result_of(cfg.pretrained), cfg.pretrained).train()
        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss=counted_loss)
        flops = model.flops_per_token(train.length)
        log, best, part = (work.checkpoints / name for name in ("held_out.json", "best.safetensors", "best.part"))

        def validate() -> dict[str, float]:
            step, loss = module.global_step, check.nll(model)
            known = json.loads(log.read_text("utf-8")) if log.exists() else {}
            known = {key: value for key, value in known.items() if int(key) < step}  # not of an attempt that was killed
            if loss < min(known.values(), default=float("inf")):
                save_weights(model, part)
                os.replace(part, best)
            write(log, json.dumps({**known, str(step): loss}))
            return {"held_out_loss": loss}

        if not log.exists():
            validate()  # step 0: what tuning begins with
        loader = ResumableLoader(train, batch, cfg.seed, cfg.accumulate)
        self.train(work, hardware, module, loader, validate, tokens=batch * train.length, flops=flops, dynamic=True)
        losses = {int(step): loss for step, loss in json.loads(log.read_text("utf-8")).items()}
        save_file(load_file(best), work.folder / "model.safetensors")
        tokens = cfg.batches * batch * train.length
        best_step = min(losses, key=lambda step: losses[step])
        return {
            "loss_before": losses[0], "loss": losses[best_step], "best_step": best_step, "sequences": len(train),
            "curve": [[step, losses[step]] for step in sorted(losses)], "tokens": tokens, "flops": 3 * flops * tokens,
        }  # fmt: skip


def pairs_of(run: Finished, name: str) -> Pairs:
    """First and second document of the pairs of a finished run, of D (``pairs``) or of held-out documents (``held_out``)."""
    found = run.tensors(name)
    return found["first"].numpy(), found["second"].numpy()


def precision(run: Finished, corpus: Corpus) -> float:
    """The share of the pairs of a finished run whose documents of D have the same label. Raises BadInput where nobody knows labels."""
    labels = labels_of(corpus.documents("train"), "the precision of pairs needs labels")
    first, second = pairs_of(run, "pairs")
    return float((labels[first] == labels[second]).mean())


class TuningSequences:
    """Pairs, or documents alone, as numbered sequences for the loader."""

    def __init__(self, documents: Documents, pairs: Pairs | None, symbols: Symbols) -> None:
        self.documents, self.pairs, self.symbols = documents, pairs, symbols
        lengths = documents.lengths + 2
        used = lengths if pairs is None else lengths[pairs[0]] + lengths[pairs[1]]
        self.length = round(float(used.mean())) if len(used) else 0  # tokens of a sequence, on average

    def __len__(self) -> int:
        return len(self.documents) if self.pairs is None else len(self.pairs[0])

    def some(self, count: int, seed: int) -> TuningSequences:
        """``count`` of them, drawn once."""
        chosen = np.sort(np.random.default_rng([seed, 6]).permutation(len(self))[:count])
        if self.pairs is None:
            return TuningSequences(self.documents.take(chosen), None, self.symbols)
        return TuningSequences(self.documents, (self.pairs[0][chosen], self.pairs[1][chosen]), self.symbols)

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """The sequences with these numbers, padded to the longest."""
        if self.pairs is None:
            return vars(document_batch(self.documents.take(indices), self.symbols))
        first, second = (self.documents.take(ends[indices]) for ends in self.pairs)
        return vars(pair_batch(first, second, self.symbols))

    def nll(self, model: Decoder) -> float:
        """Mean nats per (second) document."""
        if self.pairs is None:
            return float(document_nll(model, self.documents, self.symbols).mean())
        first, second = (self.documents.take(index) for index in self.pairs)
        return float(pair_nll(model, first, second, self.symbols).mean())


def load_synthesizer(run: Finished, cfg: Tune.Config) -> Decoder:
    """The tuned decoder of a finished run, on the CPU, in evaluation mode."""
    return load_pretrained(run, cfg.pretrained)

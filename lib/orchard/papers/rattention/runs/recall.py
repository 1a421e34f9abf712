"""The run behind associative recall: train on sequences of changing size, then test at each number of pairs and length of filler.

    loss = mean over sequences of  - 1/P sum over the P values asked for of log p(value | true tokens before it)

A batch draws its number of pairs and the length of its filler, so one training gives the whole curve, and short gaps are learned first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import ResumableLoader
from orchard.papers.rattention.data.recall import NEAR, generate, vocab_size
from orchard.papers.rattention.data.ruler_tokens import Examples
from orchard.papers.rattention.method.models import ShiftedDecoder
from orchard.papers.rattention.runs.ruler import TEST, TRAIN, VALIDATION, answer_loss, predicted_at, score
from orchard.runs import Workspace
from orchard.train.run import TrainingRun, save_tensors, save_weights
from orchard.train.seeding import seed_everything


class TrainRecall(TrainingRun):
    """Train a model from scratch on associative recall and test it.

    Result: ``validation_loss`` (nats per value) and ``validation_accuracy`` (of the far values), both at the middle number of pairs and
    the longest filler; ``tokens`` trained on, ``parameters``. Files: ``model.safetensors``; ``eval.safetensors``, one entry per test
    sequence: ``pairs``, ``filler``, ``example``, ``near`` and ``far`` (share of right answers, 0 … 1); ``metrics.jsonl``.
    The test sequences depend on the seed and their size, never on the model.
    """

    class Config(TrainingRun.Config):
        model: ShiftedDecoder.Config = REQUIRED  # vocab_size is set from keys
        keys: int = 32
        pairs: list[int] = REQUIRED  # a batch draws one; all are tested at the longest filler
        fillers: list[int] = REQUIRED  # tested at the middle number of pairs; a batch draws a length up to the last
        batch_size: int = REQUIRED
        validation_examples: int = 64
        test_examples: int = 64  # sequences per size

        @property
        def middle(self) -> int:
            """The number of pairs that is tested at every filler."""
            return self.pairs[len(self.pairs) // 2]

        @property
        def tests(self) -> list[tuple[int, int]]:
            """Pairs and filler of every test, each once."""
            return list(
                dict.fromkeys([(self.middle, f) for f in self.fillers] + [(p, self.fillers[-1]) for p in self.pairs])
            )

    sizes = (*TrainingRun.sizes, "batch_size", "validation_examples", "test_examples")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, to the last step, then test."""
        from orchard.train.loop import LanguageModel  # Lightning takes seconds to import

        cfg, hardware = self.cfg, self.set_up(work)
        seed_everything(cfg.seed)
        model: ShiftedDecoder = cfg.model.set(vocab_size=vocab_size(cfg.keys)).build()
        batches = RecallBatches(cfg)
        held_out = examples(cfg, VALIDATION, cfg.middle, cfg.fillers[-1], cfg.validation_examples)

        def validate() -> dict[str, float]:
            correct, nats = score(model, held_out, hardware)
            return {"validation_loss": nats, "validation_accuracy": float(correct[:, NEAR:].mean())}

        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss=answer_loss)
        loader = ResumableLoader(batches, 1, cfg.seed, cfg.accumulate)
        length = batches.length
        tokens, flops = cfg.batch_size * length, model.flops_per_token(length)
        measured = self.train(work, hardware, module, loader, validate, tokens=tokens, flops=flops, dynamic=True)

        save_weights(model, work.folder / "model.safetensors")
        kept: dict[str, list[np.ndarray]] = {name: [] for name in ("pairs", "filler", "example", "near", "far")}
        for pairs, filler in cfg.tests:
            correct, _ = score(model, examples(cfg, TEST, pairs, filler, cfg.test_examples), hardware)
            sizes = (np.full(len(correct), pairs), np.full(len(correct), filler), np.arange(len(correct)))
            shares = (correct[:, :NEAR].mean(axis=1), correct[:, NEAR:].mean(axis=1))
            for column, values in zip(kept.values(), (*sizes, *shares), strict=True):
                column.append(values)
        columns = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in kept.items()}
        save_tensors(columns, work.folder / "eval.safetensors")
        return measured | {"tokens": sum(map(batches.tokens, range(cfg.batches))), "parameters": model.num_parameters()}


class RecallBatches:
    """The batches of a training by number: batch i is a function of the seed and i alone. For ``ResumableLoader``."""

    def __init__(self, cfg: TrainRecall.Config) -> None:
        self.cfg, self.length = cfg, 4 * round(np.mean(cfg.pairs)) + cfg.fillers[-1] // 2

    def __len__(self) -> int:
        return self.cfg.batches

    def sizes(self, number: int) -> tuple[int, int]:
        """Pairs and filler of a batch."""
        random = np.random.default_rng([TRAIN, self.cfg.seed, number])
        return int(random.choice(self.cfg.pairs)), int(random.integers(self.cfg.fillers[-1] + 1))

    def tokens(self, number: int) -> int:
        """Tokens of a batch."""
        pairs, filler = self.sizes(number)
        return self.cfg.batch_size * (4 * pairs + filler)

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """Batch ``indices[0]``: ``tokens``, and of every value asked for ``row``, ``column`` (that predicts it) and ``weight``."""
        (number,) = map(int, indices)
        random = np.random.default_rng([TRAIN, self.cfg.seed, number, 1])
        part = generate(random, self.cfg.batch_size, *self.sizes(number), self.cfg.keys)
        places = predicted_at(part)
        rows = np.repeat(np.arange(len(places)), places.shape[1])
        weight = np.full(places.size, 1 / places.size, dtype=np.float32)
        arrays = {"tokens": part.tokens, "row": rows, "column": places.ravel(), "weight": weight}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def examples(cfg: TrainRecall.Config, stream: int, pairs: int, filler: int, count: int) -> Examples:
    """Validation or test sequences of one size: a function of the seed, the stream and the size."""
    return generate(np.random.default_rng([stream, cfg.seed, pairs, filler]), count, pairs, filler, cfg.keys)

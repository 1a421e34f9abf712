"""The run behind RULER-lite: train a model on a mix of tasks up to length T, then let the untouched checkpoint answer at T … 8T.

    loss = mean over sequences of  - 1/n sum over the n answer tokens of log p(token | true tokens before it)

Lengths are uniform on T/2 … T, one per batch; every batch holds the same number of sequences of each task.

**What is scored is what greedy decoding gives.** An answer that is one item counts when every token of it is the argmax given the
prompt and the true tokens before it. Greedy decoding gives the answer in exactly those cases: by induction, as long as its tokens
are the true ones both see the same prefix, and at the first token that is not the argmax it leaves the answer. (In exact
arithmetic: a cache and a whole sequence may round a tie of two logits differently.) So one forward pass scores all queries of a
sequence. Where an answer has several items in any order (fwe, cwe, vt, niah_multivalue, niah_multiquery) partial credit needs what
the model really says: it is decoded token by token, with a cache. Earlier queries of a sequence stand before a query with their true
answers, as examples of the format; no key is asked for twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors.torch import save_file
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data import ResumableLoader
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.rattention.data.ruler_tokens import VOCAB_SIZE, Examples, generate
from orchard.runs import Workspace
from orchard.train.hardware import Hardware
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

TRAIN, VALIDATION, TEST = range(3)  # streams of random numbers that never meet
TOKENS_AT_ONCE = {"cpu": 2**14, "cuda": 2**17, "mps": 2**15}  # in one forward pass of an evaluation


class TrainRuler(TrainingRun):
    """Train a model from scratch on RULER-lite and score it at multiples of its training length.

    Result: ``validation_loss`` (nats per answer token) and ``validation_accuracy`` at T, mean over tasks; ``accuracy`` (by task, then
    length); ``tokens`` trained on, ``parameters``. Files: ``model.safetensors``; ``eval.safetensors``, one entry per query: ``task`` (index
    in the config's tasks), ``length``, ``example``, ``correct`` (0 … 1), ``depth`` (0 … 1 or NaN), ``distance`` (tokens or -1);
    ``metrics.jsonl`` (``step``, ``loss``, ``validation_loss``, ``validation_accuracy`` and ``accuracy <task>``).
    The test examples depend on the seed, the task and the length, never on the model.
    """

    class Config(TrainingRun.Config):
        model: Decoder.Config = REQUIRED  # vocab_size is set from the tasks
        tasks: list[str] = REQUIRED
        needles: str = "words"  # or "pair": one token each
        length: int = REQUIRED  # T
        batch_size: int = REQUIRED  # sequences per step, divided equally among the tasks
        validation_examples: int = 32  # sequences per task
        multiples: list[int] = [1, 2, 4, 8]  # of T, at which the checkpoint is tested
        test_examples: int = 64  # sequences per task and length

    sizes = (*TrainingRun.sizes, "length", "batch_size", "validation_examples", "test_examples")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, to the last step, then test."""
        from orchard.train.loop import LanguageModel  # Lightning takes seconds to import

        cfg, hardware = self.cfg, self.set_up(work)
        seed_everything(cfg.seed)
        model: Decoder = cfg.model.set(vocab_size=VOCAB_SIZE[cfg.needles]).build()
        stream = TrainingBatches(cfg)
        validation = [examples(cfg, VALIDATION, task, cfg.length, cfg.validation_examples) for task in cfg.tasks]

        def validate() -> dict[str, float]:
            scores = {part.task: score(model, part, hardware) for part in validation}
            accuracy = {f"accuracy {task}": float(correct.mean()) for task, (correct, _) in scores.items()}
            loss = float(np.mean([nats for _, nats in scores.values()]))
            return {"validation_loss": loss, "validation_accuracy": float(np.mean(list(accuracy.values()))), **accuracy}

        module = LanguageModel(model, cfg.optim.build(), cfg.steps, hardware.fused_optimizer, loss=answer_loss)
        loader = ResumableLoader(stream, 1, cfg.seed, cfg.accumulate)
        tokens, flops = cfg.batch_size * (3 * cfg.length // 4), model.flops_per_token(cfg.length)
        measured = self.train(work, hardware, module, loader, validate, tokens=tokens, flops=flops, dynamic=True)

        save_weights(model, work.folder / "model.safetensors")
        columns, accuracy = test(model, cfg, hardware)
        save_file(columns, work.folder / "eval.safetensors")
        return {
            "validation_loss": measured["validation_loss"],
            "validation_accuracy": measured["validation_accuracy"],
            "accuracy": accuracy,
            "tokens": cfg.batch_size * sum(stream.length_of(number) for number in range(cfg.batches)),
            "parameters": model.num_parameters(),
        }


class TrainingBatches:
    """The batches of a training by number: batch i is a function of the seed and i alone. For ``ResumableLoader``."""

    def __init__(self, cfg: TrainRuler.Config) -> None:
        if cfg.batch_size % len(cfg.tasks):
            raise BadInput(
                f"batch_size is {cfg.batch_size} for {len(cfg.tasks)} tasks: every task has the same number of sequences "
                "in a batch, so give a multiple"
            )
        self.cfg, self.length = cfg, cfg.length

    def __len__(self) -> int:
        return self.cfg.batches

    def length_of(self, number: int) -> int:
        """Length of a batch, uniform on T/2 … T."""
        random = np.random.default_rng([TRAIN, self.cfg.seed, number])
        return int(random.integers(self.length // 2, self.length + 1))

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """Batch ``indices[0]``: ``tokens`` [batch, length + 1], and of every answer token ``row``, ``column`` (of the place that
        predicts it) and ``weight`` (they sum to 1)."""
        (number,) = indices
        cfg, length = self.cfg, self.length_of(int(number))
        parts, rows, columns, weights = [], [], [], []
        share = cfg.batch_size // len(cfg.tasks)
        for index, task in enumerate(cfg.tasks):
            random = np.random.default_rng([TRAIN, cfg.seed, int(number), index])
            part = generate(task, random, share, length, cfg.needles)
            places = predicted_at(part)
            rows.append(np.repeat(np.arange(share) + share * index, places.shape[1]))
            columns.append(places.ravel())
            weights.append(np.full(places.size, 1 / (cfg.batch_size * places.shape[1]), dtype=np.float32))
            parts.append(part.tokens)
        arrays = {"tokens": parts, "row": rows, "column": columns, "weight": weights}
        return {name: torch.from_numpy(np.concatenate(array)) for name, array in arrays.items()}


def predicted_at(part: Examples) -> Int64[np.ndarray, "batch answer_tokens"]:
    """Indices of the places that predict the answer tokens of each sequence."""
    return (part.answers[:, :, None] + np.arange(part.size) - 1).reshape(len(part.answers), -1)


def answer_losses(model: Decoder, batch: dict[str, Tensor]) -> Float[Tensor, " answer_tokens"]:
    """Nats of every answer token, given all true tokens before it."""
    features = model.features(batch["tokens"][:, :-1])[batch["row"], batch["column"]]
    target = batch["tokens"][batch["row"], batch["column"] + 1]
    return F.cross_entropy(model.logits(features).float(), target, reduction="none")


def answer_loss(model: Decoder, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Nats per answer token, each sequence with the same weight."""
    return (answer_losses(model, batch) * batch["weight"]).sum()


def examples(cfg: TrainRuler.Config, stream: int, task: str, length: int, count: int) -> Examples:
    """Validation or test sequences of one task and length: a function of the seed, the stream, the task and the length."""
    random = np.random.default_rng([stream, cfg.seed, length, *task.encode()])
    return generate(task, random, count, length, cfg.needles)


@torch.no_grad()
def score(model: Decoder, part: Examples, hardware: Hardware) -> tuple[np.ndarray, float]:
    """Correctness of every query, [batch, queries] in 0 … 1, and the mean nats per answer token (with the true tokens before it)."""
    device = torch.device(hardware.device)
    was_training = model.training
    model = model.to(device).eval()
    rows = max(1, TOKENS_AT_ONCE[hardware.device] // part.tokens.shape[1])
    correct, nats = [], []
    with torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
        for start in range(0, len(part.tokens), rows):
            tokens = torch.from_numpy(part.tokens[start : start + rows]).to(device)
            places = torch.from_numpy(predicted_at(part)[start : start + rows]).to(device)
            logits = model.logits(model.features(tokens[:, :-1]).take_along_dim(places[..., None], dim=1)).float()
            target = tokens.take_along_dim(places + 1, dim=1)
            nats.append(F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").double().cpu())
            exact = (logits.argmax(dim=-1) == target).unflatten(1, (-1, part.size)).all(dim=-1)
            points = exact.double().cpu().numpy()
            if part.items > 1 and not exact.all():
                rest, begin = ~exact[:, 0], int(part.answers[0, 0])
                said = model.generate(tokens[rest, :begin], part.size)[:, begin:]
                points[rest.cpu().numpy(), 0] = found(said.cpu().numpy(), target[rest].cpu().numpy(), part.items)
            correct.append(points)
    model.train(was_training)
    return np.concatenate(correct), float(torch.cat(nats).mean())


def found(
    said: Int64[np.ndarray, "batch size"], answer: Int64[np.ndarray, "batch size"], items: int
) -> Float[np.ndarray, " batch"]:
    """Fraction of the answer's items that are among those said (RULER's string_match_all, on tokens)."""
    said, answer = (x.reshape(len(x), items, -1) for x in (said, answer))
    return (said[:, None] == answer[:, :, None]).all(axis=3).any(axis=2).mean(axis=1)


def test(
    model: Decoder, cfg: TrainRuler.Config, hardware: Hardware
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Every task at every multiple of T: one entry per query for ``eval.safetensors``, and the accuracy by task and length."""
    kept: dict[str, list[np.ndarray]] = {k: [] for k in ("task", "length", "example", "correct", "depth", "distance")}
    accuracy: dict[str, dict[str, float]] = {task: {} for task in cfg.tasks}
    for index, task in enumerate(cfg.tasks):
        for length in (multiple * cfg.length for multiple in cfg.multiples):
            part = examples(cfg, TEST, task, length, cfg.test_examples)
            correct, _ = score(model, part, hardware)
            accuracy[task][str(length)] = float(correct.mean())
            example = np.broadcast_to(np.arange(len(correct))[:, None], correct.shape)
            columns: dict[str, np.ndarray] = {
                "task": np.full(correct.shape, index), "length": np.full(correct.shape, length), "example": example,
                "correct": correct.astype(np.float32), "depth": part.depth.astype(np.float32), "distance": part.distance,
            }  # fmt: skip
            for name, column in columns.items():
                kept[name].append(column.ravel())
    return {name: torch.from_numpy(np.concatenate(parts)) for name, parts in kept.items()}, accuracy

"""Stage 0: the hybrid tokenizer, trained by the text of a small language model that reads one of its two adapters, drawn per sample.

    text     -log p(answer | adapter(picture), prompt)        per target, the mean of a batch
    recon    mean (decoder(adapter(picture)) - picture)²      without or beside text; of the reader's own pictures alone

A curriculum is a list of phases: which texts about pictures of which density, how often the discrete adapter is read, until which step.
Both adapters are measured by one rule: the step from which on the loss of a task falls by no more than a tolerance. It does not end the
training, or arms would have different schedules of the learning rate.

Controls: codes after the fact (only a new discrete adapter learns, and the language model), the same bottleneck without rounding,
another picture at the test.

Source: Manzano, arXiv 2509.16197 (hybrid tokenizer and its training).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.manzano.data.captions import WORDS
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.fsq import code_use
from orchard.papers.manzano.method.tokenizer import HybridTokenizer, draw_adapters, unit_pixels
from orchard.papers.manzano.method.unified import Sequences, Vocabulary, losses, understanding
from orchard.papers.manzano.runs.learning import Batch, Until, device_of, last_step, learn, shares, stage_at
from orchard.papers.manzano.runs.tasks import Task, marks, summary, to_read
from orchard.runs import Finished, Workspace
from orchard.train.run import TrainingRun, save_tensors, save_weights
from orchard.train.seeding import seed_everything

ADAPTERS = ("continuous", "discrete")
SHUFFLED = "another picture through the "  # adapter
AT_ONCE = 256  # pictures
VOCABULARY = Vocabulary(len(WORDS), 0)


class Stream(Configurable):
    """Texts of a task about pictures of a density: data, never built."""

    class Config(Configurable.Config):
        task: str = REQUIRED
        k: int = 0  # characters of a token; 0: those of the world
        share: float = 1.0


class Phase(Until):
    """A phase of the curriculum."""

    class Config(Until.Config):
        streams: list[Stream.Config] = REQUIRED
        discrete: float = 0.5  # chance of the discrete adapter; 0 and 1 compute one adapter alone


class Reader(nn.Module):
    """A language model and the tokenizer whose vectors it reads; a head that draws pictures from these, where that is learned."""

    def __init__(
        self, tokenizer: HybridTokenizer, language_model: Decoder, reconstruction: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self.language_model, self.reconstruction = tokenizer, language_model, reconstruction


class Tokenizer(TrainingRun):
    """Train a tokenizer.

    Result: ``scores`` of the test slots by stream and adapter, see `tasks.summary`; on validation pictures "adapter/stream/loss" and
    "adapter/stream/accuracy" (given true words), and ``validation_loss``, the mean of these losses, at the end and at the start
    (``initial``); ``settled``, the step by the rule above, as "adapter/stream"; ``use`` of the codebook on test pictures; ``parameters``.
    Files: ``tokenizer.safetensors``, ``language_model.safetensors``; ``answers.safetensors``, the columns of `marks` as
    "adapter/stream/column"; ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        tokenizer: HybridTokenizer.Config = REQUIRED  # dim is that of the language model
        language_model: Decoder.Config = REQUIRED  # vocab_size is that of the words
        world: SceneWorld.Config = REQUIRED
        phases: list[Phase.Config] = REQUIRED
        batch_size: int = REQUIRED
        steps: int = 0  # those of the phases
        start: Tokenizer.Config | None = None  # weights to begin with, the language model's too
        posthoc: bool = False  # of the start nothing learns but a new discrete adapter, and the language model
        tolerance: float = 0.02  # nats
        validation_items: int = 200  # texts of a stream
        test_items: int = 600

    sizes = (*TrainingRun.sizes, "batch_size", "validation_items", "test_items")
    cfg: Config

    def __init__(self, cfg: Tokenizer.Config) -> None:
        if cfg.posthoc and cfg.start is None:
            raise BadInput("Tokenizer.Config.posthoc keeps what a start has learned: set start")
        if cfg.start is not None:
            same = cfg.start.tokenizer.clone().set(rounded=cfg.tokenizer.rounded) == cfg.tokenizer
            if not same or cfg.start.language_model != cfg.language_model:
                raise BadInput(
                    "Tokenizer.Config.start has another tokenizer or language model: they may differ in tokenizer.rounded alone"
                )
        for phase in cfg.phases:
            shares("the share of the streams of a phase", _shares(phase))
            draw_adapters(0, phase.discrete)
        super().__init__(cfg.set(steps=last_step("Tokenizer.Config.phases", cfg.phases)))

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, then test."""
        cfg, hardware = self.cfg, self.set_up(work)
        seed_everything(cfg.seed)
        model = self._model(work).to(hardware.device)
        tok, decoder = model.tokenizer, model.language_model
        lessons = _Lessons(cfg, tok)
        held_out = self._held_out("validation", cfg.validation_items)

        def validate() -> dict[str, float]:
            found: dict[str, float] = {}
            for name, (task, pixels) in held_out.items():
                for adapter, vectors in _read(tok, squares_of(tok, pixels)).items():
                    slots = marks(decoder, VOCABULARY, task, vectors, generate=False)
                    found[f"{adapter}/{name}/loss"] = float(slots["nats"].mean())
                    found[f"{adapter}/{name}/accuracy"] = float(slots["likely"].float().mean())
            means = [value for name, value in found.items() if name.endswith("/loss")]
            return found | {"validation_loss": float(np.mean(means))}

        initial, tokens = validate(), cfg.batch_size * (tok.n + 2 + lessons.length)
        validated = learn(self, work, hardware, model, Objective(), lessons.batch, validate, tokens=tokens)
        save_weights(tok, work.folder / "tokenizer.safetensors")
        save_weights(decoder, work.folder / "language_model.safetensors")
        parameters = sum(parameter.numel() for parameter in tok.parameters())
        settled = settled_at(work.folder / "metrics.jsonl", cfg.tolerance)
        return validated | self._test(work, model) | {"initial": initial, "settled": settled, "parameters": parameters}

    def _model(self, work: Workspace) -> Reader:
        """What learns, on the CPU."""
        cfg = self.cfg
        tok: HybridTokenizer = _known(cfg).build()
        decoder: Decoder = cfg.language_model.clone().set(vocab_size=VOCABULARY.size).build()
        if cfg.start is not None:
            done = work.result_of(cfg.start)
            decoder.load_state_dict(done.tensors("language_model"))
            tok = load_tokenizer(done, cfg.start)
            if cfg.posthoc:
                tok = tok.posthoc(cfg.tokenizer.rounded)
            tok.discrete.rounded = cfg.tokenizer.rounded
        return Reader(tok, decoder)

    def _held_out(self, split: str, count: int) -> dict[str, tuple[Task, Tensor]]:
        """The texts of the streams of the last phase, and the picture of each."""
        found = {}
        for stream in self.cfg.phases[-1].streams:
            world = _world(self.cfg, stream)
            scenes = world.scenes(split)
            task = to_read(world, scenes.records, stream.task, seed=0).head(count)
            found[_name(self.cfg, stream)] = task, torch.from_numpy(world.pixels(scenes.take(task.rows)))
        return found

    def _test(self, work: Workspace, model: Reader) -> dict[str, Any]:
        cfg, tok = self.cfg, model.tokenizer
        kept: dict[str, Tensor] = {}
        found: dict[str, dict[str, dict[str, float]]] = {}
        ids = []
        for name, (task, pixels) in self._held_out("test", cfg.test_items).items():
            squares = squares_of(tok, pixels)
            readings = _read(tok, squares)
            readings |= {f"{SHUFFLED}{adapter}": vectors.roll(1, dims=0) for adapter, vectors in readings.items()}
            ids.append(codes_of(tok, squares))
            for adapter, vectors in readings.items():
                slots = marks(model.language_model, VOCABULARY, task, vectors)
                kept |= {f"{adapter}/{name}/{column}": values for column, values in slots.items()}
                found.setdefault(name, {})[adapter] = summary(task, slots)
        save_tensors(kept, work.folder / "answers.safetensors")
        return {"scores": found, "use": code_use(torch.cat(ids), tok.quantizer.size)}


class Objective:
    """The loss of a batch: one adapter is read of every sample."""

    def __init__(self, kind: str = "text") -> None:  # or recon, both
        self.kind = kind

    def __call__(self, model: Reader, batch: Batch) -> Tensor:
        tok, chance = model.tokenizer, float(batch["discrete"])
        x = batch["squares"] if "squares" in batch else tok.squares(batch["pixels"])
        if 0 < chance < 1:
            vectors = tok.features(x, draw_adapters(len(x), chance).to(x.device))
        else:
            vectors = tok.discrete(x) if chance else tok.continuous(x)
        loss = vectors.new_zeros(())
        if self.kind != "recon":
            loss = losses(model.language_model, Sequences(batch["tokens"], batch["kinds"]), vectors).text
        if model.reconstruction is not None:
            drawn = model.reconstruction(vectors)
            loss = loss + (drawn - unit_pixels(batch["pixels"])).square().mean()
        return loss


class _Lessons:
    """The batches of a training by number. Where nothing of the vision transformer learns, its outputs are computed once."""

    def __init__(self, cfg: Tokenizer.Config, tok: HybridTokenizer) -> None:
        self.cfg, self.n, self.frozen = cfg, tok.n, not any(p.requires_grad for p in tok.vision.parameters())
        self.tasks: dict[str, Task] = {}
        self.pictures: dict[str, Batch] = {}  # by stream; those of a density are one tensor
        pools: dict[int, tuple[SceneWorld, Any, Batch]] = {}
        for stream in (stream for phase in cfg.phases for stream in phase.streams):
            world = _world(cfg, stream)
            if world.cfg.k not in pools:
                scenes = world.scenes("train")
                pixels = torch.from_numpy(world.pixels(scenes))
                squares = {"squares": squares_of(tok, pixels).cpu()} if self.frozen else {}
                pools[world.cfg.k] = world, scenes.records, {"pixels": pixels, **squares}
            world, records, pictures = pools[world.cfg.k]
            name = _name(cfg, stream)
            self.tasks[name], self.pictures[name] = to_read(world, records, stream.task, cfg.seed), pictures
        self.length = round(Task.joined(list(self.tasks.values())).length)

    def batch(self, number: int) -> Batch:
        """Pictures, the sequences in which they are read, and the chance of the discrete adapter."""
        cfg, random = self.cfg, np.random.default_rng([self.cfg.seed, number])
        phase = stage_at(cfg.phases, number // cfg.accumulate)
        chances = shares("the share of the streams of a phase", _shares(phase))
        counts = np.bincount(random.choice(len(chances), size=cfg.batch_size, p=chances), minlength=len(chances))
        parts: list[Task] = []
        pictures: dict[str, list[Tensor]] = {}
        for stream, count in zip(phase.streams, counts.tolist(), strict=True):
            name = _name(cfg, stream)
            parts.append(self.tasks[name].take(random.integers(len(self.tasks[name]), size=count)))
            for kind, values in self.pictures[name].items():
                pictures.setdefault(kind, []).append(values[torch.from_numpy(parts[-1].rows)])
        task = Task.joined(parts)
        sequences = understanding(VOCABULARY, self.n, task.prompts, task.answers)
        shown = {kind: torch.cat(values) for kind, values in pictures.items()}
        return {**shown, **vars(sequences), "discrete": torch.tensor(phase.discrete)}


def settled_at(metrics: Path, tolerance: float) -> dict[str, int]:
    """By loss in ``metrics.jsonl``: the first step from which on it falls by no more than the tolerance."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, metrics.read_text("utf-8").splitlines()):
        for name, value in row.items():
            if name.endswith("/loss"):
                curves.setdefault(name.removesuffix("/loss"), []).append((row["step"], value))
    found = {}
    for name, curve in curves.items():
        best = min(value for _, value in curve)
        found[name] = next(step for step, value in curve if value - best <= tolerance)
    return found


def load_tokenizer(run: Finished, cfg: Tokenizer.Config) -> HybridTokenizer:
    """The tokenizer of a finished run, on the CPU, in evaluation mode."""
    tok: HybridTokenizer = _known(cfg).build()
    tok.load_state_dict(run.tensors("tokenizer"))
    return tok.eval()


def _known(cfg: Tokenizer.Config) -> HybridTokenizer.Config:
    return cfg.tokenizer.clone().set(dim=cfg.language_model.dim)


def _world(cfg: Tokenizer.Config, stream: Stream.Config) -> SceneWorld:
    world: SceneWorld = cfg.world.clone().set(k=stream.k or cfg.world.k).build()
    return world


def _name(cfg: Tokenizer.Config, stream: Stream.Config) -> str:
    return f"{stream.task} k{stream.k or cfg.world.k}"


def _shares(phase: Phase.Config) -> dict[str, float]:
    return {f"{i} {stream.task}": stream.share for i, stream in enumerate(phase.streams)}


@torch.no_grad()
def squares_of(tok: HybridTokenizer, pixels: Tensor) -> Tensor:
    """What both adapters read, on the tokenizer's device; in parts."""
    return torch.cat([tok.squares(part.to(device_of(tok))) for part in pixels.split(AT_ONCE)])


@torch.no_grad()
def codes_of(tok: HybridTokenizer, squares: Tensor) -> Tensor:
    """Codes of what adapters read, on the CPU; always in parts of one size: a sum may depend on it, and a code on the last bit."""
    return torch.cat([tok.discrete.ids(part.to(device_of(tok))).cpu() for part in squares.split(AT_ONCE)])


@torch.no_grad()
def _read(tok: HybridTokenizer, squares: Tensor) -> dict[str, Tensor]:
    """The output of either adapter."""
    return {"continuous": tok.continuous(squares), "discrete": tok.discrete(squares)}

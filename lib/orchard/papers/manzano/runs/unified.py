"""Stages 1 to 3: one language model that reads pictures, writes their codes and reads text, in mixtures that are data.

    batch    understanding + edits + generation + text sequences, so many of each: the published 40/40/20, then 41/45/14
    loss     mean over text targets + 0.5 mean over image targets

    arm                   reads               writes codes of
    hybrid                continuous          its own tokenizer
    pure discrete         codes               its own tokenizer            rows of the embedding
    the same, features    adapter             its own tokenizer            the discrete adapter's output for a code
    dual encoder          continuous          an auto-encoder
    dual, semantic        continuous          another tokenizer
    one task              continuous          stages without the other's sequences: as many steps, as many sequences of its own
    blind                 nothing             its own tokenizer

Vision transformer and codes are frozen: their outputs come from `Features`. The whole tokenizer is kept beside the language model and
compared with the one of stage 0 byte by byte. The layers of an adapter that end in the width of a language model are new in every arm.

Source: Manzano, arXiv 2509.16197 (unified language model, training stages, ablations).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.manzano.data.captions import BOS, PAD, WORDS, encode, facts
from orchard.papers.manzano.data.edits import instructions
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.tokenizer import HybridTokenizer
from orchard.papers.manzano.method.unified import (
    IMAGE,
    SLOT,
    TEXT,
    Losses,
    Sequences,
    Vocabulary,
    generation,
    losses,
    plain_text,
    understanding,
)
from orchard.papers.manzano.runs.drawing import to_draw
from orchard.papers.manzano.runs.features import Features, edited
from orchard.papers.manzano.runs.learning import Batch, Until, device_of, last_step, learn, shares, stage_at
from orchard.papers.manzano.runs.tasks import Task, mixed, to_read
from orchard.papers.manzano.runs.tokenizer import Reader, codes_of, load_tokenizer
from orchard.runs import Finished, Run, Workspace
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

Reads = Literal["continuous", "codes", "adapter", "nothing"]
KINDS = ("understanding", "generation", "text", "edits")  # of sequences
VALIDATION_BATCHES, COUNTED = 8, 16  # batches for the validation loss; those in which targets are counted


class Stage(Until):
    """A stage: sequences of each kind in a batch."""

    class Config(Until.Config):
        understanding: int = 0
        generation: int = 0
        text: int = 0
        edits: int = 0


class Unified(TrainingRun):
    """Train a language model.

    Result: ``text_loss`` and ``image_loss`` on validation pictures (nats a target) and ``validation_loss``, their published mixture;
    ``sequences`` of each kind that were read; ``targets`` of a batch, text and image, the mean over the training; ``frozen_bytes``, those
    of the frozen weights that differ from stage 0, and ``frozen_codes``, codes of validation pictures that do; ``parameters``.
    Files: ``language_model.safetensors``, ``tokenizer.safetensors``, ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        language_model: Decoder.Config = REQUIRED  # vocab_size is that of words and codes
        features: Features.Config = REQUIRED  # of the pictures that are read
        codes: Run.Config | None = None  # what made the codes that are written; None: the tokenizer of features
        reads: Reads = "continuous"
        stages: list[Stage.Config] = REQUIRED
        steps: int = 0  # those of the stages
        understanding: dict[str, float] = {}  # task -> share, see `tasks`
        generation: dict[str, float] = {}
        edits: dict[str, float] = {}  # kind -> share; of those that features has
        edits_read: bool = True  # whether the language model reads the picture that is edited
        facts: int = 2000  # texts about invented names
        image_weight: float = 0.5

    cfg: Config

    def __init__(self, cfg: Unified.Config) -> None:
        for kind in KINDS:
            counts = [getattr(stage, kind) for stage in cfg.stages]
            if any(count < 0 for count in counts):
                raise BadInput(f"Unified.Config.stages have {counts} sequences of {kind}: give 0 or more")
            if any(counts) and kind != "text":
                shares(f"Unified.Config.{kind}", getattr(cfg, kind))
        if not all(any(getattr(stage, kind) for kind in KINDS) for stage in cfg.stages):
            raise BadInput("Unified.Config.stages has a stage without sequences: give it at least one of some kind")
        if missing := sorted(set(cfg.edits) - set(cfg.features.edits)):
            raise BadInput(
                f"Unified.Config.edits has {missing}, features has {cfg.features.edits}: name them there too"
            )
        if cfg.edits and cfg.codes is not None:
            raise BadInput("Unified.Config.edits are written in the codes of features: leave codes at None")
        if cfg.codes is not None and getattr(cfg.codes, "world", None) != cfg.features.world:
            raise BadInput("Unified.Config.codes are of other pictures than features: give both the same world")
        super().__init__(cfg.set(steps=last_step("Unified.Config.stages", cfg.stages)))

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        cfg, hardware = self.cfg, self.set_up(work)
        features = work.result_of(cfg.features)
        codes = features if cfg.codes is None else work.result_of(cfg.codes)
        seed_everything(cfg.seed)
        model = _model(cfg, codes, work.result_of(cfg.features.tokenizer))
        lessons = _Lessons(cfg, "train", features, codes)
        others = _Lessons(cfg, "validation", features, codes)
        held_out = [others.made(cfg.stages[-1], i) for i in range(VALIDATION_BATCHES)]

        def loss(model: Reader, batch: Batch) -> Tensor:
            return _losses(model, cfg.reads, batch).total(cfg.image_weight)

        @torch.no_grad()
        def validate() -> dict[str, float]:
            device = device_of(model)
            parts = [_losses(model, cfg.reads, {k: v.to(device) for k, v in batch.items()}) for batch in held_out]
            means = torch.tensor([[part.text, part.image] for part in parts], dtype=torch.float64)
            counts = torch.tensor([[part.text_targets, part.image_targets] for part in parts])
            text, image = ((means * counts).sum(dim=0) / counts.sum(dim=0).clamp(min=1)).tolist()
            return {"validation_loss": text + cfg.image_weight * image, "text_loss": text, "image_loss": image}

        tokens = held_out[0]["tokens"].numel()
        validated = learn(self, work, hardware, model, loss, lessons.batch, validate, tokens=tokens)
        for name, part in model.named_children():
            save_weights(part, work.folder / f"{name}.safetensors")
        parameters = sum(parameter.numel() for parameter in model.language_model.parameters())
        return {
            **validated, **self._frozen(work, model.tokenizer, features), "parameters": parameters,
            "sequences": self._sequences(), "targets": self._targets(lessons),
        }  # fmt: skip

    def _frozen(self, work: Workspace, tok: HybridTokenizer, features: Finished) -> dict[str, int]:
        """S3: what must not have changed."""
        before = work.result_of(self.cfg.features.tokenizer).tensors("tokenizer")
        squares = features.tensors("squares_validation")["squares"]
        codes = codes_of(tok, squares) != features.tensors("ids")["validation"]
        return {"frozen_bytes": changed_bytes(before, tok.state_dict()), "frozen_codes": int(codes.sum())}

    def _sequences(self) -> dict[str, int]:
        """Sequences of every kind in the whole training."""
        batches = np.diff([0, *(stage.until for stage in self.cfg.stages)]) * self.cfg.accumulate
        return {kind: int(batches @ [getattr(stage, kind) for stage in self.cfg.stages]) for kind in KINDS}

    def _targets(self, lessons: _Lessons) -> dict[str, float]:
        """Targets of a batch by modality, from batches spread over the training."""
        numbers = np.unique(np.linspace(0, self.cfg.batches - 1, COUNTED).astype(int)).tolist()
        kinds = [lessons.batch(number)["kinds"] for number in numbers]
        of = {"text": TEXT, "image": IMAGE}
        return {name: float(np.mean([int((part == kind).sum()) for part in kinds])) for name, kind in of.items()}


def _losses(model: Reader, reads: Reads, batch: Batch) -> Losses:
    """Those of a batch by modality."""
    shown = batch.get("shown")
    vectors = None if shown is None else as_read(model.tokenizer, reads, shown)
    return losses(model.language_model, Sequences(batch["tokens"], batch["kinds"]), vectors)


class _Lessons:
    """The batches of a training by number, from the pictures of a split."""

    def __init__(self, cfg: Unified.Config, split: str, features: Finished, codes: Finished) -> None:
        self.cfg, self.vocabulary = cfg, vocabulary_of(codes)
        world: SceneWorld = cfg.features.world.build()
        scenes, seed = world.scenes(split), cfg.seed if split == "train" else 0
        self.shown = shown_pictures(features, split, cfg.reads)
        self.targets = codes.tensors("ids")[split]
        self.source = np.arange(len(self.targets))  # the picture that is read where a row of the targets is written
        used = [kind for kind in KINDS if kind != "text" and any(getattr(stage, kind) for stage in cfg.stages)]
        shares_of = {kind: getattr(cfg, kind) for kind in used}
        self.chances = {kind: shares(f"Unified.Config.{kind}", given) for kind, given in shares_of.items()}
        self.tasks: dict[str, dict[str, Task]] = {kind: {} for kind in shares_of}
        for name in shares_of.get("understanding", {}):
            self.tasks["understanding"][name] = to_read(world, scenes.records, name, seed)
        seen = np.flatnonzero(~world.shows_unseen(scenes.records))
        for name in shares_of.get("generation", {}):
            task = to_draw(world, scenes.records.take(seen), name, seed)
            self.tasks["generation"][name] = replace(task, rows=seen[task.rows])
        for kind in shares_of.get("edits", {}):
            made = edited(world, scenes, kind)
            rows = len(self.source) + np.arange(len(made.rows))
            self.tasks["edits"][kind] = Task.of_prompts(rows, list(map(encode, instructions(made, seed))))
            self.targets = torch.cat((self.targets, features.tensors("edits")[f"{split}/{kind}"]))
            self.source = np.concatenate((self.source, made.rows))
        texts = facts(world, cfg.facts, seed).tokens.tolist()
        self.documents = [[BOS, *(token for token in text if token != PAD)] for text in texts]

    def batch(self, number: int) -> Batch:
        """A batch of the training."""
        return self.made(stage_at(self.cfg.stages, number // self.cfg.accumulate), self.cfg.seed, number)

    def made(self, stage: Stage.Config, *seeds: int) -> Batch:
        """Sequences, and what stands in their slots, if there are any. Those of a kind do not depend on how many there are of others."""
        random = {kind: np.random.default_rng([*seeds, i]) for i, kind in enumerate(KINDS)}
        drawn = {
            kind: mixed(tasks, self.chances[kind], getattr(stage, kind), random[kind])
            for kind, tasks in self.tasks.items()
            if getattr(stage, kind)
        }
        parts: list[Sequences] = []
        shown: list[np.ndarray] = []
        if task := drawn.get("understanding"):
            parts.append(understanding(self.vocabulary, self._given(task.rows), task.prompts, task.answers))
            shown.append(task.rows)
        if task := drawn.get("edits"):
            given = self._given(self.source[task.rows]) if self.cfg.edits_read else None
            parts.append(generation(self.vocabulary, task.prompts, self.targets[torch.from_numpy(task.rows)], given))
            shown += [self.source[task.rows]] if self.cfg.edits_read else []
        if task := drawn.get("generation"):
            parts.append(generation(self.vocabulary, task.prompts, self.targets[torch.from_numpy(task.rows)]))
        if stage.text:
            chosen = random["text"].integers(len(self.documents), size=stage.text).tolist()
            parts.append(plain_text(self.vocabulary, [self.documents[i] for i in chosen]))
        sequences = Sequences.joined(parts)
        batch: Batch = dict(vars(sequences))
        if self.shown is not None and bool((sequences.kinds == SLOT).any()):
            batch["shown"] = self.shown[torch.from_numpy(np.concatenate(shown))]
        return batch

    def _given(self, rows: np.ndarray) -> Tensor | int | None:
        """How pictures stand in sequences: as codes, as slots, or not at all."""
        if self.shown is None:
            return None
        return self.shown[torch.from_numpy(rows)] if self.cfg.reads == "codes" else self.shown.shape[1]


def shown_pictures(features: Finished, split: str, reads: Reads) -> Tensor | None:
    """What a language model is given of every picture of a split, before the layers that learn."""
    if reads == "nothing":
        return None
    if reads == "continuous":
        return features.tensors(f"squares_{split}")["squares"]
    return features.tensors("ids")[split]


def as_read(tok: HybridTokenizer, reads: Reads, shown: Tensor) -> Tensor:
    """The vectors in the slots; the rows of codes are no vectors, they stay as they are."""
    if reads == "continuous":
        return tok.continuous(shown)
    if reads == "adapter":
        values = tok.quantizer.values(shown)
        return tok.discrete.mlp(values.to(tok.discrete.project.weight.dtype))
    return shown


def vocabulary_of(codes: Finished) -> Vocabulary:
    """Words, and the codes of a run of features or of an auto-encoder."""
    return Vocabulary(len(WORDS), codes.result["codes"])


def changed_bytes(before: dict[str, Tensor], after: dict[str, Tensor]) -> int:
    """Bytes of the vision transformer and of the projection to codes that differ: what must stay as stage 0 left it."""
    names = [name for name in before if name.startswith(("vision.", "discrete.project."))]
    pairs = [[weights[name].cpu().contiguous().view(torch.uint8) for weights in (before, after)] for name in names]
    return sum(int((first != second).sum()) for first, second in pairs)


def _model(cfg: Unified.Config, codes: Finished, tokenizer: Finished) -> Reader:
    """The language model, and the tokenizer with its last layers anew, of which the adapter that is read learns."""
    decoder: Decoder = cfg.language_model.clone().set(vocab_size=vocabulary_of(codes).size).build()
    tok = load_tokenizer(tokenizer, cfg.features.tokenizer).for_width(decoder.dim).freeze()
    tok.continuous.requires_grad_(cfg.reads == "continuous")
    tok.discrete.mlp.requires_grad_(cfg.reads == "adapter")
    return Reader(tok, decoder)


def load_unified(run: Finished, cfg: Unified.Config, codes: Finished, tokenizer: Finished) -> Reader:
    """The ``language_model`` and the ``tokenizer`` of a finished run, on the CPU, in evaluation mode; the runs that made its codes and its
    tokenizer are given."""
    model = _model(cfg, codes, tokenizer)
    for name, part in model.named_children():
        part.load_state_dict(run.tensors(name))
    return model.eval()

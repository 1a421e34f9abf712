"""The reader's own pictures and language model: the stages of the method as runs, without a world of known truth.

    stage 0       a small language model over bytes reads one of the two adapters and writes the caption, or answers the question
    codes         `OwnCodes`, from which the image decoder learns as from scenes (`TrainDecoder`)
    unify         a causal language model of a folder reads continuous vectors and writes codes, as many sequences of each

Every stage is a run: a killed one goes on, and what is there is not computed again. Texts are cut at `longest` ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor

from orchard.config import REQUIRED, Configurable
from orchard.data import SPLITS, ByteTokenizer
from orchard.errors import BadInput
from orchard.files import share
from orchard.nn import Decoder
from orchard.papers.manzano.data.own import OwnPictures
from orchard.papers.manzano.integrations.causal_lm import Backbone, Words, resize
from orchard.papers.manzano.integrations.export import load_tokenizer
from orchard.papers.manzano.method.fsq import code_use
from orchard.papers.manzano.method.tokenizer import HybridTokenizer
from orchard.papers.manzano.method.unified import Losses, Sequences, Vocabulary, generation, losses, understanding
from orchard.papers.manzano.runs.learning import Batch, device_of, learn
from orchard.papers.manzano.runs.tasks import Task
from orchard.papers.manzano.runs.tokenizer import AT_ONCE, Objective, Reader, codes_of, squares_of
from orchard.pretrained.folder import ModelFolder, load_model, model_folder
from orchard.pretrained.folder import load_tokenizer as load_words
from orchard.runs import Finished, Run, Workspace
from orchard.train.hardware import choose
from orchard.train.run import TrainingRun, save_tensors, save_weights
from orchard.train.seeding import seed_everything

LEARNED = ("train", "validation")  # splits
HELD_OUT = 128  # texts of validation
BYTES = ByteTokenizer.Config().build()
END = BYTES.bos  # opens and ends a text of bytes


class OwnTokenizer(TrainingRun):
    """Stage 0 on pictures with texts.

    Result: of each adapter its ``loss`` on validation texts (nats a byte), ``validation_loss``, their mean, and at the start (``initial``).
    Files: ``tokenizer.safetensors``, ``language_model.safetensors``, ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        pictures: OwnPictures.Config = REQUIRED
        tokenizer: HybridTokenizer.Config = REQUIRED
        language_model: Decoder.Config = REQUIRED
        batch_size: int = REQUIRED
        warm_up: int = 0  # steps in which the continuous adapter alone is read
        freeze_vit: bool = False
        tokenizer_loss: str = "text"  # or recon, both
        reconstruction: Configurable.Config | None = None  # for recon and both
        longest: int = 128

    sizes = (*TrainingRun.sizes, "batch_size", "longest")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        cfg, hardware = self.cfg, self.set_up(work)
        seed_everything(cfg.seed)
        tok: HybridTokenizer = cfg.tokenizer.clone().build()
        head = None if cfg.reconstruction is None else cfg.reconstruction.clone().build()
        model = Reader(tok, cfg.language_model.clone().build(), head).to(hardware.device)
        tok.vision.requires_grad_(not cfg.freeze_vit)
        vocabulary, world = Vocabulary(BYTES.vocab_size, 0), cfg.pictures.build()
        pixels, held_out = (torch.from_numpy(world.pixels(world.scenes(split))) for split in ("train", "validation"))
        task, asked = (texts(world, split, BYTES.encode, [END], END, cfg.longest) for split in ("train", "validation"))
        asked = asked.head(HELD_OUT)

        def batch(number: int) -> Batch:
            rows = np.random.default_rng([cfg.seed, number]).integers(len(task), size=cfg.batch_size)
            part, chance = task.take(rows), 0.0 if number // cfg.accumulate < cfg.warm_up else 0.5
            sequences = understanding(vocabulary, tok.n, part.prompts, part.answers)
            return {"pixels": pixels[torch.from_numpy(rows)], **vars(sequences), "discrete": torch.tensor(chance)}

        @torch.no_grad()
        def validate() -> dict[str, float]:
            x = squares_of(tok, held_out[: len(asked)])
            sequences = understanding(vocabulary, tok.n, asked.prompts, asked.answers).to(x.device)
            read = {"continuous": tok.continuous(x), "discrete": tok.discrete(x)}
            found = {f"{name}/loss": float(losses(model.language_model, sequences, x).text) for name, x in read.items()}
            return found | {"validation_loss": float(np.mean(list(found.values())))}

        initial, tokens = validate(), cfg.batch_size * (tok.n + 2 + round(task.length))
        measured = learn(self, work, hardware, model, Objective(cfg.tokenizer_loss), batch, validate, tokens=tokens)
        save_weights(tok, work.folder / "tokenizer.safetensors")
        save_weights(model.language_model, work.folder / "language_model.safetensors")
        return {**measured, "initial": initial}


class SavedWeights(Run):
    """The tokenizer of a folder (`integrations.export`) in the place of stage 0. File: ``tokenizer.safetensors``."""

    class Config(Run.Config):
        tokenizer: HybridTokenizer.Config = REQUIRED
        folder: ModelFolder.Config = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Copy the weights, if they are those that were asked for."""
        work.begin(choose("cpu").as_dict())
        _check_same(self.cfg.folder)
        save_weights(load_tokenizer(self.cfg.folder.folder).model, work.folder / "tokenizer.safetensors")
        return {}


class OwnCodes(Run):
    """Encode the pictures of all splits.

    Result: ``levels``, ``codes``, ``tokens``, ``use`` as of `Features`. File: ``ids.safetensors``, by split [pictures, n].
    """

    class Config(Run.Config):
        tokenizer: OwnTokenizer.Config | SavedWeights.Config = REQUIRED
        world: OwnPictures.Config = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Split by split."""
        cfg, hardware = self.cfg, choose(work.device)
        work.begin(hardware.as_dict())
        tok = tokenizer_of(work.result_of(cfg.tokenizer), cfg.tokenizer).to(hardware.device)
        world: OwnPictures = cfg.world.build()
        ids = {}
        for split in SPLITS:
            parts = torch.from_numpy(world.pixels(world.scenes(split))).split(AT_ONCE)
            ids[split] = torch.cat([codes_of(tok, squares_of(tok, part)) for part in parts])
        save_tensors(ids, work.folder / "ids.safetensors")
        levels, size = tok.quantizer.levels.tolist(), tok.quantizer.size
        return {"levels": levels, "codes": size, "tokens": tok.n, "use": code_use(ids["train"], size)}


class OwnUnified(TrainingRun):
    """Tune a causal language model of a folder, all of its weights, to read pictures and to write their codes.

    Result: ``text_loss``, ``image_loss`` on validation pictures (nats a target), ``validation_loss``, their mixture; ``initial``.
    Files: ``language_model.safetensors``, ``tokenizer.safetensors``, ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        backbone: ModelFolder.Config = REQUIRED
        codes: OwnCodes.Config = REQUIRED
        batch_size: int = REQUIRED  # sequences of each kind
        image_weight: float = 0.5
        longest: int = 128

    sizes = (*TrainingRun.sizes, "batch_size", "longest")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        cfg, hardware = self.cfg, self.set_up(work)
        ids = work.result_of(cfg.codes).tensors("ids")
        seed_everything(cfg.seed)
        model, vocabulary = reader_of(cfg, work.result_of(cfg.codes.tokenizer))
        model.to(hardware.device)
        words, n = Words(load_words(cfg.backbone.folder)), model.tokenizer.n
        world: OwnPictures = cfg.codes.world.build()
        read = {split: texts(world, split, words.encode, words.before, words.eos, cfg.longest) for split in LEARNED}
        written = {split: captions(task, words) for split, task in read.items()}
        pixels = {split: world.scenes(split).pixels for split in LEARNED}

        def made(split: str, *rows: np.ndarray) -> Batch:
            shown, drawn = read[split].take(rows[0]), written[split].take(rows[1])
            sequences = Sequences.joined([
                understanding(vocabulary, n, shown.prompts, shown.answers),
                generation(vocabulary, drawn.prompts, ids[split][torch.from_numpy(drawn.rows)]),
            ])  # fmt: skip
            return {**vars(sequences), "pixels": torch.from_numpy(pixels[split][shown.rows])}

        def batch(number: int) -> Batch:
            random = np.random.default_rng([cfg.seed, number])
            return made("train", *(random.integers(len(of["train"]), size=cfg.batch_size) for of in (read, written)))

        def validate() -> dict[str, float]:
            batch = made("validation", *(np.arange(min(HELD_OUT, len(of["validation"]))) for of in (read, written)))
            with torch.no_grad():
                found = by_modality(model, {name: values.to(device_of(model)) for name, values in batch.items()})
            both = {"text_loss": float(found.text), "image_loss": float(found.image)}
            return both | {"validation_loss": float(found.total(cfg.image_weight))}

        def loss(model: Reader, batch: Batch) -> Tensor:
            return by_modality(model, batch).total(cfg.image_weight)

        initial, tokens = validate(), 2 * cfg.batch_size * (n + 2 + round(read["train"].length))
        measured = learn(self, work, hardware, model, loss, batch, validate, tokens=tokens)
        save_weights(model.tokenizer, work.folder / "tokenizer.safetensors")
        save_model(model.language_model, str(work.folder / "language_model.safetensors"))  # tied weights once
        share(work.folder / "language_model.safetensors")
        return {**measured, "initial": initial}


def by_modality(model: Reader, batch: Batch) -> Losses:
    """The losses of a batch of pixels and sequences; of the tokenizer the continuous adapter alone learns."""
    with torch.no_grad():
        squares = model.tokenizer.squares(batch["pixels"])
    vectors = model.tokenizer.continuous(squares)
    return losses(model.language_model, Sequences(batch["tokens"], batch["kinds"]), vectors)


def texts(
    world: OwnPictures, split: str, encode: Callable[[str], list[int]], before: list[int], end: int, longest: int
) -> Task:
    """A prompt and an answer for every picture of a split, ``longest`` ids at most; an answer that is not cut ends with ``end``."""
    found = Task(np.empty(0, dtype=np.int64), [], [], [])
    for question, answer in world.texts(split):
        found.prompts.append([*before, *encode(question)][: longest // 2])
        found.answers.append([*encode(answer), end][: longest - len(found.prompts[-1])])
    return replace(found, rows=np.arange(len(found.answers)), slots=[[] for _ in found.answers])


def captions(task: Task, words: Words) -> Task:
    """The captions among texts, to draw pictures by. Raises BadInput where all are questions."""
    rows = np.array([i for i, prompt in enumerate(task.prompts) if prompt == words.before], dtype=np.int64)
    if not len(rows):
        raise BadInput("no picture of a split has a caption to be drawn by, all have questions: give captions too")
    prompts = [[*words.before, *(token for token in task.answers[i] if token != words.eos)] for i in rows]
    return Task(rows, prompts, [[] for _ in rows], [[] for _ in rows])


def _check_same(folder: ModelFolder.Config) -> None:
    if model_folder(folder.folder).sha256 != folder.sha256:
        raise BadInput(f"the model in {folder.folder} has changed since it was asked for: ask again")


def tokenizer_of(run: Finished, cfg: OwnTokenizer.Config | SavedWeights.Config) -> HybridTokenizer:
    """The tokenizer of a finished run, on the CPU, in evaluation mode."""
    tok: HybridTokenizer = cfg.tokenizer.clone().build()
    tok.load_state_dict(run.tensors("tokenizer"))
    return tok.eval()


def reader_of(cfg: OwnUnified.Config, tokenizer: Finished) -> tuple[Reader, Vocabulary]:
    """The backbone with its new rows, and the tokenizer with a continuous adapter of its width, which learns."""
    _check_same(cfg.backbone)
    model = load_model(cfg.backbone.folder, dtype=torch.float32)
    tok = tokenizer_of(tokenizer, cfg.codes.tokenizer)
    vocabulary = resize(model, tok.quantizer.size)
    backbone = Backbone(model, vocabulary)
    return Reader(tok.for_width(backbone.dim).freeze(), backbone), vocabulary

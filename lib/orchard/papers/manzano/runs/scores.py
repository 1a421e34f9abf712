"""What finished models answer and draw, marked by rules: rows per item, so that arms are compared item by item.

    Answers           words generated about test pictures
    Drawings          prompt -> codes -> pixels -> the parser; without a language model the true codes: the ceiling
    Edits             reference and instruction -> codes -> pixels -> the parser, and the error inside and outside of what was to change
    Reconstructions   an auto-encoder's own pictures of test pictures -> the parser: what its codes keep

All items are of the test split, and the same for all models.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Sampling
from orchard.papers.manzano.data import geneval
from orchard.papers.manzano.data.captions import BOS, encode
from orchard.papers.manzano.data.edits import instructions
from orchard.papers.manzano.data.parser import characters_right, objects_right, read
from orchard.papers.manzano.data.prompts import TAGS
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.editing import edit_errors
from orchard.papers.manzano.method.tokenizer import byte_pixels, unit_pixels
from orchard.papers.manzano.method.unified import draw_codes
from orchard.papers.manzano.runs.autoencoder import TrainAutoEncoder, load_autoencoder, reconstructed
from orchard.papers.manzano.runs.drawing import asked, to_draw
from orchard.papers.manzano.runs.features import edited
from orchard.papers.manzano.runs.image_decoder import TrainDecoder, drawn, load_decoder, quantizer_of
from orchard.papers.manzano.runs.tasks import marks, summary, to_read
from orchard.papers.manzano.runs.tokenizer import Reader
from orchard.papers.manzano.runs.unified import Unified, as_read, load_unified, shown_pictures, vocabulary_of
from orchard.runs import Finished, Run, Workspace
from orchard.train.hardware import choose
from orchard.train.run import save_tensors

SPLIT = "test"


class Answers(Run):
    """Let a language model answer.

    Result: by task ``accuracy``, ``exact`` and ``loss``, see `tasks.summary`. File: ``answers.safetensors``, the columns of `tasks.marks`
    as "task/column".
    """

    class Config(Run.Config):
        model: Unified.Config = REQUIRED
        tasks: list[str] = REQUIRED
        count: int = 600  # texts of a task, at most
        shuffled: bool = False  # it is shown another picture

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """Task by task."""
        cfg = self.cfg
        model, codes = _model(work, cfg.model)
        features = work.result_of(cfg.model.features)
        world: SceneWorld = cfg.model.features.world.build()
        records = world.scenes(SPLIT).records
        kept: dict[str, Tensor] = {}
        found = {}
        for name in cfg.tasks:
            task = to_read(world, records, name, seed=0).head(cfg.count)
            rows = np.roll(task.rows, 1) if cfg.shuffled else task.rows
            shown = _shown(model, cfg.model, features, rows)
            slots = marks(model.language_model, vocabulary_of(codes), task, shown)
            kept |= {f"{name}/{column}": values for column, values in slots.items()}
            found[name] = summary(task, slots)
        save_tensors(kept, work.folder / "answers.safetensors")
        return found


class Painter(Run):
    """Base of the runs that draw. ``model`` None: the true codes."""

    class Config(Run.Config):
        decoder: TrainDecoder.Config = REQUIRED
        model: Unified.Config | None = None
        count: int = 600  # items, at most
        temperature: float = 1.0
        top_p: float = 0.95
        steps: int = 20  # of Euler
        guidance: float = 1.5
        seed: int = 0
        kept: int = 16  # pictures that are kept to be looked at

    cfg: Any

    def __init__(self, cfg: Painter.Config) -> None:
        if cfg.model is not None:
            written = cfg.model.features if cfg.model.codes is None else cfg.model.codes
            if written.fingerprint() != cfg.decoder.codes.fingerprint():
                raise BadInput(
                    f"{type(cfg).__qualname__}: the language model writes other codes than the decoder draws; give the decoder of its codes"
                )
        super().__init__(cfg)

    def codes(
        self, model: Reader | None, codes: Finished, prompts: list[list[int]], true: Tensor, shown: Tensor | None
    ) -> Tensor:
        """The codes of every item on the CPU: drawn by the language model, or the true ones."""
        if model is None:
            return true
        decoder = model.language_model
        generator = torch.Generator(decoder.embedding.weight.device).manual_seed(self.cfg.seed)
        sampling = Sampling(self.cfg.temperature, top_p=self.cfg.top_p)
        return draw_codes(decoder, vocabulary_of(codes), prompts, true.shape[1], sampling, generator, shown).cpu()

    def pictures(self, work: Workspace, codes: Finished, ids: Tensor, reference: Tensor | None = None) -> Tensor:
        """Pictures of codes, about -1 ... 1."""
        cfg = self.cfg
        decoder = load_decoder(work.result_of(cfg.decoder), cfg.decoder).to(choose(work.device).device)
        generator = torch.Generator().manual_seed(cfg.seed)
        return drawn(decoder, quantizer_of(codes).values(ids), cfg.steps, cfg.guidance, generator, reference)


class Drawings(Painter):
    """Draw what prompts ask for.

    Result: ``score``, the mean over items; of GenEval-mini that of each tag, ``overall`` and ``strict`` (`geneval.summary`).
    Files: ``drawings.safetensors``, by item ``row`` of its scene, ``score``, ``tag`` (number in TAGS, GenEval-mini), ``unseen`` (the scene
    shows a pair that no prompt trained), ``objects`` and ``characters`` that are those of the scene (shares), ``codes``;
    ``pictures.safetensors``, the first of them as `uint8`.
    """

    class Config(Painter.Config):
        prompts: Literal["geneval", "full", "wise", "told"] = "geneval"
        shuffled: bool = False  # the codes of another item are drawn

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw and read."""
        cfg = self.cfg
        model, codes = _model(work, cfg.model, cfg.decoder)
        world, scenes = _scenes(cfg.decoder)
        task = to_draw(world, scenes.records, cfg.prompts, seed=0).head(cfg.count)
        truth = scenes.records.take(task.rows)
        ids = self.codes(model, codes, task.prompts, codes.tensors("ids")[SPLIT][torch.from_numpy(task.rows)], None)
        ids = ids.roll(1, dims=0) if cfg.shuffled else ids
        made = byte_pixels(self.pictures(work, codes, ids))
        reading = read(world, made.numpy())
        tags, by_tag = np.zeros(len(task), dtype=np.int64), {}
        if cfg.prompts == "full":
            score = geneval.dense(reading.records, truth)
        else:
            prompts = asked(world, scenes.records, cfg.prompts, seed=0)[: cfg.count]
            if cfg.prompts == "geneval":
                table = geneval.evaluate(world, reading, prompts)
                score, tags = table["correct"].to_numpy(float), table["tag"].map(TAGS.index).to_numpy(np.int64)
                by_tag = geneval.summary(table).to_dict()
            else:
                score = geneval.wise(reading.records, prompts).astype(float)
        columns = {
            "row": task.rows, "score": score, "tag": tags, "unseen": world.shows_unseen(truth),
            "objects": objects_right(reading.records, truth), "characters": characters_right(reading.records, truth),
        }  # fmt: skip
        kept = {name: torch.tensor(values) for name, values in columns.items()}
        save_tensors(kept | {"codes": ids}, work.folder / "drawings.safetensors")
        save_tensors({"pictures": made[: cfg.kept]}, work.folder / "pictures.safetensors")
        return {"score": float(score.mean()), **by_tag}  # type: ignore[dict-item]  # of columns, which are texts


class Edits(Painter):
    """Edit pictures.

    Result: by kind the means of the columns. Files: ``edits.safetensors`` as "kind/column": ``row`` of the scene, ``right`` (the cells of
    the edit are as wanted), ``others`` (share of the other objects that are), ``inside`` and ``outside`` (mean squared error there, pixels
    in -1 ... 1); ``pictures.safetensors``, the first of each kind as "kind/source", "kind/target" and "kind/made".
    """

    class Config(Painter.Config):
        kinds: list[str] = REQUIRED
        guidance: float = 1.0
        shuffled: Literal["nothing", "reference", "instruction"] = "nothing"  # what is another picture's

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """Kind by kind."""
        cfg = self.cfg
        model, codes = _model(work, cfg.model, cfg.decoder)
        world, scenes = _scenes(cfg.decoder)
        kept: dict[str, Tensor] = {}
        looked_at: dict[str, Tensor] = {}
        found = {}
        for kind in cfg.kinds:
            all_of = edited(world, scenes, kind)
            first = np.arange(min(cfg.count, len(all_of.rows)))
            texts = instructions(all_of, seed=0)[: len(first)]
            if cfg.shuffled == "instruction":
                texts = [*texts[1:], texts[0]]
            source, target = (
                unit_pixels(torch.from_numpy(world.pixels(of.take(first)))) for of in (all_of.source, all_of.target)
            )
            shown = None
            if model is not None and cfg.model is not None and cfg.model.edits_read:
                features = work.result_of(cfg.model.features)
                shown = _shown(model, cfg.model, features, all_of.rows[first])
                if shown is not None and cfg.model.reads == "codes":
                    shown = model.language_model.embed(shown + vocabulary_of(codes).first_code)
            ids = codes.tensors("edits")[f"{SPLIT}/{kind}"][: len(first)]
            ids = self.codes(model, codes, [[BOS, *encode(text)] for text in texts], ids, shown)
            reference = source.roll(1, dims=0) if cfg.shuffled == "reference" else source
            made = self.pictures(work, codes, ids, reference if cfg.decoder.edits else None)
            inside, outside = edit_errors(made, target, torch.from_numpy(all_of.mask[first]))
            reading, wanted = read(world, byte_pixels(made).numpy()).records, all_of.target.records.take(first)
            touched = np.zeros(wanted.shape.shape, dtype=bool)
            touched[first, all_of.cell[first]] = touched[first, all_of.to[first]] = True
            same = (reading.shape == wanted.shape) & (reading.colour == wanted.colour)
            others = ~touched & ((reading.shape >= 0) | (wanted.shape >= 0))
            columns = {
                "row": torch.from_numpy(all_of.rows[first]), "right": torch.from_numpy((same | ~touched).all(axis=1)),
                "others": torch.from_numpy(np.where(others.any(1), (same & others).sum(1) / np.maximum(others.sum(1), 1), 1.0)),
                "inside": inside, "outside": outside,
            }  # fmt: skip
            kept |= {f"{kind}/{name}": values for name, values in columns.items()}
            found[kind] = {name: float(values.double().mean()) for name, values in columns.items() if name != "row"}
            sides = {"source": source, "target": target, "made": made}
            looked_at |= {f"{kind}/{name}": byte_pixels(pictures[: cfg.kept]) for name, pictures in sides.items()}
        save_tensors(kept, work.folder / "edits.safetensors")
        save_tensors(looked_at, work.folder / "pictures.safetensors")
        return found


class Reconstructions(Run):
    """Read an auto-encoder's reconstructions.

    Result: ``objects`` and ``characters`` that are still read, shares. File: ``reconstructions.safetensors``, the same by picture.
    """

    class Config(Run.Config):
        autoencoder: TrainAutoEncoder.Config = REQUIRED
        count: int = 600

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw and read."""
        cfg, hardware = self.cfg, choose(work.device)
        work.begin(hardware.as_dict())
        model = load_autoencoder(work.result_of(cfg.autoencoder), cfg.autoencoder).to(hardware.device)
        world: SceneWorld = cfg.autoencoder.world.build()
        scenes = world.scenes(SPLIT)
        scenes = scenes.take(np.arange(min(cfg.count, len(scenes))))
        made, _ = reconstructed(model, torch.from_numpy(world.pixels(scenes)))
        found = read(world, byte_pixels(made).numpy()).records
        right = {"objects": objects_right, "characters": characters_right}
        scores = {name: torch.from_numpy(share(found, scenes.records)) for name, share in right.items()}
        save_tensors(scores, work.folder / "reconstructions.safetensors")
        return {name: float(values.numpy().mean()) for name, values in scores.items()}


def _scenes(decoder: TrainDecoder.Config) -> tuple[SceneWorld, Any]:
    world: SceneWorld = getattr(decoder.codes, "world").build()  # noqa: B009  # of features and of auto-encoders
    return world, world.scenes(SPLIT)


def _model(work: Workspace, cfg: Unified.Config | None, decoder: Any = None) -> tuple[Any, Finished]:
    """The models of a finished run on the device of this one, None where there is none, and the run of the codes."""
    hardware = choose(work.device)
    work.begin(hardware.as_dict())
    if cfg is None:
        return None, work.result_of(decoder.codes)
    codes = work.result_of(cfg.features if cfg.codes is None else cfg.codes)
    tokenizer = work.result_of(cfg.features.tokenizer)
    return load_unified(work.result_of(cfg), cfg, codes, tokenizer).to(hardware.device), codes


def _shown(model: Reader, cfg: Unified.Config, features: Finished, rows: np.ndarray) -> Tensor | None:
    """Vectors of pictures, or their codes; None where the language model reads nothing."""
    pictures = shown_pictures(features, SPLIT, cfg.reads)
    if pictures is None:
        return None
    part = pictures[torch.from_numpy(rows)].to(model.language_model.embedding.weight.device)
    return as_read(model.tokenizer, cfg.reads, part)

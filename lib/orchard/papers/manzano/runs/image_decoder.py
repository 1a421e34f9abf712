"""Stage 4: the image decoder, trained by flow matching on pictures and their codes, in stages of resolution that are data.

    flow          mean (v(x_t, t, codes) - (e - x_0))²          regression    mean (decoder(codes) - x_0)², for smoke runs
    resolution    pictures averaged over squares of `shrink` pixels; the codes are those of the whole picture, the weights the same

A decoder that edits learns from edited pictures and their codes, with the picture before the edit as reference.

Source: Manzano, arXiv 2509.16197 (image decoder, editing).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method.decoder import ImageDecoder, RegressionDecoder, centres
from orchard.papers.manzano.method.flow import flow_loss, sample
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.tokenizer import unit_pixels
from orchard.papers.manzano.runs.features import edited
from orchard.papers.manzano.runs.learning import Batch, Until, device_of, last_step, learn, stage_at
from orchard.runs import Finished, Run, Workspace
from orchard.train.run import TrainingRun, save_weights
from orchard.train.seeding import seed_everything

AT_ONCE = 256  # pictures


class Resolution(Until):
    """A stage: pictures of a fraction of their size."""

    class Config(Until.Config):
        shrink: int = 1  # pixels a side that become one


class TrainDecoder(TrainingRun):
    """Train an image decoder.

    Result: ``validation_loss`` (that of training, on validation pictures at full size, with noise and times that are always the same),
    ``parameters``.
    Files: ``model.safetensors``, ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        model: ImageDecoder.Config | RegressionDecoder.Config = REQUIRED
        codes: Run.Config = REQUIRED  # `Features`, or an auto-encoder: what made the codes
        stages: list[Resolution.Config] = REQUIRED
        batch_size: int = REQUIRED
        steps: int = 0  # those of the stages
        drop: float = 0.1  # share of samples whose codes are dropped
        edits: list[str] = []  # learn from edits of these kinds; of those that the features have

    sizes = (*TrainingRun.sizes, "batch_size")
    cfg: Config

    def __init__(self, cfg: TrainDecoder.Config) -> None:
        steps = last_step("TrainDecoder.Config.stages", cfg.stages)
        patch = cfg.model.patch if isinstance(cfg.model, ImageDecoder.Config) else 0
        height, width, square = cfg.model.height, cfg.model.width, cfg.model.square
        for shrink in (stage.shrink for stage in cfg.stages):
            if shrink != 1 and (
                shrink < 1 or not patch or height % (shrink * patch) or width % (shrink * patch) or square % shrink
            ):
                raise BadInput(
                    f"TrainDecoder.Config.stages have shrink = {shrink} for {height} x {width} pixels, patches of {patch} and codes of "
                    f"{square}: smaller pictures must be whole patches, and codes whole pixels; a regression decoder has shrink = 1 alone"
                )
        if cfg.stages[-1].shrink != 1:
            raise BadInput("TrainDecoder.Config.stages end at a smaller picture: let the last stage have shrink = 1")
        known = getattr(cfg.codes, "edits", [])
        if missing := sorted(set(cfg.edits) - set(known)):
            raise BadInput(f"TrainDecoder.Config.edits has {missing}, codes has {known}: name them there too")
        if isinstance(cfg.model, ImageDecoder.Config) and cfg.model.reference != bool(cfg.edits):
            raise BadInput("TrainDecoder.Config.model.reference goes with edits: set both, or neither")
        super().__init__(cfg.set(steps=steps))

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one."""
        cfg, hardware = self.cfg, self.set_up(work)
        codes = work.result_of(cfg.codes)
        seed_everything(cfg.seed)
        model = decoder_of(cfg)
        pictures, others = (_Pictures(cfg, split, codes) for split in ("train", "validation"))

        def batch(number: int) -> Batch:
            random = np.random.default_rng([cfg.seed, number])
            shrink = stage_at(cfg.stages, number // cfg.accumulate).shrink
            return pictures.made(random.integers(len(pictures), size=cfg.batch_size), shrink)

        @torch.no_grad()
        def validate() -> dict[str, float]:
            held_out, device = others.made(np.arange(min(AT_ONCE, len(others))), shrink=1), device_of(model)
            there = {name: values.to(device) for name, values in held_out.items()}
            return {"validation_loss": float(_loss(model, there, 0.0, torch.Generator().manual_seed(0)))}

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return _loss(model, batch, cfg.drop)

        tokens = cfg.batch_size * (pictures.codes.shape[1] + len(getattr(model, "places", ())))
        validated = learn(self, work, hardware, model, loss, batch, validate, tokens=tokens)
        save_weights(model, work.folder / "model.safetensors")
        return validated | {"parameters": sum(parameter.numel() for parameter in model.parameters())}


class _Pictures:
    """Pictures in -1 ... 1, the FSQ values of their codes and, for edits, the pictures before."""

    def __init__(self, cfg: TrainDecoder.Config, split: str, codes: Finished) -> None:
        world: SceneWorld = getattr(cfg.codes, "world").build()  # noqa: B009  # both kinds of runs have one
        scenes, quantizer = world.scenes(split), quantizer_of(codes)
        self.before: Tensor | None = None
        if cfg.edits:
            made = [edited(world, scenes, kind) for kind in cfg.edits]
            self.pixels, self.before = (
                torch.from_numpy(np.concatenate([world.pixels(getattr(of, side)) for of in made]))
                for side in ("target", "source")
            )
            kept = codes.tensors("edits")
            self.codes = quantizer.values(torch.cat([kept[f"{split}/{kind}"] for kind in cfg.edits]))
        else:
            self.pixels = torch.from_numpy(world.pixels(scenes))
            self.codes = quantizer.values(codes.tensors("ids")[split])

    def __len__(self) -> int:
        return len(self.codes)

    def made(self, rows: np.ndarray, shrink: int) -> Batch:
        """The pictures with these numbers."""
        index = torch.from_numpy(rows)
        batch = {"pictures": shrunk(unit_pixels(self.pixels[index]), shrink), "codes": self.codes[index]}
        return batch if self.before is None else batch | {"reference": shrunk(unit_pixels(self.before[index]), shrink)}


def shrunk(pictures: Tensor, shrink: int) -> Tensor:
    """Pictures [b, h, w, c] averaged over squares."""
    return pictures if shrink == 1 else F.avg_pool2d(pictures.movedim(-1, 1), shrink).movedim(1, -1)


def resized(decoder: ImageDecoder, height: int) -> None:
    """Let a decoder draw pictures of another height: its positions are made anew, its weights stay."""
    old, width = decoder.shape[0], decoder.shape[1]
    if height == old:
        return
    width, square = width * height // old, _square(decoder) * height // old
    dim = decoder.places.shape[1]
    decoder.shape = (height, width, decoder.shape[2])
    decoder.places = centres(height, width, decoder.patch, dim).to(decoder.places)
    decoder.code_places = centres(height, width, square, dim).to(decoder.code_places)


def _square(decoder: ImageDecoder) -> int:
    height, width, _ = decoder.shape
    return round((height * width / len(decoder.code_places)) ** 0.5)


def _loss(model: nn.Module, batch: Batch, drop: float, generator: torch.Generator | None = None) -> Tensor:
    if isinstance(model, RegressionDecoder):
        return (model(batch["codes"]) - batch["pictures"]).square().mean()
    assert isinstance(model, ImageDecoder)
    resized(model, batch["pictures"].shape[1])
    return flow_loss(model, batch["pictures"], batch["codes"], generator, drop, batch.get("reference"))


def quantizer_of(codes: Finished) -> FSQ:
    """What gives the values of the codes of a run."""
    made: FSQ = FSQ.Config(levels=codes.result["levels"]).build()
    return made


def decoder_of(cfg: TrainDecoder.Config) -> ImageDecoder | RegressionDecoder:
    """The decoder with new weights."""
    made: ImageDecoder | RegressionDecoder = cfg.model.clone().build()
    return made


def load_decoder(run: Finished, cfg: TrainDecoder.Config) -> ImageDecoder | RegressionDecoder:
    """The decoder of a finished run, on the CPU, in evaluation mode."""
    decoder = decoder_of(cfg)
    decoder.load_state_dict(run.tensors("model"))
    return decoder.eval()


@torch.no_grad()
def drawn(
    decoder: ImageDecoder | RegressionDecoder,
    codes: Tensor,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    reference: Tensor | None = None,
) -> Tensor:
    """Pictures from the FSQ values of codes, in parts, on the CPU. A regression decoder has neither steps nor guidance."""
    device, made = device_of(decoder), []
    for rows in torch.arange(len(codes)).split(AT_ONCE):
        part = codes[rows].to(device)
        if isinstance(decoder, RegressionDecoder):
            made.append(decoder(part))
        else:
            before = None if reference is None else reference[rows].to(device)
            made.append(sample(decoder, part, steps, guidance, generator, before))
    return torch.cat([pictures.cpu() for pictures in made])

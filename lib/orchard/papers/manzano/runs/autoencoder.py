"""The auto-encoder of the dual-encoder arm: trained on pixels alone, and its codes of the pictures of a world. What can be read of
its reconstructions is in `scores`.

    loss = mean (x^ - x)²
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.papers.manzano.data.scene_world import SPLITS, SceneWorld
from orchard.papers.manzano.method.autoencoder import AutoEncoder
from orchard.papers.manzano.method.fsq import code_use
from orchard.papers.manzano.method.tokenizer import unit_pixels
from orchard.papers.manzano.runs.learning import Batch, device_of, learn
from orchard.runs import Finished, Workspace
from orchard.train.run import TrainingRun, save_tensors, save_weights
from orchard.train.seeding import seed_everything

AT_ONCE = 256  # pictures


class TrainAutoEncoder(TrainingRun):
    """Train an auto-encoder and encode the pictures of all splits.

    Result: ``levels``, ``codes``, ``tokens``, ``use`` as of `Features`; ``validation_loss`` (squared error).
    Files: ``model.safetensors``; ``ids.safetensors``, by split [pictures, n]; ``metrics.jsonl``.
    """

    class Config(TrainingRun.Config):
        model: AutoEncoder.Config = REQUIRED
        world: SceneWorld.Config = REQUIRED
        batch_size: int = REQUIRED

    sizes = (*TrainingRun.sizes, "batch_size")
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Train from the newest checkpoint, if there is one, then encode."""
        cfg, hardware = self.cfg, self.set_up(work)
        world: SceneWorld = cfg.world.build()
        pixels = {split: torch.from_numpy(world.pixels(world.scenes(split))) for split in SPLITS}
        seed_everything(cfg.seed)
        model: AutoEncoder = cfg.model.build()

        def batch(number: int) -> Batch:
            random = np.random.default_rng([cfg.seed, number])
            return {
                "pixels": pixels["train"][torch.from_numpy(random.integers(len(pixels["train"]), size=cfg.batch_size))]
            }

        def validate() -> dict[str, float]:
            shown = pixels["validation"][:AT_ONCE]
            return {"validation_loss": float((reconstructed(model, shown)[0] - unit_pixels(shown)).square().mean())}

        tokens = (cfg.world.height // cfg.model.square) * (cfg.world.width // cfg.model.square)
        validated = learn(self, work, hardware, model, _loss, batch, validate, tokens=cfg.batch_size * tokens)
        ids = {split: reconstructed(model, of)[1] for split, of in pixels.items()}
        save_weights(model, work.folder / "model.safetensors")
        save_tensors(ids, work.folder / "ids.safetensors")
        size = model.quantizer.size
        levels, use = model.quantizer.levels.tolist(), code_use(ids["train"], size)
        return {**validated, "levels": levels, "codes": size, "tokens": tokens, "use": use}


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    wanted = unit_pixels(batch["pixels"])
    return (model(wanted)[0] - wanted).square().mean()


@torch.no_grad()
def reconstructed(model: AutoEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstructions of pictures and their codes, on the CPU."""
    parts = [model(unit_pixels(part.to(device_of(model)))) for part in pixels.split(AT_ONCE)]
    return torch.cat([drawn.cpu() for drawn, _ in parts]), torch.cat([ids.cpu() for _, ids in parts])


def load_autoencoder(run: Finished, cfg: TrainAutoEncoder.Config) -> AutoEncoder:
    """The auto-encoder of a finished run, on the CPU, in evaluation mode."""
    model: AutoEncoder = cfg.model.clone().build()
    model.load_state_dict(run.tensors("model"))
    return model.eval()

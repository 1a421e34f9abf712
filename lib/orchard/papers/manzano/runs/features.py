"""What the frozen parts of a tokenizer make of the pictures of a world, computed once: what the continuous adapter reads, and codes.

The vision transformer and the discrete adapter no longer change after stage 0, so a step of the language model costs the language model.
The codes of edited pictures are computed here too, for those that learn to edit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.manzano.data.edits import Edits, edits
from orchard.papers.manzano.data.scene_world import SPLITS, Scenes, SceneWorld
from orchard.papers.manzano.method.fsq import code_use
from orchard.papers.manzano.runs.tokenizer import Tokenizer, codes_of, load_tokenizer, squares_of
from orchard.runs import Run, Workspace
from orchard.train.hardware import choose
from orchard.train.run import save_tensors

KINDS = ("recolour", "remove", "move", "add")  # not inpaint, of which a picture with a hidden cell is shown


class Features(Run):
    """Encode the pictures of all splits.

    Result: ``levels`` and ``codes`` of the codebook, ``tokens`` of a picture, ``use`` of the codebook on the training pictures.
    Files: ``ids.safetensors``, by split [pictures, n]; ``squares_<split>.safetensors``, ``squares`` [pictures, n, inputs of an adapter];
    ``edits.safetensors``, codes of the edited pictures as "split/kind" [edits, n], in the order of :func:`edited`.
    """

    class Config(Run.Config):
        tokenizer: Tokenizer.Config = REQUIRED
        world: SceneWorld.Config = REQUIRED
        edits: list[str] = []  # kinds

    cfg: Config

    def __init__(self, cfg: Features.Config) -> None:
        if unknown := [kind for kind in cfg.edits if kind not in KINDS]:
            raise BadInput(
                f"Features.Config.edits has {unknown}: give kinds whose picture is shown as it is, {', '.join(KINDS)}"
            )
        super().__init__(cfg)

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Split by split."""
        cfg, hardware = self.cfg, choose(work.device)
        work.begin(hardware.as_dict())
        tok = load_tokenizer(work.result_of(cfg.tokenizer), cfg.tokenizer).to(hardware.device)
        world: SceneWorld = cfg.world.build()
        ids: dict[str, Tensor] = {}
        changed: dict[str, Tensor] = {}
        for split in SPLITS:
            scenes = world.scenes(split)
            squares = squares_of(tok, torch.from_numpy(world.pixels(scenes)))
            ids[split] = codes_of(tok, squares)
            save_tensors({"squares": squares.cpu()}, work.folder / f"squares_{split}.safetensors")
            for kind in cfg.edits:
                target = torch.from_numpy(world.pixels(edited(world, scenes, kind).target))
                changed[f"{split}/{kind}"] = codes_of(tok, squares_of(tok, target))
        save_tensors(ids, work.folder / "ids.safetensors")
        save_tensors(changed, work.folder / "edits.safetensors")
        levels, size = tok.quantizer.levels.tolist(), tok.quantizer.size
        return {"levels": levels, "codes": size, "tokens": tok.n, "use": code_use(ids["train"], size)}


def edited(world: SceneWorld, scenes: Scenes, kind: str) -> Edits:
    """The edits of a kind that everything here learns from and is tested on."""
    return edits(world, scenes, kind, seed=0)

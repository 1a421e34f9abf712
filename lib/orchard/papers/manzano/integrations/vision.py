"""A vision tower of `transformers` as the vision transformer of the tokenizer: SigLIP, CLIP, DINOv2 (with registers too).

    x = (picture - mean) / std        mean and std of the folder's preprocessor_config.json; without it pixels stay in -1 ... 1
    SigLIP, DINOv2    the last states, normalised                CLIP    the states before the last layer, as LLaVA reads them

Tokens that are no patch (class, registers) are left out. Pictures of another size than the tower's get its positions interpolated.
Nothing is downloaded, no code of the folder is run, no pickle is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Block, VisionTransformer
from orchard.pretrained.folder import BASE, import_transformers, load_config, load_model, model_folder

KINDS = ("clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers")
MACHINE = ("_name_or_path", "transformers_version", "dtype")  # of a config: what is no part of the model


class Tower(VisionTransformer):
    """The tower of a folder, or one without weights, to load them into; :func:`vision_tower` makes the config."""

    class Config(VisionTransformer.Config):
        settings: str = REQUIRED  # the config of transformers, as JSON
        folder: str = ""  # where its weights are; "": they are loaded afterwards
        sha256: str = ""  # of the folder
        mean: list[float] = [0.5, 0.5, 0.5]  # of pictures in 0 ... 1
        std: list[float] = [0.5, 0.5, 0.5]
        layers: list[Block.Config] = []  # the settings say
        location_fields = ("folder",)

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: Tower.Config) -> None:
        nn.Module.__init__(self)
        settings = json.loads(cfg.settings)
        self.shape, self.patch = (cfg.height, cfg.width, cfg.channels), cfg.patch
        if cfg.height < 1 or cfg.width < 1 or cfg.height % cfg.patch or cfg.width % cfg.patch:
            raise BadInput(
                f"pictures of {cfg.height} x {cfg.width} pixels for a tower with patches of {cfg.patch}: give multiples"
            )
        if cfg.folder:
            if model_folder(cfg.folder).sha256 != cfg.sha256:
                raise BadInput(f"the tower in {cfg.folder} has changed since it was asked for: ask again")
            model = load_model(cfg.folder, BASE, torch.float32)
            self.model = getattr(model, "vision_model", model)
        else:
            library = import_transformers()
            self.model = library.AutoModel.from_config(library.AutoConfig.for_model(**settings)).eval()
        self._other_size = (cfg.height, cfg.width) != (settings["image_size"],) * 2
        self._before_last = settings["model_type"] == "clip_vision_model"
        self.register_buffer("mean", torch.tensor(cfg.mean), persistent=False)
        self.register_buffer("std", torch.tensor(cfg.std), persistent=False)

    def forward(self, pixels: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch patches dim"]:
        """One vector per patch, row by row, of pictures in -1 ... 1. Raises BadInput for pictures of another size."""
        if pixels.shape[1:] != self.shape:
            raise BadInput(
                f"the tower got pictures {list(pixels.shape)}: give [batch, {', '.join(map(str, self.shape))}]"
            )
        given: dict[str, Any] = {"interpolate_pos_encoding": True} if self._other_size else {}
        x = (((pixels + 1) / 2 - self.mean) / self.std).movedim(-1, 1)
        found = self.model(pixel_values=x, output_hidden_states=self._before_last, **given)
        states = found.hidden_states[-2] if self._before_last else found.last_hidden_state
        count = self.shape[0] * self.shape[1] // self.patch**2
        return states[:, -count:]


def vision_tower(folder: str | Path, height: int | None = None, width: int | None = None) -> Tower.Config:
    """The config of the tower in a folder, alone or beside a text model, for pictures of a size; by default that of the tower.

    Raises BadInput for a folder without a model, and for a model of another kind.
    """
    found = model_folder(folder)
    whole = load_config(found.folder)
    config = getattr(whole, "vision_config", whole)
    if config.model_type not in KINDS:
        raise BadInput(
            f"{found.folder} holds a {whole.model_type}, no vision tower that is known here: give SigLIP, CLIP or DINOv2"
        )
    settings = {name: value for name, value in config.to_dict().items() if name not in MACHINE}
    pixels: dict[str, Any] = {}
    if (place := Path(found.folder, "preprocessor_config.json")).is_file():
        stated = json.loads(place.read_text("utf-8"))
        pixels = {name: stated[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in stated}
    return Tower.Config(
        height=height or config.image_size, width=width or config.image_size, patch=config.patch_size, dim=config.hidden_size,
        channels=config.num_channels, settings=json.dumps(settings, sort_keys=True), folder=found.folder, sha256=found.sha256, **pixels,
    )  # fmt: skip

"""The hybrid tokenizer as a folder to take away, with a decoder of its codes:

    tok = load_tokenizer("folder")
    vectors, ids = tok.encode(pictures)                    # [b, height, width, 3] uint8 -> [b, n, d], [b, n]
    pictures = tok.decode(ids, steps=20, guidance=1.5)     # by its own decoder, or tok.decode(ids, another)

    config.json              format, levels of the codebook, configs, notes, size and SHA-256 of the other files
    tokenizer.safetensors    weights by name
    decoder.safetensors      likewise, where a decoder goes with it

The folder appears complete, by one rename; nothing in it is pickled. Codes are made in float32 whatever the caller's autocast and
TF32 settings are: in a coarser type a value beside a boundary of two levels falls on either side of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num, UInt8
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchard.errors import BadInput
from orchard.files import to_json, write
from orchard.papers.manzano.integrations.vision import Tower
from orchard.papers.manzano.method.decoder import ImageDecoder, RegressionDecoder
from orchard.papers.manzano.method.flow import sample
from orchard.papers.manzano.method.tokenizer import HybridTokenizer, byte_pixels
from orchard.pretrained.folder import first_line, new_folder
from orchard.runs.finished import file_sha256
from orchard.train.run import save_weights
from orchard.train.saved import config_of

FORMAT = "orchard picture tokenizer 1"
WEIGHTS, DECODER = "tokenizer.safetensors", "decoder.safetensors"
AT_ONCE = 256  # pictures


@dataclass(frozen=True)
class SavedTokenizer:
    """A tokenizer with its config, and perhaps a decoder of its codes. ``notes`` are plain values that go with it."""

    config: HybridTokenizer.Config
    model: HybridTokenizer
    decoder_config: ImageDecoder.Config | RegressionDecoder.Config | None = None
    decoder: ImageDecoder | RegressionDecoder | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def levels(self) -> list[int]:
        """Of the codebook."""
        return list(self.config.quantizer.levels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.config.vision.height, self.config.vision.width

    def to(self, device: torch.device | str) -> SavedTokenizer:
        """Move the weights; returns itself."""
        for part in (self.model, self.decoder):
            if part is not None:
                part.to(device)
        return self

    @torch.no_grad()
    def encode(self, pictures: Num[Tensor, "b height width 3"]) -> tuple[Float[Tensor, "b n dim"], Int[Tensor, "b n"]]:
        """Continuous vectors and codes of `uint8` pictures, or of floats in -1 ... 1. Raises BadInput for pictures of another size."""
        if pictures.ndim != 4 or pictures.shape[1:] != (*self.size, 3) or not len(pictures):
            height, width = self.size
            raise BadInput(
                f"encode got pictures {list(pictures.shape)}: this tokenizer reads [b, {height}, {width}, 3]; bring them to that size, "
                "or train a tokenizer for theirs"
            )
        device = self.model.continuous.output.weight.device
        with _float32(device):
            parts = [self.model.encode(part.to(device)) for part in pictures.split(AT_ONCE)]
        return torch.cat([vectors for vectors, _ in parts]), torch.cat([ids for _, ids in parts])

    @torch.no_grad()
    def decode(
        self,
        ids: Num[Tensor, "*shape"],  # [b, n], whole numbers
        decoder: ImageDecoder | RegressionDecoder | SavedTokenizer | None = None,
        steps: int = 20,
        guidance: float = 1.5,
        generator: torch.Generator | None = None,
    ) -> UInt8[Tensor, "b height width 3"]:
        """Pictures of codes on the CPU, by the decoder that goes with the tokenizer or by another one, which may be another tokenizer's.

        Raises BadInput without a decoder, for one of another codebook, and for ids that are not of this one.
        """
        values = self._values(ids)
        if isinstance(decoder, SavedTokenizer):
            if decoder.levels != self.levels:
                raise BadInput(
                    f"the decoder draws codes of levels {decoder.levels}, these are of {self.levels}: use one of the same"
                )
            decoder = decoder.decoder
        decoder = self.decoder if decoder is None else decoder
        if decoder is None:
            raise BadInput("there is no decoder to draw with: give one, or load a tokenizer that was saved with one")
        places = decoder.places if isinstance(decoder, RegressionDecoder) else decoder.code_places
        if (drawn := [len(places), decoder.condition.in_features]) != list(values.shape[1:]):
            raise BadInput(
                f"the decoder draws {drawn[0]} codes of {drawn[1]} channels, these are {values.shape[1]} of {values.shape[2]} (levels "
                f"{self.levels}): use a decoder that was trained on codes of this tokenizer"
            )
        made = []
        for part in values.to(places.device).split(AT_ONCE):
            if isinstance(decoder, RegressionDecoder):
                made.append(decoder(part))
            else:
                made.append(sample(decoder, part, steps, guidance, generator))
        return byte_pixels(torch.cat(made)).cpu()

    def _values(self, ids: Tensor) -> Tensor:
        if ids.ndim != 2 or not len(ids) or ids.is_floating_point():
            raise BadInput(f"ids are {ids.dtype} {list(ids.shape)}: give whole numbers [pictures, codes of a picture]")
        size, (low, high) = self.model.quantizer.size, (int(ids.min()), int(ids.max()))
        if low < 0 or high >= size:
            raise BadInput(
                f"ids run from {low} to {high}, the codebook of levels {self.levels} has 0 ... {size - 1}: give ids as encode made them, "
                "without the offset of a vocabulary"
            )
        return self.model.quantizer.values(ids.to(self.model.quantizer.levels.device))


@contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    """No autocast, and matrix products and convolutions on a GPU in float32 instead of TF32."""
    was, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(was)


def save_tokenizer(saved: SavedTokenizer, folder: str | Path, extra: Mapping[str, Image] | None = None) -> Path:
    """Write a tokenizer, its decoder, and pictures by name to a new folder; see `load_tokenizer`. Raises BadInput where it exists."""
    config = saved.config.clone()
    if isinstance(config.vision, Tower.Config):
        config.vision.set(folder="", sha256="")  # its weights are saved here
    with new_folder(folder) as part:
        save_weights(saved.model, part / WEIGHTS)
        if saved.decoder is not None:
            save_weights(saved.decoder, part / DECODER)
        for name, picture in (extra or {}).items():
            picture.save(part / name)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(part.iterdir())
        }
        decoder = None if saved.decoder_config is None else saved.decoder_config.to_dict()
        content = {
            "format": FORMAT, "levels": saved.levels, "tokenizer": config.to_dict(), "decoder": decoder, "notes": dict(saved.notes),
            "files": files,
        }  # fmt: skip
        write(part / "config.json", to_json(content))
    return Path(folder).expanduser().absolute()


def load_tokenizer(folder: str | Path) -> SavedTokenizer:
    """The tokenizer that `save_tokenizer` wrote, and its decoder, on the CPU, ready for use. Only classes of this library are built.

    Raises BadInput, or SavedModelError, that names a file which is missing, damaged or not what the config says.
    """
    folder = Path(folder).expanduser()
    place = folder / "config.json"
    try:
        content = json.loads(place.read_text("utf-8"))
        known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder} holds no tokenizer ({first_line(error)}): give a folder that save_tokenizer wrote"
        ) from None
    if not known or not {"levels", "tokenizer", "decoder", "notes", "files"} <= content.keys():
        raise BadInput(f"{place} is not of the format {FORMAT!r}: save the tokenizer with this version of the library")
    for name, entry in content["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise BadInput(
                f"{path} is missing or damaged (SHA-256 differs from config.json): copy the whole folder again"
            )
    config = config_of(content["tokenizer"], f"{place}: tokenizer")
    decoder_config = None if content["decoder"] is None else config_of(content["decoder"], f"{place}: decoder")
    try:
        model = _loaded(config, folder / WEIGHTS)
        decoder = None if decoder_config is None else _loaded(decoder_config, folder / DECODER)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"{folder} does not hold what its config.json says ({first_line(error)}): copy it again"
        ) from None
    return SavedTokenizer(config, model, decoder_config, decoder, content["notes"])


def _loaded(config: Any, weights: Path) -> Any:
    with torch.random.fork_rng(devices=[]):
        model = config.clone().build()
    model.load_state_dict(load_file(weights))
    return model.eval()

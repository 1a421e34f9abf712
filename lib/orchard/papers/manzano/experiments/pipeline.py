"""The reader's own pictures from end to end: a tokenizer with its image decoder, and a language model that reads and draws pictures.

    pictures with texts -> tokenizer (stage 0) -> codes -> image decoder            `plan`, `trained_tokenizer`
    a causal language model + the tokenizer -> unified model                         `plan_unified`, `trained_unified`

Nothing is downloaded. Every stage is a run in the store: a command that was killed goes on where it was, and one that differs in a later
stage computes no earlier one again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor

from orchard.data import SPLITS
from orchard.data.image_rows import image_source
from orchard.errors import BadInput, closest
from orchard.files import share
from orchard.papers.manzano.data.own import OwnPictures, all_pictures, beside, usual_side
from orchard.papers.manzano.integrations.causal_lm import Backbone, UnifiedModel, Words, positions, save_unified
from orchard.papers.manzano.integrations.export import WEIGHTS, SavedTokenizer, load_tokenizer, save_tokenizer
from orchard.papers.manzano.integrations.vision import vision_tower
from orchard.papers.manzano.method import models
from orchard.papers.manzano.method.models import Picture, Size
from orchard.papers.manzano.method.unified import Vocabulary
from orchard.papers.manzano.runs.image_decoder import Resolution, TrainDecoder, load_decoder
from orchard.papers.manzano.runs.own import (
    BYTES,
    OwnCodes,
    OwnTokenizer,
    OwnUnified,
    SavedWeights,
    reader_of,
    tokenizer_of,
)
from orchard.papers.manzano.runs.tokenizer import ADAPTERS
from orchard.pretrained.folder import check_new, first_line, load_config, model_folder, new_folder
from orchard.pretrained.folder import load_tokenizer as load_words
from orchard.runs import Store
from orchard.runs.finished import file_sha256
from orchard.train import AdamW, choose

Say = Callable[[str], None]

SIZES = {"tiny": Size(16, 1, 2, 32), "small": Size(64, 3, 4, 160), "base": Size(256, 6, 8, 640)}
RATES = {"tiny": 1e-2, "small": 2e-3, "base": 1e-3}
TOWER_RATE = 3e-4  # where a tower that others have trained learns on
LONGEST, SHORTEST = 128, 8  # ids of a text
MOST_SIDE, SQUARE = 48, 12  # pixels: of a picture, without a choice; of a token of ours


@dataclass(frozen=True)
class Plan:
    """The stages as configs: each holds those before it. ``decoder`` is None where a tokenizer of a folder is given."""

    tokenizer: OwnTokenizer.Config | SavedWeights.Config
    codes: OwnCodes.Config
    decoder: TrainDecoder.Config | None = None


def plan(
    images: str | Path, *, size: str = "small", side: int | None = None, vision: str | Path | None = None, levels: list[int] | None = None,
    steps: int | None = None, batch: int = 48, loss: str = "text", freeze_vit: bool = False, seed: int = 0,
) -> Plan:  # fmt: skip
    """The stages for pictures with texts; see the command's help for the options, None is chosen by the pictures.

    Raises BadInput and DataError for everything that can be wrong before anything is computed.
    """
    if size not in SIZES:
        raise BadInput(f"size {size!r}: {closest(size, SIZES)}")
    if loss not in ("text", "recon", "both"):
        raise BadInput(f"loss {loss!r}: {closest(loss, ('text', 'recon', 'both'))}")
    if freeze_vit and vision is None:
        raise BadInput("a vision transformer of ours begins with random weights: freeze one that is given (vision)")
    shape, rate = SIZES[size], RATES[size] if vision is None or freeze_vit else TOWER_RATE
    if vision is None:
        side = side or max(2, min(usual_side(images), MOST_SIDE) // SQUARE) * SQUARE
        picture, tower = Picture(side, side), None
    else:
        tower = vision_tower(vision, side, side)
        grid = tower.height // tower.patch
        picture = Picture(tower.height, tower.width, tower.patch, next(r for r in (3, 2, 1) if grid % r == 0))
    source = image_source(images, height=picture.height, width=picture.width)
    world = OwnPictures.Config(source=source)
    own: OwnPictures = world.build()
    count = [len(own.texts(split)) for split in SPLITS][SPLITS.index("train")]
    levels = levels or ([8, 5, 5, 5] if count < 2000 else [8, 8, 8, 6, 5])
    steps = steps or min(6000, max(600, 20 * count // batch))
    tok = models.tokenizer(picture, shape, levels, 2 * shape.dim, shape.dim)
    if tower is not None:
        tok.set(vision=tower)
    head = None
    try:
        tok.clone().build()
        if loss != "text":
            head = models.regression_decoder(picture, shape, code_dim=shape.dim)
        square = picture.square
        drawer = models.image_decoder(picture, shape, square // 2 if square % 2 == 0 else square, len(levels))
    except ValueError as error:
        raise BadInput(f"pictures of {picture.height} x {picture.width} pixels cannot be read so: {error}") from None
    optim = AdamW.Config(learning_rate=rate, betas=[0.9, 0.98], weight_decay=0.01)
    name = Path(images).name
    first = OwnTokenizer.Config(
        pictures=world, tokenizer=tok, language_model=models.language_model(shape, Vocabulary(BYTES.vocab_size, 0)), steps=steps,
        warm_up=steps // 2, tokenizer_loss=loss, reconstruction=head, freeze_vit=freeze_vit, optim=optim,
        validate_every=max(1, steps // 10), label=f"tokenizer of {name}", batch_size=batch, seed=seed,
    )  # fmt: skip
    codes = OwnCodes.Config(tokenizer=first, world=world, label=f"codes of {name}")
    last = steps * 3 // 2
    decoder = TrainDecoder.Config(
        model=drawer, codes=codes, stages=[Resolution.Config(until=last)], optim=optim.clone().set(learning_rate=RATES[size]),
        validate_every=max(1, last // 10), label=f"image decoder of {name}", batch_size=batch, seed=seed,
    )  # fmt: skip
    for cfg in (first, decoder):
        cfg.clone().build()
    return Plan(first, codes, decoder)


def plan_with(tokenizer: str | Path, images: str | Path) -> Plan:
    """The stages that begin with a tokenizer of a folder. Raises as `plan`."""
    loaded = load_tokenizer(tokenizer)
    world = OwnPictures.Config(source=image_source(images, height=loaded.size[0], width=loaded.size[1]))
    given = SavedWeights.Config(tokenizer=loaded.config, folder=model_folder(tokenizer), label="tokenizer as it is")
    return Plan(given, OwnCodes.Config(tokenizer=given, world=world, label=f"codes of {Path(images).name}"))


def plan_unified(
    stages: Plan, backbone: str | Path, steps: int = 1000, batch: int = 16, learning_rate: float = 1e-4, seed: int = 0
) -> OwnUnified.Config:
    """The tuning of the language model in a folder on the pictures of these stages. Raises as `plan`."""
    model = model_folder(backbone)
    Words(load_words(model.folder))
    tok = stages.tokenizer.tokenizer
    tokens = Picture(tok.vision.height, tok.vision.width, tok.vision.patch, tok.r).tokens + 2
    longest = min(LONGEST, (positions(load_config(model.folder)) or tokens + LONGEST) - tokens)
    if longest < SHORTEST:
        raise BadInput(
            f"{backbone} reads {tokens + longest} tokens, a picture alone is {tokens}: use a tokenizer with fewer tokens"
        )  # fmt: skip
    unified = OwnUnified.Config(
        backbone=model, codes=stages.codes, steps=steps, batch_size=batch, optim=AdamW.Config(learning_rate=learning_rate),
        longest=longest, seed=seed, validate_every=max(1, steps // 10), label=f"{Path(backbone).name} with pictures",
    )  # fmt: skip
    unified.clone().build()
    return unified


def trained_tokenizer(stages: Plan, store: Store, device: str = "auto", say: Say = print) -> SavedTokenizer:
    """The tokenizer with its decoder, on the CPU; what the store lacks is computed."""
    done = store.compute(stages.tokenizer, device)
    if isinstance(stages.tokenizer, SavedWeights.Config):
        return load_tokenizer(stages.tokenizer.folder.folder)
    result = done.result
    before, after = (", ".join(f"{a} {of[f'{a}/loss']:.3f}" for a in ADAPTERS) for of in (result["initial"], result))
    say(f"tokenizer      {before} -> {after} nats a byte of held-out texts")
    use = store.compute(stages.codes, device).result
    say(f"codes          {use['tokens']} a picture, {use['use']['codes']} of {use['codes']} in use")
    assert stages.decoder is not None
    drawer = store.compute(stages.decoder, device)
    say(f"image decoder  {drawer.result['validation_loss']:.3f} squared error of the velocity")
    tok, decoder = tokenizer_of(done, stages.tokenizer), load_decoder(drawer, stages.decoder)
    notes = {"runs": [done.id, drawer.id], "pictures": stages.tokenizer.label}
    return SavedTokenizer(stages.tokenizer.tokenizer, tok, stages.decoder.model, decoder, notes)


def trained_unified(
    stages: Plan, cfg: OwnUnified.Config, store: Store, device: str = "auto", say: Say = print
) -> UnifiedModel:
    """The tuned language model with its tokenizer, on the CPU; what the store lacks is computed."""
    pictures = trained_tokenizer(stages, store, device, say)
    done = store.compute(cfg, device)
    before, after = (
        f"text {of['text_loss']:.3f}, codes {of['image_loss']:.3f}" for of in (done.result["initial"], done.result)
    )
    say(f"unified        {before} -> {after} nats a target of held-out pictures")
    reader, vocabulary = reader_of(cfg, store.compute(stages.tokenizer, device))
    load_model(reader.language_model, str(done.folder / "language_model.safetensors"))
    reader.tokenizer.load_state_dict(done.tensors("tokenizer"))
    reader.eval()
    backbone = reader.language_model
    assert isinstance(backbone, Backbone)
    pictures = replace(pictures, config=pictures.config.clone().set(dim=backbone.dim), model=reader.tokenizer)
    return UnifiedModel(backbone, Words(load_words(cfg.backbone.folder)), pictures, vocabulary)


def write_tokenizer(saved: SavedTokenizer, stages: Plan, out: str | Path, shown: int) -> None:
    """Write the folder, with ``decoded.png``: held-out pictures beside what their codes are decoded to. Raises BadInput where it exists."""
    originals = _held_out(stages, shown)
    decoded = saved.decode(saved.encode(originals)[1], generator=torch.Generator().manual_seed(0))
    save_tokenizer(saved, out, {"decoded.png": beside(originals.numpy(), decoded.numpy())})


def write_unified(model: UnifiedModel, stages: Plan, out: str | Path, shown: int) -> list[tuple[str, str]]:
    """Write the folder, with ``drawn.png``: held-out pictures beside those drawn by their captions, if the tokenizer has a decoder.

    Returns captions of test pictures, or questions with answers, and what the model says to them. Raises BadInput where it exists.
    """
    world: OwnPictures = stages.codes.world.build()
    asked, originals = world.texts("test")[:shown], _held_out(stages, shown)
    extra = {}
    if model.pictures.decoder is not None:
        generator = torch.Generator().manual_seed(0)
        codes = model.draw([question or answer for question, answer in asked], generator=generator)
        extra["drawn.png"] = beside(originals.numpy(), model.pictures.decode(codes, generator=generator).numpy())
    save_unified(model, out, extra)
    said = model.read(originals, [question for question, _ in asked])
    return [(f"{question} {answer}".strip(), heard) for (question, answer), heard in zip(asked, said, strict=True)]


def _held_out(stages: Plan, shown: int) -> Tensor:
    world: OwnPictures = stages.codes.world.build()
    return torch.from_numpy(world.pixels(world.scenes("test")))[:shown]


def encode(tokenizer: str | Path, images: str | Path, out: str | Path, device: str = "auto") -> tuple[int, int]:
    """Write codes, vectors and names of all pictures of a path as safetensors; returns how many pictures, and codes of each.

    Raises BadInput for a file that exists, and DataError for a picture that cannot be read.
    """
    target, saved = _new_file(out), load_tokenizer(tokenizer)
    names, pixels = all_pictures(images, *saved.size)
    vectors, ids = saved.to(choose(device).device).encode(torch.from_numpy(pixels))
    header = {"names": json.dumps(names), "tokenizer": file_sha256(Path(tokenizer, WEIGHTS))}
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    save_file({"ids": ids.cpu(), "vectors": vectors.cpu()}, part, metadata=header)
    share(part)
    os.replace(part, target)
    return ids.shape[0], ids.shape[1]


def decode(
    tokenizer: str | Path, ids: str | Path, out: str | Path, steps: int, guidance: float, seed: int, device: str = "auto"
) -> int:  # fmt: skip
    """Draw the pictures of a file that `encode` wrote into a new folder; returns how many.

    Raises BadInput for a file of another tokenizer, and for a folder that exists.
    """
    from PIL import Image

    saved = load_tokenizer(tokenizer).to(choose(device).device)
    try:
        with safe_open(ids, framework="pt") as file:
            header, codes = file.metadata() or {}, file.get_tensor("ids")
        names = json.loads(header["names"])
    except (OSError, SafetensorError, KeyError) as error:
        raise BadInput(f"{ids} holds no codes ({first_line(error)}): give a file that `tokenizer encode` wrote") from None  # fmt: skip
    if header.get("tokenizer") != file_sha256(Path(tokenizer, WEIGHTS)):
        raise BadInput(f"{ids} has codes of another tokenizer than {tokenizer}: give the one that made them")
    check_new(out)
    pictures = saved.decode(codes, steps=steps, guidance=guidance, generator=torch.Generator().manual_seed(seed))
    with new_folder(out) as part:
        for i, (name, pixels) in enumerate(zip(names, pictures.numpy(), strict=True)):
            Image.fromarray(pixels).save(part / f"{i:05d}_{Path(name).stem}.png")
    return len(names)


def _new_file(path: str | Path) -> Path:
    target = Path(path).expanduser().absolute()
    if target.exists() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise BadInput(f"{target} exists, or its folder cannot be written: choose a new file in a folder of yours")
    return target

"""A pruned decoder as a folder: what `prune_any` made and `tune` trained, saved, reloaded, and gathered into stock small models.

    config.json        format, settings (k, mode, epsilon, ...), layers and width, versions, size and SHA-256 of every other file
    head.safetensors   the two matrices of the head
    decoder/           as `from_pretrained` reads it, with the tokenizer
    predictor/         likewise, or a model of this library as `orchard.train.saved` writes it

A folder is new and appears complete, by one rename; nothing in it is pickled. Reloaded weights are those that were saved, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from orchard.errors import BadInput
from orchard.files import to_json, write
from orchard.papers.ifpruning.integrations.wrapper import PrunedModel, Settings, gated_layers
from orchard.pretrained.folder import (
    BASE,
    first_line,
    load_model,
    load_tokenizer,
    model_shape,
    new_folder,
    quiet,
    save_tokenizer,
)
from orchard.runs.finished import file_sha256
from orchard.train.saved import FORMAT as TEXT_MODEL
from orchard.train.saved import TextModel, load_saved, save_model

FORMAT = "orchard instruction-following pruning 1"
HEAD = ("head_in", "head_out")


def save_pruned(pruned: PrunedModel, folder: str | Path) -> Path:
    """Write a pruned decoder to a new folder. Raises BadInput where the folder exists."""
    import transformers

    with quiet(), new_folder(folder) as part:
        pruned.decoder.save_pretrained(part / "decoder")
        if pruned.reader is not None:
            save_model(part / "predictor", dataclasses.replace(pruned.reader, model=pruned.predictor))
        else:
            pruned.predictor.save_pretrained(part / "predictor")
            if pruned.prompt_tokenizer is not None:
                save_tokenizer(pruned.prompt_tokenizer, part / "predictor")
        if pruned.tokenizer is not None:
            save_tokenizer(pruned.tokenizer, part / "decoder")
        head = {name: value.detach().cpu().contiguous() for name, value in _head(pruned).state_dict().items()}
        save_file(head, part / "head.safetensors")
        files = {
            str(path.relative_to(part)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(part.rglob("*")) if path.is_file()
        }  # fmt: skip
        content = {
            "format": FORMAT, "settings": dataclasses.asdict(pruned.settings), "layers": len(pruned.layer_names), "width": pruned.width,
            "calibrated": pruned.calibrated, "tokenizer": pruned.tokenizer is not None,
            "prompt_tokenizer": pruned.prompt_tokenizer is not None,
            "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__}, "files": files,
        }  # fmt: skip
        write(part / "config.json", to_json(content))
    return Path(folder).expanduser().absolute()


def load_pruned(folder: str | Path, decoder: Any = None, dtype: Any = "auto") -> PrunedModel:
    """The pruned decoder of a folder, on the CPU, in evaluation mode. ``decoder``: put its predictor on this one instead of its own.

    Raises BadInput for a file that is missing or damaged, and for a decoder of another width or depth than the predictor's.
    """
    folder = Path(folder).expanduser()
    content = _content(folder)
    for name, entry in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise BadInput(f"{path} is missing: copy the whole folder again")
        if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise BadInput(f"{path} is damaged (size or SHA-256 differ from config.json): copy it again")
    own = load_model(folder / "decoder", dtype=dtype) if decoder is None else decoder
    tokenizer = load_tokenizer(folder / "decoder") if content["tokenizer"] and decoder is None else None
    predictor = load_predictor(folder / "predictor", dtype)
    foreign = content["prompt_tokenizer"] and not isinstance(predictor, TextModel)
    reads = load_tokenizer(folder / "predictor") if foreign else None
    _, layers = gated_layers(own)
    if (len(layers), layers[0].width) != (content["layers"], content["width"]):
        raise BadInput(
            f"{folder}: its predictor chooses for {content['layers']} layers of width {content['width']}, this decoder has "
            f"{len(layers)} of width {layers[0].width}: use the decoder it was trained with, or train a predictor for this one"
        )
    pruned = PrunedModel(own, predictor, Settings(**content["settings"]), tokenizer, reads)
    head = folder / "head.safetensors"
    try:
        _head(pruned).load_state_dict(load_file(head))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise BadInput(
            f"{head} cannot be read, or does not fit config.json ({first_line(error)}): copy it again"
        ) from None
    pruned.calibrated = bool(content["calibrated"])
    return pruned.eval()


def save_small(pruned: PrunedModel, prompt: str, folder: str | Path) -> Any:
    """Write the small model that a prompt chooses to a new folder, with the tokenizer; returns the model.

    ``from_pretrained`` of `transformers` reads it; ``orchard_prompt.json`` says what it was made for. Raises BadInput as `prompts`.
    """
    ids, mask = pruned.prompts(prompt)
    with quiet(), new_folder(folder) as part:
        small = pruned.gathered(ids, mask)
        small.save_pretrained(part)
        if pruned.tokenizer is not None:
            save_tokenizer(pruned.tokenizer, part)
        about = {"prompt": prompt, "keep": pruned.settings.keep, "of": pruned.width, "mode": pruned.settings.mode}
        write(part / "orchard_prompt.json", to_json(about))
    return small


def load_predictor(folder: str | Path, dtype: Any = torch.float32, weights: bool = True) -> nn.Module | TextModel:
    """What a predictor reads with: a model of `transformers` without its output matrix, or one that was saved by this library.

    Without ``weights`` that of `transformers` is on the meta device; one of this library is small and is loaded."""
    if load_json(Path(folder) / "config.json").get("format") == TEXT_MODEL:
        return load_saved(folder)
    return load_model(folder, BASE, dtype) if weights else model_shape(folder, BASE)


def load_json(place: Path) -> dict[str, Any]:
    """The object that a file of JSON holds. Raises BadInput."""
    try:
        content = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{place} cannot be read ({first_line(error)}): copy it again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{place} holds no JSON object: give a folder with a model")
    return content


def _content(folder: Path) -> dict[str, Any]:
    place = folder / "config.json"
    if not place.is_file():
        raise BadInput(f"no pruned decoder at {folder}: config.json is missing")
    content = load_json(place)
    if content.get("format") != FORMAT:
        raise BadInput(
            f"{place} is not of the format {FORMAT!r}: give a folder that `orchard ifpruning train` or save_pruned wrote"
        )
    flags = dict.fromkeys(("calibrated", "tokenizer", "prompt_tokenizer"), bool)
    parts = {"settings": dict, "layers": int, "width": int, "files": dict, **flags}
    bad = [name for name, kind in parts.items() if not isinstance(content.get(name), kind)]
    known = {field.name for field in dataclasses.fields(Settings)}
    if bad or set(content["settings"]) != known or "head.safetensors" not in content["files"]:
        raise BadInput(
            f"{place} lacks parts that this version of the library reads ({', '.join(bad) or 'settings'}): save it anew"
        )
    return content


def _head(pruned: PrunedModel) -> nn.ModuleDict:
    return nn.ModuleDict({name: getattr(pruned, name) for name in HEAD})

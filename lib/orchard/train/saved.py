"""Models to take away: a folder with weights, config and tokenizer, readable without this library, and nothing pickled.

    config.json         format, config of the model and of the tokenizer, notes, size and SHA-256 of the other files
    model.safetensors   the weights by name
    tokenizer.json      only for a tokenizer that was trained, in the format of the `tokenizers` package

The folder appears complete, by one rename. A reloaded model gives the logits of the one that was saved, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchard.config import Config
from orchard.data import Tokenizer
from orchard.errors import OrchardError
from orchard.nn import Decoder, Sampling, stream
from orchard.nn.generation import PREFILL_CHUNK
from orchard.runs import Finished
from orchard.runs.run import to_json
from orchard.runs.store import write
from orchard.train.lm import TrainLM, load_model, load_tokenizer
from orchard.train.run import save_tensors

FORMAT = "orchard language model 1"


class SavedModelError(OrchardError):
    """A folder cannot be written or read as a saved model."""


@dataclass(frozen=True)
class TextModel:
    """A decoder with its config and its tokenizer: text in, text out. `notes` are plain values that go with it."""

    config: Decoder.Config
    model: Decoder
    tokenizer: Tokenizer
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run: Finished, cfg: TrainLM.Config | None = None) -> TextModel:
        """The trained model of a finished run, on the CPU. `cfg`: what it was made from; None reads it from the run.

        Raises:
            SavedModelError: the run trained no language model.
        """
        cfg = config_of(run.config, f"run {run.id}") if cfg is None else cfg
        if not isinstance(cfg, TrainLM.Config):
            raise SavedModelError(
                f"run {run.id} ({run.label}) is a {type(cfg).__qualname__}: it trained no language model"
            )
        tokenizer = load_tokenizer(run, cfg)
        config = cfg.model.clone().set(vocab_size=tokenizer.vocab_size)
        notes = {"run": run.id, "label": run.label, "seq_len": cfg.seq_len, "result": run.result}
        return cls(config, load_model(run, cfg), tokenizer, notes)

    def encode(self, text: str) -> Tensor:
        """[1, tokens]: the text as the start of a document, on the device of the model."""
        ids = [self.tokenizer.bos, *self.tokenizer.encode(text)]
        return torch.tensor([ids], device=self.model.embedding.weight.device)

    def complete(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> str:
        """The text that follows `prompt`, up to the end of the document. Raises ValueError as `orchard.nn.stream`."""
        tokens = self.encode(prompt)
        generator = torch.Generator(tokens.device).manual_seed(seed)
        bos, sampling = self.tokenizer.bos, Sampling(temperature, top_k, top_p)
        new = stream(self.model, tokens, max_new_tokens, sampling, generator, bos, prefill_chunk)
        return self.tokenizer.decode([int(token) for token in new])


def save_model(folder: str | Path, saved: TextModel) -> Path:
    """Write the model to `folder`; a model that is there already is replaced.

    Raises:
        SavedModelError: the folder holds something else, the config names a class that loading would refuse, or the
            weights are not those of the config.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and not _replaceable(target):
        raise SavedModelError(
            f"{target} is not empty and holds no saved model: choose another folder, it is left alone"
        )
    weights = {name: value.detach().cpu().contiguous() for name, value in saved.model.state_dict().items()}
    trees = {"model": saved.config.to_dict(), "tokenizer": saved.tokenizer.cfg.to_dict()}
    for name, tree in trees.items():
        config_of(tree, f"the config of the {name}")
    _fits(weights, saved.config, "the model")

    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_tensors(weights, part / "model.safetensors")
        if (text := saved.tokenizer.to_json()) is not None:
            write(part / "tokenizer.json", text)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(part.iterdir())}
        content = {"format": FORMAT, **trees, "notes": dict(saved.notes), "files": files}
        write(part / "config.json", to_json(content))
        with open(part / "model.safetensors", "rb") as file:
            os.fsync(file.fileno())
        if target.exists():
            os.rename(target, old)
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_saved(folder: str | Path) -> TextModel:
    """The model that `save_model` wrote, on the CPU, ready for use.

    Only classes of this library are built, whatever `config.json` names.

    Raises:
        SavedModelError: a file is missing, damaged or not what the config says; the message names it.
    """
    folder = Path(folder).expanduser()
    place = folder / "config.json"
    content = _content(place)
    for name, entry in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise SavedModelError(f"{path} is missing: copy the whole folder again, or save the model anew")
        if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
            raise SavedModelError(f"{path} is damaged (size or SHA-256 differ from config.json): copy it again")
    config, tokenizer_cfg = (config_of(content[part], f"{place}: {part}") for part in ("model", "tokenizer"))
    if not (isinstance(config, Decoder.Config) and isinstance(tokenizer_cfg, Tokenizer.Config)):
        raise SavedModelError(f"{place} describes no decoder with a tokenizer: save the model anew")
    text = (folder / "tokenizer.json").read_text("utf-8") if "tokenizer.json" in content["files"] else None
    tokenizer = tokenizer_cfg.build(saved=text)
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise SavedModelError(f"{path} cannot be read ({error}): copy it again, or save the model anew") from None
    model = _fits(weights, config, str(path))
    model.load_state_dict(weights, assign=True)
    if tokenizer.vocab_size != model.vocab_size:
        raise SavedModelError(
            f"{place}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.vocab_size}: save it anew"
        )
    return TextModel(config, model.eval(), tokenizer, content["notes"])


def config_of(tree: Any, place: str = "config") -> Any:
    """The inverse of ``Config.to_dict()``, for configs of this library alone.

    Raises:
        SavedModelError: a class outside `orchard`, one that does not exist or is no config, or a field that does not
            fit; nothing of it is imported or called.
    """
    try:
        return Config.from_dict(tree, lambda module: re.fullmatch(r"orchard(\.\w+)+", module) is not None, place)
    except ValueError as error:
        raise SavedModelError(
            f"{error}; only classes of the modules orchard.*, as this version has them, are built from a file: define yours there (a "
            "paper's package will do), or load the weights into a model that your own code builds"
        ) from None


def _fits(weights: Mapping[str, Tensor], config: Decoder.Config, place: str) -> Decoder:
    """The decoder of `config` without memory (meta device), if `weights` are its weights by name and shape."""
    try:
        with torch.device("meta"):
            model: Decoder = config.build()
    except (ValueError, TypeError) as error:
        raise SavedModelError(f"the config that goes with {place} cannot be built: {error}") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [name for name in sorted(expected.keys() | given.keys()) if expected.get(name) != given.get(name)]
    if wrong:
        have, need = given.get(wrong[0], "absent"), expected.get(wrong[0], "absent")
        raise SavedModelError(
            f"{place} does not fit its config: {len(wrong)} tensors differ, the first is {wrong[0]!r}, {have} instead "
            f"of {need}; use the config it was trained with"
        )
    return model


def _content(place: Path) -> dict[str, Any]:
    """`config.json`, with all of its parts."""
    try:
        content = json.loads(place.read_text("utf-8"))
    except FileNotFoundError:
        raise SavedModelError(f"no saved model at {place.parent}: config.json is missing") from None
    except (OSError, ValueError) as error:
        raise SavedModelError(f"{place} cannot be read ({error}): copy it again, or save the model anew") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SavedModelError(
            f"{place} is not of the format {FORMAT!r}: save the model with this version of the library"
        )
    parts = {"model": dict, "tokenizer": dict, "notes": dict, "files": dict}
    if bad := [name for name, kind in parts.items() if not isinstance(content.get(name), kind)]:
        raise SavedModelError(f"{place} lacks {', '.join(bad)}: copy it again, or save the model anew")
    if "model.safetensors" not in content["files"] or set(content["files"]) - {"model.safetensors", "tokenizer.json"}:
        raise SavedModelError(f"{place}: its files are {sorted(content['files'])}, not those of a saved model")
    return content


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        _content(target / "config.json")
    except SavedModelError:
        return False
    return True


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Models and tokenizers of the reader's own: local folders as `transformers` writes them, or as `orchard.train.saved` does.

Nothing is downloaded, no code of a folder is run, no pickle is read. `ModelFolder` names a folder in the config of a run: its contents,
by SHA-256, are part of what the run is; where it lies is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchard.config import REQUIRED, Configurable
from orchard.data.cache import files_sha256
from orchard.errors import BadInput
from orchard.train.saved import FORMAT, TextModel, load_saved

TOKENIZER_FILES = (
    "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.tiktoken", "spiece.model",
)  # fmt: skip


class ModelFolder(Configurable):
    """A folder with a model and its tokenizer, known by what its files hold; see `model_folder`."""

    class Config(Configurable.Config):
        folder: str = REQUIRED
        sha256: str = REQUIRED
        location_fields = ("folder",)

    def __init__(self, cfg: ModelFolder.Config) -> None:
        self.path = Path(cfg.folder)


def model_folder(folder: str | Path) -> ModelFolder.Config:
    """The config of a folder. Raises BadInput where there is no config.json or no weights in safetensors."""
    place = Path(folder).expanduser().resolve()
    if not (place / "config.json").is_file():
        raise BadInput(f"{place} holds no model: config.json is missing; give the folder that holds it")
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        raise BadInput(
            f"{place} holds no weights (*.safetensors): copy them there; pickled weights (*.bin) are not read"
        )
    tokenizer = {path for pattern in TOKENIZER_FILES for path in place.glob(pattern)}
    files = [place / "config.json", *weights, *sorted(tokenizer)]
    return ModelFolder.Config(folder=str(place), sha256=files_sha256(files))


def load_decoder(folder: str | Path, dtype: Any = torch.float32) -> Any:
    """The causal language model of a folder, on the CPU. Raises BadInput where `transformers` finds none."""
    return _loaded("AutoModelForCausalLM", Path(folder), dtype, "causal language model")


def decoder_shape(folder: str | Path) -> Any:
    """The causal language model of a folder without weights (meta device), to check what it is before it is loaded."""
    return _without_weights("AutoModelForCausalLM", Path(folder), "causal language model")


def predictor_shape(folder: str | Path) -> nn.Module | TextModel:
    """The predictor of a folder without weights; one of this library is small and is loaded."""
    folder = Path(folder)
    if _format(folder / "config.json") == FORMAT:
        return load_saved(folder)
    found: nn.Module = _without_weights("AutoModel", folder, "model")
    return found


def load_predictor(folder: str | Path, dtype: Any = torch.float32) -> nn.Module | TextModel:
    """What a predictor reads with: a model of `transformers` without its output matrix, or one that was saved by this library."""
    folder = Path(folder)
    if _format(folder / "config.json") == FORMAT:
        return load_saved(folder)
    found: nn.Module = _loaded("AutoModel", folder, dtype, "model")
    return found


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a folder; text never becomes a special token. Raises BadInput where there is none."""
    folder = Path(folder)
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise BadInput(
            f"{folder} holds no tokenizer (tokenizer.json, tokenizer.model or vocab.json): copy the files of the tokenizer there"
        )
    try:
        return _transformers().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, split_special_tokens=True
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise BadInput(f"{folder} holds no tokenizer that transformers can load ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context `transformers` shows no bars and no reports (an output matrix that a predictor does not use is one)."""
    log = _transformers().utils.logging
    was, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(was)
        if bars:
            log.enable_progress_bar()


def _loaded(auto: str, folder: Path, dtype: Any, what: str) -> Any:
    kind = getattr(_transformers(), auto)
    try:
        with quiet():
            return kind.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype
            ).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(f"{folder} holds no {what} that transformers can load ({first_line(error)})") from None


def _without_weights(auto: str, folder: Path, what: str) -> Any:
    library = _transformers()
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return getattr(library, auto).from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} holds no {what} that transformers knows ({first_line(error)})") from None


def _format(place: Path) -> Any:
    try:
        content = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{place} cannot be read ({first_line(error)}): give a folder with a model") from None
    return content.get("format") if isinstance(content, dict) else None


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BadInput("a local model needs the package transformers: pip install 'orchard[transformers]'") from None
    return transformers

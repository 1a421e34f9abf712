"""Models and tokenizers that others made: local folders as `transformers` writes them, read without network, foreign code or pickle.

    model_folder     the folder in the config of a run: what its files hold, by SHA-256, is part of what the run is; where it lies is not
    load_model, load_tokenizer, model_shape, load_config
    new_folder       a folder to write in, which appears complete
    save_tokenizer, tokenizer_files, companions, copy_files      what goes along with a model as it is

What is written loads elsewhere as the original does: arguments of loading are not saved, and everybody may read it whom the umask lets.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from orchard.config import REQUIRED, Configurable
from orchard.data.cache import files_sha256
from orchard.errors import BadInput

CAUSAL, BASE = "AutoModelForCausalLM", "AutoModel"
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "dict.txt", "bpe.codes"),
    *("spiece.model", "sentencepiece*.model", "spm*.model", "*.spm", "*.tiktoken", "tekken.json"),
    *("chat_template*", "additional_chat_templates/*.jinja"),
)
NO_TOKENIZER = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle")  # called so all the same: code and pickles
TEXT = (".json", ".jinja", ".txt", ".md", ".rst", ".yaml", ".yml", ".py", "")  # LICENSE has no suffix
LOADING = ("local_files_only", "is_local", "split_special_tokens")  # arguments of loading that transformers would save


class ModelFolder(Configurable):
    """A folder with a model and its tokenizer, known by what its files hold; see `model_folder`."""

    class Config(Configurable.Config):
        folder: str = REQUIRED
        sha256: str = REQUIRED
        location_fields = ("folder",)

    def __init__(self, cfg: ModelFolder.Config) -> None:
        self.path = Path(cfg.folder)


# ------------------------------------------------------------------ what a folder holds


def model_folder(folder: str | Path) -> ModelFolder.Config:
    """The config of a folder, known by its configs, weights and tokenizer.

    Raises BadInput where there is no folder, no config.json or no weights in safetensors.
    """
    place = _place(folder)
    if not (place / "config.json").is_file():
        raise BadInput(f"{place} holds no model: config.json is missing; give the folder that holds it")
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        raise BadInput(
            f"{place} holds no weights (*.safetensors): copy them there; pickled weights (*.bin) are not read"
        )
    configs = [place / name for name in ("config.json", "generation_config.json", "model.safetensors.index.json")]
    files = [*filter(Path.is_file, configs), *weights, *(place / name for name in tokenizer_files(place))]
    return ModelFolder.Config(folder=str(place), sha256=files_sha256(files))


def tokenizer_files(folder: str | Path) -> list[str]:
    """The files of a folder's tokenizer with its chat templates, by their names below the folder; none where there is no tokenizer."""
    folder = Path(folder)
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    return sorted(
        path.relative_to(folder).as_posix() for path in found if path.is_file() and path.suffix not in NO_TOKENIZER
    )


def tokenizer_sha256(folder: str | Path) -> str:
    """SHA-256 (hex) of the files of a folder's tokenizer. Raises BadInput where there is none."""
    place = _place(folder)
    files = tokenizer_files(place)
    if not files:
        raise BadInput(
            f"{place} holds no tokenizer (tokenizer.json, tokenizer.model or vocab.json): copy the files of the tokenizer there"
        )
    return files_sha256([place / name for name in files])


def companions(folder: str | Path) -> list[str]:
    """What goes along unchanged with a model made from that of the folder: its tokenizer, generation config, licence, model card, code.

    Left out are config.json and the index of the weights, which are written anew, all that is neither text nor tokenizer (weights, states
    of training, other formats), hidden files, and every sub-folder with such a file: another model, a training, its logs.
    """
    folder = Path(folder)
    tokenizer = tokenizer_files(folder)

    def kept(path: Path) -> bool:
        name = path.relative_to(folder).as_posix()
        return (path.suffix in TEXT or name in tokenizer) and not any(part.startswith(".") for part in name.split("/"))

    found = []
    for entry in folder.iterdir():
        files = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
        if all(map(kept, files)):
            found += [path.relative_to(folder).as_posix() for path in files]
    anew = ("config.json", "trainer_state.json")
    return sorted(name for name in found if name not in anew and not name.endswith(".index.json"))


def copy_files(names: Iterable[str], source: str | Path, target: str | Path) -> None:
    """Copy files, named below ``source``, to the same places below ``target``; what a link points to is copied."""
    for name in names:
        place = Path(target, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(source, name), place)


# ------------------------------------------------------------------ loading


def load_model(folder: str | Path, kind: str = CAUSAL, dtype: torch.dtype | str = "auto") -> Any:
    """The model of a folder on the CPU, ready for use. ``kind``: a class of `transformers`; ``dtype``: "auto" is that of the folder.

    Raises BadInput where `transformers` finds no such model, and where weights of a causal language model are missing.
    """
    library = import_transformers()
    try:
        with quiet():
            model, about = getattr(library, kind).from_pretrained(
                Path(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise BadInput(f"{folder} holds no {_words(kind)} that transformers can load ({first_line(error)})") from None
    if kind == CAUSAL and (missing := sorted(about["missing_keys"])):
        raise BadInput(
            f"{folder} lacks {len(missing)} weights of its {type(model).__name__}, {missing[0]} among them: copy it again"
        )
    return model.eval()


def load_config(folder: str | Path) -> Any:
    """The config of `transformers` in a folder. Raises BadInput where there is none that it knows."""
    library = import_transformers()
    try:
        return library.AutoConfig.from_pretrained(Path(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} holds no config.json that transformers knows ({first_line(error)})") from None


def model_shape(folder: str | Path, kind: str = CAUSAL) -> Any:
    """The model of a folder without weights (meta device), to check what it is before it is loaded. Raises BadInput."""
    config = load_config(folder)
    try:
        with torch.device("meta"):
            return getattr(import_transformers(), kind).from_config(config)
    except (ValueError, KeyError) as error:
        raise BadInput(f"{folder} holds no {_words(kind)} that transformers knows ({first_line(error)})") from None


def load_tokenizer(folder: str | Path, split_special_tokens: bool = True) -> Any:
    """The tokenizer of a folder. ``split_special_tokens``: text never becomes a special token, though it spells one.

    Raises BadInput where there is none.
    """
    tokenizer_sha256(folder)  # some kinds of model have an empty tokenizer where there are no files
    try:
        found = import_transformers().AutoTokenizer.from_pretrained(
            Path(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise BadInput(f"{folder} holds no tokenizer that transformers can load ({first_line(error)})") from None
    for name in ("local_files_only", "is_local"):  # nor are they saved by save_pretrained
        found.init_kwargs.pop(name, None)
    if split_special_tokens:
        found.split_special_tokens = True  # not as an argument, which save_pretrained would write
    return found


def import_transformers() -> Any:
    """The package `transformers`. Raises BadInput where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise BadInput("models of others need the package transformers: pip install 'orchard[transformers]'") from None
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context `transformers` shows no bars and no reports (an output matrix that a base model does not use is one)."""
    log = import_transformers().utils.logging
    was, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(was)
        if bars:
            log.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ------------------------------------------------------------------ writing


def check_new(folder: str | Path) -> Path:
    """The absolute path of a folder that can be made, or is there and empty.

    Raises BadInput where something is there, or nothing can be written.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BadInput(f"{target} exists: choose a new folder, it is left alone")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target.parent} cannot be made ({error.strerror}): choose another folder") from None
    if not os.access(target.parent, os.W_OK):
        raise BadInput(f"{target.parent} cannot be written: choose another folder")
    return target


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write in that takes the name ``folder`` at the end, or is gone after an error. Its files have the modes of the umask.

    Raises BadInput as `check_new`, before and after.
    """
    target = check_new(folder)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        mode = part.stat().st_mode & 0o666  # what the umask leaves; the writer of safetensors makes files 0600
        for path in part.rglob("*"):
            if path.is_file():
                path.chmod(mode)
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        os.rename(part, check_new(target))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write a tokenizer as it loads elsewhere: the files that it was read from as they are, unless it has been changed since.

    A changed one, and one from elsewhere, is written by `transformers`, without the arguments that it was loaded with.
    """
    if (source := _unchanged(tokenizer)) is not None:
        copy_files(tokenizer_files(source), source, folder)
        return
    tokenizer.save_pretrained(folder)
    place = Path(folder, "tokenizer_config.json")
    content = {name: value for name, value in json.loads(place.read_text("utf-8")).items() if name not in LOADING}
    place.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _unchanged(tokenizer: Any) -> Path | None:
    """The folder that holds the tokenizer as it is, if there is one."""
    source = Path(tokenizer.name_or_path or os.devnull)
    try:
        there = load_tokenizer(source)
    except BadInput:
        return None
    own, other = ([type(one), one.get_vocab(), one.special_tokens_map, one.chat_template] for one in (tokenizer, there))
    return source if own == other else None


def _place(folder: str | Path) -> Path:
    """The absolute path of a folder. Raises BadInput where there is none."""
    place = Path(folder).expanduser().resolve()
    if place.is_dir():
        return place
    hint = ""
    if str(folder).count("/") == 1 and not str(folder).startswith((".", "/", "~")):
        hint = "; if this is the id of a model on a hub: nothing is downloaded here, put it into a folder yourself"
    raise BadInput(f"{str(folder)!r} is no folder on this disk (looked for {place}){hint}: give the folder of a model")


def _words(kind: str) -> str:
    return "causal language model" if kind == CAUSAL else "model"

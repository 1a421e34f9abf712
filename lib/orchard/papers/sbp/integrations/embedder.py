"""An embedding model from this disk, of any architecture that transformers can load: nothing is fetched.

    h = the last layer's states of the tokens of text(d), special tokens of the model's own tokenizer included
    e(d) = mean_t h_t, or h_T of the last token; centred on D, of unit length

The folder is where the model is, not what it is: a run is known by the SHA-256 of the model's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from orchard.config import REQUIRED
from orchard.data.cache import files_sha256
from orchard.errors import BadInput, closest
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.embedding import Embedder, unit
from orchard.runs import Workspace
from orchard.train import choose

POOLING = ("mean", "last")
AT_ONCE = 16_384  # tokens in a forward pass, padding included
TOKENIZER = ("tokenizer*", "vocab*", "*.tiktoken", "spiece.model")


class LocalEmbedder(Embedder):
    """A model in a folder; :func:`local_embedder` makes its config."""

    class Config(Embedder.Config):
        folder: str = REQUIRED
        sha256: str = REQUIRED  # of the model's files
        pooling: str = "mean"  # or last: of the last token, for decoders that were trained so
        max_tokens: int = 512  # of a document; the rest is cut off
        location_fields = ("folder",)

    cfg: Config

    def __init__(self, cfg: LocalEmbedder.Config) -> None:
        if cfg.pooling not in POOLING:
            raise BadInput(f"LocalEmbedder.Config.pooling is {cfg.pooling!r}: {closest(cfg.pooling, POOLING)}")
        self.cfg = cfg

    def embed(
        self, corpus: Corpus, splits: dict[str, Documents], work: Workspace
    ) -> dict[str, Float32[np.ndarray, "_ dim"]]:
        """Raises BadInput if the model is gone, has changed, or cannot be loaded."""
        folder = model_folder(self.cfg.folder)
        if _contents(folder) != self.cfg.sha256:
            raise BadInput(
                f"the model in {folder} is not the one this run was asked for: its files have changed, ask again"
            )
        device = choose(work.device).device
        model, tokenizer = load_local(folder)
        model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        rows = {
            name: self.states(model, tokenizer, [corpus.text(documents[i]) for i in range(len(documents))])
            for name, documents in splits.items()
        }
        centre = rows["train"].mean(axis=0)
        return {name: unit(found - centre) for name, found in rows.items()}

    @torch.no_grad()
    def states(self, model: Any, tokenizer: Any, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """The pooled state of every text, computed in batches of texts of about the same length."""
        most = min(self.cfg.max_tokens, getattr(model.config, "max_position_embeddings", None) or self.cfg.max_tokens)
        ids = [tokenizer(text, truncation=True, max_length=most)["input_ids"] for text in texts]
        lengths = np.array([len(row) for row in ids])
        if len(lengths) and lengths.min() == 0:
            raise BadInput(
                f"the tokenizer of {self.cfg.folder} makes no token of document {int(lengths.argmin())}: leave such documents out"
            )
        order = np.argsort(lengths, kind="stable")
        found = np.empty((len(ids), model.config.hidden_size), np.float32)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end - start + 1) * lengths[order[end]] <= AT_ONCE:
                end += 1
            part = order[start:end]
            mask = torch.arange(int(lengths[part].max())) < torch.from_numpy(lengths[part])[:, None]
            tokens = torch.zeros(mask.shape, dtype=torch.int64)
            tokens[mask] = torch.tensor([token for i in part for token in ids[i]])
            mask = mask.to(model.device)
            states = model(input_ids=tokens.to(model.device), attention_mask=mask.long()).last_hidden_state
            found[part] = pooled(states.float(), mask, self.cfg.pooling).cpu().numpy()
            start = end
        return found


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[texts, dim] of [texts, tokens, dim]: the mean over what the mask keeps, or its last token."""
    if pooling == "last":
        return states[torch.arange(len(states)), mask.sum(dim=1) - 1]
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def local_embedder(folder: str | Path, **fields: Any) -> LocalEmbedder.Config:
    """The config of the embedding model in a folder. ``fields``: pooling, max_tokens.

    Raises:
        BadInput: no such folder (a model id is none), or files of the model or of its tokenizer are missing.
    """
    place = model_folder(folder)
    return LocalEmbedder.Config(folder=str(place), sha256=_contents(place), **fields)


def model_folder(folder: str | Path) -> Path:
    """The folder as an absolute path, once it is clear that it holds a model with safe weights and a tokenizer."""
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        hint = ""
        if not place.exists() and str(folder).count("/") == 1 and not str(folder).startswith((".", "/", "~")):
            hint = "; if this is the id of a model on a hub: nothing is downloaded here, put it into a folder yourself"
        raise BadInput(
            f"{str(folder)!r} is no folder on this disk (looked for {place}){hint}: give the folder of an embedding model"
        )
    if not (place / "config.json").is_file():
        raise BadInput(f"{place} holds no config.json: give the folder of a model that transformers can load")
    if not any(place.glob("*.safetensors")):
        raise BadInput(
            f"{place} holds no weights as safetensors: save the model with save_pretrained, pickles are not read"
        )
    if not any(any(place.glob(name)) for name in TOKENIZER):
        raise BadInput(f"{place} holds no tokenizer: copy the files of the tokenizer beside the weights")
    return place


def _contents(folder: Path) -> str:
    """SHA-256 of the files that models and tokenizers are made of."""
    kinds = (".safetensors", ".json", ".txt", ".model", ".tiktoken")
    return files_sha256(sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in kinds))


def load_local(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, in evaluation mode on the CPU, without a network."""
    try:
        import transformers
    except ImportError:
        raise BadInput(
            "a local embedding model needs transformers, which is not installed: pip install 'orchard[sbp]'"
        ) from None
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInput(
            f"transformers cannot load the model or the tokenizer in {folder}: {str(error).splitlines()[0]}"
        ) from None
    finally:
        if shown:
            bars.enable_progress_bar()
    return model.eval(), tokenizer

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
from orchard.errors import BadInput, closest
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.embedding import Embedder, centred
from orchard.pretrained.folder import BASE, load_model, load_tokenizer, model_folder, tokenizer_sha256
from orchard.runs import Workspace
from orchard.train import choose

POOLING = ("mean", "last")
AT_ONCE = 16_384  # tokens in a forward pass, padding included


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
        folder = self.cfg.folder
        if model_folder(folder).sha256 != self.cfg.sha256:
            why = "its files have changed, ask again"
            raise BadInput(f"the model in {folder} is not the one this run was asked for: {why}")
        device = choose(work.device).device
        model, tokenizer = load_model(folder, BASE), load_tokenizer(folder, split_special_tokens=False)
        model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        texts = {name: [corpus.text(body) for body in documents] for name, documents in splits.items()}
        return centred({name: self.states(model, tokenizer, found) for name, found in texts.items()})

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
    found = model_folder(folder)
    tokenizer_sha256(found.folder)  # says that it is missing
    return LocalEmbedder.Config(folder=found.folder, sha256=found.sha256, **fields)

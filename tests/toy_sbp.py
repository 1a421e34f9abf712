"""A small ragged corpus and the stages of bootstrapping on it, for tests and for the processes that tests kill."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchard.nn import Attention, Decoder, FeedForward, RMSNorm
from orchard.papers.sbp.method.documents import SPLITS, Corpus, Documents, Symbols
from orchard.papers.sbp.method.models import DropoutBlock
from orchard.papers.sbp.runs.controls import _Control
from orchard.papers.sbp.runs.mix import Mix
from orchard.papers.sbp.runs.pair import DrawnPairs
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune
from orchard.train import AdamW


class Ragged(Corpus):
    """Documents of any length, empty ones too: runs of tokens that go up by one, from anywhere."""

    class Config(Corpus.Config):
        vocab: int = 12
        longest: int = 9
        count: int = 24  # of D
        held_out: int = 15
        seed: int = 0

    cfg: Config

    def __init__(self, cfg: Ragged.Config) -> None:
        self.cfg, self.cap = cfg, cfg.longest
        self.symbols = Symbols(cfg.vocab, bos=0, eos=1, sep=2, pad=3)

    def documents(self, split: str) -> Documents:
        random = np.random.default_rng([self.cfg.seed, SPLITS.index(split) if split != "pool" else 0])
        pool = self.cfg.count * 4 if split in ("train", "pool") else self.cfg.held_out
        free = self.cfg.vocab - 4
        bodies = [
            4 + (random.integers(free) + np.arange(random.integers(self.cfg.longest + 1))) % free for _ in range(pool)
        ]
        documents = Documents.of(bodies, names=[f"{split} {i}" for i in range(pool)])
        return documents.head(self.cfg.count) if split == "train" else documents

    def text(self, body: np.ndarray) -> str:
        return " ".join(str(token) for token in body.tolist())


def model(dropout: float = 0.0) -> Decoder.Config:
    """One layer of 16 channels."""
    layer = DropoutBlock.Config(
        attention=Attention.Config(num_heads=2, qk_norm=RMSNorm.Config()), feed_forward=FeedForward.Config(hidden_dim=24),
        dropout=dropout,
    )  # fmt: skip
    return Decoder.Config(vocab_size=1, dim=16, layers=[layer], tie_embeddings=True)


class Thin(DropoutBlock):
    """A layer without its attention, which PyTorch's compiler takes long to trace."""

    def forward(self, x: Any, cache: Any = None, packed: Any = None) -> Any:
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def thin(layer: Any) -> DropoutBlock.Config:
    """A layer of :func:`model` without its attention."""
    made: DropoutBlock.Config = Thin.Config(
        attention=layer.attention, feed_forward=layer.feed_forward, dropout=layer.dropout
    )
    return made


def pretrained(dropout: float = 0.0, **mix: Any) -> Pretrain.Config:
    """A few steps on D."""
    fields: dict[str, Any] = {"corpus": Ragged.Config(), "budget": 1200, "steps": 12, **mix}
    return Pretrain.Config(
        model=model(dropout), mix=Mix.Config(**fields), optim=AdamW.Config(learning_rate=1e-2), log_every=1, validate_every=5,
        eval_documents=10, checkpoint_every=4, label="toy",
    )  # fmt: skip


def tuned(**fields: Any) -> Tune.Config:
    """A synthesizer of the pretrained toy, on random pairs."""
    pairs = DrawnPairs.Config(corpus=Ragged.Config(), k=3, held_out=12)
    settings: dict[str, Any] = {
        "pretrained": pretrained(), "pairs": pairs, "batch_size": 16, "steps": 14, "validate_every": 4, "held_out": 30,
        "checkpoint_every": 3, "log_every": 1, "optim": AdamW.Config(learning_rate=1e-2), "label": "toy synthesizer",
    }  # fmt: skip
    return Tune.Config(**(settings | fields))


def sampled(**fields: Any) -> Synthesise.Config:
    """Documents of the toy synthesizer in several small batches."""
    settings: dict[str, Any] = {"tuned": tuned(), "tokens": 600, "batch_size": 64, "label": "toy samples"}
    return Synthesise.Config(**(settings | fields))


class Copies(_Control):
    """Every sample is its own seed: the worst synthesizer by copying, the best by everything else."""

    def write(self, corpus: Any, real: Documents, seeds: Any, random: np.random.Generator) -> Documents:
        return real.take(seeds)


class Broken(_Control):
    """Seeds without their last token: nothing of the world."""

    def write(self, corpus: Any, real: Documents, seeds: Any, random: np.random.Generator) -> Documents:
        return Documents.of([real[i][:-1] for i in seeds])

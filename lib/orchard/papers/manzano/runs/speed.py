"""How fast pictures become tokens, codes are drawn and decoders step. Weights were never trained: time does not depend on them.

    part        peers                                                                  a call
    tokenizer   vision transformer alone, continuous, codes, both                      a batch of pictures
    codes       with a cache, without: every code reads all tokens before it again     the codes of a batch of prompts
    decoder     DiT-Air, and SD3Transformer2DModel of diffusers (where installed)      one forward pass of a batch, same width and layers

A row of a peer that is not installed has no time and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from orchard.config import REQUIRED
from orchard.nn import Decoder, Sampling
from orchard.papers.manzano.method.decoder import ImageDecoder
from orchard.papers.manzano.method.tokenizer import HybridTokenizer, unit_pixels
from orchard.papers.manzano.method.unified import Vocabulary, draw_codes
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed
from orchard.timing import Step

TEXT, PROMPT = 200, 20  # ids of text, of a prompt


class Speed(Measurement):
    """Rows part, name, items (of a call), round, seconds, reason."""

    class Config(Measurement.Config):
        tokenizer: HybridTokenizer.Config = REQUIRED
        language_model: Decoder.Config = REQUIRED  # vocab_size is set
        decoder: ImageDecoder.Config = REQUIRED
        batch: int = REQUIRED
        rounds: int = REQUIRED

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """Part by part; peers in turn."""
        cfg, device = self.cfg, self.begin(work)
        rows: list[dict[str, Any]] = []
        for part, peers in {"tokenizer": self.tokenizers, "codes": self.codes, "decoder": self.decoders}.items():
            ready: dict[str, Step] = {}
            for name, make in peers(device).items():
                try:
                    ready[name] = make()
                except ImportError as error:
                    about = {"part": part, "name": name, "items": cfg.batch}
                    rows.append(about | {"round": 0, "seconds": None, "reason": str(error)})
            rows += timed(ready, cfg.rounds, device, part=part, items=cfg.batch, reason="")
        return {"rows": rows}

    def tokenizers(self, device: str) -> dict[str, Callable[[], Step]]:
        """Pictures to tokens."""
        vision = self.cfg.tokenizer.vision
        tok: HybridTokenizer = self.cfg.tokenizer.clone().build().to(device)
        shape = (self.cfg.batch, vision.height, vision.width, 3)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        return {
            "vision transformer": lambda: lambda: tok.vision(unit_pixels(pictures)),
            "continuous": lambda: lambda: tok.continuous(tok.squares(pictures)),
            "codes": lambda: lambda: tok.discrete.ids(tok.squares(pictures)),
            "both": lambda: lambda: tok.encode(pictures),
        }

    def codes(self, device: str) -> dict[str, Callable[[], Step]]:
        """Prompts to codes."""
        tok: HybridTokenizer = self.cfg.tokenizer.clone().build()
        vocabulary = Vocabulary(TEXT, tok.quantizer.size)
        decoder: Decoder = self.cfg.language_model.clone().set(vocab_size=vocabulary.size).build().to(device)
        prompts = torch.randint(TEXT, (self.cfg.batch, PROMPT), device=device)
        texts = prompts.tolist()
        return {
            "with a cache": lambda: lambda: draw_codes(decoder, vocabulary, texts, tok.n, Sampling()),
            "without": lambda: lambda: without_cache(decoder, vocabulary, prompts, tok.n),
        }

    def decoders(self, device: str) -> dict[str, Callable[[], Step]]:
        """One forward pass."""
        cfg, batch = self.cfg.decoder, self.cfg.batch
        air: ImageDecoder = cfg.clone().build().to(device)
        x = torch.randn(batch, *air.shape, device=device)
        t = torch.rand(batch, device=device)
        codes = torch.randn(batch, len(air.code_places), cfg.code_dim, device=device)
        return {"DiT-Air": lambda: lambda: air(x, t, codes), "MMDiT (diffusers)": lambda: _mmdit(cfg, x, t, codes)}


def without_cache(decoder: Decoder, vocabulary: Vocabulary, prompts: Tensor, count: int) -> Tensor:
    """What `draw_codes` gives without sampling, reading the whole sequence for every code."""
    start = torch.full_like(prompts[:, :1], vocabulary.start)
    tokens, forbidden = torch.cat((prompts, start), dim=1), ~vocabulary.image_ids().to(prompts.device)
    for _ in range(count):
        logits = decoder.logits(decoder.features(tokens)[:, -1]).masked_fill(forbidden, float("-inf"))
        tokens = torch.cat((tokens, logits.argmax(dim=-1, keepdim=True)), dim=1)
    return tokens[:, -count:] - vocabulary.first_code


def _mmdit(cfg: ImageDecoder.Config, x: Tensor, t: Tensor, codes: Tensor) -> Step:
    """A forward pass of diffusers' MMDiT of the same width and layers. ImportError without diffusers."""
    from diffusers import SD3Transformer2DModel

    made: Any = SD3Transformer2DModel(
        sample_size=cfg.height, patch_size=cfg.patch, in_channels=cfg.channels, out_channels=cfg.channels, num_layers=cfg.num_layers,
        attention_head_dim=cfg.dim // cfg.num_heads, num_attention_heads=cfg.num_heads, joint_attention_dim=cfg.code_dim,
        caption_projection_dim=cfg.dim, pooled_projection_dim=cfg.code_dim, pos_embed_max_size=max(cfg.height, cfg.width) // cfg.patch,
    )  # fmt: skip
    peer = made.to(x.device)
    channels_first = x.movedim(-1, 1).contiguous()
    return lambda: peer(channels_first, codes, codes.mean(dim=1), 1000 * t).sample

"""FactGrid to look at: an example of any domain, wording and stage, with what the predictor reads, what the decoder, and what counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from orchard.papers.ifpruning.data import Examples
from orchard.papers.ifpruning.factgrid import FactGrid
from orchard.papers.ifpruning.figures.stdlib10 import Piece, example_text

SHOWN_QUERIES = 4


def shown(world: FactGrid, domain: str, wording: int, stage: str = "sft") -> Examples:
    """One example with the first keys of a domain, as a stage reads it."""
    queries = world.cfg.queries if stage == "cpt" else min(world.cfg.queries, SHOWN_QUERIES)
    one = np.array([[world.domains.index(domain)]])
    no = np.zeros(1, dtype=bool)
    key = np.arange(queries)[None] * 7 % world.cfg.num_keys
    chunks = world.cfg.chunks if stage == "cpt" else 1
    return world.examples(one, np.array([[wording]]), key, no, no, np.zeros_like(key), chunks, stage == "read")


def browse(world: FactGrid) -> Callable[..., Figure]:
    """What ``orchard.widgets.explorer`` draws: arguments domain, wording and stage."""

    def draw(domain: str = world.domains[0], wording: int = 0, stage: str = "sft") -> Figure:
        example = shown(world, domain, wording, stage)
        [tokens], [counts] = example.tokens, example.counts
        read = [
            Piece(f"{world.text(token[None])} ", "counts" if counted else "read")
            for token, counted in zip(tokens, counts, strict=True)
        ]
        parts = {"decoder": read}
        if stage in ("sft", "cpt"):
            prompts = zip(example.prompts[0], example.prompt_lengths[0], strict=True)
            text = " | ".join(world.text(prompt[:length]) for prompt, length in prompts)
            parts = {"predictor": [Piece(text, "read")], **parts}
        return example_text(f"{domain}, training wording {wording}, stage {stage}", parts)

    return draw

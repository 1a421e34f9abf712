"""The corpora to look at: an example of FactGrid or Stdlib-10 with its controls, what the predictor reads of it, what the decoder, and what
counts; and what each domain of Stdlib-10 holds."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from orchard.papers.ifpruning.data.corpus import Reading, Vocabulary
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.data.stdlib10.corpus import DOCSTRING, GROUPS, KINDS, Stdlib10
from orchard.papers.ifpruning.data.stdlib10.source import MEMORY, PROCEDURES
from orchard.papers.ifpruning.data.stdlib10.wordings import HELD_OUT, TRAINED, WORDINGS
from orchard.papers.ifpruning.figures.examples import Piece, example_text
from orchard.papers.ifpruning.method.examples import Examples

SHOWN_QUERIES = 4
SAMPLE = 256  # facts of a domain that its median lengths are taken over


def factgrid_example(world: FactGrid, domain: str, wording: int, stage: str = "sft") -> Examples:
    """One example with the first keys of a domain, as a stage reads it."""
    queries = world.cfg.queries if stage == "cpt" else min(world.cfg.queries, SHOWN_QUERIES)
    one = np.array([[world.domains.index(domain)]])
    no = np.zeros(1, dtype=bool)
    key = np.arange(queries)[None] * 7 % world.cfg.num_keys
    chunks = world.cfg.chunks if stage == "cpt" else 1
    return world.examples(one, np.array([[wording]]), key, no, no, np.zeros_like(key), chunks, stage == "read")


def browse_factgrid(world: FactGrid) -> Callable[..., Figure]:
    """What ``orchard.widgets.explorer`` draws: arguments domain, wording and stage."""

    def draw(domain: str = world.domains[0], wording: int = 0, stage: str = "sft") -> Figure:
        example = factgrid_example(world, domain, wording, stage)
        [tokens], [counts] = example.tokens, example.counts
        styles = ["counts" if counted else "read" for counted in counts]
        told = zip(tokens, styles, strict=True)
        parts = {"decoder": [(f"{world.text(token[None])} ", style) for token, style in told]}
        if stage in ("sft", "cpt"):
            prompts = zip(example.prompts[0], example.prompt_lengths[0], strict=True)
            text = " | ".join(world.text(prompt[:length]) for prompt, length in prompts)
            parts = {"predictor": [(text, "read")], **parts}
        return example_text(f"{domain}, training wording {wording}, stage {stage}", parts)

    return draw


def stdlib10_example(corpus: Stdlib10, domain: str, wording: int, kind: str = "input") -> Reading:
    """A training fact of a domain in any wording and kind of prompt, the same fact for all of them."""
    fact = corpus.fact(domain, "train", random.Random(f"stdlib10 preview {domain}"))
    return corpus.reading(domain, fact, wording, kind)


def pieces(words: Vocabulary, tokens: list[int], counts: list[bool]) -> list[Piece]:
    """The tokens as stretches of text that are read, that count, or that are a mark."""

    def style(pair: tuple[int, bool]) -> str:
        token, counted = pair
        unread = "mark" if token >= words.bos else "read"
        return "counts" if counted else unread

    stretches = groupby(zip(tokens, counts, strict=True), key=style)
    return [(words.decode([token for token, _ in part]), name) for name, part in stretches]


def browse_stdlib10(corpus: Stdlib10) -> tuple[Callable[..., Figure], dict[str, Any]]:
    """What ``orchard.widgets.explorer`` needs: a figure for a domain, a wording and a kind of prompt, and the controls of the three."""
    use = dict.fromkeys(TRAINED, "training") | {number: f"held out for {split}" for split, number in HELD_OUT.items()}

    def draw(domain: str = corpus.domains[0], wording: int = 0, kind: str = KINDS[0]) -> Figure:
        reading = stdlib10_example(corpus, domain, wording, kind)
        parts = {
            "predictor": pieces(corpus.words, reading.prompt, [False] * len(reading.prompt)),
            "decoder": pieces(corpus.words, reading.tokens, reading.counts),
        }
        return example_text(f"{domain}, wording {wording} ({use[wording]}), prompt: {kind}", parts)

    return draw, {"domain": list(corpus.domains), "wording": (0, max(use)), "kind": list(KINDS)}


def composition(corpus: Stdlib10) -> pd.DataFrame:
    """One row per domain: domain, group, facts to train on (missing where they are drawn), test ("same facts", "other facts", "other
    files"), and prompt and answer, the median bytes of both over training wordings."""
    rows = []
    for group, members in GROUPS.items():
        for domain in members:
            draw = random.Random(f"stdlib10 composition {domain}")
            facts = [corpus.fact(domain, "train", draw) for _ in range(SAMPLE)]
            asked = [WORDINGS[domain][draw.choice(TRAINED)].format(item) for item, _ in facts]
            rows.append({
                "domain": domain, "group": group, "facts": None if domain in PROCEDURES else len(corpus.listed[domain, "train"]),
                "test": "same facts" if domain in MEMORY else "other files" if domain == DOCSTRING else "other facts",
                "prompt": np.median([len(text.encode()) for text in asked]),
                "answer": np.median([len(answer.encode()) for _, answer in facts]),
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"facts": "Int64"})

"""The table of counts pushed through the pipeline, against the exact law.

In a world with three concepts and four words all documents can be listed. Pairs are those of the pipeline, from an embedder that tells
the concepts apart; the conditional of the counts must come to P(d2 | d1) as pairs are added.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.embedding import unit
from orchard.papers.sbp.laws import World
from orchard.papers.sbp.method import CountTable, Document
from orchard.papers.sbp.pairing import kept_pairs
from orchard.papers.sbp.search import ExactSearch

K = 8


def listed_world(seed: int = 0, concepts: int = 3, words: int = 4, content: int = 2) -> World:
    """A world whose documents are few: one genre, one function token."""
    random = np.random.default_rng([seed, 13])
    phi = 0.9 * random.dirichlet(np.full(words, 0.5), size=concepts) + 0.1 / words
    return World(np.full(concepts, 1 / concepts), phi, np.ones((1, 1)), content)


def bodies(documents: Documents) -> list[Document]:
    """Documents as tuples."""
    return [tuple(documents[i].tolist()) for i in range(len(documents))]


def embedded(labels: np.ndarray, concepts: int, random: np.random.Generator) -> np.ndarray:
    """Unit vectors: one direction per concept, and a little noise, so that neighbours are any documents of the concept."""
    rows = np.eye(concepts)[labels].repeat(2, axis=1) + 0.1 * random.normal(size=(len(labels), 2 * concepts))
    return unit(rows.astype(np.float32))


def counted(world: World, documents: int, seed: int) -> tuple[CountTable, int]:
    """A table of the pairs that the fast pairing finds among so many documents, and how many pairs those are."""
    random = np.random.default_rng([seed, 14])
    concepts = world.draw_concepts(documents, random)
    drawn = Documents.of(world.sample(concepts, random), concepts)
    found = ExactSearch.Config().build().neighbours(embedded(concepts, len(world.prior), random), K)
    numbers = np.arange(documents)  # equal documents are pairs like all others here: no bound on duplicates
    pairs, _ = kept_pairs(drawn, numbers, found, 0.5, K, near_duplicate=1.0)
    texts = bodies(drawn)
    table = CountTable().pretrain(texts)
    table.tune((texts[i], texts[j]) for i, j in zip(pairs["first"], pairs["second"], strict=True))
    return table, len(pairs["first"])


def distance(world: World, table: CountTable, every: Documents) -> Float64[np.ndarray, "documents"]:
    """Total variation between the table's p(. | d1) and P(. | d1), for every document d1 that can be."""
    texts, count = bodies(every), len(every)
    first, second = np.divmod(np.arange(count * count), count)
    exact = np.exp(world.log_conditional(every.take(second), every.take(first))).reshape(count, count)
    found = np.array([[table.conditional(b, a) for b in texts] for a in texts])
    return np.abs(found - exact).sum(axis=1) / 2


def every_body(world: World) -> Documents:
    """All documents that a world with one genre and no function tokens can make."""
    genre, _, start = world.starts
    grid = np.indices((world.words.shape[1],) * world.content).reshape(world.content, -1).T
    return Documents.of(np.concatenate([np.full((len(grid), 1), genre), start + grid], axis=1))


def convergence_table(counts: tuple[int, ...] = (250, 1000, 4000)) -> pd.DataFrame:
    """One row per size of D: documents, pairs, distance (mean over d1 as they occur, of total variation)."""
    world = listed_world()
    every = every_body(world)
    weight = np.exp(world.log_marginal(every))
    rows = []
    for number in counts:
        table, pairs = counted(world, number, seed=0)
        rows.append({"documents": number, "pairs": pairs, "distance": float(weight @ distance(world, table, every))})
    return pd.DataFrame(rows)

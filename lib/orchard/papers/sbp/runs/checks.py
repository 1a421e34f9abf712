"""Equalities that hold by definition, in worlds so small that all documents can be listed.

enumeration      probabilities sum to one and I(d1; d2) is within its bounds; a value is by how much something is violated, 0 where it holds
convergence      the table of counts pushed through the pipeline comes to P(d2 | d1) as pairs are added, which an embedder finds that tells
                 the concepts apart
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.papers.sbp.data.laws import EVERY, SPECIAL, World
from orchard.papers.sbp.data.world import VARIANTS, ConceptWorld
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.embedding import unit
from orchard.papers.sbp.method.naive import CountTable, Document
from orchard.papers.sbp.method.pairing import kept_pairs
from orchard.papers.sbp.method.search import ExactSearch
from orchard.runs import Run, Workspace

ROUNDING = 1e-9  # nats or probability: what sums of float64 may be off by
Row = dict[str, Any]  # part, seed, unit, value


def row(part: str, cell: Any, unit: str, value: float) -> Row:
    """A row of evidence about a cell: variant, world and seed."""
    variant, world, seed = cell
    return {"part": part, "seed": 1000 * int(world) + int(seed), "unit": f"{variant}, {unit}", "value": value}


def violation(amount: float) -> float:
    """The amount, if it is more than rounding."""
    return 0.0 if amount <= ROUNDING else float(amount)


def tiny_laws(variant: str) -> World:
    """Four concepts, four words of two or one statement of four: a few dozen documents have a probability."""
    return ConceptWorld.Config(
        variant=variant, concepts=4, words=4 if variant == "facts" else 2, content=EVERY, genres=2, functions=2, kappa=0.5,
        background=0.1, subtopics=2, relations=2, templates=2,
    ).build().world  # fmt: skip


def possible(world: World) -> Documents:
    """The documents that have a probability, of all sequences of a body's length that begin with a genre and hold no genre and no special
    token after it, whatever the grammar says."""
    genres = range(SPECIAL, world.starts[1])
    others = range(world.starts[1], world.symbols.vocab_size)
    bodies = [[genre, *rest] for genre in genres for rest in product(others, repeat=world.length - 1)]
    documents = Documents.of(bodies)
    return documents.take(np.flatnonzero(np.isfinite(world.log_marginal(documents))))


def enumeration(world: World, name: str) -> Iterator[Row]:
    """Sums over all documents, and the information between two documents, exactly."""
    documents = possible(world)
    marginal = world.log_marginal(documents)
    posterior = world.posterior(documents)
    conditional = conditionals(world, documents)
    told = float(np.exp(marginal) @ (np.exp(conditional) * (conditional - marginal)).sum(axis=1))
    gaps = {
        "sum of P(d)": abs(np.exp(marginal).sum() - 1),
        "sums of P(c | d)": np.abs(posterior.sum(axis=1) - 1).max(),
        "sums of P(d2 | d1)": np.abs(np.exp(conditional).sum(axis=1) - 1).max(),
        "sum over d1 of P(d1) P(d2 | d1)": np.abs(np.exp(marginal) @ np.exp(conditional) - np.exp(marginal)).max(),
        "0 <= I": -told,
        "I <= H(c)": told - world.entropy(),
    }
    for what, gap in gaps.items():
        yield row("enumeration", (name, 0, 0), what, violation(float(gap)))


def conditionals(world: World, documents: Documents) -> Float64[np.ndarray, "first second"]:
    """log P(d2 | d1) of every pair of the documents."""
    first, second = np.divmod(np.arange(len(documents) ** 2), len(documents))
    found = world.log_conditional(documents.take(second), documents.take(first))
    return found.reshape(len(documents), len(documents))


class Enumeration(Run):
    """`enumeration` of the tiny world of every variant; a run, so that it is done once."""

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Rows part, seed, unit, value."""
        return {"rows": [row for variant in VARIANTS for row in enumeration(tiny_laws(variant), variant)]}


K = 8  # neighbours


def listed_world(seed: int = 0, concepts: int = 3, words: int = 4, content: int = 2) -> World:
    """A world whose documents are few: one genre, one function token."""
    random = np.random.default_rng([seed, 13])
    phi = 0.9 * random.dirichlet(np.full(words, 0.5), size=concepts) + 0.1 / words
    return World(np.full(concepts, 1 / concepts), phi, np.ones((1, 1)), content)


def bodies(documents: Documents) -> list[Document]:
    """Documents as tuples."""
    return [tuple(body.tolist()) for body in documents]


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
    texts = bodies(every)
    found = np.array([[table.conditional(b, a) for b in texts] for a in texts])
    return np.abs(found - np.exp(conditionals(world, every))).sum(axis=1) / 2


def convergence_table(counts: tuple[int, ...] = (250, 1000, 4000)) -> pd.DataFrame:
    """One row per size of D: documents, pairs, distance (mean over d1 as they occur, of total variation)."""
    world = listed_world()
    every = possible(world)
    weight = np.exp(world.log_marginal(every))
    rows = []
    for number in counts:
        table, pairs = counted(world, number, seed=0)
        rows.append({"documents": number, "pairs": pairs, "distance": float(weight @ distance(world, table, every))})
    return pd.DataFrame(rows)

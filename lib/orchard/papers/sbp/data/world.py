"""ConceptWorld: corpora drawn from a world whose every probability is known exactly. The laws are in `laws`.

| variant  | what is different |
|---|---|
| dep      | concepts have words of their own: documents of one concept tell of one another         |
| indep    | every concept has the mean law: no document tells of another. The negative control     |
| near-dup | a tenth of D are copies of earlier documents with one or two words drawn anew          |
| hier     | concept = topic x subtopic: subtopics of a topic share a part of their law             |
| facts    | a concept is a value for each of several relations, and documents state them           |

World, corpus and model have independent seeds. D of N documents begins D of 2N documents, in blocks that are drawn apart.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int, Int64, Integer

from orchard.errors import BadInput
from orchard.papers.sbp.data.laws import EVERY, FactsWorld, World
from orchard.papers.sbp.method.documents import SPLITS, Corpus, Documents, Symbols

VARIANTS = ("dep", "indep", "near-dup", "hier", "facts")
BLOCK = 1024  # documents that are drawn together: the first ones do not depend on how many follow
EDITS = 2  # words of a near duplicate that are drawn anew, at most


class ConceptWorld(Corpus):
    """A corpus drawn from a world. Labels are concepts; `relations` knows what else documents can share."""

    class Config(Corpus.Config):
        variant: str = "dep"
        concepts: int = 64
        words: int = 256
        content: int = 20  # words of a document; facts: four for each statement
        genres: int = 4
        functions: int = 6
        kappa: float = 0.03  # concentration of the words of a concept
        background: float = 0.02  # share of the uniform law in every concept
        zipf: float = 0.0  # exponent of P(c) over the rank of c; 0: uniform
        copies: float = 0.1  # near-dup: share of D that copies an earlier document
        subtopics: int = 4  # hier: of a topic
        topic_share: float = 0.5  # hier: of the law of the topic in those of its subtopics
        relations: int = 8  # facts
        templates: int = 3  # facts: of a relation in a genre
        documents: int = 512  # of D
        pool: int = 20  # times as many in the pool
        held_out: int = 500  # of validation and of test
        world_seed: int = 0
        corpus_seed: int = 0

    cfg: Config

    def __init__(self, cfg: ConceptWorld.Config) -> None:
        if cfg.variant not in VARIANTS:
            raise BadInput(f"ConceptWorld.Config.variant is {cfg.variant!r}: choose one of {', '.join(VARIANTS)}")
        if cfg.content < 1 or cfg.content % EVERY:
            raise BadInput(f"ConceptWorld.Config.content is {cfg.content}: give a positive multiple of {EVERY}")
        if cfg.variant == "hier" and cfg.concepts % cfg.subtopics:
            raise BadInput(
                f"ConceptWorld.Config: {cfg.concepts} concepts in topics of {cfg.subtopics} subtopics: give a multiple"
            )
        if cfg.variant == "facts" and cfg.words % cfg.relations:
            raise BadInput(
                f"ConceptWorld.Config: {cfg.words} words for the values of {cfg.relations} relations: give a multiple"
            )
        self.cfg = cfg

    @property
    def world(self) -> World:
        """The laws behind the documents."""
        cfg = self.cfg
        return laws(
            cfg.variant, cfg.concepts, cfg.words, cfg.content, cfg.genres, cfg.functions, cfg.kappa, cfg.background, cfg.zipf,
            cfg.subtopics, cfg.topic_share, cfg.relations, cfg.templates, cfg.world_seed,
        )  # fmt: skip

    @property
    def symbols(self) -> Symbols:  # type: ignore[override]
        return self.world.symbols

    @property
    def cap(self) -> int:  # type: ignore[override]
        return self.world.length

    def documents(self, split: str) -> Documents:
        """The documents of a split; labels are concepts. Raises BadInput for a split that does not exist."""
        if split not in SPLITS:
            raise BadInput(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        cfg = self.cfg
        number = 1 if split == "train" else SPLITS.index(split)  # D is the beginning of the pool
        count = {"train": cfg.documents, "pool": cfg.documents * cfg.pool}.get(split, cfg.held_out)
        found = [self._block(number, block) for block in range(-(-count // BLOCK))]
        bodies, concepts = (np.concatenate(part)[:count] for part in zip(*found, strict=True))
        if number == 1 and cfg.variant == "near-dup":
            bodies, concepts = self._with_copies(bodies, concepts)
        return Documents(bodies.reshape(-1), np.arange(count + 1, dtype=np.int64) * self.world.length, concepts)

    def _block(self, split: int, block: int) -> tuple[Integer[np.ndarray, "_ _"], Int[np.ndarray, "_"]]:
        random = np.random.default_rng([self.cfg.corpus_seed, split, block])
        concepts = self.world.draw_concepts(BLOCK, random)
        return self.world.sample(concepts, random), concepts

    def originals(self, count: int) -> Int64[np.ndarray, "count"]:
        """For the first documents of the pool: the number of the document that each is a near duplicate of; -1: of none."""
        found = np.full(count, -1)
        if self.cfg.variant == "near-dup":
            random = np.random.default_rng([self.cfg.corpus_seed, 1, 0, 1])
            for i, (copied, which) in enumerate(random.random((count, 2))):
                if i and copied < self.cfg.copies:
                    j = int(which * i)
                    found[i] = j if found[j] < 0 else found[j]
        return found

    def _with_copies(
        self, bodies: Integer[np.ndarray, "documents length"], concepts: Int[np.ndarray, "documents"]
    ) -> tuple[Integer[np.ndarray, "documents length"], Int[np.ndarray, "documents"]]:
        source = self.originals(len(bodies))
        bodies, concepts = bodies.copy(), concepts.copy()
        for i in np.flatnonzero(source >= 0):  # one by one: a copy must not depend on how many follow
            concepts[i] = concepts[source[i]]
            random = np.random.default_rng([self.cfg.corpus_seed, 1, 1, int(i)])
            bodies[i] = self.world.redraw(bodies[source[i]], int(concepts[i]), EDITS, random)
        return bodies, concepts

    def relations(self, documents: Documents) -> dict[str, Int[np.ndarray, "documents"]]:
        """What documents can share, by name: a label for each document. Pairs are scored by all of them."""
        labels = documents.labels
        if labels is None:
            raise BadInput(
                "these documents have no labels: only those of a corpus know their concept, not synthetic ones"
            )
        hier = self.cfg.variant == "hier"
        return {"subtopic": labels, "topic": labels // self.cfg.subtopics} if hier else {"concept": labels}

    def text(self, body: Integer[np.ndarray, "_"]) -> str:
        return " ".join(self.world.name(token) for token in body.tolist())


@lru_cache(maxsize=4)
def laws(
    variant: str, concepts: int, words: int, content: int, genres: int, functions: int, kappa: float, background: float,
    zipf: float, subtopics: int, topic_share: float, relations: int, templates: int, seed: int,
) -> World:  # fmt: skip
    """The laws of a variant; the arguments are those of `ConceptWorld.Config`."""
    random = np.random.default_rng([seed, 0])
    prior = np.arange(1, concepts + 1) ** -zipf
    prior /= prior.sum()
    if variant == "facts":
        phi = _facts(concepts, words, relations, background, random)
    else:
        phi = random.dirichlet(np.full(words, kappa), size=concepts)
        if variant == "hier":
            topics = random.dirichlet(np.full(words, kappa), size=concepts // subtopics)
            phi = topic_share * np.repeat(topics, subtopics, axis=0) + (1 - topic_share) * phi
        phi = (1 - background) * phi + background / words
        if variant == "indep":
            phi = np.tile(phi.mean(axis=0), (concepts, 1))
    spoken = random.dirichlet(np.full(functions, 0.5), size=genres)
    if variant != "facts":
        return World(prior, phi, spoken, content)
    asked = random.dirichlet(np.full(templates, 0.5), size=(genres, relations))
    return FactsWorld(prior, phi, spoken, content // EVERY, asked)


def _facts(
    concepts: int, words: int, relations: int, background: float, random: np.random.Generator
) -> Float64[np.ndarray, "concepts words"]:
    """Phi[c, r V + v] = ((1 - background) [v = F[c, r]] + background / V) / relations, with F uniform."""
    values = words // relations
    true = random.integers(values, size=(concepts, relations))
    phi = np.full((concepts, relations, values), background / values)
    phi[np.arange(concepts)[:, None], np.arange(relations), true] += 1 - background
    return phi.reshape(concepts, words) / relations

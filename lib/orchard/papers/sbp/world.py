"""ConceptWorld: documents whose every probability is known exactly (specification, 6.1 and 3.5).

    c ~ P(c)      the concept          w_i ~ Phi[c]   the words of a document, independent given its concept
    g ~ U(G)      the genre            f_j ~ Pf[g]    a function token after every fourth word
    body = GENRE_g w w w w f w w w w f ...

    log P(d)       = log P(common) + logsumexp_c (log P(c) + sum_i log Phi[c, w_i])
    P(c | d)      ∝ P(c) prod_i Phi[c, w_i]
    log P(d2 | d1) = the same with P(c | d1) in place of P(c), for documents that share a concept
    I(d1; d2)      = E[log P(d2 | d1) - log P(d2)] <= H(c)

Everything is in nats and float64: sums of twenty logarithms over thousands of concepts do not fit in float32.
World, corpus and model have independent seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int, Integer

from orchard.errors import BadInput
from orchard.papers.sbp.data import SPLITS, Corpus, Documents, Symbols

VARIANTS = ("dep", "indep")
EVERY = 4  # words between two function tokens
SPECIAL = 4  # bos eos sep pad


@dataclass(frozen=True)
class World:
    """The laws: ``prior`` [concepts], ``words`` [concepts, words] = Phi, ``functions`` [genres, functions] = Pf."""

    prior: Float64[np.ndarray, "concepts"]
    words: Float64[np.ndarray, "concepts words"]
    functions: Float64[np.ndarray, "genres functions"]
    content: int  # words in a document

    @property
    def length(self) -> int:
        """Tokens of a body."""
        return 1 + self.content + self.content // EVERY

    @property
    def symbols(self) -> Symbols:
        """Ids: special tokens, genres, function tokens of genre 0, 1, ..., words."""
        genres, functions = self.functions.shape
        return Symbols(SPECIAL + genres + genres * functions + self.words.shape[1], bos=0, eos=1, sep=2, pad=3)

    @property
    def _starts(self) -> tuple[int, int, int]:
        genres, functions = self.functions.shape
        return SPECIAL, SPECIAL + genres, SPECIAL + genres + genres * functions

    @cached_property
    def _places(self) -> Bool[np.ndarray, "length_without_genre"]:
        """Which places after the genre hold function tokens."""
        return np.arange(self.length - 1) % (EVERY + 1) == EVERY

    def sample(
        self, concepts: Int[np.ndarray, "documents"], random: np.random.Generator
    ) -> Integer[np.ndarray, "documents length"]:
        """One body for each given concept."""
        genre_start, function_start, word_start = self._starts
        count = len(concepts)
        genres, functions = self.functions.shape
        genre = random.integers(genres, size=count)
        bodies = np.empty((count, self.length), dtype=np.int32)
        bodies[:, 0] = genre_start + genre
        rest = bodies[:, 1:]
        rest[:, ~self._places] = word_start + draw(self.words, concepts, self.content, random)
        drawn = draw(self.functions, genre, int(self._places.sum()), random)
        rest[:, self._places] = function_start + functions * genre[:, None] + drawn
        return bodies

    def draw_concepts(self, count: int, random: np.random.Generator) -> Int[np.ndarray, "count"]:
        """Concepts from the prior."""
        return random.choice(len(self.prior), size=count, p=self.prior)

    # ------------------------------------------------------------- exact laws

    def log_given_concept(self, documents: Documents) -> Float64[np.ndarray, "documents concepts"]:
        """log P(d | c); minus infinity for what the grammar cannot make."""
        genre_start, function_start, word_start = self._starts
        genres, functions = self.functions.shape
        found = np.full((len(documents), len(self.prior)), -np.inf)
        whole = np.flatnonzero(documents.lengths == self.length)
        if not len(whole):
            return found
        rows = documents.take(whole).padded(0)
        genre = rows[:, 0] - genre_start
        spoken = rows[:, 1:][:, self._places] - function_start - functions * np.clip(genre, 0, genres - 1)[:, None]
        words = rows[:, 1:][:, ~self._places] - word_start
        good = (genre >= 0) & (genre < genres)
        good &= ((spoken >= 0) & (spoken < functions)).all(axis=1) & ((words >= 0) & (words < self.words.shape[1])).all(
            axis=1
        )
        genre, spoken, words, whole = genre[good], spoken[good], words[good], whole[good]
        common = -np.log(genres) + np.log(self.functions)[genre[:, None], spoken].sum(axis=1)
        counts = np.zeros((len(words), self.words.shape[1]))
        np.add.at(counts, (np.arange(len(words))[:, None], words), 1.0)
        found[whole] = common[:, None] + counts @ np.log(self.words).T
        return found

    def log_marginal(self, documents: Documents) -> Float64[np.ndarray, "documents"]:
        """log P(d)."""
        return logsumexp(self.log_given_concept(documents) + np.log(self.prior))

    def posterior(self, documents: Documents) -> Float64[np.ndarray, "documents concepts"]:
        """P(c | d); NaN rows for what the grammar cannot make."""
        joint = self.log_given_concept(documents) + np.log(self.prior)
        with np.errstate(invalid="ignore"):
            return np.exp(joint - logsumexp(joint)[:, None])

    def log_conditional(self, second: Documents, first: Documents) -> Float64[np.ndarray, "documents"]:
        """log P(d2 | d1) for pairs that share a concept."""
        joint = self.log_given_concept(first) + np.log(self.prior)
        return logsumexp(self.log_given_concept(second) + joint - logsumexp(joint)[:, None])

    def entropy(self) -> float:
        """H(c): what a partner can tell at most."""
        return float(-(self.prior * np.log(self.prior)).sum())


class ConceptWorld(Corpus):
    """A corpus drawn from a world."""

    class Config(Corpus.Config):
        variant: str = "dep"  # indep: every concept has the mean law, so that no document tells about another
        concepts: int = 64
        words: int = 256
        content: int = 20  # words of a document
        genres: int = 4
        functions: int = 6
        kappa: float = 0.03  # concentration of the words of a concept
        background: float = 0.02  # share of the uniform law in every concept
        zipf: float = 0.0  # exponent of P(c) over the rank of c; 0: uniform
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
        self.cfg = cfg

    @cached_property
    def world(self) -> World:
        """The laws behind the documents."""
        cfg = self.cfg
        random = np.random.default_rng([cfg.world_seed, 0])
        words = random.dirichlet(np.full(cfg.words, cfg.kappa), size=cfg.concepts)
        words = (1 - cfg.background) * words + cfg.background / cfg.words
        if cfg.variant == "indep":
            words = np.tile(words.mean(axis=0), (cfg.concepts, 1))
        functions = random.dirichlet(np.full(cfg.functions, 0.5), size=cfg.genres)
        prior = np.arange(1, cfg.concepts + 1) ** -cfg.zipf
        return World(prior / prior.sum(), words, functions, cfg.content)

    @property
    def symbols(self) -> Symbols:  # type: ignore[override]
        return self.world.symbols

    @property
    def cap(self) -> int:  # type: ignore[override]
        return self.world.length

    def documents(self, split: str) -> Documents:
        if split not in SPLITS:
            raise BadInput(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        cfg = self.cfg
        pool = split in ("train", "pool")
        random = np.random.default_rng([cfg.corpus_seed, 1 if pool else 1 + SPLITS.index(split)])
        concepts = self.world.draw_concepts(cfg.documents * cfg.pool if pool else cfg.held_out, random)
        bodies = self.world.sample(concepts, random)
        made = Documents(bodies.reshape(-1), np.arange(len(bodies) + 1, dtype=np.int64) * self.world.length, concepts)
        return made.head(cfg.documents) if split == "train" else made

    def text(self, body: Integer[np.ndarray, "_"]) -> str:
        genre_start, function_start, word_start = self.world._starts
        functions = self.cfg.functions
        names = []
        for token in body.tolist():
            if token < genre_start:
                names.append(("bos", "eos", "sep", "pad")[token])
            elif token < function_start:
                names.append(f"[genre {token - genre_start}]")
            elif token < word_start:
                genre, number = divmod(token - function_start, functions)
                names.append(f"{'abcdefghijklmnopqrstuvwxyz'[number % 26]}{genre}")
            else:
                names.append(f"w{token - word_start}")
        return " ".join(names)


def draw(
    laws: Float64[np.ndarray, "rows outcomes"], rows: Int[np.ndarray, "draws"], count: int, random: np.random.Generator
) -> Int[np.ndarray, "draws count"]:
    """``count`` outcomes from the law of each given row, by inversion."""
    sums = np.cumsum(laws, axis=1)
    flat = (sums / sums[:, -1:] + np.arange(len(laws))[:, None]).reshape(
        -1
    )  # increasing over all rows: one search for all draws
    wanted = rows[:, None] + random.random((len(rows), count))
    return np.minimum(np.searchsorted(flat, wanted, side="right") - rows[:, None] * laws.shape[1], laws.shape[1] - 1)


def logsumexp(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows"]:
    """log of the sum of exponentials of each row; minus infinity where all of it is."""
    top = values.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - safe[:, None]).sum(axis=1)) + safe

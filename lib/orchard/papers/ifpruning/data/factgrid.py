"""FactGrid: facts whose answers depend on the instruction; a mask per instruction may win, change nothing, or lose.

    instruction   3 to 6 words: a wording of its domain (60 % words of the domain, 40 % words that all domains share)
    example       instruction : k1 k2 v1 v2 ...        queries, each a key of two tokens and its value of two; the loss is on v1 v2
    mixed         instructions : w k1 k2 v1 v2 ...     of several domains, which alternate; w is a word of the query's domain
    text          an example; in continued pre-training cut into K chunks of as many queries each, the first with the instruction
    reading       as mixed, of one domain, loss on all tokens: what the small model of a predictor learns to read from

Every key belongs to all domains; whether its value is the same everywhere (probability rho_all), the same within a group of related
domains (rho_grp), or the domain's own is drawn once per key. The key alone therefore says the value only at rho_all = 1, where masks
cannot help. `tagless` instructions say nothing, which hurts what relies on them; mixed examples want more than one mask.

Distinct facts take  n_key (rho_all + rho_grp K/G + (1 - rho_all - rho_grp) K) 2 log2 V  bits  (K domains, groups of G).
Everything is drawn by NumPy's PCG64 from the seed of the world. Splits: wordings of `validation` and `test` are in no training example.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from orchard.errors import BadInput
from orchard.papers.ifpruning.data.corpus import STAGES, Corpus
from orchard.papers.ifpruning.method.examples import Examples

LEXICON, SHARED = 12, 12  # words of a domain; words of all
WORDS = (3, 6)  # of an instruction
DISTRACTION = 0.4
SHOTS = 4  # queries in front of an instruction, in prompts with examples
PAD, BOS, SEP, FIRST = 0, 1, 2, 3
HELD_OUT = ("validation", "test")


class FactGrid(Corpus):
    """The generator. Raises BadInput for sizes that do not fit together."""

    class Config(Corpus.Config):
        seed: int = 0  # of tables and wordings
        num_domains: int = 8  # K
        group_size: int = 4  # G
        num_keys: int = 256  # a square
        num_values: int = 48  # V
        rho_all: float = 0.0
        rho_grp: float = 0.5
        tagless: float = 0.0  # share of training instructions that say nothing
        mix: int = 1  # domains of a mixed example
        mix_share: float = 0.0  # share of training examples that are mixed
        seen: int = 32  # wordings of a domain in training
        held_out: int = 2  # wordings of a domain in validation, and as many in test
        queries: int = 8  # of an example
        chunks: int = 2  # of a text in continued pre-training
        asked: int | None = None  # keys of every domain that an evaluation asks; None: all

    cfg: Config
    pad = PAD

    def __init__(self, cfg: FactGrid.Config) -> None:
        super().__init__(cfg)
        self._check()
        self.groups_count = cfg.num_domains // cfg.group_size
        self.side = math.isqrt(cfg.num_keys)
        self._value0 = FIRST + self.side
        self.groups = [d // cfg.group_size for d in range(cfg.num_domains)]
        self.domains = [f"{chr(ord('A') + g)}{d % cfg.group_size + 1}" for d, g in enumerate(self.groups)]
        self._word0 = self._value0 + cfg.num_values
        self._shared0 = self._word0 + LEXICON * len(self.domains)
        self.vocab_size = self._shared0 + SHARED
        random = np.random.default_rng(cfg.seed)
        self.table = self._tables(random)
        self.wordings, self.wording_lengths = self._wordings(random)

    def _check(self) -> None:
        cfg = self.cfg
        shares = f"rho_all = {cfg.rho_all} and rho_grp = {cfg.rho_grp} are shares of the keys: at most 1 together"
        fits = cfg.num_keys % cfg.queries == 0 and cfg.chunks >= 2 and cfg.queries % cfg.chunks == 0
        problems = {
            f"num_keys is {cfg.num_keys}: give a square, keys are two tokens of one alphabet":
                math.isqrt(cfg.num_keys) ** 2 != cfg.num_keys,
            f"group_size is {cfg.group_size}: it must divide num_domains = {cfg.num_domains}": cfg.num_domains % cfg.group_size > 0,
            shares: min(cfg.rho_all, cfg.rho_grp) < 0 or cfg.rho_all + cfg.rho_grp > 1,
            f"queries is {cfg.queries}: it must divide num_keys = {cfg.num_keys} and be a multiple of chunks = {cfg.chunks}, which is 2 or "
            "more": not fits,
            f"asked is {cfg.asked}: ask between queries = {cfg.queries} and num_keys = {cfg.num_keys}":
                cfg.asked is not None and not cfg.queries <= cfg.asked <= cfg.num_keys,
            f"mix = {cfg.mix}, mix_share = {cfg.mix_share}: mixed examples have 2 ... num_domains domains":
                not 1 <= cfg.mix <= cfg.num_domains or (cfg.mix_share > 0) > (cfg.mix > 1),
        }  # fmt: skip
        for problem, found in problems.items():
            if found:
                raise BadInput(f"FactGrid.Config: {problem}")

    def _tables(self, random: np.random.Generator) -> Int64[np.ndarray, "domains keys two"]:
        cfg = self.cfg
        draw = lambda *shape: random.integers(cfg.num_values, size=(*shape, cfg.num_keys, 2))  # noqa: E731
        everywhere, group, own = draw(), draw(self.groups_count), draw(cfg.num_domains)
        u = random.random(cfg.num_keys)[:, None]
        group = group.repeat(cfg.group_size, axis=0)
        table = np.where(u < cfg.rho_all, everywhere, np.where(u < cfg.rho_all + cfg.rho_grp, group, own))
        return table.astype(np.int64)

    def _wordings(self, random: np.random.Generator) -> tuple[Int64[np.ndarray, "domains wordings most"], np.ndarray]:
        """Distinct wordings of every domain, and last those of no domain; at least two words of the domain in each."""
        count = self.cfg.seen + 2 * self.cfg.held_out
        words = np.full((len(self.domains) + 1, count, WORDS[1]), PAD, dtype=np.int64)
        lengths = np.zeros(words.shape[:2], dtype=np.int64)
        for d in range(len(words)):
            known: set[tuple[int, ...]] = set()
            own = self._word0 + LEXICON * d if d < len(self.domains) else self._shared0
            while len(known) < count:
                size = int(random.integers(WORDS[0], WORDS[1] + 1))
                shared = random.random(size) < DISTRACTION
                if shared.sum() > size - 2:
                    continue
                of_all, of_domain = random.integers(SHARED, size=size), random.integers(LEXICON, size=size)
                drawn = np.where(shared, self._shared0 + of_all, own + of_domain)
                if tuple(drawn) not in known:
                    words[d, len(known), :size] = drawn
                    lengths[d, len(known)] = size
                    known.add(tuple(drawn))
        return words, lengths

    @property
    def bits(self) -> float:
        """Bits that the distinct facts take."""
        cfg = self.cfg
        distinct = cfg.rho_all + cfg.rho_grp * self.groups_count + (1 - cfg.rho_all - cfg.rho_grp) * cfg.num_domains
        return cfg.num_keys * distinct * 2 * math.log2(cfg.num_values)

    def spelled(
        self, domain: Int64[np.ndarray, "*shape"], key: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape four"]:
        """k1 k2 v1 v2 of keys 0 ... num_keys - 1."""
        tokens = np.stack([key // self.side, key % self.side], axis=-1) + FIRST
        return np.concatenate([tokens, self.table[domain, key] + self._value0], axis=-1)

    def batch(self, stage: str, size: int, seed: int, number: int) -> Examples:
        self.check("stage", stage, STAGES)
        cfg = self.cfg
        random = np.random.default_rng([seed, STAGES.index(stage), number])
        mixed = random.random(size) < cfg.mix_share
        # drawn for every example, whatever the shares are: variants of the corpus then differ in what they vary alone
        domain = random.permuted(np.tile(np.arange(len(self.domains)), (size, 1)), axis=1)[:, : max(cfg.mix, 1)]
        wording = random.integers(cfg.seen, size=domain.shape)
        key = random.integers(cfg.num_keys, size=(size, cfg.queries))
        tagless = random.random(size) < cfg.tagless
        word = random.integers(LEXICON, size=key.shape)
        chunks = cfg.chunks if stage == "cpt" else 1
        return self.examples(domain, wording, key, mixed, tagless, word, chunks, stage == "read")

    def examples(
        self, domain: Int64[np.ndarray, "examples mix"], wording: Int64[np.ndarray, "examples mix"],
        key: Int64[np.ndarray, "examples queries"], mixed: Bool[np.ndarray, "examples"], tagless: Bool[np.ndarray, "examples"],
        word: Int64[np.ndarray, "examples queries"], chunks: int = 1, reading: bool = False,
    ) -> Examples:  # fmt: skip
        """The examples with these domains, wordings and keys; those that are not mixed have their first domain alone."""
        size, queries = key.shape
        worded = mixed | reading
        neutral = len(self.domains)
        told = np.where(tagless[:, None], neutral, domain)
        counted = np.where(mixed[:, None], True, np.arange(domain.shape[1]) == 0)
        lengths = self.wording_lengths[told, wording] * counted
        header = np.zeros(size, dtype=np.int64) + 2 + lengths.sum(axis=1)
        step = 4 + worded.astype(np.int64)
        total = int((header + queries * step).max())
        tokens = np.full((size, total), PAD, dtype=np.int64)
        counts = np.zeros((size, total), dtype=bool)
        rows = np.arange(size)
        tokens[:, 0] = BOS
        start = np.ones(size, dtype=np.int64)
        for m in range(domain.shape[1]):
            for place in range(WORDS[1]):
                here = place < lengths[:, m]
                tokens[rows[here], start[here] + place] = self.wordings[told[here, m], wording[here, m], place]
            start += lengths[:, m]
        tokens[rows, start] = SEP
        of_query = np.where(mixed[:, None], domain[:, np.arange(queries) % domain.shape[1]], domain[:, :1])
        spelled = self.spelled(of_query, key)
        at = header[:, None] + np.arange(queries) * step[:, None]
        tokens[rows[worded][:, None], at[worded]] = self._word0 + LEXICON * of_query[worded] + word[worded]
        at += worded[:, None]
        for place in range(4):
            tokens[rows[:, None], at + place] = spelled[..., place]
        places = np.arange(total)
        ends = header[:, None] + (np.arange(1, chunks) * (queries // chunks)) * step[:, None]  # of chunks 1 ... K-1
        first = queries // chunks if chunks > 1 else 0  # no loss on the chunk that only gives a mask
        for place in (2, 3):
            counts[rows[:, None], at[:, first:] + place] = True
        if reading:
            counts = (tokens != PAD) & (places > 0)
        span = np.zeros((size, total), dtype=np.int64)
        if chunks == 1:
            starts, ends = np.zeros_like(header[:, None]), header[:, None]
        else:
            starts = np.concatenate([np.zeros((size, 1), dtype=np.int64), ends[:, :-1]], axis=1)
            span = (places[:, None] >= ends[:, None, 1:]).sum(axis=2)  # chunks 1 and 2 are computed with the first mask
        prompt_lengths = ends - starts
        index = starts[..., None] + np.arange(int(prompt_lengths.max()))
        repeated = tokens[:, None].repeat(starts.shape[1], axis=1)
        prompts = np.take_along_axis(repeated, np.minimum(index, total - 1), axis=2)
        prompts[index >= ends[..., None]] = PAD
        made = (tokens, counts, prompts, prompt_lengths, span, domain[:, 0])
        return Examples(*(torch.from_numpy(array.copy()) for array in made))

    def evaluation(self, name: str) -> Examples:
        """``validation``, ``test`` and ``seen`` ask the keys of every domain, each once; ``mixed`` asks pairs of domains, test wordings."""
        cfg, known = self.cfg, (*HELD_OUT, "seen", "mixed")
        self.check("evaluation", name, known)
        random = np.random.default_rng([cfg.seed, 1000 + known.index(name)])
        per_domain = (cfg.asked or cfg.num_keys) // cfg.queries
        asked = [random.permutation(cfg.num_keys)[: per_domain * cfg.queries] for _ in self.domains]
        key = np.concatenate(asked).reshape(-1, cfg.queries)
        domain = np.arange(len(self.domains)).repeat(per_domain)
        other = (domain + random.integers(1, len(self.domains), size=len(domain))) % len(self.domains)
        low, high = self._range("test" if name == "mixed" else name)
        wording = random.integers(low, high, size=(len(domain), 2))
        mixed = np.full(len(domain), name == "mixed")
        word = random.integers(LEXICON, size=key.shape)
        return self.examples(np.stack([domain, other], axis=1), wording, key, mixed, np.zeros_like(mixed), word)

    def _range(self, split: str) -> tuple[int, int]:
        cfg = self.cfg
        start = 0 if split == "seen" else cfg.seen + HELD_OUT.index(split) * cfg.held_out
        return start, start + (cfg.seen if split == "seen" else cfg.held_out)

    def prompts(self, split: str) -> Examples:
        """One example per wording of a split and domain, with one query: for what depends on the prompt alone."""
        low, high = self._range(split)
        wordings = np.arange(low, high)
        domain = np.arange(len(self.domains)).repeat(len(wordings))[:, None]
        wording = np.tile(wordings, len(self.domains))[:, None]
        none = np.zeros(len(domain), dtype=bool)
        return self.examples(domain, wording, np.zeros_like(domain), none, none, np.zeros_like(domain))

    def few_shot(self, split: str, shared: bool) -> Examples:
        """The prompts of a split with ``SHOTS`` answered queries of their domain in front of the instruction: the same ones for all
        prompts of a domain, or (``shared`` False) drawn for each."""
        plain = self.prompts(split)
        domain = plain.domain.numpy()
        random = np.random.default_rng([self.cfg.seed, 2000 + int(shared), self._range(split)[0]])
        drawn = random.integers(self.cfg.num_keys, size=(len(self.domains) if shared else len(domain), SHOTS))
        key = drawn[domain] if shared else drawn
        front = torch.from_numpy(self.spelled(domain[:, None].repeat(SHOTS, axis=1), key).reshape(len(domain), -1))
        prompts = torch.cat([plain.prompts[:, :, :1], front[:, None], plain.prompts[:, :, 1:]], dim=2)
        tokens = torch.cat([plain.tokens[:, :1], front, plain.tokens[:, 1:]], dim=1)
        counts = torch.cat([plain.counts[:, :1], torch.zeros_like(front, dtype=torch.bool), plain.counts[:, 1:]], dim=1)
        lengths = plain.prompt_lengths + front.shape[1]
        return Examples(tokens, counts, prompts, lengths, torch.zeros_like(tokens), plain.domain)

    def tasks(self) -> Examples:
        """The prompts of the first validation wordings."""
        return self.prompts("validation").take(slice(None, None, self.cfg.held_out))

    def answers(self, examples: Examples) -> Int[Tensor, "examples time"]:
        number = (examples.counts.cumsum(dim=1) - 1) // 2
        return torch.where(examples.counts, number, -1)

    def text(self, tokens: Int[Tensor, "time"]) -> str:
        """An example as a reader sees it: words as domain and number, keys as k, values as v."""
        names = ["", "<bos>", ":", *(f"k{i}" for i in range(self.side)), *(f"v{i}" for i in range(self.cfg.num_values))]
        names += [f"{domain}.{i}" for domain in self.domains for i in range(LEXICON)]
        names += [f"word.{i}" for i in range(SHARED)]
        return " ".join(filter(None, (names[token] for token in tokens.tolist())))

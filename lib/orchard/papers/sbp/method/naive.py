"""Synthetic bootstrapped pretraining on plain lists: the specification of the pipeline.

    m0    = pretrain(repeat(D, B))                         the repetition baseline
    pairs = near_dup_filter(knn(embed(D), k, alpha))
    syn   = tune(m0, pairs)                                loss on d2 only
    S     = documents d2 ~ syn(. | d1), d1 ~ Uniform(D), that the rules keep, until they hold f B tokens
    model = pretrain(S + repeat(D, (1 - f) B))             from scratch, the same budget B

The "language model" is a table of counts, whose conditional is exactly what the pairs say: p(d2 | d1) = count(d1, d2) / count(d1). Pushed
through the pipeline it must reproduce P(d2 | d1) as the number of pairs grows. The stages that run are in `runs.pair`,
`runs.tune`, `runs.synthesise`, `runs.filter` and `runs.mix`; tests hold them to this.
"""

from __future__ import annotations

import random as randomness
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Document = tuple[int, ...]
Vector = Sequence[float]
Scored = tuple[int, int, float]  # first document, second document, score


class CountTable:
    """A model that knows how often it has seen a document, and a second document after a first one. No smoothing."""

    def __init__(self) -> None:
        self.alone: Counter[Document] = Counter()
        self.after: defaultdict[Document, Counter[Document]] = defaultdict(Counter)

    def pretrain(self, documents: Iterable[Document]) -> CountTable:
        """See documents."""
        self.alone.update(documents)
        return self

    def tune(self, pairs: Iterable[tuple[Document, Document]]) -> CountTable:
        """See pairs: what counts is the second document."""
        for first, second in pairs:
            self.after[first][second] += 1
        return self

    def probability(self, document: Document) -> float:
        """p(d)."""
        return self.alone[document] / self.alone.total()

    def conditional(self, second: Document, first: Document) -> float:
        """p(d2 | d1); p(d2) after a document that no pair begins with."""
        seen = self.after.get(first)
        return seen[second] / seen.total() if seen else self.probability(second)

    def sample(self, first: Document, random: randomness.Random) -> Document:
        """d2 ~ p(. | d1)."""
        seen = self.after.get(first) or self.alone
        return random.choices(list(seen), weights=list(seen.values()))[0]


def neighbours(vectors: Sequence[Vector], k: int) -> list[list[tuple[int, float]]]:
    """The k best other documents of each by inner product, best first, with their scores."""
    found = []
    for i, own in enumerate(vectors):
        scores = [(j, sum(a * b for a, b in zip(own, other, strict=True))) for j, other in enumerate(vectors) if j != i]
        found.append(sorted(scores, key=lambda item: -item[1])[:k])
    return found


def jaccard(a: Document, b: Document, n: int = 5) -> float:
    """|S_n(a) ∩ S_n(b)| / |S_n(a) ∪ S_n(b)|; a document shorter than n is one shingle, an empty one has none."""
    left, right = shingles(a, n), shingles(b, n)
    return len(left & right) / max(1, len(left | right))


def shingles(document: Document, n: int) -> set[Document]:
    """The n-grams of a document."""
    return {document[i : i + n] for i in range(max(1, len(document) - n + 1))} if document else set()


def pair(
    documents: Sequence[Document], vectors: Sequence[Vector], k: int, alpha: float, near_duplicate: float = 0.6
) -> list[Scored]:
    """Pairs of near but not equal documents, both directions, best score first; at most k with the same first, and k with the same
    second document."""
    found = [(i, j, score) for i, near in enumerate(neighbours(vectors, k)) for j, score in near if score > alpha]
    scores = {(min(i, j), max(i, j)): score for i, j, score in found}
    kept = {ends: s for ends, s in scores.items() if jaccard(documents[ends[0]], documents[ends[1]]) <= near_duplicate}
    both = [(i, j, s) for (i, j), s in kept.items()] + [(j, i, s) for (i, j), s in kept.items()]
    firsts: Counter[int] = Counter()
    seconds: Counter[int] = Counter()
    result = []
    for i, j, score in sorted(both, key=lambda item: (-item[2], item[0], item[1])):
        if firsts[i] < k and seconds[j] < k:
            result.append((i, j, score))
        firsts[i] += 1
        seconds[j] += 1
    return result


def repetition(document: Document, n: int = 2) -> float:
    """The share of n-grams that repeat an earlier one; a document shorter than n is one n-gram."""
    if not document:
        return 0.0
    grams = [document[i : i + n] for i in range(max(1, len(document) - n + 1))]
    return 1 - len(set(grams)) / len(grams)


def rules(
    document: Document, seed: Document | None, seen: set[Document], most_repeated: float, special: Iterable[int] = ()
) -> str:
    """Why a sampled document that has ended is thrown away, or "kept"; the first rule that it breaks."""
    if not document:
        return "empty"
    if set(document) & set(special):
        return "control"
    if repetition(document) > most_repeated:
        return "repetitive"
    if seed is not None and jaccard(document, seed) > 0.6:
        return "copy"
    return "duplicate" if document in seen else "kept"


def fill(documents: Sequence[Document], tokens: int) -> list[Document]:
    """Documents in order, again and again, until they hold this many tokens, ends included."""
    found: list[Document] = []
    held = 0
    while held < tokens:
        found.append(documents[len(found) % len(documents)])
        held += size(found[-1])
    return found


def size(document: Document) -> int:
    """Tokens that are predicted: the body and its end."""
    return len(document) + 1


def mixture(
    real: Sequence[Document], synthetic: Sequence[Document], budget: int, share: float, random: randomness.Random
) -> list[Document]:
    """What the joint model reads: synthetic documents once each until they hold their share, real ones repeated for the rest."""
    taken = fill(synthetic, round(share * budget))
    if len(taken) > len(synthetic):
        raise ValueError(f"{len(synthetic)} synthetic documents do not fill {share:g} of {budget} tokens: sample more")
    mixed = taken + fill(real, budget - sum(map(size, taken)))
    random.shuffle(mixed)
    return mixed


@dataclass(frozen=True)
class Pipeline:
    """All that the pipeline makes on the way."""

    baseline: CountTable
    pairs: list[Scored]
    synthesizer: CountTable
    synthetic: list[Document]
    model: CountTable


def sbp(
    documents: Sequence[Document],
    embed: Callable[[Document], Vector],
    budget: int,
    share: float,
    k: int,
    alpha: float,
    random: randomness.Random,
    near_duplicate: float = 0.6,
    keep: Callable[[Document, Document], bool] = lambda second, first: True,
) -> Pipeline:
    """The whole pipeline; ``keep(d2, d1)`` are the rules."""
    baseline = CountTable().pretrain(fill(documents, budget))
    pairs = pair(documents, [embed(document) for document in documents], k, alpha, near_duplicate)
    synthesizer = CountTable().pretrain(fill(documents, budget))
    synthesizer.tune((documents[i], documents[j]) for i, j, _ in pairs)
    synthetic: list[Document] = []
    held = 0
    while held < share * budget:
        first = random.choice(documents)
        second = synthesizer.sample(first, random)
        if keep(second, first):
            synthetic.append(second)
            held += size(second)
    model = CountTable().pretrain(mixture(documents, synthetic, budget, share, random))
    return Pipeline(baseline, pairs, synthesizer, synthetic, model)

"""Four-way cloze: which word comes next, the true one or one of three from other concepts?

The first ten words of a test document are given, the true next word w, and three distractors from the laws of the other concepts,

    v ~ Q_c = mean of Phi[c'] over c' != c,   v != w   (facts: values of the same relation)

A model chooses the candidate to which it gives the highest probability. The best possible choice knows how the distractors were made:

    P(i is true | all) ∝ sum_c P(c | given words) Phi[c, w_i] prod_{j != i} Q_c(w_j) / (1 - Q_c(w_i)) [w_j != w_i].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from orchard.config import REQUIRED
from orchard.papers.sbp.data.laws import Inversion, World, logsumexp, word_counts
from orchard.papers.sbp.method.documents import Documents, labels_of
from orchard.papers.sbp.runs.pretrain import Pretrain, load_pretrained
from orchard.runs import Run, Workspace

GIVEN, CHOICES = 10, 4


@dataclass(frozen=True)
class Items:
    """Questions about documents: the words before the question, and the candidates, words too; the first one is true."""

    rows: Int[np.ndarray, "items"]  # numbers of the documents
    given: Int[np.ndarray, "items given"]
    candidates: Int[np.ndarray, "items choices"]
    place: int  # of the word in question, in a body


def items(laws: World, documents: Documents, seed: int) -> Items:
    """A question about each document that the grammar can make."""
    parsed = laws.parse(documents)
    given = min(GIVEN, laws.content - 1)
    true = parsed.words[:, given]
    others = _others(laws, labels_of(documents, "distractors are of other concepts")[parsed.rows])
    others *= laws.kinds == laws.kinds[true][:, None]
    others[np.arange(len(true)), true] = 0.0
    wrong = Inversion(others).draw(np.arange(len(true)), CHOICES - 1, np.random.default_rng([seed, 12]))
    candidates = np.concatenate([true[:, None], wrong], axis=1)
    return Items(parsed.rows, parsed.words[:, :given], candidates, int(laws.word_places[given]))


def _others(laws: World, concepts: Int[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows words"]:
    """Q_c: the mean law of the other concepts."""
    return (laws.words.sum(axis=0) - laws.words[concepts]) / (len(laws.words) - 1)


def exact_scores(
    laws: World, asked: Items
) -> tuple[Float64[np.ndarray, "items choices"], Float64[np.ndarray, "items choices"]]:
    """Log scores of the candidates: by the best possible choice, and by the exact law of the next word."""
    log_words = np.log(laws.words).T
    posterior = word_counts(asked.given, laws.words.shape[1]) @ log_words + np.log(laws.prior)
    one_kind = (laws.kinds[:, None] == np.arange(laws.kinds.max() + 1)).astype(float)  # [words, kinds]
    other = _others(laws, np.arange(len(laws.words)))
    other /= (other @ one_kind)[:, laws.kinds]  # within the kind of the word
    best = np.empty(asked.candidates.shape)
    by_law = np.empty(asked.candidates.shape)
    for i in range(CHOICES):
        word, rest = asked.candidates[:, i], np.delete(asked.candidates, i, axis=1)
        alone = posterior + log_words[word]
        by_law[:, i] = logsumexp(alone)
        made = np.log(other.T[rest]).sum(axis=1) - (CHOICES - 1) * np.log1p(-other.T[word])
        best[:, i] = logsumexp(alone + made)
        best[(rest == word[:, None]).any(axis=1), i] = -np.inf
    return best, by_law


def right(scores: Float64[np.ndarray, "items choices"]) -> float:
    """The share of questions whose true candidate, the first, scores highest; equal scores share the point."""
    top = scores == scores.max(axis=1, keepdims=True)
    return float((top[:, 0] / top.sum(axis=1)).mean())


@torch.no_grad()
def model_scores(model: Any, laws: World, documents: Documents, asked: Items) -> Float64[np.ndarray, "items choices"]:
    """Logits of the candidates after the body's tokens before the question."""
    device = model.embedding.weight.device
    bodies = documents.take(asked.rows).padded(laws.symbols.pad, laws.length)[:, : asked.place]
    start = np.full((len(bodies), 1), laws.symbols.bos)
    tokens = torch.from_numpy(np.concatenate([start, bodies], axis=1).astype(np.int64)).to(device)
    logits = model.logits(model.features(tokens)[:, -1]).double().cpu().numpy()
    return np.take_along_axis(logits, laws.starts[2] + asked.candidates, axis=1)


class Cloze(Run):
    """Result: ``accuracy`` of the model, ``ceiling`` (the best possible choice), ``law`` (the exact law of the next word), ``items``."""

    class Config(Run.Config):
        pretrained: Pretrain.Config = REQUIRED
        seed: int = 0

    preload = "orchard.papers.sbp.runs.pretrain"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: Any = cfg.pretrained.mix.corpus.build()
        documents = corpus.documents("test").head(cfg.pretrained.eval_documents)
        asked = items(corpus.world, documents, cfg.seed)
        model = load_pretrained(work.result_of(cfg.pretrained), cfg.pretrained)
        best, by_law = exact_scores(corpus.world, asked)
        accuracy = right(model_scores(model, corpus.world, documents, asked))
        return {"accuracy": accuracy, "ceiling": right(best), "law": right(by_law), "items": len(asked.rows)}

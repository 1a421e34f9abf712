"""Synthetic bootstrapped pretraining: what it computes, apart from trainings and runs.

    pair      {(d1, d2) : <e(d1), e(d2)> > alpha, d2 among the k nearest of d1, Jaccard_5(d1, d2) <= 0.6}
    tune      loss = - log p(d2 | d1)             on   bos d1 sep bos d2 eos
    sample    d1 ~ Uniform(D), d2 ~ p(. | d1)     until the rules have kept a share f of the budget B
    train     from scratch, on these and on D repeated for the other (1 - f) B tokens

    vectors = TfidfEmbedder.Config().build().embed(corpus, {"train": documents}, work=None)["train"]
    found = ExactSearch.Config().build().neighbours(vectors, k=8)
    alpha = threshold(random_scores(vectors, random), exceedance=1e-2)
    pairs, left_out = kept_pairs(documents, np.arange(len(documents)), found, alpha, cap=8, near_duplicate=0.6)
    batch = pair_batch(documents.take(pairs["first"]), documents.take(pairs["second"]), corpus.symbols)

`naive` is the whole pipeline on plain lists; the others are held to it.
"""

from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols, document_batch, pair_batch
from orchard.papers.sbp.method.embedding import TfidfEmbedder
from orchard.papers.sbp.method.models import decoder
from orchard.papers.sbp.method.ngrams import jaccard
from orchard.papers.sbp.method.pairing import kept_pairs, random_scores, threshold
from orchard.papers.sbp.method.rules import Rules
from orchard.papers.sbp.method.sampling import sample_documents
from orchard.papers.sbp.method.search import ExactSearch, FaissSearch

__all__ = [
    "Corpus",
    "Documents",
    "ExactSearch",
    "FaissSearch",
    "Rules",
    "Symbols",
    "TfidfEmbedder",
    "decoder",
    "document_batch",
    "jaccard",
    "kept_pairs",
    "pair_batch",
    "random_scores",
    "sample_documents",
    "threshold",
]

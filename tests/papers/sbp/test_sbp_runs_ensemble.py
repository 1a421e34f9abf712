"""An ensemble averages probabilities, token by token, not losses."""

from __future__ import annotations

import pytest
import torch

from orchard.papers.sbp.data.world import ConceptWorld
from orchard.papers.sbp.method.documents import document_batch
from orchard.papers.sbp.method.models import Size, decoder
from orchard.papers.sbp.runs.ensemble import ensemble_nll


def test_probabilities_are_averaged_not_losses() -> None:
    corpus = ConceptWorld.Config(concepts=3, words=12, content=4, documents=24, held_out=10).build()
    symbols, models = corpus.symbols, []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(decoder(Size(8, 1, 1, 1, 12), 0.0, symbols.vocab_size).build().eval())
    documents = corpus.documents("test").take([3, 0, 7])
    batch = document_batch(documents, symbols)
    target = batch.tokens[:, 1:][batch.counts]
    with torch.no_grad():
        laws = [model(batch.tokens[:, :-1])[batch.counts].softmax(dim=-1).double() for model in models]
    for members, law in ((models[:1], laws[0]), ([models[0]] * 2, laws[0]), (models, (laws[0] + laws[1]) / 2)):
        by_hand = -law[torch.arange(len(law)), target].log()
        assert float(by_hand.sum()) == pytest.approx(ensemble_nll(members, documents, symbols).sum(), rel=1e-5)

"""Stage 4, filter: what the rules keep of a synthetic corpus, and the table of what they reject."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.method.documents import Corpus, Documents
from orchard.papers.sbp.method.rules import REASONS, Rules
from orchard.papers.sbp.runs.synthesise import sampled_documents
from orchard.runs import Finished, Run, Workspace


class RealRules(Run):
    """What the rules would do to real documents. Result: ``rejections``, held-out documents by reason, as if they had been sampled."""

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        held_out: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        corpus = self.cfg.corpus.build()
        real, held_out = corpus.documents("train"), corpus.documents("test").head(self.cfg.held_out)
        rules: Rules = Rules.Config().build(real=real, corpus=corpus)
        reason = rules.judge(held_out, np.ones(len(held_out), bool), np.full(len(held_out), -1))
        counts = np.bincount(reason, minlength=len(REASONS)).tolist()
        return {"rejections": dict(zip(REASONS, counts, strict=True))}


class Filter(Run):
    """Judge every document of a run that has sampled some.

    Result: ``rejections``, documents by reason; ``kept_tokens``.
    Files: ``kept.safetensors``: ``tokens``, ``offsets``, ``row`` (number among the sampled), ``seed`` and ``batch`` of each that was kept.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        sampled: Run.Config = REQUIRED  # `synthesise.Synthesise`, or a control with the same file
        rules: Rules.Config = Rules.Config()

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: Corpus = cfg.corpus.build()
        documents, seeds, batch, ended = sampled_documents(work.result_of(cfg.sampled))
        rules: Rules = cfg.rules.build(real=corpus.documents("train"), corpus=corpus)
        reason = rules.judge(documents, ended, seeds)
        row = np.flatnonzero(reason == 0)
        kept = documents.take(row)
        tensors = {"tokens": kept.tokens, "offsets": kept.offsets, "row": row, "seed": seeds[row], "batch": batch[row]}
        save_file(tensors, work.folder / "kept.safetensors")
        rejections = dict(zip(REASONS, np.bincount(reason, minlength=len(REASONS)).tolist(), strict=True))
        return {"rejections": rejections, "kept_tokens": int((kept.lengths + 1).sum())}


def provenance_table(corpus: Corpus, sampled: Finished, kept: Finished) -> pd.DataFrame:
    """Where every kept document comes from: one row each, in the order of ``kept.safetensors``.

    Columns: ``document`` (number among the kept), ``text``, ``seed_document`` (number in D; -1: none was given), ``seed_name`` (where
    that comes from, if the corpus knows), ``synthesizer`` (id of the run that tuned it; of a control, its own), ``sampling_seed`` (of its
    batch), ``batch``, ``row`` (in its batch). Seed documents of the batch and its uniform numbers follow from `Synthesise.Config.seed`.
    """
    found = {name: tensor.numpy() for name, tensor in kept.tensors("kept").items()}
    made = {name: tensor.numpy() for name, tensor in sampled.tensors("synthetic").items()}
    documents = Documents(found["tokens"], found["offsets"])
    names = corpus.documents("train").names
    starts = np.searchsorted(made["batch"], np.arange(len(made["sampling_seed"])))
    return pd.DataFrame({
        "document": np.arange(len(documents)),
        "text": [corpus.text(body) for body in documents],
        "seed_document": found["seed"],
        "seed_name": [names[i] if names and i >= 0 else "" for i in found["seed"]],
        "synthesizer": sampled.provenance.get("synthesizer", sampled.id),
        "sampling_seed": made["sampling_seed"][found["batch"]],
        "batch": found["batch"],
        "row": found["row"] - starts[found["batch"]],
    })  # fmt: skip

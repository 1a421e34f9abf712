"""Stage 4, filter: what the rules keep of a synthetic corpus, and the table of what they reject."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.papers.sbp.data import Corpus
from orchard.papers.sbp.rules import REASONS, Rules
from orchard.papers.sbp.synthesis import sampled_documents
from orchard.runs import Run, Workspace


class Filter(Run):
    """Judge every document of a run that has sampled some.

    Result: ``rejections``, documents by reason; ``kept_tokens``.
    Files: ``kept.safetensors``: ``tokens``, ``offsets``, ``row`` (number among the sampled), ``seed`` and ``batch`` of each that was kept.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        sampled: Run.Config = REQUIRED  # `synthesis.Synthesise`, or a control with the same file
        rules: Rules.Config = Rules.Config()

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        cfg = self.cfg
        corpus: Corpus = cfg.corpus.build()
        documents, seeds, batch, ended = sampled_documents(work.result_of(cfg.sampled))
        rules: Rules = cfg.rules.build(real=corpus.documents("train"), symbols=corpus.symbols)
        reason = rules.judge(documents, ended, seeds)
        row = np.flatnonzero(reason == 0)
        kept = documents.take(row)
        tensors = {"tokens": kept.tokens, "offsets": kept.offsets, "row": row, "seed": seeds[row], "batch": batch[row]}
        save_file(
            {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()},
            work.folder / "kept.safetensors",
        )
        rejections = dict(zip(REASONS, np.bincount(reason, minlength=len(REASONS)).tolist(), strict=True))
        return {"rejections": rejections, "kept_tokens": int((kept.lengths + 1).sum())}

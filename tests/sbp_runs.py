"""Finished runs of the bootstrapping series that nobody computed: what they report follows from their configs, so sums can be checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from orchard.papers.sbp.experiments.profiles import PROFILES, Profile
from orchard.papers.sbp.method.models import Size
from orchard.papers.sbp.runs.bounds import Bounds
from orchard.papers.sbp.runs.controls import ExactPosterior
from orchard.papers.sbp.runs.ensemble import Ensemble
from orchard.papers.sbp.runs.filter import Filter
from orchard.papers.sbp.runs.mix import Mix
from orchard.papers.sbp.runs.pair import DrawnPairs, Pair
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune
from orchard.runs import Finished, Run
from orchard.runs.grid import Trial

FORWARD = 1000.0  # FLOPs of a forward pass per token, every model's
TUNING, SAMPLING = 7e6, 5e6  # FLOPs
EVALUATIONS = 3


def tiny(**changes: Any) -> Profile:
    """The smoke profile with a handful of documents."""
    sizes: dict[str, Any] = {
        "concepts": 3, "words": 12, "content": 4, "documents": 24, "pool": 4, "held_out": 10, "size": Size(8, 1, 1, 1, 12),
        "other_size": Size(12, 1, 1, 1, 12), "batch": 8, "tuning_steps": 6, "tuning_batch": 8, "sampling_batch": 300, "neighbours": 2,
        "exceedance": 0.2, "weight_decays": (4.0,), "dropouts": (), "learning_rates": (), "oracle_weight_decays": (0.5,),
        "evaluations": 2, "variants": ("dep",),
    }  # fmt: skip
    return replace(PROFILES["smoke"], **{**sizes, **changes})


class FakeRuns:
    """A Runner. ``loss`` gives the nats per document of a training from its config; they are reached at the last checkpoint and are
    ``better`` nats lower at the one before."""

    def __init__(
        self, folder: Path, loss: Callable[[Pretrain.Config], float] = lambda cfg: 30.0, better: float = 1.0
    ) -> None:
        self.folder, self.loss, self.better = folder, loss, better
        self.asked: dict[str, Run.Config] = {}

    def __call__(self, cfgs: Sequence[Run.Config]) -> list[Finished]:
        return [self._made(cfg) for cfg in cfgs]

    def of(self, kind: type[Run.Config]) -> list[Any]:
        """The different configs of a kind that were asked for, or that lay inside what was asked for."""
        nodes = [node for cfg in self.asked.values() for _, node, *_ in cfg.walk() if isinstance(node, kind)]
        return list({node.fingerprint(): node for node in nodes}.values())

    def _made(self, cfg: Run.Config) -> Finished:
        key = cfg.fingerprint()
        folder = self.folder / key[:16]
        if key not in self.asked:
            folder.mkdir(parents=True, exist_ok=True)
            result, tensors = self._content(cfg)
            (folder / "result.json").write_text(json.dumps(result))
            for name, values in tensors.items():
                save_file(values, folder / f"{name}.safetensors")
            self.asked[key] = cfg
        return Finished(folder)

    def _content(self, cfg: Any) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
        if isinstance(cfg, Trial.Config):
            return {"failed": ""}, {}
        if isinstance(cfg, Mix.Config):
            documents = cfg.corpus.build().documents(cfg.real)
            return {"tokens": cfg.budget, "unique_real_tokens": int((documents.lengths + 1).sum())}, {}
        if isinstance(cfg, Pretrain.Config):
            last = self.loss(cfg)
            losses = {"last": last, "best": last - self.better}
            result = {name: {"step": 1, "loss": value, "validation_loss": value} for name, value in losses.items()}
            curve = torch.tensor([last + 5, losses["best"], last], dtype=torch.float32)[:, None]
            scores = {name: curve.repeat(1, cfg.eval_documents) for name in ("validation", "test")}
            step = torch.linspace(0, cfg.mix.steps, EVALUATIONS).long()
            training = {
                "tokens": cfg.mix.budget,
                "parameters": cfg.model.dim,
                "training_flops": 3 * FORWARD * cfg.mix.budget,
            }
            return {**result, **training}, {"eval": {"step": step, **scores}}
        if isinstance(cfg, Bounds.Config):
            return {"labels": 500.0 / cfg.corpus.documents, "em": 600.0 / cfg.corpus.documents}, {}
        if isinstance(cfg, Ensemble.Config):
            curve = torch.full((1, cfg.eval_documents), 29.0)
            return {}, {"eval": {"step": torch.tensor([1]), "validation": curve, "test": curve.clone()}}
        if isinstance(cfg, Tune.Config):
            return {"flops": TUNING, "loss": 20.0}, {}
        if isinstance(cfg, Synthesise.Config | ExactPosterior.Config):
            real = (
                (cfg.corpus if isinstance(cfg, ExactPosterior.Config) else cfg.tuned.pretrained.mix.corpus)
                .build()
                .documents("train")
            )
            made = {"tokens": torch.from_numpy(real.tokens), "offsets": torch.from_numpy(real.offsets)}
            made |= {name: torch.zeros(len(real), dtype=torch.long) for name in ("seed", "batch", "ended")}
            return {"flops": SAMPLING}, {"synthetic": made}
        if isinstance(cfg, Filter.Config):
            made = cfg.corpus.build().documents("train")
            return {}, {"kept": {"tokens": torch.from_numpy(made.tokens), "offsets": torch.from_numpy(made.offsets)}}
        assert isinstance(cfg, Pair.Config | DrawnPairs.Config), type(cfg)
        return {}, {"pairs": {"first": torch.tensor([0, 1]), "second": torch.tensor([1, 2])}}

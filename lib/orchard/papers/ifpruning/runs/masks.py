"""What is measured on finished arms without further training: gates of 1 in the place of soft ones, masks behind prefixes."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.papers.ifpruning.data.factgrid import HELD_OUT, FactGrid
from orchard.papers.ifpruning.runs.train import Train, evaluate, load
from orchard.runs import Run, Workspace
from orchard.train import choose

PREFIXES = ("raw", "shared", "own")  # nothing in front of the instruction; queries of the domain; queries of the prompt


class Binarised(Run):
    """A finished arm of mode `soft` with gates of 1 instead: the gap of a model that is trained soft and used hard.

    Result: ``right`` (share of right answers to `test`) and ``loss`` (nats per token that counts)."""

    class Config(Run.Config):
        trained: Train.Config = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        hard = self.cfg.trained.clone()
        assert hard.selector is not None
        hard.selector.gates.set(mode="soft_binarize")
        hardware, corpus = choose(work.device), hard.corpus.build()
        decoder, selector = load(work.result_of(self.cfg.trained), hard)
        assert selector is not None
        decoder, selector = decoder.to(hardware.device), selector.to(hardware.device)
        scores = evaluate(decoder, selector, corpus, corpus.evaluation("test"), hardware)
        return {"right": scores["right"].float().mean().item(), "loss": scores["loss"]}


class PrefixMasks(Run):
    """Masks of held-out wordings under every kind of prefix.

    Files: ``masks.safetensors``: ``raw``, ``shared``, ``own`` [prompts, layers, width] and ``domain``. Result: ``chance`` (k / D)."""

    class Config(Run.Config):
        trained: Train.Config = REQUIRED

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        hardware, corpus = choose(work.device), self.cfg.trained.corpus.build()
        selector = load(work.result_of(self.cfg.trained), self.cfg.trained)[1]
        if selector is None:
            raise ValueError(f"{self.cfg.trained.label or 'this arm'} selects nothing: give an arm with masks")
        selector.to(hardware.device)
        assert isinstance(corpus, FactGrid)
        kept: dict[str, list[torch.Tensor]] = {name: [] for name in (*PREFIXES, "domain")}
        for split in HELD_OUT:
            for name in PREFIXES:
                examples = corpus.prompts(split) if name == "raw" else corpus.few_shot(split, name == "shared")
                kept[name].append(selector.gates.top(selector.logits(examples.to(hardware.device))[:, 0]).cpu())
            kept["domain"].append(examples.domain)
        found = {name: torch.cat(parts) for name, parts in kept.items()}
        save_file(found, work.folder / "masks.safetensors")
        return {"chance": found["raw"][0].float().mean().item()}

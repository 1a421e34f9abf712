"""How much of the overlap within a domain is one prefix that its prompts share (section 4.4, Figure 3).

The paper overlaps masks of MMLU and GSM8K prompts whose examples are the same for all prompts of a subject. A predictor reads all of a
prompt, so identical text alone makes masks alike: the diagonal of its maps is partly that. Here the trained predictor of the comparison
reads, without further training,

    raw       instruction :
    shared    k k v v ... instruction :         the queries in front are the same for all prompts of a domain
    own       k k v v ... instruction :         every prompt has its own

and `shared - own` is what the identity of the prefix does. Prompts of these kinds are in no training, so `raw - own` also holds what a
predictor makes of prompts that it does not know. `rand_lsh` hashes what a language model makes of the prompt and has learned nothing about
masks: it shows what identical text does by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from orchard.config import REQUIRED
from orchard.papers.ifpruning.factgrid import HELD_OUT, FactGrid
from orchard.papers.ifpruning.overlap import by_domain
from orchard.papers.ifpruning.rates import studies
from orchard.papers.ifpruning.training import Train, load
from orchard.runs import Run, Runner, Setting, Workspace
from orchard.train import choose

PREFIXES = ("raw", "shared", "own")
ARMS = ("ifp", "ifp_st", "rand_lsh")
SEEDS = {"smoke": 1, "gpu": 3, "paper": 1}  # of the profile's, at most


class PrefixMasks(Run):
    """Masks of held-out wordings under every kind of prefix.

    Files: ``masks.safetensors``: ``raw``, ``shared``, ``own`` [prompts, layers, width] and ``domain``. Result: ``chance`` (k / D)."""

    class Config(Run.Config):
        trained: Train.Config = REQUIRED
        shots: int = 4  # queries in front

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
                raw = name == "raw"
                examples = corpus.prompts(split) if raw else corpus.few_shot(split, name == "shared", self.cfg.shots)
                kept[name].append(selector.gates.top(selector.logits(examples.to(hardware.device))[:, 0]).cpu())
            kept["domain"].append(examples.domain)
        found = {name: torch.cat(parts) for name, parts in kept.items()}
        save_file(found, work.folder / "masks.safetensors")
        return {"chance": found["raw"][0].float().mean().item()}


def shared_prefixes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, prefix (raw, shared, own) and layer (from 1): within (mean overlap of different prompts of one domain),
    related (of two domains of one group), other (of two groups), chance."""
    places = [(arm, cell, study) for cell, study in studies(setting, run)[: SEEDS[setting.profile]] for arm in ARMS]
    wanted = [
        PrefixMasks.Config(trained=study.arm(arm), label=f"prefixes, {arm}, seed {cell.seed}")
        for arm, cell, study in places
    ]
    rows = []
    for (arm, cell, _), done in zip(places, run(wanted), strict=True):
        corpus, kept = cell.corpus.build(), done.tensors("masks")
        group = torch.tensor(corpus.groups)
        same = torch.eye(len(group), dtype=torch.bool)
        kin = (group[:, None] == group) & ~same
        for name in PREFIXES:
            for layer, means in enumerate(by_domain(kept[name], kept["domain"], len(group)), 1):
                rows.append({
                    "arm": arm, "seed": cell.seed, "prefix": name, "layer": layer, "within": float(means[same].mean()),
                    "related": float(means[kin].mean()), "other": float(means[~same & ~kin].mean()), "chance": done.result["chance"],
                })  # fmt: skip
    return pd.DataFrame(rows)


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"shared_prefixes": shared_prefixes}

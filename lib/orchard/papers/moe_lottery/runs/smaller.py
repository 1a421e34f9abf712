"""The run behind 05_capabilities: make a trained model smaller, help it or not, and ask it everything.

    smaller   experts dropped at once by a criterion or at random, s = 25, 50, 75 % of every layer; or 2:4 sparsity of the experts
    help      none; fine-tuning on episodes; the same with shuffled answers; plain text, with all of its domains or without those that
              state facts or show tasks: all with equal steps and tokens

Calibration reads validation windows, fine-tuning train windows or generated episodes, scoring test windows and the battery of
`data.probes.questions`, which is the same for every model of a world.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard.config import REQUIRED
from orchard.data import Windows
from orchard.data.loader import Indexed
from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data import episodes, probes
from orchard.papers.moe_lottery.data.domains import FiveDomains, windows
from orchard.papers.moe_lottery.data.world import World
from orchard.papers.moe_lottery.method import sparsity
from orchard.papers.moe_lottery.method.collect import LayerStatistics, collect
from orchard.papers.moe_lottery.method.criteria import chosen, criterion
from orchard.papers.moe_lottery.method.dropping import drop_experts, mixture_layers
from orchard.papers.moe_lottery.runs.finetune import finetune
from orchard.papers.moe_lottery.runs.scoring import Text, nats
from orchard.runs import Finished, Run, Workspace
from orchard.train import TrainLM, choose, load_model
from orchard.train.losses import counted_loss, next_token_loss

FULL, RANDOM, NO_HELP = "full", "random", "none"
TASKS = ("arithmetic", "know")  # domains with facts or episodes
SPARSE = {f"2:4 {kind}": kind for kind in sparsity.KINDS}


class Smaller(Run):
    """Probe a trained model after each of the given removals.

    `removal`: "full" (nothing), a criterion of MC-Suite in the paper's direction, "random", or a kind of `SPARSE`. One cell per
    share and draw. Result: `help`; `cells`, a list of {s, draw, domains (nats/byte), windows (nats/byte of each test window)};
    file `items.jsonl`: the rows of :func:`probes.probe` of every cell, with its s (%) and draw.
    """

    class Config(Run.Config):
        base: TrainLM.Config = REQUIRED  # the run that trains the model; its source is FiveDomains
        removal: str = FULL
        shares: list[float] = [0.0]  # of the experts of every layer
        draws: int = 1
        help: str = NO_HELP
        steps: int = 0  # of fine-tuning
        batch_size: int = 8
        learning_rate: float = 1e-3
        seed: int = 0  # of random removals and of the order of fine-tuning
        calibration: int = REQUIRED  # validation windows
        split: str = "test"  # "validation", with questions about taught entities, to choose a learning rate
        windows: int = REQUIRED  # of that split
        sums: int = REQUIRED  # held-out sums in the battery
        shots: list[int] = [0]  # examples in the prompts

    preload = "orchard.train.loop"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every cell in turn, on a copy of the trained model."""
        cfg = self.cfg
        hardware = choose(work.device)
        work.notes["hardware"] = hardware.as_dict()
        base = load_model(work.result_of(cfg.base), cfg.base).to(hardware.device)
        corpus = five_domains(cfg.base)
        world: World = corpus.build().world
        items = probes.questions(world, cfg.shots, cfg.sums, group="tested" if cfg.split == "test" else "taught")
        test = Text.evaluation(cfg.base, cfg.split, cfg.windows)
        cells = []
        with open(work.folder / "items.jsonl", "w", encoding="utf-8") as file:
            for share, draw, model, masks in self._models(base):
                cell = {"s": round(100 * share, 1), "draw": draw}
                with ExitStack() as stack:
                    if masks is not None:
                        stack.enter_context(sparsity.staying_sparse(model, masks))
                    self._help(model, world, work, f"{cell['s']:g}_{draw}")
                sums, size = nats(model, test), test.counts()
                means = (sums.sum(dim=0) / size.sum(dim=0)).tolist()
                by_domain = {name: mean for name, mean in zip(test.names, means, strict=True) if not math.isnan(mean)}
                windows_mean = (sums.sum(dim=1) / size.sum(dim=1)).tolist()
                cells.append({**cell, "domains": by_domain, "windows": windows_mean})
                rows = probes.probe(model, items).astype(object)
                for row in rows.where(rows.notna(), None).to_dict("records"):  # JSON has no NaN
                    file.write(json.dumps({**cell, **row}) + "\n")
        return {"help": cfg.help, "cells": cells}

    def _models(self, base: Decoder) -> Iterator[tuple[float, int, Decoder, list[sparsity.Mask] | None]]:
        """Share, draw, the smaller model in evaluation mode, and its 2:4 masks if it has any."""
        cfg = self.cfg
        if cfg.removal in SPARSE:
            kind = SPARSE[cfg.removal]
            norms = sparsity.input_norms(base, calibration(cfg, base)) if kind == sparsity.WANDA else None
            for draw in range(cfg.draws):
                model = copy.deepcopy(base)
                masks = sparsity.masks(model, kind, norms, torch.Generator().manual_seed(1000 * cfg.seed + draw))
                sparsity.sparsify(model, masks)
                yield sparsity.KEPT / sparsity.GROUP, draw, model, masks
            return
        statistics = None if cfg.removal in (FULL, RANDOM) else statistics_of(cfg, base)
        for share in cfg.shares:
            for draw in range(cfg.draws):
                model = copy.deepcopy(base)
                drop_experts(model, dropped(model, cfg.removal, share, statistics, f"{cfg.seed} {draw}"))
                yield share, draw, model, None

    def _help(self, model: Decoder, world: World, work: Workspace, name: str) -> None:
        """Fine-tune in place, as the config says."""
        cfg = self.cfg
        if cfg.help == NO_HELP:
            return
        if cfg.help not in episodes.HELPS:
            raise BadInput(f"Smaller.Config.help is {cfg.help!r}: choose {NO_HELP}, {', '.join(episodes.HELPS)}")
        length, plain = cfg.base.seq_len, cfg.help in (episodes.PLAIN, episodes.TASKLESS)
        text = windows(five_domains(cfg.base), "train", length)
        batches: Indexed = without_tasks(text) if cfg.help == episodes.TASKLESS else text
        if not plain:
            count, shuffled = cfg.steps * cfg.batch_size, cfg.help == episodes.SHUFFLED
            batches = episodes.Episodes(world, length, count, cfg.seed, shuffled)
        finetune(
            model, batches, steps=cfg.steps, batch_size=cfg.batch_size, learning_rate=cfg.learning_rate, seed=cfg.seed,
            work=work, name=name, loss=next_token_loss if plain else counted_loss,
        )  # fmt: skip


def five_domains(base: TrainLM.Config) -> FiveDomains.Config:
    """The corpus that a model was trained on. Raises BadInput for another one: it has no facts to ask about."""
    if not isinstance(base.source, FiveDomains.Config):
        name = type(base.source).__qualname__
        raise BadInput(f"the model was trained on {name}: the probes ask about the facts of FiveDomains")
    return base.source


def without_tasks(whole: Windows) -> Windows:
    """Windows over the documents of the same split that state no facts and show no tasks."""
    corpus = whole.corpus
    kept = [i for i, name in enumerate(corpus.names) if name.partition("/")[0] not in TASKS]
    parts = [corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]] for i in kept]
    ends = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    tokens = np.concatenate(parts)
    names = [corpus.names[i] for i in kept]
    return Windows(
        replace(corpus, tokens=tokens, offsets=ends, names=names, bytes=len(tokens) - len(kept)), whole.length
    )


def calibration(cfg: Smaller.Config, base: Decoder) -> list[torch.Tensor]:
    """The calibration batches of a run, on the model's device."""
    return Text.spread(cfg.base, "validation", cfg.calibration).on(base)


def statistics_of(cfg: Smaller.Config, base: Decoder) -> list[LayerStatistics]:
    """Statistics that the run's criterion needs."""
    gradients = criterion(cfg.removal).cost == "backward"
    return collect(base, calibration(cfg, base), base.vocab_size, gradients=gradients)


def dropped(
    model: Decoder, removal: str, share: float, statistics: list[LayerStatistics] | None, seed: str
) -> dict[int, list[int]]:
    """The experts that go from every layer, at once."""
    found = {}
    draw = random.Random(f"random experts {seed}")
    for layer in mixture_layers(model):
        count = 0 if removal == FULL else round(share * layer.num_experts)
        if statistics is None:
            found[layer.place] = draw.sample(range(layer.num_experts), count)
        else:
            found[layer.place] = chosen(statistics[layer.place], removal, count, criterion(removal).drop or "min")
    return found


def items_of(run: Finished) -> pd.DataFrame:
    """The rows of a run's `items.jsonl`."""
    lines = (run.folder / "items.jsonl").read_text("utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])

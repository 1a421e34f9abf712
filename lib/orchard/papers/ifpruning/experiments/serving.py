"""What serving gains on the trained masks: streams of requests through caches of several sizes, batches, one mask per task.

    stream       domains by Zipf's law, p(r) ~ 1 / r^s with the ranks drawn per seed; a wording of the domain, all alike
    per input    a mask per request: select, then load unless the mask is in the cache, then prefill
    per task     the mask of the domain's task prompt, selected once: load unless in the cache, then prefill

Masks are those of the `ifp` arm of the comparison (the same runs). The seconds are medians of the experiment `latency`, whose model is
larger and was never trained: counts of hits come from real masks, times from a size at which they mean something.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from orchard.nn import Decoder
from orchard.papers.ifpruning.experiments.arms import studies
from orchard.papers.ifpruning.experiments.profiles import Cell
from orchard.papers.ifpruning.experiments.speed import latency, medians
from orchard.papers.ifpruning.method.batching import by_overlap, fifo, random_union_width, union_width
from orchard.papers.ifpruning.method.masks import Predictor
from orchard.papers.ifpruning.method.serving import LeastRecentlyUsed
from orchard.papers.ifpruning.runs.train import Train, load
from orchard.runs import Finished, Runner, Setting

REQUESTS = 1024
SLOTS = (1, 2, 4, 8, 16, 32, 64, 128)  # sub-networks that a cache holds
BATCHES = (1, 2, 4, 8, 16)
WAITING = 64  # requests that batches are made from
ZIPF = 1.0
PER_INPUT, PER_TASK = "per input", "per task"


def served(setting: Setting, run: Runner) -> list[tuple[Cell, Train.Config, Finished]]:
    """The runs of the `ifp` arm of the comparison, one per seed."""
    chosen = [(cell, study.arm("ifp")) for cell, study in studies(setting, run)]
    done = run([cfg for _, cfg in chosen])
    return [(cell, cfg, finished) for (cell, cfg), finished in zip(chosen, done, strict=True)]


class Masks:
    """Masks of all wordings and of the task prompts of a finished run; a key for each, the same for the same mask."""

    def __init__(self, done: Finished) -> None:
        kept = done.tensors("masks")
        self.masks: Bool[Tensor, "prompts layers width"] = kept["masks"].bool()
        self.domain: Int[Tensor, "prompts"] = kept["domain"]
        first = {int(d): int(((self.domain == d) & (kept["split"] == 1)).nonzero()[0]) for d in self.domain.unique()}
        self.task = [first[d] for d in sorted(first)]  # the first validation wording, as `Corpus.tasks` says
        self.keys = [row.tobytes() for row in np.packbits(self.masks.flatten(1).numpy(), axis=1)]

    def stream(self, count: int, zipf: float, seed: int) -> Int[np.ndarray, "count"]:
        """Numbers of the prompts of a stream of requests."""
        random = np.random.default_rng([seed, 77])
        share = 1 / np.arange(1, len(self.task) + 1) ** zipf
        domains = random.permutation(len(self.task))[random.choice(len(share), size=count, p=share / share.sum())]
        pick, domain = random.random(count), self.domain.numpy()
        of = [np.flatnonzero(domain == d) for d in range(len(self.task))]
        return np.array([of[d][int(u * len(of[d]))] for d, u in zip(domains, pick, strict=True)])


def trained(cfg: Train.Config, done: Finished) -> tuple[Decoder.Config, Decoder, Predictor]:
    """The masked decoder of a finished run with its config, and its predictor: what a `Server` takes."""
    built, selector = load(done, cfg)
    assert isinstance(selector, Predictor)
    return cfg.model.clone().set(vocab_size=built.vocab_size), built, selector


def replay(
    masks: Masks, stream: Int[np.ndarray, "count"], per: str, slots: int, seconds: dict[str, float]
) -> dict[str, int | float]:
    """A stream through a cache of ``slots`` sub-networks: hits, evictions, hit_rate, ttft (mean seconds to the first token).

    ``seconds`` of select, load and prefill; ``per`` is PER_INPUT or PER_TASK."""
    cache: LeastRecentlyUsed[bool] = LeastRecentlyUsed(slots)
    known: set[int] = set()
    spent = 0.0
    for prompt in stream:
        asked = int(prompt) if per == PER_INPUT else masks.task[int(masks.domain[prompt])]
        if per == PER_INPUT or asked not in known:
            spent += seconds["select"]
        known.add(asked)
        if cache.get(masks.keys[asked]) is None:
            cache.make_room()
            cache.put(masks.keys[asked], True)
            spent += seconds["load"]
    ttft = spent / len(stream) + seconds["prefill"]
    return {"hits": cache.hits, "evictions": cache.evictions, "hit_rate": cache.hit_rate, "ttft": ttft}


def seconds_of(times: pd.DataFrame) -> dict[str, float]:
    """Median seconds of select, load and prefill of `ifp`."""
    row = medians(times).query("model == 'ifp'").iloc[0]
    return {part: float(row[part]) for part in ("select", "load", "prefill")}


def replayed(
    masks: Masks, slots: Sequence[int], seconds: dict[str, float], zipf: float = ZIPF, seed: int = 0
) -> pd.DataFrame:
    """One stream through caches of several sizes, both kinds of masks: columns of :func:`serving_replay` without the seed."""
    stream = masks.stream(REQUESTS, zipf, seed)
    rows = []
    for per in (PER_INPUT, PER_TASK):
        asked = stream if per == PER_INPUT else [masks.task[int(d)] for d in masks.domain[torch.from_numpy(stream)]]
        about = {"masks": per, "requests": REQUESTS, "distinct": len({masks.keys[i] for i in asked})}
        rows += [{**about, "slots": size, **replay(masks, stream, per, size, seconds)} for size in slots]
    return pd.DataFrame(rows)


def serving_replay(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, kind of mask and cache size: seed, masks, slots, requests, distinct (masks in the stream), hits, evictions,
    hit_rate, ttft (mean seconds to the first token)."""
    seconds = seconds_of(latency(setting, run))
    tables = [
        replayed(Masks(done), SLOTS, seconds, seed=cell.seed).assign(seed=cell.seed)
        for cell, _, done in served(setting, run)
    ]
    return pd.concat(tables, ignore_index=True)


def batches(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, batch size and order (fifo, by overlap, random masks): width, mean channels of a batch's union over k (that is
    FLOPs of the feed-forward layers per token); weights, read per request, over those of a request alone."""
    rows = []
    for cell, _, done in served(setting, run):
        masks = Masks(done)
        stream = masks.masks[torch.from_numpy(masks.stream(REQUESTS // 4, 0.0, cell.seed))]
        chance = done.result["gauge"]["chance"]
        for size in BATCHES:
            orders = {"fifo": fifo(len(stream), size), "by overlap": by_overlap(stream, size, WAITING)}
            widths = {name: float(np.mean([union_width(stream[b]) for b in made])) for name, made in orders.items()}
            widths["random masks"] = random_union_width(size, chance)
            rows += [{"seed": cell.seed, "size": size, "order": name, "width": width} for name, width in widths.items()]
    return pd.DataFrame(rows).assign(weights=lambda table: table["width"] / table["size"])


def per_task(setting: Setting, run: Runner) -> pd.DataFrame:
    """Right answers on held-out wordings under a mask per input and per task: seed, domain, per_input, per_task, gap (per cent)."""
    rows = []
    for cell, cfg, done in served(setting, run):
        kept, names = done.tensors("answers"), cfg.corpus.build().domains
        for d, name in enumerate(names):
            own = {k: kept[f"{k}.right"][kept[f"{k}.domain"] == d].float().mean().item() for k in ("test", "task")}
            shares = {"per_input": 100 * own["test"], "per_task": 100 * own["task"]}
            rows.append({"seed": cell.seed, "domain": name, **shares})
    table = pd.DataFrame(rows)
    return table.assign(gap=table["per_input"] - table["per_task"])

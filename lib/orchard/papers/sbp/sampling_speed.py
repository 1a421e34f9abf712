"""How fast documents are sampled, and what the rules reject of them.

    batched, cached         all at once: sorted, from one cache (`sampling.sample_documents`)
    batched, no cache       a batch whose every token reads all tokens before it again
    one by one, cached      the same function, one document at a time
    one by one, no cache    what a loop over documents does: the naive version, which says what all of them must give

All four draw from the same law with the same uniform numbers, so they write the same documents. Measured as `orchard.timing` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Integer

from orchard.config import REQUIRED
from orchard.nn import Decoder, Sampling
from orchard.papers.sbp import joint
from orchard.papers.sbp.data import Corpus
from orchard.papers.sbp.filtering import Filter
from orchard.papers.sbp.profiles import PROFILES, Cell, cells, world
from orchard.papers.sbp.rules import GopherRules, Rules, real_rejections
from orchard.papers.sbp.sampling import draw, sample_documents
from orchard.papers.sbp.synthesis import Synthesise
from orchard.papers.sbp.tuning import Tune, load_synthesizer
from orchard.runs import Run, Runner, Setting, Workspace
from orchard.timing import interleaved
from orchard.train import choose

FAST, SLOW = "batched, cached", "one by one, no cache"


@dataclass(frozen=True)
class Sizes:
    """Documents that each way samples in a call, and rounds of calls."""

    batched: int
    batched_no_cache: int
    alone: int
    alone_no_cache: int
    rounds: int


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(batched=512, batched_no_cache=16, alone=2, alone_no_cache=2, rounds=3),
    "gpu": Sizes(batched=8192, batched_no_cache=512, alone=8, alone_no_cache=4, rounds=5),
    "paper": Sizes(batched=8192, batched_no_cache=512, alone=8, alone_no_cache=4, rounds=5),
}


@torch.no_grad()
def sample_without_cache(
    model: Decoder,
    prompts: Sequence[Integer[np.ndarray, "_"]],
    cap: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop: int,
    at_once: int = 1,
) -> tuple[list[Integer[np.ndarray, "_"]], np.ndarray]:
    """What `sampling.sample_documents` does, with the whole sequence read for every token. Pads stand on the right, unseen."""
    device = model.embedding.weight.device
    uniforms = torch.rand(len(prompts), cap, generator=generator, device=device, dtype=torch.float64)
    bodies: list[np.ndarray] = []
    for start in range(0, len(prompts), at_once):
        part = prompts[start : start + at_once]
        lengths = torch.tensor([len(prompt) for prompt in part], device=device)
        longest = max(map(len, part))
        tokens = torch.full((len(part), longest + cap), stop, device=device)
        for row, prompt in enumerate(part):
            tokens[row, : len(prompt)] = torch.from_numpy(prompt).to(device)
        rows = torch.arange(len(part), device=device)
        done = torch.zeros(len(part), dtype=torch.bool, device=device)
        for age in range(cap):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = model.features(tokens[:, : longest + age])
                logits = model.logits(features[rows, lengths + age - 1])
            new = draw(logits, sampling, uniforms[start : start + at_once, age]).masked_fill(done, stop)
            tokens[rows, lengths + age] = new
            done |= new == stop
            if bool(done.all()):
                break
        made = tokens.cpu().numpy()
        bodies += [made[row, len(prompt) : len(prompt) + cap] for row, prompt in enumerate(part)]
    ends = [np.flatnonzero(body == stop) for body in bodies]
    cut = [body[: end[0]] if len(end) else body for body, end in zip(bodies, ends, strict=True)]
    return cut, np.array([len(end) > 0 for end in ends], dtype=bool)


class SamplingSpeed(Run):
    """Rows way, documents, tokens, round, seconds: four ways to sample from one synthesizer, in turn."""

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        batched: int = REQUIRED
        batched_no_cache: int = REQUIRED
        alone: int = REQUIRED
        alone_no_cache: int = REQUIRED
        rounds: int = REQUIRED
        seed: int = 0

    preload = "orchard.papers.sbp.tuning"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every way samples documents of the same seeds, the first ones of them."""
        cfg = self.cfg
        hardware = choose(work.device if choose(work.device).device != "mps" else "cpu")
        work.notes["hardware"] = hardware.as_dict()
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        symbols, real = corpus.symbols, corpus.documents("train")
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned).to(hardware.device)
        seeds = np.random.default_rng([cfg.seed, 9]).integers(len(real), size=cfg.batched)
        prompts = [np.array([symbols.bos, *real[i], symbols.sep, symbols.bos]) for i in seeds]
        ways: dict[str, tuple[Callable[..., Any], int, int]] = {
            FAST: (sample_documents, cfg.batched, cfg.batched),
            "batched, no cache": (sample_without_cache, cfg.batched_no_cache, cfg.batched_no_cache),
            "one by one, cached": (sample_documents, cfg.alone, 1),
            SLOW: (sample_without_cache, cfg.alone_no_cache, 1),
        }

        tokens: dict[str, int] = {}

        def sample(name: str) -> None:
            function, count, at_once = ways[name]
            generator = torch.Generator(hardware.device).manual_seed(cfg.seed)
            bodies, ended = function(
                model, prompts[:count], corpus.cap + 1, Sampling(1.0), generator, symbols.eos, at_once=at_once
            )
            tokens[name] = sum(map(len, bodies)) + int(ended.sum())

        times = interleaved({name: partial(sample, name) for name in ways}, cfg.rounds, hardware.device)
        rows = [
            {"way": name, "documents": ways[name][1], "tokens": tokens[name], "round": turn, "seconds": seconds}
            for name in ways
            for turn, seconds in enumerate(times[name])
        ]
        return {"rows": rows}


def sampling_speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns way, documents, tokens, round, seconds, tokens_per_s, device, hardware; of the first cell's synthesizer."""
    _, chosen = joint.studies(setting, run, "dep")[0]
    sizes = SIZES[setting.profile]
    cfg = SamplingSpeed.Config(
        tuned=chosen.tune(chosen.pairs("sbp-nn-lm"), "sbp-nn-lm"), label="speed of sampling", **vars(sizes)
    )
    done = run([cfg])[0]
    machine = done.provenance["hardware"]
    table = pd.DataFrame(done.result["rows"])
    return table.assign(
        tokens_per_s=table["tokens"] / table["seconds"], device=machine["device"], hardware=machine["name"]
    )


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second of every way, and by how much `FAST` is faster, median over rounds: columns way, tokens_per_s, times_slower."""
    wide = times.pivot_table(index="round", columns="way", values="tokens_per_s", sort=False)
    slower = wide.rdiv(wide[FAST], axis=0).median()
    return pd.DataFrame({"tokens_per_s": wide.median(), "times_slower": slower}).rename_axis("way").reset_index()


# ------------------------------------------------------------------------------- what synthesis gave, arm by arm


def _filtered(setting: Setting, run: Runner) -> Iterator[tuple[Cell, str, Filter.Config]]:
    """The synthetic arms of the comparison."""
    for cell, arm, _, cfg, _ in joint.finished(setting, run):
        if isinstance(cfg.mix.synthetic, Filter.Config):
            yield cell, arm, cfg.mix.synthetic


def throughput(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per run of synthesis: variant, world, seed, arm, documents, tokens, seconds (of the clock), tokens_per_s, device."""
    rows = []
    for cell, arm, cfg in _filtered(setting, run):
        if isinstance(cfg.sampled, Synthesise.Config):
            done = run([cfg.sampled])[0]
            rows.append({
                "variant": cell.variant, "world": cell.world, "seed": cell.seed, "arm": arm,
                "documents": done.result["documents"], "tokens": done.result["tokens"], **done.provenance["sampling"],
                "device": done.provenance["hardware"]["device"],
            })  # fmt: skip
    return pd.DataFrame(rows)


REAL = "real, held out"


class RealRules(Run):
    """What the rules would do to real documents. Result: ``rejections``, held-out documents by reason, as if they had been sampled;
    ``broken``, the share of D that breaks each rule, Gopher's among them."""

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        held_out: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        corpus = self.cfg.corpus.build()
        real, held_out = corpus.documents("train"), corpus.documents("test").head(self.cfg.held_out)
        rules: Rules = Rules.Config().build(real=real, corpus=corpus)
        reason = rules.judge(held_out, np.ones(len(held_out), bool), np.full(len(held_out), -1))
        counts = np.bincount(reason, minlength=len(rules.reasons)).tolist()
        gopher: GopherRules = GopherRules.Config().build(real=real, corpus=corpus)
        broken = {name: float(share) for name, share in real_rejections(gopher, real).items()}
        return {"rejections": dict(zip(rules.reasons, counts, strict=True)), "broken": broken}


def _judged(setting: Setting, run: Runner) -> list[tuple[Cell, dict[str, Any]]]:
    """The rules on the real documents of every cell."""
    profile, chosen = PROFILES[setting.profile], cells(setting)
    cfgs = [
        RealRules.Config(corpus=world(setting, cell.variant, cell.world), held_out=profile.held_out, label=f"rules on real; {cell.name}")
        for cell in chosen
    ]  # fmt: skip
    return [(cell, done.result) for cell, done in zip(chosen, run(cfgs), strict=True)]


def rejections(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, cell and reason: variant, world, seed, arm, reason, documents, share (of the sampled documents).

    The arm `REAL` is held-out documents under the same rules, as if they had been sampled: what the rules cost the innocent.
    """
    rows = []
    for cell, arm, cfg in _filtered(setting, run):
        rows += _shares(cell, arm, run([cfg])[0].result["rejections"])
    for cell, judged in _judged(setting, run):
        rows += _shares(cell, REAL, judged["rejections"])
    return pd.DataFrame(rows)


def _shares(cell: Cell, arm: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    about = {"variant": cell.variant, "world": cell.world, "seed": cell.seed, "arm": arm}
    total = sum(counts.values())
    order = [name for name in GopherRules.reasons if name in counts]
    return [{**about, "reason": name, "documents": counts[name], "share": counts[name] / total} for name in order]


def rules_on_real(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per world and rule: variant, rule, share of the documents of D that break it, Gopher's rules among them.

    Why the bound on repetition is a percentile of D: fixed bounds reject much of one world and nothing of another.
    """
    first = {cell.variant: judged for cell, judged in reversed(_judged(setting, run))}
    return pd.DataFrame([
        {"variant": variant, "rule": name, "share": share}
        for variant, judged in reversed(first.items())
        for name, share in judged["broken"].items()
    ])  # fmt: skip


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "sampling_speed": sampling_speed,
    "sampling_throughput": throughput,
    "rejections": rejections,
    "rules_on_real": rules_on_real,
}

"""Stage 3, synthesise: seeds drawn from D, documents sampled from the tuned decoder.

    d1 ~ Uniform(D)        d2 ~ p(. | d1)        until the rules have kept the tokens that are needed

Everything sampled is stored, rejected or not, with its seed document, its batch and that batch's sampling seed; the synthesizer is in
the provenance. A finished batch is on disk before the next one begins: a killed run goes on with the batch it was in.

Sampling on a GPU is not the same twice, since a sum in another order may tip a draw. So the synthetic corpus is an artefact: the store
keeps it with its SHA-256, and everything after it (filter, mix, training) reads that file and never samples again.

`Draws` samples as often from each of some chosen seeds, and filters nothing: questions about one seed, and about synthesizers that may
write nothing that is kept, need that instead.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Decoder, Sampling
from orchard.papers.sbp.method.documents import Corpus, Documents, Symbols, check_enough
from orchard.papers.sbp.method.rules import REASONS, Rules
from orchard.papers.sbp.method.sampling import sample_documents
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer
from orchard.runs import Finished, Run, Workspace
from orchard.train import choose

PROBE = 256  # documents after which a synthesizer is given up that never ends one, or of which the rules keep none
LEAST = 128  # documents of a batch, unless batch_size is smaller: fewer are sampled no faster


class Synthesise(Run):
    """Sample documents until ``tokens`` of them are kept.

    Result: ``documents``, ``batches``, ``tokens`` sampled, ``kept_tokens``, ``prompt_tokens``, ``flops``.
    Files: ``synthetic.safetensors``: ``tokens``, ``offsets``, ``seed`` (number in D; -1: none), ``batch``, ``ended``;
    ``sampling_seed`` [batches].
    Provenance: ``synthesizer``, the id of the run that tuned it; ``sampling``, seconds and tokens per second, of all attempts.
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        rules: Rules.Config = Rules.Config()
        tokens: int = REQUIRED  # kept tokens, eos included
        temperature: float = 1.0
        top_p: float | None = None
        batch_size: int = 1024  # documents, at most
        most: int = 20  # times the tokens needed are sampled before giving up
        seed: int = 0

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Sample from the first batch that is not on disk. Raises BadInput where documents do not end or too few are kept."""
        cfg = self.cfg
        if cfg.tokens < 1 or cfg.batch_size < 1:
            raise BadInput(f"Synthesise.Config: tokens {cfg.tokens}, batch_size {cfg.batch_size}: each is at least 1")
        hardware = choose(work.device)
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        real = corpus.documents("train")
        check_enough(real, 1, "synthesis")
        tuned = work.result_of(cfg.tuned)
        model = load_synthesizer(tuned, cfg.tuned).to(hardware.device)
        rules: Rules = cfg.rules.build(real=real, corpus=corpus)
        sampling = Sampling(cfg.temperature, top_p=cfg.top_p)
        parts: list[dict[str, np.ndarray]] = []
        reasons = np.zeros(len(REASONS), dtype=np.int64)
        kept = sampled = prompted = 0
        ended_at_all = False
        while kept < cfg.tokens:
            file = work.checkpoints / f"batch_{len(parts):06d}.safetensors"
            part = _whole(file)
            if part is None:
                start = time.perf_counter()
                random = np.random.default_rng([cfg.seed, 7, len(parts)])
                count, alone = _size(cfg, kept, int(reasons.sum())), cfg.tuned.pairs is None
                seeds = np.full(count, -1) if alone else random.integers(len(real), size=count)
                sampling_seed = int(random.integers(2**62))
                made, ended = written(model, corpus, real, seeds, alone, sampling, sampling_seed)
                part = {
                    "tokens": made.tokens, "offsets": made.offsets, "seed": seeds, "ended": ended,
                    "sampling_seed": np.array([sampling_seed]), "seconds": np.array([time.perf_counter() - start]),
                }  # fmt: skip
                _write(file, part)
            made = Documents(part["tokens"], part["offsets"])
            reason = rules.judge(made, part["ended"], part["seed"])
            reasons += np.bincount(reason, minlength=len(reasons))
            kept += int((made.lengths[reason == 0] + 1).sum())
            sampled += int((made.lengths + part["ended"]).sum())
            seeded = part["seed"][part["seed"] >= 0]
            prompted += int((real.lengths[seeded] + 3).sum())
            parts.append(part)
            ended_at_all |= bool(part["ended"].any())
            _check(cfg, dict(zip(REASONS, reasons.tolist(), strict=True)), ended_at_all, sampled, kept, corpus.cap)
        seconds = float(sum(part["seconds"][0] for part in parts))
        work.notes["sampling"] = {"seconds": round(seconds, 2), "tokens_per_s": sampled / seconds}
        work.notes["synthesizer"] = tuned.id
        work.notes["hardware"] = hardware.as_dict()
        whole = parts_together(parts)
        save_file(whole, work.folder / "synthetic.safetensors")
        flops = model.flops_per_token(2 * corpus.cap) * (sampled + prompted)
        return {
            "documents": len(whole["seed"]), "batches": len(parts), "tokens": sampled, "kept_tokens": kept,
            "prompt_tokens": prompted, "flops": flops,
        }  # fmt: skip


def _size(cfg: Synthesise.Config, kept: int, count: int) -> int:
    """Documents of the next batch: the last one is no larger than what is probably missing, ``count`` having given ``kept`` tokens."""
    if not kept:
        return cfg.batch_size
    return min(cfg.batch_size, max(LEAST, math.ceil(1.1 * (cfg.tokens - kept) * count / kept)))


def _check(cfg: Synthesise.Config, reasons: dict[str, int], ended: bool, sampled: int, kept: int, cap: int) -> None:
    """Raise BadInput where going on is hopeless. The batches stay in the work folder of the run."""
    who, count = cfg.label or "the synthesizer", sum(reasons.values())
    if count >= PROBE and not ended:
        raise BadInput(
            f"{who}: none of {count} sampled documents ended within {cap + 1} tokens: it has not learned the end token; tune it for "
            "longer, or on documents that are shorter than the cap"
        )
    if (count >= PROBE and not kept) or (sampled > cfg.most * cfg.tokens and kept < cfg.tokens):
        rejected = ", ".join(f"{number} {name}" for name, number in reasons.items() if number and name != "kept")
        raise BadInput(
            f"{who}: the rules kept {kept} of the {cfg.tokens} tokens needed after {sampled} were sampled; of {count} documents they "
            f"rejected {rejected}: tune for longer, lower the temperature, or loosen Rules.Config"
        )


def _whole(file: Path) -> dict[str, np.ndarray] | None:
    """A batch that is on disk; None where there is none, or one that cannot be read, which is then sampled again."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None


def _write(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """A batch appears complete or not at all."""
    part = file.with_suffix(".part")
    save_file(tensors, part)
    part.rename(file)


def parts_together(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches as one, with the number of each document's batch."""
    names = ("tokens", "seed", "ended", "sampling_seed")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    lengths = np.concatenate([np.diff(part["offsets"]) for part in parts])
    batch = np.repeat(np.arange(len(parts)), [len(part["seed"]) for part in parts])
    return {**joined, "offsets": np.concatenate([[0], np.cumsum(lengths)]), "batch": batch}


def sampled_documents(run: Finished) -> tuple[Documents, np.ndarray, np.ndarray, np.ndarray]:
    """The documents of a finished run of synthesis: bodies, seed of each in D, batch, whether it ended."""
    found = {name: tensor.numpy() for name, tensor in run.tensors("synthetic").items()}
    return Documents(found["tokens"], found["offsets"]), found["seed"], found["batch"], found["ended"]


class Draws(Run):
    """Sample ``each`` documents from each of ``seeds`` seed documents.

    Result: ``documents``, ``tokens``.
    Files: ``synthetic.safetensors`` as that of `Synthesise`; ``seed`` is the number of the seed in its split.
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        split: str = "test"  # where seeds come from
        seeds: int = REQUIRED
        each: int = 64
        temperature: float = 1.0
        seed: int = 0

    preload = "orchard.papers.sbp.runs.tune"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Sample all of them; small enough to begin anew after a kill."""
        cfg = self.cfg
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned).to(choose(work.device).device)
        documents = corpus.documents(cfg.split)
        seeds = np.repeat(seed_numbers(documents, cfg.seeds, cfg.seed), cfg.each)
        alone, sampling = cfg.tuned.pairs is None, Sampling(cfg.temperature)
        sampling_seed = int(np.random.default_rng([cfg.seed, 9]).integers(2**62))
        made, ended = written(model, corpus, documents, seeds, alone, sampling, sampling_seed)
        tensors = {
            "tokens": made.tokens, "offsets": made.offsets, "seed": np.full(len(made), -1) if alone else seeds,
            "batch": np.zeros(len(made), np.int64), "ended": ended,
        }  # fmt: skip
        save_file(tensors, work.folder / "synthetic.safetensors")
        return {"documents": len(made), "tokens": int((made.lengths + ended).sum())}


def written(
    model: Decoder, corpus: Corpus, first: Documents, seeds: Int64[np.ndarray, "samples"], alone: bool, sampling: Sampling, number: int
) -> tuple[Documents, np.ndarray]:  # fmt: skip
    """A document for every seed, and whether it ended; the generator is seeded with ``number``."""
    generator = torch.Generator(model.embedding.weight.device).manual_seed(number)
    asked = prompts(first, seeds, corpus.symbols, alone)
    bodies, ended = sample_documents(model, asked, corpus.cap + 1, sampling, generator, corpus.symbols.eos)
    return Documents.of(bodies), ended


def seed_numbers(documents: Documents, count: int, seed: int) -> Int64[np.ndarray, "seeds"]:
    """The documents that are seeds, drawn once without replacement. Raises BadInput where there are fewer."""
    if count > len(documents):
        raise BadInput(f"{count} seed documents of {len(documents)}: ask for fewer seeds, or hold out more documents")
    return np.sort(np.random.default_rng([seed, 10]).permutation(len(documents))[:count])


def prompts(
    documents: Documents, seeds: Int64[np.ndarray, "samples"], symbols: Symbols, alone: bool
) -> list[Integer[np.ndarray, "_"]]:
    """``bos d1 sep bos`` for every sample; ``bos`` alone for a synthesizer that reads no seed."""
    if alone:
        return [np.array([symbols.bos])] * len(seeds)
    return [np.array([symbols.bos, *documents[i], symbols.sep, symbols.bos]) for i in seeds]

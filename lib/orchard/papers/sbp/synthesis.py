"""Stage 3, synthesise: seeds drawn from D, documents sampled from the tuned decoder (specification, 3.1 step 3).

    d1 ~ Uniform(D)        d2 ~ p(. | d1)        until the rules have kept the tokens that are needed

Everything sampled is stored, rejected or not, with its seed document and its batch; the sampling seed of a batch is (seed, batch). A
finished batch is on disk before the next one begins: a killed run goes on with the batch it was in.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.nn import Sampling
from orchard.papers.sbp.data import Documents
from orchard.papers.sbp.rules import Rules
from orchard.papers.sbp.sampling import sample_documents
from orchard.papers.sbp.tuning import Tune, load_synthesizer
from orchard.runs import Finished, Run, Workspace
from orchard.train import choose

PROBE = 256  # documents after which a synthesizer that never ends is given up


class Synthesise(Run):
    """Sample documents until ``tokens`` of them are kept.

    Result: ``documents``, ``batches``, ``tokens`` sampled, ``kept_tokens``, ``prompt_tokens``, ``flops``. Throughput is in the provenance.
    Files: ``synthetic.safetensors``: ``tokens``, ``offsets``, ``seed`` (number in D; -1: none), ``batch``, ``ended``.
    """

    class Config(Run.Config):
        tuned: Tune.Config = REQUIRED
        rules: Rules.Config = Rules.Config()
        tokens: int = REQUIRED  # kept tokens, eos included
        temperature: float = 1.0
        top_p: float | None = None
        batch_size: int = 1024  # documents
        most: int = 20  # times the tokens needed are sampled before giving up
        seed: int = 0

    preload = "orchard.papers.sbp.tuning"
    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Sample from the first batch that is not on disk. Raises BadInput where documents do not end or too few are kept."""
        cfg = self.cfg
        hardware = choose(work.device)
        corpus = cfg.tuned.pretrained.mix.corpus.build()
        symbols, real = corpus.symbols, corpus.documents("train")
        model = load_synthesizer(work.result_of(cfg.tuned), cfg.tuned).to(hardware.device)
        rules: Rules = cfg.rules.build(real=real, symbols=symbols)
        sampling = Sampling(cfg.temperature, top_p=cfg.top_p)
        conditional = cfg.tuned.pairs is not None
        parts: list[dict[str, np.ndarray]] = []
        kept = sampled = prompted = ends = count = 0
        seconds = 0.0
        while kept < cfg.tokens:
            file = work.checkpoints / f"batch_{len(parts):06d}.safetensors"
            if file.exists():
                part = {name: tensor.numpy() for name, tensor in load_file(file).items()}
            else:
                start = time.perf_counter()
                random = np.random.default_rng([cfg.seed, 7, len(parts)])
                seeds = random.integers(len(real), size=cfg.batch_size) if conditional else np.full(cfg.batch_size, -1)
                prompts = [
                    np.array([symbols.bos, *real[i], symbols.sep, symbols.bos] if i >= 0 else [symbols.bos])
                    for i in seeds
                ]
                generator = torch.Generator(hardware.device).manual_seed(int(random.integers(2**62)))
                bodies, ended = sample_documents(model, prompts, corpus.cap + 1, sampling, generator, symbols.eos)
                seconds += time.perf_counter() - start
                made = Documents.of(bodies)
                part = {"tokens": made.tokens, "offsets": made.offsets, "seed": seeds, "ended": ended}
                _write(file, part)
            made = Documents(part["tokens"], part["offsets"])
            reason = rules.judge(made, part["ended"], part["seed"])
            kept += int((made.lengths[reason == 0] + 1).sum())
            sampled += int((made.lengths + part["ended"]).sum())
            if conditional:
                prompted += int((real.lengths[part["seed"]] + 3).sum())
            ends, count = ends + int(part["ended"].sum()), count + len(made)
            parts.append(part)
            _check(cfg, count, ends, sampled, kept, corpus.cap)
        work.notes["sampling"] = {"seconds": round(seconds, 2), "tokens_per_s": sampled / seconds if seconds else None}
        whole = parts_together(parts)
        save_file(
            {name: torch.from_numpy(value) for name, value in whole.items()}, work.folder / "synthetic.safetensors"
        )
        flops = model.flops_per_token(2 * corpus.cap) * (sampled + prompted)
        return {
            "documents": len(whole["seed"]), "batches": len(parts), "tokens": sampled, "kept_tokens": kept,
            "prompt_tokens": prompted, "flops": flops,
        }  # fmt: skip


def _check(cfg: Synthesise.Config, count: int, ends: int, sampled: int, kept: int, cap: int) -> None:
    if count >= PROBE and ends == 0:
        raise BadInput(
            f"{cfg.label or 'the synthesizer'}: none of {count} sampled documents ended within {cap + 1} tokens: it has not learned "
            "the end token; tune it for longer, or on documents that are shorter than the cap"
        )
    if sampled > cfg.most * cfg.tokens and kept < cfg.tokens:
        raise BadInput(
            f"{cfg.label or 'the synthesizer'}: {kept} of {cfg.tokens} tokens needed were kept after sampling {sampled}: the rules reject "
            f"{1 - kept / sampled:.0%}; tune for longer, lower the temperature, or loosen the rules"
        )


def _write(file: Any, tensors: dict[str, np.ndarray]) -> None:
    """A batch appears complete or not at all."""
    part = file.with_suffix(".part")
    save_file({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}, part)
    part.rename(file)


def parts_together(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches as one, with the number of each document's batch."""
    documents = Documents.of([])
    for part in parts:
        documents = documents + Documents(part["tokens"], part["offsets"])
    batch = np.repeat(np.arange(len(parts)), [len(part["seed"]) for part in parts])
    seed, ended = (np.concatenate([part[name] for part in parts]) for name in ("seed", "ended"))
    return {"tokens": documents.tokens, "offsets": documents.offsets, "seed": seed, "batch": batch, "ended": ended}


def sampled_documents(run: Finished) -> tuple[Documents, np.ndarray, np.ndarray, np.ndarray]:
    """The documents of a finished run of synthesis: bodies, seed of each in D, batch, whether it ended."""
    found = {name: tensor.numpy() for name, tensor in run.tensors("synthetic").items()}
    return Documents(found["tokens"], found["offsets"]), found["seed"], found["batch"], found["ended"]

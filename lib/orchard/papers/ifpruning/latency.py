"""Seconds of a request by part, beside dense models, masking without pruning, and a mixture routed per token (Tables 3 and A.5).

    model        what it is                                              parts
    dense_D      the source, all D channels                              prefill, decode
    dense_k      a dense decoder of width k                              prefill, decode
    ifp          the predictor and the gathered sub-network              select, load, prefill, decode
    ifp_masked   the same mask multiplied in at full width: saves none   select, prefill, decode
    ifp_copied   the plain gather, a decoder built anew every time         load
    moe          D/k experts of width k, one per token and layer         prefill, decode

Batch 1, weights that were never trained: time does not depend on their values. The predictor reads the whole prompt, as the paper's
does. All parts of all models take turns, round by round, as `orchard.timing` says (processor time on a CPU, the clock on a GPU, which is
waited for); every load follows one of another mask, so none finds its work done. fp32 on a CPU; bf16 on a GPU, the predictor by autocast.
Predictors have about a tenth of the parameters that are active, as the published one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from orchard.config import REQUIRED, replace
from orchard.errors import BadInput
from orchard.nn import Decoder, FeedForward, MixtureOfExperts
from orchard.papers.ifpruning.data import Examples
from orchard.papers.ifpruning.method import Gates, Predictor, gated, masked
from orchard.papers.ifpruning.profiles import Reader, Size, decoder, reader
from orchard.papers.ifpruning.pruning import gathered
from orchard.papers.ifpruning.serving import Server
from orchard.runs import Run, Runner, Setting, Workspace
from orchard.timing import Step, interleaved
from orchard.train import choose

VOCAB = 512
PARTS = ("select", "load", "prefill", "decode")
SHOWN = ("dense_D", "dense_k", "ifp", "ifp_masked", "moe")  # that answer requests
Part = tuple[str, str]  # model, part


@dataclass(frozen=True)
class Sizes:
    """What is measured at a profile."""

    gpu: bool
    size: Size
    reader: Reader
    prompt: int  # tokens
    answer: int  # tokens
    rounds: int


SIZES: dict[str, Sizes] = {
    "smoke": Sizes(
        gpu=False, size=Size(dim=256, num_layers=3, num_heads=4, num_kv_heads=2, width=2048, keep=512),
        reader=Reader(dim=64, num_layers=2, num_heads=2, width=128, rank=32), prompt=128, answer=6, rounds=20,
    ),
    "gpu": Sizes(
        gpu=True, size=Size(dim=2048, num_layers=16, num_heads=16, num_kv_heads=2, width=16384, keep=4096),
        reader=Reader(dim=512, num_layers=12, num_heads=8, width=1408, rank=128), prompt=4000, answer=32, rounds=30,
    ),
    "paper": Sizes(
        gpu=True, size=Size(dim=2048, num_layers=56, num_heads=16, num_kv_heads=2, width=24576, keep=6656),
        reader=Reader(dim=1024, num_layers=24, num_heads=16, width=2816, rank=128), prompt=4000, answer=100, rounds=30,
    ),
}  # fmt: skip


class Latency(Run):
    """Rows model, part, repetition, seconds."""

    class Config(Run.Config):
        gpu: bool = False  # sizes that only a GPU can measure: refuses to run elsewhere
        size: dict[str, int] = REQUIRED
        reader: dict[str, int] = REQUIRED
        prompt: int = REQUIRED
        answer: int = REQUIRED
        rounds: int = REQUIRED
        seed: int = 0

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """All parts of all models in turn."""
        cfg, hardware = self.cfg, choose(work.device if choose(work.device).device != "mps" else "cpu")
        if cfg.gpu and hardware.device != "cuda":
            raise BadInput(
                f"{cfg.label or 'Latency'} has sizes for a GPU and would run on {hardware.device}: use profile smoke, or compute it on "
                "a GPU and bring it here with `orchard runs export` and `orchard runs import`"
            )
        work.notes["hardware"] = hardware.as_dict()
        torch.manual_seed(cfg.seed)
        peers = self.peers(hardware.device)
        times = interleaved({" ".join(part): step for part, step in peers.items()}, cfg.rounds, hardware.device)
        rows = [
            {"model": model, "part": part, "repetition": i, "seconds": seconds}
            for model, part in peers
            for i, seconds in enumerate(times[f"{model} {part}"])
        ]
        return {"rows": rows}

    def peers(self, device: str) -> dict[Part, Step]:
        """One call of every part of every model."""
        cfg = self.cfg
        size = Size(**cfg.size)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        with torch.device(device):
            configs = {
                "dense_D": decoder(size, size.width, VOCAB),
                "dense_k": decoder(size, size.keep, VOCAB),
                "ifp_masked": masked(decoder(size, size.width, VOCAB), size.keep),
                "moe": mixture(size),
            }
            models: dict[str, Decoder] = {name: c.clone().build().to(dtype).eval() for name, c in configs.items()}
            prompts = torch.randint(VOCAB, (3, cfg.prompt))
            chooser = predictor(size, Reader(**cfg.reader), prompts)
        full = models["ifp_masked"]
        server = Server(configs["ifp_masked"], full, chooser)
        chosen = [server.select(prompt) for prompt in prompts]
        lengths = torch.full((len(prompts),), cfg.prompt, device=device)
        gates = chooser.gates(chooser.of_prompts(prompts, lengths))
        turns, plain_turns = cycle(chosen), cycle(gates)
        models["ifp"] = server.load(chosen[0])
        peers: dict[Part, Step] = {}
        for name in SHOWN:
            if name.startswith("ifp"):
                peers[name, "select"] = partial(server.select, prompts[0])
            for part, step in requests(models[name], prompts[:1], cfg.answer).items():
                peers[name, part] = _under(full, gates[:1, None], step) if name == "ifp_masked" else step
        peers["ifp", "load"] = lambda: server.load(next(turns))
        peers["ifp_copied", "load"] = lambda: gathered(configs["ifp_masked"], full, next(plain_turns))
        return peers


def mixture(size: Size) -> Decoder.Config:
    """D/k experts of width k, one per token."""
    cfg = decoder(size, size.keep, VOCAB)
    experts = MixtureOfExperts.Config(hidden_dim=size.keep, num_experts=size.width // size.keep, top_k=1)
    replace(cfg, FeedForward, experts)
    return cfg


def predictor(size: Size, shape: Reader, prompts: Int[Tensor, "prompts time"]) -> Predictor:
    """A predictor with new weights whose masks differ between prompts."""
    made: Predictor = Predictor.Config(
        backbone=reader(shape).set(vocab_size=VOCAB), rank=shape.rank, num_layers=size.num_layers,
        gates=Gates.Config(width=size.width, keep=size.keep),
    ).build()  # fmt: skip
    count, time = prompts.shape
    examples = Examples(
        tokens=prompts, counts=torch.ones_like(prompts, dtype=torch.bool), prompts=prompts[:, None], span=torch.zeros_like(prompts),
        prompt_lengths=torch.full((count, 1), time, device=prompts.device), domain=torch.arange(count, device=prompts.device),
    )  # fmt: skip
    made.calibrate(examples, torch.rand(size.num_layers, size.width, device=prompts.device))
    return made.eval()


def requests(model: Decoder, tokens: Int[Tensor, "1 time"], answer: int) -> dict[str, Step]:
    """``prefill``: a prompt to its first new token; ``decode``: ``answer`` further tokens, one by one from the cache of that prompt."""
    weight, time = model.embedding.weight, tokens.shape[1]

    def new_cache() -> Any:
        return model.new_cache(1, time + answer, device=weight.device, dtype=weight.dtype)

    def likeliest(tokens: Tensor, cache: Any) -> Tensor:
        return model.logits(model.features(tokens, cache)[:, -1]).argmax(-1, keepdim=True)

    cache = new_cache()
    first = likeliest(tokens, cache)

    def decode() -> None:
        for layer in cache.layers:
            layer.position = time
        token = first
        for _ in range(answer):
            token = likeliest(token, cache)

    return {"prefill": lambda: likeliest(tokens, new_cache()), "decode": decode}


def _under(model: Decoder, gates: Tensor, step: Step) -> Step:
    def call() -> object:
        with gated(model, gates):
            return step()

    return call


def latency(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns model, part, repetition, seconds, device, hardware."""
    sizes = asdict(SIZES[setting.profile])
    done = run([Latency.Config(label="latency by part", **sizes)])[0]
    machine = done.provenance["hardware"]
    return pd.DataFrame(done.result["rows"]).assign(device=machine["device"], hardware=machine["name"])


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {"latency": latency}


def medians(times: pd.DataFrame) -> pd.DataFrame:
    """Median seconds by model and part, as `figures.latency_bars` and `published.changes` want them: model, select, load, prefill, decode.

    Parts that a model does not have are 0."""
    shown = times[times["model"].isin(SHOWN)]
    wide = shown.pivot_table(index="model", columns="part", values="seconds", aggfunc="median", sort=False)
    return wide.reindex(index=SHOWN, columns=PARTS).fillna(0.0).rename_axis(columns=None).reset_index()


def repetitions(times: pd.DataFrame) -> pd.DataFrame:
    """The ratios that are claimed, one row per repetition: what is divided was measured in the same round.

    Columns ``overhead`` (select + load over prefill, ifp), ``decode`` and ``prefill`` (ifp over dense_k), ``moe`` (decode of the mixture
    over ifp), ``masked`` (prefill of ifp_masked over dense_D), ``copied`` (load into a decoder built anew over the ready one)."""
    wide = times.pivot(index="repetition", columns=["model", "part"], values="seconds")
    ifp = wide["ifp"]
    return pd.DataFrame({
        "overhead": (ifp["select"] + ifp["load"]) / ifp["prefill"],
        "decode": ifp["decode"] / wide["dense_k", "decode"],
        "moe": wide["moe", "decode"] / ifp["decode"],
        "prefill": ifp["prefill"] / wide["dense_k", "prefill"],
        "masked": wide["ifp_masked", "prefill"] / wide["dense_D", "prefill"],
        "copied": wide["ifp_copied", "load"] / ifp["load"],
    })  # fmt: skip


def _evidence(column: str) -> Callable[[Callable[[str], pd.DataFrame]], pd.DataFrame]:
    def evidence(tables: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
        values = repetitions(tables("latency"))[column]
        return pd.DataFrame({"part": "batch 1", "seed": 0, "unit": values.index, "value": values.to_numpy()})

    return evidence


EVIDENCE: dict[str, Callable[[Callable[[str], pd.DataFrame]], pd.DataFrame]] = {
    "C7": _evidence("overhead"), "C7b": _evidence("decode"), "C9": _evidence("moe"),
}  # fmt: skip

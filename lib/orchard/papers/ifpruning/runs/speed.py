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

SoftTopK stands beside the iterative form of the literature, forward and backward in turns:

    closed form      one sort, the gradient by formula
    20 iterations    coordinate descent, epsilon from 4 times 0.7 per step; the gradient by autograd through all of them

At the published width of the inner layer (6B: D = 16384, k = 6656, 56 layers) and epsilon = 0.3, on standard normal logits in float32.
Exactness: how far the sum is from k, worst row, and the largest distance of a weight from the closed form in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from orchard.config import REQUIRED, replace
from orchard.nn import Decoder, FeedForward, MixtureOfExperts
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import Gates, Predictor, gated, masked
from orchard.papers.ifpruning.method.models import Reader, Size, decoder, reader
from orchard.papers.ifpruning.method.pruning import gathered
from orchard.papers.ifpruning.method.serving import Server
from orchard.papers.ifpruning.method.softtopk import soft_top_k, soft_top_k_iterative
from orchard.runs import Workspace
from orchard.runs.measurement import Measurement, timed
from orchard.timing import Step

VOCAB = 512
SHOWN = ("dense_D", "dense_k", "ifp", "ifp_masked", "moe")  # that answer requests
Part = tuple[str, str]  # model, part


class Latency(Measurement):
    """Rows model, part, round, seconds."""

    class Config(Measurement.Config):
        size: dict[str, int] = REQUIRED
        reader: dict[str, int] = REQUIRED
        prompt: int = REQUIRED
        answer: int = REQUIRED
        rounds: int = REQUIRED

    cfg: Config

    @torch.no_grad()
    def compute(self, work: Workspace) -> dict[str, Any]:
        """All parts of all models in turn."""
        device = self.begin(work)
        peers = {" ".join(part): step for part, step in self.peers(device).items()}
        rows = timed(peers, self.cfg.rounds, device)
        return {"rows": [dict(zip(("model", "part"), row.pop("name").split(), strict=True)) | row for row in rows]}

    def peers(self, device: str) -> dict[Part, Step]:
        """One call of every part of every model."""
        cfg = self.cfg
        size = Size(**cfg.size)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        with torch.device(device):
            configs = {
                "dense_D": decoder(size, size.width, VOCAB), "dense_k": decoder(size, size.keep, VOCAB),
                "ifp_masked": masked(decoder(size, size.width, VOCAB), size.keep), "moe": mixture(size),
            }  # fmt: skip
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
                peers[name, part] = partial(_under, full, gates[:1, None], step) if name == "ifp_masked" else step
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


def _under(model: Decoder, gates: Tensor, step: Step) -> object:
    with gated(model, gates):
        return step()


EPSILON, ITERATIONS = 0.3, 20


def softtopk_rows(sizes: SoftTopKSpeed.Config, device: str) -> list[dict[str, Any]]:
    """Rows name (of the form), round, seconds (forward and backward), sum_error, weight_error."""
    generator = torch.Generator().manual_seed(sizes.seed)
    shape = (sizes.batch, sizes.layers, sizes.width)
    z = torch.randn(shape, generator=generator).to(device).requires_grad_()
    grad = torch.randn(shape, generator=generator).to(device)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "closed form": lambda z: soft_top_k(z, sizes.k, EPSILON),
        f"{ITERATIONS} iterations": lambda z: soft_top_k_iterative(z, sizes.k, EPSILON, ITERATIONS),
    }
    errors = {}
    with torch.no_grad():
        exact = soft_top_k(z.double(), sizes.k, EPSILON)
        for name, form in forms.items():
            weights = form(z).double()
            wrong, far = (weights.sum(dim=-1) - sizes.k).abs().max(), (weights - exact).abs().max()
            errors[name] = {"sum_error": float(wrong), "weight_error": float(far)}
    steps = {name: partial(_gradient, form, z, grad) for name, form in forms.items()}
    return [row | errors[row["name"]] for row in timed(steps, sizes.rounds, device)]


def _gradient(form: Callable[[Tensor], Tensor], z: Tensor, grad: Tensor) -> object:
    return torch.autograd.grad(form(z), z, grad)


class SoftTopKSpeed(Measurement):
    """Rows of :func:`softtopk_rows`. The inner layer is that of the paper's 6B model."""

    class Config(Measurement.Config):
        batch: int = REQUIRED  # examples
        rounds: int = REQUIRED
        layers: int = 56
        width: int = 16384
        k: int = 6656

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Measure on the device of the run."""
        return {"rows": softtopk_rows(self.cfg, self.begin(work))}

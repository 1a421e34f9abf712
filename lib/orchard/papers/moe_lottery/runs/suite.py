"""The runs behind MC-Suite: statistics and scores, leaving one expert out, and what the loss does as experts go.

    leave one out   d(l, e) = loss without expert e of layer l - loss of the whole model           Figure 2 of the paper
    a curve         loss when the r worst experts of every layer are masked, r = n/8 ... 6n/8       Figure 4 of the paper

Scores are computed once, on calibration windows of the validation split; nothing is fine-tuned. Losses are taken on windows of the
test split, and on other validation windows where something is chosen by them. They are kept per window, which intervals resample,
and per domain of the predicted byte: nats [..., windows, domains], sums over the window's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.nn import Decoder
from orchard.nn.moe import router_statistics
from orchard.papers.moe_lottery.method.collect import LayerStatistics, collect
from orchard.papers.moe_lottery.method.criteria import CRITERIA, chosen, score_table
from orchard.papers.moe_lottery.method.dropping import Drop, global_ranking, masked, mixture_layers, route
from orchard.papers.moe_lottery.method.models import ROUNDS
from orchard.papers.moe_lottery.method.oracle import subset_errors, subset_losses
from orchard.papers.moe_lottery.runs.scoring import Text, nats, trained
from orchard.runs import Run, Workspace
from orchard.train import TrainLM

DIRECTIONS = ("min", "max")
NAEE_LIMIT = 2000  # sets of one layer that are tried
AT_ONCE = 2**25  # router weights (tokens x sets x experts) that NAEE holds
GLOBAL = ("ean", "man", "reap")  # ranked over all layers too (claim C15 of the paper, which has no number)


def usage(model: nn.Module, text: Text) -> tuple[Int[Tensor, "layers n documents"], list[dict[str, Any]]]:
    """Where tokens went: those of each document by expert; and statistics of the router, layer by layer."""
    layers, device = mixture_layers(model), next(model.parameters()).device
    documents = len(text.domain)
    routed = torch.zeros(len(layers), layers[0].num_experts, documents, dtype=torch.int64)
    sums: list[dict[str, Tensor]] = [{} for _ in layers]
    tokens = 0
    for batch, document in zip(text.tokens, text.documents, strict=True):
        tokens += batch.numel()
        for place, (logits, weights, index) in enumerate(route(model, batch.to(device))):
            pairs = index.cpu() * documents + document.flatten()[:, None]
            routed[place] += pairs.flatten().bincount(minlength=routed[0].numel()).view(routed.shape[1:])
            for name, value in router_statistics(logits, weights, index).items():
                sums[place][name] = sums[place].get(name, torch.zeros(())) + value.cpu().double() * batch.numel()
    rows: list[dict[str, Any]] = []
    for place, found in enumerate(sums):
        load = routed[place].sum(dim=1).double() / routed[place].sum()
        means = {name: float(found[name] / tokens) for name in ("entropy", "mass")}
        rows.append({"layer": place, "variation": float(load.std(correction=0) / load.mean()), **means})
    return routed, rows


class Measure(Run):
    """Statistics of a model on calibration windows, every criterion's scores, and how far scores repeat on other text.

    Result: `domains`, `router` (rows by layer), `tokens`. Files: `scores` (criterion -> [layers, n]); `orders` ("criterion
    direction" -> [layers, 6n/8], experts in the order in which they go); `halves` ("criterion windows" -> [2, layers, n], scores
    on two disjoint samples of so many windows); `usage` (`routed` [layers, n, documents], `domain` [documents], `seen`
    [layers, n, vocabulary]).
    """

    class Config(Run.Config):
        model: TrainLM.Config = REQUIRED
        windows: int = REQUIRED
        sizes: list[int] = []  # of the disjoint samples, in windows; each at most half of `windows`

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """One pass, one with gradients, and the same for every sample."""
        cfg = self.cfg
        model, _ = trained(work, cfg.model)
        text = Text.calibration(cfg.model, cfg.windows)
        statistics = gathered(model, text.on(model))
        scores = score_table(statistics, list(CRITERIA))
        save_file({name: torch.stack(rows) for name, rows in scores.items()}, work.folder / "scores.safetensors")
        count = ROUNDS * (statistics[0].num_experts // 8)
        orders = {
            f"{name} {direction}": torch.tensor([chosen(layer, name, count, direction) for layer in statistics])
            for name in CRITERIA for direction in DIRECTIONS
        }  # fmt: skip
        save_file(orders, work.folder / "orders.safetensors")
        save_file(self.repeated(model, text), work.folder / "halves.safetensors")
        routed, router = usage(model, text)
        seen = torch.stack([layer.seen for layer in statistics])
        save_file({"routed": routed, "domain": text.domain, "seen": seen}, work.folder / "usage.safetensors")
        return {"domains": text.names, "router": router, "tokens": statistics[0].tokens}

    def repeated(self, model: Decoder, text: Text) -> dict[str, Float[Tensor, "two layers n"]]:
        """Scores of criteria that read text, on two disjoint random samples of every size."""
        pool = torch.cat(text.on(model))
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))
        names = [name for name, criterion in CRITERIA.items() if criterion.cost != "none"]
        found: dict[str, Tensor] = {}
        for size in self.cfg.sizes:
            samples = [pool[order[:size]], pool[order[len(pool) // 2 :][:size]]]
            batches = [list(sample.split(self.cfg.model.batch_size)) for sample in samples]
            tables = [score_table(gathered(model, sample), names) for sample in batches]
            for name in names:
                found[f"{name} {size}"] = torch.stack([torch.stack(table[name]) for table in tables])
        return found


def gathered(model: Decoder, batches: Sequence[Int[Tensor, "_ _"]]) -> list[LayerStatistics]:
    """Statistics with gradients, on the CPU."""
    moved = []
    for layer in collect(model, batches, model.vocab_size, gradients=True):
        values: dict[str, Any] = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in vars(layer).items()}
        moved.append(LayerStatistics(**values))
    return moved


class LeaveOneOut(Run):
    """The loss of a model without each of its experts, one at a time: the oracle that criteria are compared with.

    Result: `domains`. File `losses`: `full` [windows, domains], `without` [layers, n, windows, domains] (nats), `bytes`
    [windows, domains].
    """

    class Config(Run.Config):
        model: TrainLM.Config = REQUIRED
        split: str = REQUIRED
        windows: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """One evaluation per expert."""
        cfg = self.cfg
        model, precision = trained(work, cfg.model)
        text = Text.evaluation(cfg.model, cfg.split, cfg.windows)
        without = []
        for layer in mixture_layers(model):
            for expert in range(layer.num_experts):
                with masked(model, {layer.place: [expert]}):
                    without.append(nats(model, text, precision))
        losses = {
            "full": nats(model, text, precision), "bytes": text.counts(),
            "without": torch.stack(without).unflatten(0, (len(mixture_layers(model)), -1)),
        }  # fmt: skip
        save_file(losses, work.folder / "losses.safetensors")
        return {"domains": text.names}


class Curves(Run):
    """The loss as the experts that each criterion names go, in one direction, a round of n/8 per layer after the other.

    Files: `test` and `validation`, criterion -> [rounds, windows, domains] (nats).
    """

    class Config(Run.Config):
        measure: Measure.Config = REQUIRED
        direction: str = REQUIRED
        test: int = REQUIRED  # windows
        validation: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """One evaluation per criterion and round, where the set was not met before."""
        orders = work.result_of(self.cfg.measure).tensors("orders")
        named = {name: orders[f"{name} {self.cfg.direction}"] for name in CRITERIA}
        sets = {name: per_layer(order.tolist(), order.shape[1] // ROUNDS) for name, order in named.items()}
        evaluate(work, self.cfg.measure.model, sets, self.cfg.test, self.cfg.validation)
        return {}


class References(Run):
    """What stands beside the criteria: random droppings, leave-one-out as a criterion, NAEE, and one ranking for all layers.

    Files as those of `Curves`: "full" (one round, nothing dropped), "random 0" ..., "leave_one_out" (on validation text), "naee",
    "global ean" ...
    """

    class Config(Run.Config):
        measure: Measure.Config = REQUIRED
        leave_one_out: LeaveOneOut.Config = REQUIRED
        draws: int = REQUIRED
        reconstruction: int = REQUIRED  # calibration windows of NAEE
        test: int = REQUIRED
        validation: int = REQUIRED

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """One evaluation per curve and round."""
        cfg = self.cfg
        scores = work.result_of(cfg.measure).tensors("scores")
        cost = increase(work.result_of(cfg.leave_one_out).tensors("losses")).mean(dim=-1)
        layers, n = cost.shape
        sets: dict[str, Sequence[Drop]] = {"full": [{}]}
        for draw in range(cfg.draws):
            sets[f"random {draw}"] = per_layer(random_order(layers, n, draw), n // 8)
        sets["leave_one_out"] = per_layer(cost.argsort(dim=1, stable=True).tolist(), n // 8)
        model, _ = trained(work, cfg.measure.model)
        least = [layer.top_k for layer in mixture_layers(model)]
        text = Text.calibration(cfg.measure.model, cfg.reconstruction)
        if rounds := reconstructing(model, text, n // 8):
            sets["naee"] = rounds
        for name in GLOBAL:
            counts = [layers * (n // 8) * level for level in range(1, ROUNDS + 1)]
            sets[f"global {name}"] = [global_ranking(list(scores[name]), count, "min", least) for count in counts]
        evaluate(work, cfg.measure.model, sets, cfg.test, cfg.validation)
        return {}


def increase(losses: Mapping[str, Tensor]) -> Float[Tensor, "layers n windows"]:
    """Increase of the loss without each expert, by window (nats/byte), from the file of `LeaveOneOut`."""
    nats_more = (losses["without"] - losses["full"]).sum(dim=-1)
    return nats_more / losses["bytes"].sum(dim=-1)


def random_order(layers: int, n: int, draw: int) -> list[list[int]]:
    """A random order of the experts of every layer."""
    generator = torch.Generator().manual_seed(draw)
    return [torch.randperm(n, generator=generator).tolist() for _ in range(layers)]


def per_layer(orders: Sequence[Sequence[int]], size: int) -> list[Drop]:
    """The experts that are gone after every round of `size` per layer, from the order in which they go."""
    levels = range(1, ROUNDS + 1)
    return [{place: list(order[: size * level]) for place, order in enumerate(orders)} for level in levels]


def evaluate(
    work: Workspace, cfg: TrainLM.Config, sets: Mapping[str, Sequence[Drop]], test: int, validation: int
) -> None:
    """Write the losses of a model with each set of experts masked, on both splits."""
    model, precision = trained(work, cfg)
    texts = {"test": Text.evaluation(cfg, "test", test), "validation": Text.evaluation(cfg, "validation", validation)}
    for split, text in texts.items():
        known: dict[str, Tensor] = {}  # by the experts that are gone
        found = {"bytes": text.counts()}
        for name, rounds in sets.items():
            keys = [str(sorted((place, sorted(experts)) for place, experts in dropped.items())) for dropped in rounds]
            for key, dropped in zip(keys, rounds, strict=True):
                if key not in known:
                    with masked(model, dropped):
                        known[key] = nats(model, text, precision)
            found[name] = torch.stack([known[key] for key in keys])
        save_file(found, work.folder / f"{split}.safetensors")


class Subsets(Run):
    """The loss for every set of `drop` experts that can be left out of one layer: what the best choice would have been.

    File `sets`: `kept` [subsets, n - drop], `losses` [subsets] (nats/byte, test windows), `errors` [subsets] (what NAEE ranks by:
    relative error of the layer's output on calibration windows).
    """

    class Config(Run.Config):
        model: TrainLM.Config = REQUIRED
        layer: int = REQUIRED
        drop: int = REQUIRED
        windows: int = REQUIRED  # of the test split
        reconstruction: int = REQUIRED  # calibration windows of NAEE

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """One evaluation per subset of what comes after the layer's inputs."""
        cfg = self.cfg
        model, _ = trained(work, cfg.model)
        keep = mixture_layers(model)[cfg.layer].num_experts - cfg.drop
        test = Text.evaluation(cfg.model, "test", cfg.windows)
        losses = subset_losses(model, test.on(model), cfg.layer, keep)
        errors = subset_errors(model, pieces(model, Text.calibration(cfg.model, cfg.reconstruction), keep), keep)
        own = errors[errors["layer"] == cfg.layer].set_index("kept")["relative"]
        values = {"losses": losses["loss"].tolist(), "errors": [own[kept] for kept in losses["kept"]]}
        tensors = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in values.items()}
        save_file(tensors | {"kept": torch.tensor(losses["kept"].tolist())}, work.folder / "sets.safetensors")
        return {}


def pieces(model: Decoder, text: Text, keep: int) -> list[Int[Tensor, "_ _"]]:
    """The windows of a text where the model is, so few at once that all sets of `keep` experts fit into memory."""
    tokens, n = torch.cat(text.on(model)), mixture_layers(model)[0].num_experts
    return list(tokens.split(max(1, AT_ONCE // (comb(n, keep) * n * tokens.shape[1]))))


def reconstructing(model: Decoder, text: Text, size: int) -> list[Drop]:
    """NAEE: in every layer the set whose absence changes the layer's output least, for rounds of `size` experts per layer, as long
    as all sets can be tried. Sets of later rounds need not hold those of earlier ones."""
    n = mixture_layers(model)[0].num_experts
    rounds: list[Drop] = []
    for level in range(1, ROUNDS + 1):
        keep = n - size * level
        if comb(n, keep) > NAEE_LIMIT:
            break
        errors = subset_errors(model, pieces(model, text, keep), keep)
        best = errors.loc[errors.groupby("layer")["error"].idxmin()]
        kept = zip(best["layer"], best["kept"], strict=True)
        rounds.append({int(layer): [e for e in range(n) if e not in experts] for layer, experts in kept})
    return rounds

"""One arm: the way from all experts to a quarter of them, r experts per layer and round (section 3.4 of the specification).

    one_shot    scores once, on the full model; round t drops the experts of ranks (t - 1) r ... t r - 1
    iterative   scores anew on what is left, before every round
    lottery     as iterative, and after every drop b_t tokens of fine-tuning
        lottery_router     router rows alone learn          lottery_frozen_router     all but the router rows learn
        lottery_balanced   with the load-balance loss of pre-training, which is off otherwise

and the controls, which get the tokens that the lottery has had by that round, at once and from the same place in one stream of
training windows: the same tokens in the same number of steps.

    one_shot_tokens, iterative_tokens    drop, then fine-tune        full_tokens    drop nothing, fine-tune

Lotteries and controls have a schedule each, so that order and schedule are two things: a cosine per round (the control's tokens cut
into the lottery's rounds), or one cosine over all tokens up to the round that is measured. A lottery with one cosine is one trajectory
for each round in `controls` and for the last, which measures the rounds since the one before. The optimizer is new in every piece.

A rate that repairs in many steps can do damage in few, so that every cosine has the rate that was tuned for its number of steps, times
a factor.

Random dropping is an order of the experts, drawn once per layer: no score, so that iterating changes nothing but its name, and its
lottery drops what its one-shot drops. Experts are named by their numbers in the full model throughout (`kept`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import save_file
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.data import Windows
from orchard.errors import BadInput, closest
from orchard.nn import Decoder
from orchard.papers.moe_lottery.data.domains import windows
from orchard.papers.moe_lottery.method.collect import LayerStatistics, collect
from orchard.papers.moe_lottery.method.criteria import chosen, criterion
from orchard.papers.moe_lottery.method.dropping import Routed, drop_experts, mixture_layers, watching_routers
from orchard.papers.moe_lottery.runs.finetune import finetune
from orchard.papers.moe_lottery.runs.scoring import Text, window_losses
from orchard.runs import Run, Workspace
from orchard.train import TrainLM, choose, load_model

LOTTERIES = ("lottery", "lottery_router", "lottery_frozen_router", "lottery_balanced")
STRATEGIES = ("one_shot", "iterative", *LOTTERIES, "full")
RANDOM, NOTHING = "random", "none"  # in the place of a criterion
PER_ROUND, WHOLE = SCHEDULES = ("a cosine per round", "one cosine")
Kept = list[list[int]]  # layer by layer, numbers of the full model


def budget(first: int, rounds: int) -> list[int]:
    """Steps of fine-tuning after each round: doubled from round to round, up to 5.65 times the first.

    The paper starts at 0.2 million tokens and doubles; its last round must have had 1.13 million (section 3.4).
    """
    return [min(first * 2**t, int(5.65 * first)) for t in range(rounds)]


def rate_at(rates: Sequence[Sequence[float]], steps: int) -> float:
    """The rate that was tuned at the number of steps nearest to `steps`, by ratio. `rates`: pairs of steps and rate."""
    return min(rates, key=lambda pair: abs(math.log(pair[0] / steps)))[1]


class Stretch:
    """Windows number `start` to `start + count` of an endless shuffled stream, so that every arm reads the same text.

    The stream of a seed is one permutation of all windows after the other.
    """

    def __init__(self, whole: Windows, seed: int, start: int, count: int) -> None:
        self.whole, self.length = whole, whole.length
        size = len(whole)
        epochs = range(start // size, (start + count - 1) // size + 1)
        orders = np.concatenate([np.random.default_rng([seed, epoch]).permutation(size) for epoch in epochs])
        first = start - epochs[0] * size
        self.places = orders[first : first + count]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """The windows with these numbers in the stretch."""
        return self.whole.batch(self.places[indices])


def random_order(seed: int, draw: int, experts: int, layers: int) -> Kept:
    """The order in which a draw drops the experts of every layer."""
    return [np.random.default_rng([seed, draw, layer]).permutation(experts).tolist() for layer in range(layers)]


@contextmanager
def counting(model: nn.Module) -> Iterator[list[Float[Tensor, "experts"]]]:
    """Inside the block counts the tokens that every expert of every mixture gets; read it after the block."""
    counts = [torch.zeros(layer.num_experts, dtype=torch.float64) for layer in mixture_layers(model)]

    def add(place: int, routed: Routed) -> None:
        counts[place] += routed[2].flatten().bincount(minlength=len(counts[place])).double().cpu()

    with watching_routers(model, add):
        yield counts


def is_router(parameter: str) -> bool:
    """Whether a parameter of that name is a router's."""
    return parameter.endswith("gate.weight")


class Arm(Run):
    """Trajectories of one criterion: every strategy in `strategies`, for every draw.

    Result: ``rows`` (strategy, draw, round, tokens, loss, kept), ``loads`` (strategy, draw, layer, and the share of tokens of each
    expert before and after fine-tuning in round `load_round`), ``saturation`` (strategy, tokens, loss).
    Files: ``units.safetensors`` (``loss`` [rows, windows], nats per token).
    """

    class Config(Run.Config):
        base: TrainLM.Config = REQUIRED  # the run that trains the full model
        criterion: str = REQUIRED  # of MC-Suite, smallest first, "random", or "none" with the strategy "full"
        draws: list[int] = [0]  # random orders
        strategies: list[str] = REQUIRED
        per_round: int = REQUIRED  # experts dropped from every layer
        steps: list[int] = REQUIRED  # of fine-tuning, round by round; its length is the number of rounds
        controls: list[int] = []  # rounds after which the token-matched controls are fine-tuned
        saturation: list[int] = []  # steps of fine-tuning after the last drop, each from the same model
        batch_size: int = REQUIRED  # of fine-tuning, in windows
        learning_rates: list[list[float]] = REQUIRED  # pairs of steps and the rate that was tuned for so many
        calibration: int = REQUIRED  # windows, of the validation split
        load_round: int = 4
        lottery_schedule: str = PER_ROUND
        lottery_factor: float = 1.0  # on its rates, after the last drop too
        control_schedule: str = WHOLE
        control_factor: float = 1.0
        split: str = "test"  # "validation" to choose a learning rate
        stream: int = 0  # of several orders of the training windows; rates are chosen on another one

    preload = "orchard.train.loop"
    cfg: Config

    def __init__(self, cfg: Arm.Config) -> None:
        super().__init__(cfg)
        for name in cfg.strategies:
            if name not in STRATEGIES:
                raise BadInput(f"Arm.Config.strategies: {name!r} does not exist: {closest(name, STRATEGIES)}")
        for schedule in (cfg.lottery_schedule, cfg.control_schedule):
            if schedule not in SCHEDULES:
                raise BadInput(f"Arm.Config: schedule {schedule!r} does not exist: {closest(schedule, SCHEDULES)}")
        if cfg.criterion not in (RANDOM, NOTHING):
            criterion(cfg.criterion)
        if (cfg.criterion == NOTHING) != (cfg.strategies == ["full"]):
            raise BadInput(
                f"Arm.Config: criterion {cfg.criterion!r} with strategies {cfg.strategies}: the full model alone goes with "
                f"criterion {NOTHING!r}, and nothing else does"
            )
        if outside := [t for t in cfg.controls if not 1 <= t <= len(cfg.steps)]:
            raise BadInput(f"Arm.Config.controls holds {outside[0]}: there are the rounds 1 to {len(cfg.steps)}")
        if cfg.criterion == RANDOM and "iterative" in cfg.strategies:
            raise BadInput("Arm.Config: random dropping has no scores to estimate anew: its iterative arm is one_shot")

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Every strategy of every draw, one after the other."""
        cfg = self.cfg
        self.work = work
        self.found: dict[str, list[dict[str, Any]]] = {"rows": [], "loads": [], "saturation": []}  # so far
        self.losses: list[Float[Tensor, "windows"]] = []  # of every test window, a tensor for each of the rows
        self.hardware = choose(work.device)
        work.notes["hardware"] = self.hardware.as_dict()
        base = cfg.base
        self.full = load_model(work.result_of(base), base).to(self.hardware.device)
        self.train = windows(base.source, "train", base.seq_len)
        held_out = Text.spread(base, "validation", cfg.calibration)
        self.calibration = [tokens[:, :-1] for tokens in held_out.on(self.full)]
        self.scored = Text.evaluation(base, cfg.split, base.eval_windows)
        count, scored = cfg.per_round * len(cfg.steps), cfg.criterion not in (RANDOM, NOTHING)
        statistics = self._statistics(self.full) if scored else []
        self.first: Kept = [
            chosen(layer, cfg.criterion, count, "min") for layer in statistics
        ]  # by the full model's scores
        for draw in cfg.draws:
            for name in cfg.strategies:
                ends = [len(cfg.steps)]
                if name in LOTTERIES and cfg.lottery_schedule == WHOLE:
                    ends = sorted({*cfg.controls, *ends})
                for known, end in zip([0, *ends], ends, strict=False):
                    self._trajectory(name, draw, known, end)
        save_file({"loss": torch.stack(self.losses)}, work.folder / "units.safetensors")
        return self.found

    def _statistics(self, model: Decoder) -> list[LayerStatistics]:
        gradients = criterion(self.cfg.criterion).cost == "backward"
        return collect(model, self.calibration, model.embedding.weight.shape[0], gradients=gradients)

    def _trajectory(self, name: str, draw: int, known: int, end: int) -> None:
        """Rounds 1 to `end`; those after `known` are measured."""
        cfg, model = self.cfg, copy.deepcopy(self.full)
        layers = mixture_layers(model)
        kept: Kept = [list(range(layer.num_experts)) for layer in layers]
        order = self.first
        if cfg.criterion == RANDOM:
            order = random_order(cfg.base.seed, draw, layers[0].num_experts, len(layers))
        used = 0
        for t, steps in enumerate(cfg.steps[:end], start=1):
            if name != "full":
                fixed = cfg.criterion == RANDOM or name == "one_shot" or t == 1
                self._drop(model, kept, order if fixed else None, t)
            if name not in LOTTERIES:
                if name != "full":
                    self._measure(model, name, draw, t, 0, kept)
                if t in cfg.controls:
                    tuned = copy.deepcopy(model)
                    pieces = cfg.steps[:t] if cfg.control_schedule == PER_ROUND else [sum(cfg.steps[:t])]
                    self._repair(tuned, f"{name}_tokens", draw, t, 0, pieces, kept)
            if t == len(cfg.steps) and name in ("one_shot", "lottery", "full") and cfg.saturation:
                self._saturate(model, name, used)
            if name in LOTTERIES:
                whole = sum(cfg.steps[:end]) if cfg.lottery_schedule == WHOLE else None
                if t > known:
                    self._repair(model, name, draw, t, used, [steps], kept, whole)
                else:
                    self._tuned(model, name, draw, t, used, steps, cfg.lottery_factor, whole)
                used += steps

    def _repair(
        self, model: Decoder, name: str, draw: int, t: int, start: int, pieces: Sequence[int], kept: Kept, whole: int | None = None
    ) -> None:  # fmt: skip
        """Fine-tune in place, measure, and compare the loads if it is the round for it."""
        watched = t == self.cfg.load_round and name in (*LOTTERIES, "full_tokens")
        before = self._load(model)[1] if watched else []
        for steps in pieces:
            factor = self.cfg.lottery_factor if name in LOTTERIES else self.cfg.control_factor
            self._tuned(model, name, draw, t, start, steps, factor, whole)
            start += steps
        after = self._measure(model, name, draw, t, start, kept)
        for layer, shares in enumerate(before):
            self.found["loads"].append({
                "strategy": name, "draw": draw, "layer": layer, "kept": kept[layer], "before": shares, "after": after[layer],
            })  # fmt: skip

    def _drop(self, model: Decoder, kept: Kept, order: Kept | None, t: int) -> None:
        """Round t: drop by the given order, or by the scores of the model as it is; `kept` follows."""
        r = self.cfg.per_round
        if order is None:
            statistics = self._statistics(model)
            out = {i: chosen(stats, self.cfg.criterion, r, "min") for i, stats in enumerate(statistics)}
        else:
            out = {i: [kept[i].index(e) for e in layer[(t - 1) * r : t * r]] for i, layer in enumerate(order)}
        for i, places in drop_experts(model, out).items():
            kept[i] = [kept[i][place] for place in places]

    def _tuned(
        self, model: Decoder, name: str, draw: int, t: int, start: int, steps: int, factor: float, whole: int | None = None
    ) -> Decoder:  # fmt: skip
        """Fine-tune in place on the `steps` batches of the stream from batch `start` on, with a cosine of their own or as a piece of one
        that has `whole` steps."""
        if steps == 0:
            return model
        cfg = self.cfg
        trains = {"lottery_router": is_router, "lottery_frozen_router": lambda p: not is_router(p)}
        finetune(
            model, Stretch(self.train, cfg.base.seed + 1000 * cfg.stream, start * cfg.batch_size, steps * cfg.batch_size),
            steps=steps, batch_size=cfg.batch_size, learning_rate=factor * rate_at(cfg.learning_rates, whole or steps), seed=cfg.base.seed,
            work=self.work, name=f"{name}-{draw}-{t}-{start}-{steps}-{whole}", piece=(start, whole) if whole else None,
            trains=trains.get(name, lambda p: True), balance=name == "lottery_balanced",
        )  # fmt: skip
        return model

    def _saturate(self, model: Decoder, name: str, used: int) -> None:
        """The loss of the last model after more and more fine-tuning, every amount from the model just dropped to, in one cosine. Rates
        were tuned for these amounts after one-shot dropping and for the full model; a lottery has its factor."""
        factor = self.cfg.lottery_factor if name in LOTTERIES else 1.0
        for steps in (0, *self.cfg.saturation):
            tuned = self._tuned(copy.deepcopy(model), f"{name}_saturation", 0, len(self.cfg.steps), used, steps, factor)
            loss = self._load(tuned)[0].mean().item()
            self.found["saturation"].append({"strategy": name, "tokens": self._tokens(steps), "loss": loss})

    def _load(self, model: Decoder) -> tuple[Float[Tensor, "windows"], list[list[float]]]:
        """The loss of every scored window, and the share of the tokens of every expert, layer by layer."""
        with counting(model) as counts:
            losses = window_losses(model, self.scored.tokens, self.hardware.precision)
        return losses, [(layer / layer.sum()).tolist() for layer in counts]

    def _measure(self, model: Decoder, name: str, draw: int, t: int, steps: int, kept: Kept) -> list[list[float]]:
        losses, loads = self._load(model)
        self.losses.append(losses)
        self.found["rows"].append({
            "strategy": name, "draw": draw, "round": t, "tokens": self._tokens(steps), "loss": losses.mean().item(),
            "kept": [list(layer) for layer in kept],
        })  # fmt: skip
        return loads

    def _tokens(self, steps: int) -> int:
        return steps * self.cfg.batch_size * self.cfg.base.seq_len

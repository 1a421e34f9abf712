"""AdamW and the schedule of its learning rate.

    rate(step) = learning_rate * min(1, (step + 1) / warmup) * decay(share of the steps after warm-up that are done)

Weight decay is on matrices only, see :func:`decays`. Sources: Loshchilov & Hutter, arXiv 1711.05101 (AdamW) and 1608.03983 (cosine).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from orchard.config import Configurable

NORMS = (
    "RMSNorm",
    "LayerNorm",
    "GroupNorm",
)  # how the class names of norms end, here, in PyTorch and in `transformers`


class Decay(Configurable):
    """What becomes of the learning rate after warm-up: from 1 down to ``final_fraction`` of it."""

    class Config(Configurable.Config):
        final_fraction: float = 0.1  # at the last step

    def __init__(self, cfg: Decay.Config) -> None:
        self.cfg = cfg

    def factor(self, done: float) -> float:
        """The factor on the learning rate when ``done`` (0 … 1) of the steps after warm-up are over."""
        raise NotImplementedError(f"{type(self).__name__} does not say how the rate falls: define factor()")


class Cosine(Decay):
    """Half a cosine."""

    def factor(self, done: float) -> float:
        return self.cfg.final_fraction + (1 - self.cfg.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))


class Linear(Decay):
    """A straight line; with ``final_fraction`` 1 the rate stays as it is."""

    def factor(self, done: float) -> float:
        return 1 - (1 - self.cfg.final_fraction) * done


class AdamW(Configurable):
    """AdamW with linear warm-up and a decay; weight decay on matrices only."""

    class Config(Configurable.Config):
        learning_rate: float = 1e-3
        betas: list[float] = [0.9, 0.95]
        weight_decay: float = 0.1
        warmup_fraction: float = 0.04  # of the steps
        decay: Decay.Config = Cosine.Config()  # of the rate after warm-up

    def __init__(self, cfg: AdamW.Config) -> None:
        self.cfg = cfg
        self.decay: Decay = cfg.decay.build()

    def scale(self, step: int, steps: int) -> float:
        """The factor on the learning rate at ``step`` of ``steps``."""
        warmup = max(1, round(self.cfg.warmup_fraction * steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return self.decay.factor(min(1.0, done))

    def optimizer(self, module: nn.Module, fused: bool) -> torch.optim.AdamW:
        """The optimizer for the parameters of ``module``."""
        return self.optimizer_of([(module, self.cfg.learning_rate)], fused)

    def optimizer_of(
        self, parts: Sequence[tuple[nn.Module, float]], fused: bool, spared: Collection[int] = ()
    ) -> torch.optim.AdamW:
        """The optimizer for modules that learn at rates of their own; see :func:`parameter_groups`."""
        groups = parameter_groups(parts, self.cfg.weight_decay, spared)
        betas = (self.cfg.betas[0], self.cfg.betas[1])
        return torch.optim.AdamW(groups, lr=self.cfg.learning_rate, betas=betas, fused=fused)


def parameter_groups(
    parts: Sequence[tuple[nn.Module, float]], weight_decay: float, spared: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Groups for AdamW: each module at its learning rate, weight decay where it :func:`decays`, but not on parameters whose
    ``id`` is spared.

    Parameters that need no gradient are left out.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for part, rate in parts:
        for module in part.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    decay = decays(module, name, parameter) and id(parameter) not in spared
                    groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": weight_decay if decay else 0.0}
        for (rate, decay), parameters in groups.items()
    ]


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for the parameter ``name`` of this module: for what multiplies vectors as a matrix does.

    The weights of linear maps and embeddings, and what else has two dimensions or more (experts, routers). Biases and the gains of
    norms do not decay, of whatever shape: a gain of [heads, head_dim] is no matrix.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        return name == "weight"
    return parameter.ndim >= 2 and not type(module).__name__.endswith(NORMS)

"""Rank statistics of MC-Suite: agreement with the oracle, between criteria and between samples; information about domains.

    rho(l) = Spearman correlation over the n experts of layer l        pooled: mean over the layers of a model, then over models
    I(E; D) = sum_{e, d} p(e, d) log2 p(e, d) / (p(e) p(d))            bits that the choice of an expert tells about the domain

An infinite score (an expert that no token reached) is the lowest or highest rank. A criterion that gives all experts of a layer one
score has no rho there (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy  # its submodules load when first used
import torch
from jaxtyping import Float, Int
from torch import Tensor

from orchard.papers.moe_lottery.method.criteria import CRITERIA

Array = npt.NDArray[Any]
LEAVE_ONE_OUT = "leave_one_out"
RESAMPLES = 1000


def group_of(criterion: str) -> str:
    """Group of a criterion; what is none is a group of its own."""
    return CRITERIA[criterion].group if criterion in CRITERIA else "oracle" if criterion == LEAVE_ONE_OUT else criterion


def correlations(first: Array, second: Array) -> Array:
    """Spearman's rho along the last axis, mid-ranks for ties; NaN where one of the two is constant."""
    a, b = (scipy.stats.rankdata(values, axis=-1) for values in (first, second))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def rho(first: Array, second: Array) -> float:
    """Spearman's rho of two rows of scores."""
    return float(correlations(first, second))


def by_layer(importance: pd.DataFrame) -> pd.DataFrame:
    """rho of every criterion with the increase of the loss, by model and layer."""
    groups = importance.groupby(["model", "seed", "criterion", "group", "layer"], sort=False)[["score", "increase"]]
    found = groups.apply(lambda own: rho(own["score"].to_numpy(), own["increase"].to_numpy()))
    return found.rename("rho").reset_index()


def pooled(importance: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Criterion, group, rho, low, high: mean over layers and models with a 95 % interval.

    A resample draws models, and for each the experts of every layer, with replacement; every criterion sees the same resamples. The
    row "random" is what orders without knowledge give: the mean and the central 95 % of as many random orders.
    """
    generator = np.random.default_rng(seed)
    criteria = list(pd.unique(importance["criterion"]))
    real, again, chance = list[Array](), list[Array](), list[Array]()  # by model; [criteria, resamples]
    for _, own in importance.groupby("model", sort=False):
        scores = own.pivot(index=["layer", "expert"], columns="criterion", values="score")[criteria]
        cost = own.drop_duplicates(["layer", "expert"]).set_index(["layer", "expert"])["increase"]
        exact, found, null = list[Array](), list[Array](), list[Array]()
        for layer, costs in cost.groupby("layer"):
            values, table = costs.to_numpy(), scores.loc[layer].to_numpy().T
            drawn = generator.integers(len(values), size=(RESAMPLES, len(values)))
            exact.append(correlations(table, values))
            found.append(correlations(table[:, drawn], values[drawn]))
            null.append(correlations(generator.random((RESAMPLES, len(values))), np.broadcast_to(values, drawn.shape)))
        real.append(_mean(exact))
        again.append(_mean(found))
        chance.append(np.mean(null, axis=0))
    drawn = generator.integers(len(chance), size=(RESAMPLES, len(chance)))
    resamples = np.stack(again)[drawn, :, np.arange(RESAMPLES)[:, None]].mean(axis=1).T
    by_chance, rows = np.mean(chance, axis=0), []
    means = [*np.mean(real, axis=0), by_chance.mean()]
    for name, value, sample in zip([*criteria, "random"], means, [*resamples, by_chance], strict=True):
        known = sample[~np.isnan(sample)]
        low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
        rows.append({"criterion": name, "group": group_of(name), "rho": float(value), "low": low, "high": high})
    return pd.DataFrame(rows)


def _mean(layers: Sequence[Array]) -> Array:
    """Mean over the layers in which a criterion tells experts apart; NaN where there is none."""
    known = ~np.isnan(layers)
    return np.nansum(layers, axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


def between(importance: pd.DataFrame) -> pd.DataFrame:
    """Columns first, second, rho: rank correlation of two criteria, mean over layers and models."""
    names = pd.unique(importance["criterion"])
    scores = importance.pivot(index=["model", "layer", "expert"], columns="criterion", values="score")[names]
    found = [own.rank().corr() for _, own in scores.groupby(level=["model", "layer"])]
    mean = pd.concat(found).groupby(level=0, sort=False).mean()  # over the layers where neither is constant
    mean = mean.rename_axis(index="second", columns="first")  # symmetric
    return mean.melt(ignore_index=False, value_name="rho").reset_index()[["first", "second", "rho"]]


def by_domain(
    routed: Int[Tensor, "layers n documents"], domain: Int[Tensor, "documents"], domains: int
) -> Float[Tensor, "layers n domains"]:
    """Tokens that went to every expert, by the domain of their document."""
    counts = torch.zeros(*routed.shape[:2], domains, dtype=torch.float64)
    return counts.index_add_(2, domain.long(), routed.double())


def information(counts: Float[Tensor, "layers n domains"]) -> Float[Tensor, "layers"]:
    """Mutual information of expert and domain in bits, layer by layer."""
    joint = counts / counts.sum(dim=(1, 2), keepdim=True)
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=2, keepdim=True)
    return (torch.special.xlogy(joint, joint / apart.clamp_min(1e-300))).sum(dim=(1, 2)) / np.log(2)


def shuffled(domain: Int[Tensor, "documents"], draw: int) -> Int[Tensor, "documents"]:
    """The domains of the documents in a random order."""
    return domain[torch.randperm(len(domain), generator=torch.Generator().manual_seed(draw))]

"""What masks have in common: overlap |A & B| / k, channels in use, and the gauge that says when they have collapsed.

    overlap(A, B) = |A & B| / k       the paper's; a Jaccard index J of the same pair is o / (2 - o)
    chance        = k / D             of two random masks; without it an overlap means little
    union         = share of the channels that any prompt uses       (chance: everything; collapsed: k / D)

Shapes: masks [prompts, layers, D], True k times in every row. Source: IFPruning (arXiv 2501.02086), section 4.4 and Figure 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from orchard.errors import Failed

Masks = Bool[Tensor, "prompts layers width"]
COLLAPSED = 0.9  # mean overlap across domains from which masks no longer depend on the prompt
IN_USE = 1.5  # times k/D: channels that must be in use


def overlaps(masks: Masks) -> Float[Tensor, "layers prompts others"]:
    """Overlap of every pair of masks, layer by layer."""
    by_layer = masks.float().transpose(0, 1)
    return by_layer @ by_layer.transpose(1, 2) / masks[0, 0].sum()


def by_domain(
    masks: Masks, domain: Int[Tensor, "prompts"], num_domains: int
) -> Float[Tensor, "layers domains domains"]:
    """Mean overlap of the prompts of two domains; on the diagonal of different prompts of one (NaN where there is one only)."""
    member = torch.nn.functional.one_hot(domain, num_domains).float()
    pairs = overlaps(masks)
    pairs.diagonal(dim1=1, dim2=2).zero_()
    counts = member.sum(0)[:, None] * member.sum(0)[None, :] - torch.diag(member.sum(0))
    return member.T @ pairs @ member / counts


def gauge(masks: Masks, domain: Int[Tensor, "prompts"], num_domains: int) -> dict[str, float]:
    """Means over layers: overlap ``within`` and ``across`` domains, ``union``, ``use`` (entropy of channel use over its maximum),
    and ``chance`` (k/D)."""
    means = by_domain(masks, domain, num_domains)
    same = torch.eye(num_domains, dtype=torch.bool)
    used = masks.float().mean(dim=0)
    share = used / used.sum(dim=-1, keepdim=True)
    entropy = torch.special.entr(share).sum(dim=-1).mean() / torch.log(torch.tensor(float(masks.shape[-1])))
    return {
        "within": means[:, same].nanmean().item(), "across": means[:, ~same].nanmean().item(),
        "union": (used > 0).float().mean().item(), "use": entropy.item(), "chance": masks[0, 0].float().mean().item(),
    }  # fmt: skip


def collapsed(measured: dict[str, float]) -> str:
    """Why masks with this gauge are the same for all prompts, or nothing."""
    if measured["across"] >= COLLAPSED:
        return f"masks of different domains overlap by {measured['across']:.3f}, {COLLAPSED} or more"
    if measured["union"] <= IN_USE * measured["chance"]:
        return f"only {measured['union']:.3f} of the channels are in use, {IN_USE} k/D is {IN_USE * measured['chance']:.3f}"
    return ""


class Collapsed(Failed):
    """Masks no longer depend on the prompt: the run is a statically pruned model under another name."""

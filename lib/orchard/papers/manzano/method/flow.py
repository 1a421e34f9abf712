"""Flow matching: a decoder learns the straight way from a picture to noise, and drawing goes it backwards.

    x_t = (1 - t) x_0 + t e         v* = e - x_0         t = sigmoid(N(1, 1))         loss = mean (v(x_t, t, codes) - v*)²
    x_(t - s) = x_t - s v(x_t)      from x_1 = e to x_0, s = 1 / steps (Euler)
    v = v(no codes) + w (v(codes) - v(no codes))                                      guidance w; 1 is the codes alone

With the exact v* Euler gives x_0 for any number of steps. Codes are dropped for a tenth of the samples, to learn v without them.
The paper says flow matching and no more: the rest is as in Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206) or our choice. The
times are later than there: what a small picture shows is settled while there is mostly noise.

x_0, e, v [b, height, width, c]; t [b]; codes [b, n, k].
Sources: Manzano, arXiv 2509.16197 (image decoder); Lipman et al. 2023, arXiv 2210.02747; Ho and Salimans 2022, arXiv 2207.12598 (guidance).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from orchard.papers.manzano.method.decoder import ImageDecoder

Pictures = Float[Tensor, "b height width c"]
Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t [b]) -> v."""
LOCATION = 1.0  # of the times, before the sigmoid


def noised(x0: Pictures, noise: Pictures, t: Float[Tensor, "b"]) -> Pictures:
    """x_t."""
    t = t[:, None, None, None]
    return (1 - t) * x0 + t * noise


def logit_normal(count: int, generator: torch.Generator | None = None) -> Float[Tensor, "b"]:
    """Times of training, drawn on the generator's device."""
    place = None if generator is None else generator.device
    return (torch.randn(count, generator=generator, device=place) + LOCATION).sigmoid()


def flow_loss(
    decoder: ImageDecoder,
    x0: Pictures,
    codes: Float[Tensor, "b n k"],
    generator: torch.Generator | None = None,
    drop: float = 0.1,
    reference: Pictures | None = None,
) -> Float[Tensor, ""]:
    """The mean squared error of the velocity; noise, times and dropped codes are drawn. Raises ValueError for a share outside 0 ... 1."""
    if not 0 <= drop <= 1:
        raise ValueError(f"flow_loss(drop={drop}): it is the share of samples whose codes are dropped, 0 ... 1")
    noise = _normal(x0, generator)
    t = logit_normal(len(x0), generator).to(x0)
    place = None if generator is None else generator.device
    dropped = (torch.rand(len(x0), generator=generator, device=place) < drop).to(x0.device)
    v = decoder(noised(x0, noise, t), t, codes, dropped, reference)
    return (v.float() - (noise - x0)).square().mean()


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """On the generator's device first, so that one on the CPU gives the same noise everywhere."""
    place = None if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=place).to(like)


def euler(velocity: Velocity, noise: Pictures, steps: int) -> Pictures:
    """x_0 from x_1 in equal steps. Raises ValueError for fewer than one."""
    if steps < 1:
        raise ValueError(f"euler(steps={steps}): give at least 1 step from noise to a picture")
    x = noise
    for i in range(steps):
        t = x.new_full((len(x),), 1 - i / steps)
        x = x - velocity(x, t) / steps
    return x


def guided(
    decoder: ImageDecoder, codes: Float[Tensor, "b n k"], guidance: float, reference: Pictures | None = None
) -> Velocity:
    """The velocity with guidance; 1 asks the decoder once a step, everything else twice as many rows. A reference is always told."""
    if guidance == 1:
        return lambda x, t: decoder(x, t, codes, None, reference)
    dropped = torch.arange(2 * len(codes), device=codes.device) >= len(codes)
    both = None if reference is None else torch.cat((reference, reference))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        rows = decoder(torch.cat((x, x)), torch.cat((t, t)), torch.cat((codes, codes)), dropped, both)
        told, untold = rows.chunk(2)
        return untold + guidance * (told - untold)

    return velocity


@torch.no_grad()
def sample(
    decoder: ImageDecoder,
    codes: Float[Tensor, "b n k"],
    steps: int = 20,
    guidance: float = 1.5,
    generator: torch.Generator | None = None,
    reference: Pictures | None = None,
) -> Pictures:
    """Pictures drawn from codes, in about -1 ... 1; not clipped."""
    noise = _normal(decoder.places.new_empty(len(codes), *decoder.shape), generator)
    return euler(guided(decoder, codes.to(noise), guidance, reference), noise, steps)

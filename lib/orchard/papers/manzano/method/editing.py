"""Editing: an instruction and a reference picture in, the edited picture out; who of the two models sees the reference.

    language model    <img_start> c_1 ... c_n <img_end> instruction <img_start> T_1 ... T_n <img_end>       targets T: the edited picture
    image decoder     [codes of T ; clean patches of the reference ; noisy patches]

The codes hold what text speaks of, so what no text mentions (tint, noise) can only come from the decoder's reference, and which object
is meant only from that of the language model. The paper gives it to both; that the language model reads continuous vectors, and the
decoder clean patches in its context, are our choices. Both are arguments of `unified.generation`, `unified.draw_codes` and `flow.sample`.

Source: Manzano, arXiv 2509.16197 (figure 9, editing).
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from orchard.papers.manzano.method.flow import Pictures


def edit_errors(
    made: Pictures, wanted: Pictures, changed: Bool[Tensor, "b height width"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Mean squared error of each picture inside the changed region and outside it; NaN where a region is empty."""
    error = (made - wanted).square().mean(dim=-1)
    inside, outside = ((error * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2)) for region in (changed, ~changed))
    return inside, outside

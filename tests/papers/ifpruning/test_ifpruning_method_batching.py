"""A batch under the union of its masks gives what each request gives alone; batches by overlap are complete, fair and narrower."""

from __future__ import annotations

import pytest
import torch

from orchard.errors import BadInput
from orchard.nn import Decoder
from orchard.papers.ifpruning.method.batching import (
    by_overlap,
    fifo,
    one_by_one,
    union,
    union_width,
)
from orchard.papers.ifpruning.method.masks import masked, masked_layers
from orchard.papers.ifpruning.method.models import Size, decoder
from orchard.papers.ifpruning.method.softtopk import hard_top_k

SIZE = Size(dim=20, num_layers=3, num_heads=2, num_kv_heads=1, width=37, keep=11)


def model() -> tuple[Decoder.Config, Decoder]:
    torch.manual_seed(3)
    cfg = masked(decoder(SIZE, SIZE.width, 31), SIZE.keep)
    built: Decoder = cfg.clone().build().eval()
    with torch.no_grad():
        for layer in built.layers:
            layer.feed_forward.down_proj.weight.mul_(20)
    return cfg, built


def gates(count: int, seed: int = 0) -> torch.Tensor:
    """Random gates between 0.2 and 1 of random masks."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(count, SIZE.num_layers, SIZE.width, generator=random)
    return hard_top_k(z, SIZE.keep) * (0.2 + 0.8 * torch.rand(z.shape, generator=random))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_gives_what_each_request_gives_alone(count: int) -> None:
    cfg, built = model()
    mixed, tokens = gates(count), torch.randint(31, (count, 9))
    made = union(cfg, built, mixed)
    torch.testing.assert_close(made.logits(tokens), one_by_one(built, mixed, tokens), atol=1e-5, rtol=1e-5)
    assert all(layer.gates is None for layer in masked_layers(made.decoder))


def test_the_union_has_the_channels_of_the_masks_and_no_others() -> None:
    cfg, built = model()
    mixed = gates(3)
    made = union(cfg, built, mixed)
    expected = [len({int(c) for row in mixed[:, i] for c in row.nonzero()}) for i in range(SIZE.num_layers)]
    assert made.widths == expected
    assert union_width(mixed > 0) == pytest.approx(sum(expected) / (SIZE.num_layers * SIZE.keep))
    assert [layer.down_proj.in_features for layer in masked_layers(made.decoder)] == expected
    assert max(expected) < SIZE.width


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    cfg, built = model()
    mixed, tokens = gates(2), torch.randint(31, (2, 8))
    alone = one_by_one(built, mixed[1:], tokens[1:, :5])
    torch.testing.assert_close(union(cfg, built, mixed).logits(tokens)[1:, :5], alone, atol=1e-5, rtol=1e-5)


def clustered(count: int) -> torch.Tensor:
    """Masks of four kinds in turn, each with a channel of its own."""
    masks = torch.zeros(count, 2, 40, dtype=torch.bool)
    for i in range(count):
        kind = i % 4
        masks[i, :, kind * 8 : kind * 8 + 5] = True
        masks[i, :, kind * 8 + 5 + i % 3] = True
    return masks


@pytest.mark.parametrize(("count", "size", "window"), [(1, 1, 1), (23, 3, 12), (24, 4, 24), (7, 8, 9), (30, 5, 5)])
def test_every_request_is_in_one_batch_and_the_oldest_goes_first(count: int, size: int, window: int) -> None:
    batches = by_overlap(clustered(count), size, window)
    assert sorted(i for batch in batches for i in batch) == list(range(count))
    served: set[int] = set()
    for batch in batches:
        assert batch[0] == min(set(range(count)) - served)
        served |= set(batch)
    assert all(len(batch) == size for batch in batches[:-1])


def test_batches_by_overlap_need_fewer_channels_than_first_come_first_served() -> None:
    masks = clustered(48)
    near = [union_width(masks[batch]) for batch in by_overlap(masks, 4, 48)]
    plain = [union_width(masks[batch]) for batch in fifo(48, 4)]
    assert max(near) <= 8 / 6  # one kind: five channels in common, at most three of their own
    assert min(plain) == 4


def test_a_window_of_one_batch_is_first_come_first_served() -> None:
    batches = by_overlap(clustered(11), 4, 4)
    assert [sorted(batch) for batch in batches] == fifo(11, 4)
    assert fifo(11, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize(("size", "window"), [(0, 4), (5, 4)])
def test_batches_that_cannot_be_made_are_refused(size: int, window: int) -> None:
    with pytest.raises(BadInput, match=f"batches of {size} from {window} waiting requests"):
        by_overlap(clustered(6), size, window)
    with pytest.raises(BadInput, match="batches of 0 requests: give at least 1"):
        fifo(6, 0)

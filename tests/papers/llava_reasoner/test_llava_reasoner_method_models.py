"""The builder, and the published shapes on the meta device."""

from __future__ import annotations

import torch

from orchard.papers.llava_reasoner.method import Picture, Size, vision_language_model
from orchard.papers.llava_reasoner.method.models import MOST_CROPS, PAPER_PICTURE, published


def test_the_laptop_model_is_what_its_profile_says() -> None:
    picture = Picture(36, 48)
    assert picture.tokens == 12  # four bars of 12 pixels: one column of vectors each
    cfg = vision_language_model(picture, Size(48, 2, 4, 128), Size(64, 2, 4, 170), vocab_size=60, hidden_dim=96)
    model = cfg.build()
    assert model.n == 12
    assert 0.15e6 < sum(p.numel() for p in model.parameters()) < 0.25e6
    assert cfg.build().decoder.head is None  # tied
    assert [layer.attention.causal for layer in (*model.vision.layers, *model.decoder.layers)] == [False] * 2 + [
        True
    ] * 2


def test_equal_seeds_give_equal_models() -> None:
    cfg = vision_language_model(Picture(12, 12), Size(8, 1, 2, 8), Size(8, 1, 2, 8), vocab_size=9, hidden_dim=8)
    torch.manual_seed(1)
    first = cfg.build().state_dict()
    torch.manual_seed(1)
    assert all(torch.equal(first[name], value) for name, value in cfg.build().state_dict().items())


def test_published_shapes() -> None:
    assert PAPER_PICTURE.tokens == 576
    assert MOST_CROPS * PAPER_PICTURE.tokens == 2880
    with torch.device("meta"):
        model = published().build()
    assert model.decoder.num_parameters() == 8_030_261_248  # Llama 3 8B
    connector = sum(p.numel() for p in model.connector.parameters())
    assert connector == (1024 * 4096 + 4096) + (4096 * 4096 + 4096)  # two layers with biases, no norm
    blocks = sum(p.numel() for p in model.vision.layers.parameters())
    assert abs(blocks / (23 * 12 * 1024**2) - 1) < 0.001  # 4 d² of attention and 8 d² of feed-forward in each layer
    features = model.features(torch.zeros(1, 336, 336, 3, device="meta"))
    assert model.prefix(features).shape == (1, 576, 4096)

"""Manzano: a hybrid vision tokenizer, one language model over text and codes, and a decoder from codes to pixels.

    c = MLP_c(STC(ViT(picture)))                  ids = FSQ(P STC(ViT(picture)))                     tokenizer
    L = mean_text(-log p) + 0.5 mean_image(-log p)                                                   language model
    x_t = (1 - t) x_0 + t e                       loss = mean (v(x_t, t, FSQ values of ids) - (e - x_0))²   image decoder

Read a picture, write one, and draw it:

    picture, vocabulary = Picture(36, 36), Vocabulary(text_size=40, codes=1000)
    tok = tokenizer(picture, Size(48, 2, 4, 128), [8, 5, 5, 5], hidden_dim=96, dim=64).build().freeze()
    llm = language_model(Size(64, 2, 4, 170), vocabulary).build()
    vectors, ids = tok.encode(pictures)                                    # [b, 9, 64], [b, 9]
    batch = Sequences.joined([
        understanding(vocabulary, 9, questions, answers), generation(vocabulary, captions, ids), plain_text(vocabulary, documents),
    ])
    loss = losses(llm, batch, vectors).total()
    codes = draw_codes(llm, vocabulary, captions, 9, Sampling(temperature=1.0, top_p=0.95))
    air = image_decoder(picture, Size(64, 3, 4), patch=6, code_dim=4).build()
    flow_loss(air, unit_pixels(pictures), tok.quantizer.values(ids))
    drawn = sample(air, tok.quantizer.values(codes))                       # [b, 36, 36, 3], -1 ... 1

Sequences are in `unified.py`, pixels in `tokenizer.py`. `naive.py` is the specification of STC, FSQ and the loss, `editing.py` says who
sees the picture that is edited, `autoencoder.py` makes the codes of the dual-encoder arm.
Source: Li et al. 2026, arXiv 2509.16197.
"""

from orchard.papers.manzano.method.autoencoder import AutoEncoder
from orchard.papers.manzano.method.decoder import ImageDecoder
from orchard.papers.manzano.method.flow import flow_loss, sample
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.models import Picture, Size, image_decoder, language_model, tokenizer
from orchard.papers.manzano.method.tokenizer import HybridTokenizer
from orchard.papers.manzano.method.unified import Sequences, Vocabulary, draw_codes, losses

__all__ = [
    "FSQ", "AutoEncoder", "HybridTokenizer", "ImageDecoder", "Picture", "Sequences", "Size", "Vocabulary", "draw_codes", "flow_loss",
    "image_decoder", "language_model", "losses", "sample", "tokenizer",
]  # fmt: skip

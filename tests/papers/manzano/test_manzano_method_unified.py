"""The unified model: ids, layouts, slots, the loss of each modality, what may be drawn, caches."""

from __future__ import annotations

import pytest
import torch
from manzano_tiny import VOCABULARY, tiny_language_model

from orchard.nn import Sampling
from orchard.papers.manzano.method import Vocabulary, draw_codes, losses, naive
from orchard.papers.manzano.method.unified import (
    IMAGE,
    READ,
    SLOT,
    TEXT,
    Losses,
    Sequences,
    answers,
    generation,
    plain_text,
    read,
    understanding,
)

START, END, CODE = 7, 8, 9
CODES = torch.tensor([[0, 59], [3, 4]])


def mixed() -> Sequences:
    """Two sequences with a slot, two that draw, one of text."""
    und = understanding(VOCABULARY, 2, [[1], []], [[2, 3], [4]])
    return Sequences.joined([und, generation(VOCABULARY, [[5], [6, 1]], CODES), plain_text(VOCABULARY, [[1, 2, 3]])])


def test_offsets() -> None:
    assert (VOCABULARY.start, VOCABULARY.end, VOCABULARY.first_code, VOCABULARY.size) == (START, END, CODE, 69)
    assert VOCABULARY.text_ids().nonzero().flatten().tolist() == list(range(7))
    assert VOCABULARY.image_ids().nonzero().flatten().tolist() == list(range(9, 69))
    assert VOCABULARY.picture([0, 59]) == [START, CODE, 68, END]
    assert Vocabulary(7, 0).size == 9


def test_layouts_of_the_three_kinds() -> None:
    batch = mixed()
    assert batch.tokens.tolist() == [
        [START, 0, 0, END, 1, 2, 3],
        [START, 0, 0, END, 4, 0, 0],
        [5, START, CODE, 68, END, 0, 0],
        [6, 1, START, CODE + 3, CODE + 4, END, 0],
        [1, 2, 3, 0, 0, 0, 0],
    ]
    assert batch.kinds.tolist() == [
        [READ, SLOT, SLOT, READ, READ, TEXT, TEXT],
        [READ, SLOT, SLOT, READ, TEXT, READ, READ],
        [READ, READ, IMAGE, IMAGE, READ, READ, READ],
        [READ, READ, READ, IMAGE, IMAGE, READ, READ],
        [READ, TEXT, TEXT, READ, READ, READ, READ],
    ]
    assert batch.to("cpu").kinds.dtype == torch.int8


def test_pictures_may_be_shown_as_codes_or_not_at_all() -> None:
    shown = understanding(VOCABULARY, CODES, [[1], [2]], [[3], [4]])
    assert shown.tokens.tolist() == [[START, CODE, 68, END, 1, 3], [START, CODE + 3, CODE + 4, END, 2, 4]]
    assert shown.kinds.tolist() == [[READ] * 5 + [TEXT]] * 2
    assert understanding(VOCABULARY, None, [[1]], [[3]]).tokens.tolist() == [[1, 3]]
    edited = generation(VOCABULARY, [[5]], CODES[:1], 2)
    assert edited.tokens.tolist() == [[START, 0, 0, END, 5, START, CODE, 68, END]]
    assert edited.kinds.tolist() == [[READ, SLOT, SLOT, READ, READ, READ, IMAGE, IMAGE, READ]]


def test_vectors_take_the_places_of_slots() -> None:
    decoder, batch, vectors = tiny_language_model(), mixed(), torch.randn(2, 2, 16, requires_grad=True)
    found = read(decoder, batch, vectors)
    for i in range(5):
        parts = [decoder.embed(batch.tokens[i : i + 1])]
        if i < 2:
            parts = [parts[0][:, :1], vectors[i : i + 1], parts[0][:, 3:]]
        torch.testing.assert_close(found[i : i + 1], decoder.features(embeddings=torch.cat(parts, dim=1)))
    found[0].sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[0].any(dim=-1).all()
    assert not vectors.grad[1].any()


def test_vectors_of_the_embedding_are_the_tokens() -> None:
    """So a slot and a piece of text take the same positions."""
    decoder = tiny_language_model()
    slots, codes = (understanding(VOCABULARY, shown, [[1], [2]], [[3], [4]]) for shown in (2, CODES))
    assert torch.equal(read(decoder, slots, decoder.embed(CODES + CODE)), read(decoder, codes))


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_loss_is_the_specification(weight: float) -> None:
    decoder, batch, vectors = tiny_language_model(), mixed(), torch.randn(2, 2, 16)
    found = losses(decoder, batch, vectors)
    logits = decoder.logits(read(decoder, batch, vectors)).tolist()
    names = {READ: "read", SLOT: "slot", TEXT: "text", IMAGE: "image"}
    kinds = [[names[kind] for kind in row] for row in batch.kinds.tolist()]
    expected = naive.mixture_loss(logits, batch.tokens.tolist(), kinds, weight)
    assert found.total(weight).item() == pytest.approx(expected, rel=1e-5)
    assert (int(found.text_targets), int(found.image_targets)) == (5, 4)


def test_a_modality_weighs_the_same_whatever_its_number_of_tokens() -> None:
    decoder, batch = tiny_language_model(), generation(VOCABULARY, [[5], [6]], CODES)
    text = plain_text(VOCABULARY, [[1, 2, 3]])
    once, thrice = (losses(decoder, Sequences.joined([text] * n + [batch])) for n in (1, 3))
    torch.testing.assert_close(once.total(), thrice.total())
    alone = losses(decoder, batch)
    assert (alone.text.item(), int(alone.text_targets)) == (0, 0)
    torch.testing.assert_close(alone.total(), 0.5 * once.image)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, top_p=0.5)])
def test_drawn_codes_are_codes_and_drawn_answers_text(sampling: Sampling) -> None:
    decoder, prompts = tiny_language_model(), [[1], [2, 3], [4], []]
    codes = draw_codes(decoder, VOCABULARY, prompts, 30, sampling, torch.Generator().manual_seed(0))
    assert codes.shape == (4, 30)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 60
    said = answers(decoder, VOCABULARY, prompts, 9, 5, sampling, torch.Generator().manual_seed(0), torch.randn(4, 2, 16))  # fmt: skip
    assert all(len(answer) <= 9 and set(answer) <= set(range(7)) - {5} for answer in said)


@torch.no_grad()
def test_caches_change_no_code_and_no_answer() -> None:
    decoder, prompts, vectors = tiny_language_model(), [[1, 2], [3], [4, 5]], torch.randn(3, 2, 16)
    drawn = draw_codes(decoder, VOCABULARY, prompts, 6, Sampling(), pictures=vectors)
    said = answers(decoder, VOCABULARY, prompts, 6, 0, Sampling(), shown=vectors)
    for i, prompt in enumerate(prompts):
        codes: list[int] = []
        for _ in range(6):  # as in training: the whole sequence, its vectors in slots
            sequence = generation(VOCABULARY, [prompt], torch.tensor([codes], dtype=torch.long), 2)
            last = decoder.logits(read(decoder, sequence, vectors[i : i + 1]))[0, -2]
            codes.append(int(last.masked_fill(~VOCABULARY.image_ids(), -torch.inf).argmax()) - CODE)
        assert drawn[i].tolist() == codes
        answer: list[int] = []
        while len(answer) < 6 and 0 not in answer:
            sequence = understanding(VOCABULARY, 2, [prompt], [answer])
            last = decoder.logits(read(decoder, sequence, vectors[i : i + 1]))[0, -1]
            answer.append(int(last.masked_fill(~VOCABULARY.text_ids(), -torch.inf).argmax()))
        assert said[i] == [token for token in answer if token != 0]


def test_bad_inputs() -> None:
    decoder = tiny_language_model()
    with pytest.raises(ValueError, match="code 1 of a picture is 60, the vocabulary has 60"):
        generation(VOCABULARY, [[1]], torch.tensor([[0, 60]]))
    with pytest.raises(ValueError, match=r"id 1 of the answer is 7, text has the ids 0 \.\.\. 6"):
        understanding(VOCABULARY, 2, [[1]], [[2, START]])
    with pytest.raises(ValueError, match="slots for 4 vectors, the pictures 0"):
        read(decoder, mixed())
    with pytest.raises(ValueError, match="slots for 4 vectors, the pictures 6"):
        read(decoder, mixed(), torch.randn(3, 2, 16))
    with pytest.raises(ValueError, match="image_weight is -1"):
        Losses(*torch.zeros(2), *torch.ones(2, dtype=torch.long)).total(-1.0)
    with pytest.raises(ValueError, match="0 prompts, 0 pictures, 2 new ids"):
        draw_codes(decoder, VOCABULARY, [], 2, Sampling())
    with pytest.raises(ValueError, match="2 prompts, 1 pictures"):
        draw_codes(decoder, VOCABULARY, [[1], [2]], 2, Sampling(), pictures=torch.randn(1, 2, 16))

"""The controls: each may know what its arm is told and nothing else, learns what it may, and begins as it should."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import Study
from orchard.papers.ifpruning.experiments.profiles import PROFILES, Cell, Steps
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import Gates, Predictor, Selector, masked, masked_layers
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.method.selectors import (
    DomainMasks,
    DomainTable,
    DomainTag,
    Film,
    HardConcrete,
    HashedMasks,
    Prefix,
    Static,
    expected_open,
    sampled,
    settled,
)
from orchard.papers.ifpruning.runs.train import build

WIDTH, KEEP, LAYERS, DIM = 23, 7, 2, 12
CORPUS: FactGrid = FactGrid.Config(num_keys=16, num_values=12).build()
BLIND, TOLD, READS = "knows nothing", "is told the domain", "reads the prompt"
KNOWS: dict[type[Selector], str] = {
    Static: BLIND, DomainTable: TOLD, DomainMasks: TOLD, Film: TOLD, DomainTag: TOLD, HashedMasks: READS, Prefix: READS,
    Predictor: READS,
}  # fmt: skip
LEARNS: dict[type[Selector], set[str]] = {
    Static: {"z"}, DomainTable: {"z"}, DomainMasks: set(), Film: {"factor"}, DomainTag: {"tag"}, HashedMasks: set(),
    Prefix: {"backbone", "head_in", "head_out"}, Predictor: {"backbone", "head_in", "head_out"},
}  # fmt: skip
ALL = pytest.mark.parametrize("kind", list(KNOWS), ids=lambda kind: kind.__name__)


def decoder_config(width: int) -> Decoder.Config:
    block = Block.Config(
        attention=Attention.Config(num_heads=2, head_dim=6), feed_forward=FeedForward.Config(hidden_dim=width)
    )
    return Decoder.Config(vocab_size=CORPUS.vocab_size, dim=DIM, layers=[block] * LAYERS)


def make(kind: type[Selector], **gates: Any) -> Selector:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"num_layers": LAYERS, "gates": Gates.Config(width=WIDTH, keep=KEEP, **gates)}
    if issubclass(kind, Predictor):
        fields |= {"backbone": decoder_config(16).set(tie_embeddings=True), "rank": 9}
    if issubclass(kind, DomainTable | Film | DomainTag):
        fields["num_domains"] = len(CORPUS.domains)
    if kind in (Prefix, DomainTag):
        fields["dim"] = DIM
    made: Selector = kind.Config(**fields).build()
    made.calibrate(batch(), torch.rand(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1)))
    if kind in (Prefix, Film, DomainTag):  # they begin as if they were not there
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


def batch(number: int = 0) -> Examples:
    return CORPUS.batch("sft", 24, 0, number)


def other_prompts(examples: Examples) -> Examples:
    """The same examples, told the same domain, with prompts of other domains."""
    rolled = {name: getattr(examples, name).roll(1, 0) for name in ("prompts", "prompt_lengths")}
    return Examples(**vars(examples) | rolled)


def other_domains(examples: Examples) -> Examples:
    """The same examples and prompts, told another domain."""
    return Examples(**vars(examples) | {"domain": (examples.domain + 1) % len(CORPUS.domains)})


def other_text(examples: Examples) -> Examples:
    """Other tokens under the same prompts and domains."""
    return Examples(**vars(examples) | {"tokens": examples.tokens.roll(1, 0), "counts": examples.counts.roll(1, 0)})


def says(selector: Selector, examples: Examples) -> Tensor:
    """What it tells the decoder, one row per example."""
    with torch.no_grad():
        if isinstance(selector, DomainTag):
            return selector.tag[examples.domain]
        if isinstance(selector, Prefix):
            return selector.head_out(selector.feature(examples.prompts[:, 0], examples.prompt_lengths[:, 0]))
        return selector(examples)[:, 0]


@ALL
def test_each_knows_what_it_may(kind: type[Selector]) -> None:
    selector, examples = make(kind).eval(), batch()
    before = says(selector, examples)
    assert torch.equal(says(selector, other_prompts(examples)), before) == (KNOWS[kind] != READS)
    assert torch.equal(says(selector, other_domains(examples)), before) == (KNOWS[kind] != TOLD)
    assert torch.equal(says(selector, other_text(examples)), before)
    assert bool((before == before[:1]).all()) == (KNOWS[kind] == BLIND)


@ALL
def test_each_learns_what_it_may(kind: type[Selector]) -> None:
    selector = make(kind)
    names = {name.partition(".")[0] for name, parameter in selector.named_parameters() if parameter.requires_grad}
    assert names == LEARNS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KNOWS if kind.prunes], ids=lambda kind: kind.__name__)
def test_masks_open_exactly_k(kind: type[Selector]) -> None:
    found = make(kind)(batch())
    assert found.shape == (24, 1, LAYERS, WIDTH)
    assert ((found != 0).sum(dim=-1) == KEEP).all()


@pytest.mark.parametrize("kind", [Static, DomainTable])
def test_calibrated_spread(kind: type[Selector]) -> None:
    z = make(kind, epsilon=0.2).logits(batch())
    assert z.std(dim=-1).mean().item() / 0.2 == pytest.approx(3.5, rel=0.2)


def test_static_begins_with_the_importance() -> None:
    importance = torch.rand(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1))
    selector = make(Static)
    assert torch.equal(selector.logits(batch())[0, 0].argsort(dim=-1), importance.argsort(dim=-1))


def test_random_masks_of_domains_overlap_by_chance() -> None:
    torch.manual_seed(0)
    cfg = DomainMasks.Config(num_layers=4, num_domains=64, gates=Gates.Config(width=200, keep=50))
    examples = Examples(**vars(batch().take([0] * 64)) | {"domain": torch.arange(64)})
    found = cfg.build()(examples)[:, 0].transpose(0, 1)
    shared = (found @ found.transpose(1, 2)) / 50
    off = shared[:, ~torch.eye(64, dtype=torch.bool)]
    assert off.mean().item() == pytest.approx(0.25, abs=0.01)


def test_hashed_masks_are_alike_for_prompts_that_are() -> None:
    """Equal prompts have equal masks; of different ones, more shared bits mean more shared channels."""
    torch.manual_seed(0)
    selector = make(HashedMasks)
    examples = batch()
    prompts, lengths = examples.prompts[:, 0], examples.prompt_lengths[:, 0]
    z = selector.of_prompts(prompts, lengths)
    assert torch.equal(selector.of_prompts(prompts.clone(), lengths), z)
    bits = torch.sign((selector._last(prompts, lengths) - selector.mean) @ selector.project.T)
    alike = (bits @ bits.T)[~torch.eye(24, dtype=torch.bool)]
    masks = selector.gates.top(z).float().flatten(1)
    shared = (masks @ masks.T)[~torch.eye(24, dtype=torch.bool)]
    assert torch.corrcoef(torch.stack([alike.detach(), shared]))[0, 1] > 0.6


def test_film_and_prefix_begin_as_if_they_were_not_there() -> None:
    torch.manual_seed(0)
    model, examples = masked(decoder_config(KEEP), KEEP).build().eval(), batch()
    film = Film.Config(num_domains=8, num_layers=LAYERS, gates=Gates.Config(width=KEEP, keep=KEEP)).build()
    prefix = Prefix.Config(
        backbone=decoder_config(16).set(tie_embeddings=True), rank=9, dim=DIM, num_layers=LAYERS,
        gates=Gates.Config(width=KEEP, keep=KEEP),
    ).build()  # fmt: skip
    with torch.no_grad():
        wanted = model(examples.tokens)
        for selector in (film, prefix):
            assert not selector.prunes
            with selector.applied(model, examples):
                torch.testing.assert_close(model(examples.tokens), wanted)


@pytest.mark.parametrize("kind", [Prefix, DomainTag])
def test_a_soft_token_is_added_to_the_first_token_and_leaves_no_hook(kind: type[Selector]) -> None:
    torch.manual_seed(0)
    model, prefix, examples = masked(decoder_config(KEEP), KEEP).build().eval(), make(kind), batch()
    soft = says(prefix, examples)
    with torch.no_grad():
        plain = model.embedding(examples.tokens)
        with prefix.applied(model, examples):
            changed = model.embedding(examples.tokens)
        torch.testing.assert_close(changed[:, 0] - plain[:, 0], soft)
        assert torch.equal(changed[:, 1:], plain[:, 1:])
        assert torch.equal(model.embedding(examples.tokens), plain)


@ALL
def test_applied_leaves_no_gates_behind(kind: type[Selector]) -> None:
    torch.manual_seed(0)
    width = KEEP if kind in (Film, Prefix, DomainTag) else WIDTH
    model, examples = masked(decoder_config(width), KEEP).build(), batch()
    selector = make(kind)
    if kind is Film:
        selector.factor = torch.nn.Parameter(selector.factor[..., :KEEP])
    plain = model(examples.tokens)
    with selector.applied(model, examples):
        changed = model(examples.tokens)
    assert not torch.equal(changed, plain)
    assert torch.equal(model(examples.tokens), plain)
    assert all(layer.gates is None for layer in masked_layers(model))


@pytest.fixture(scope="module")
def study() -> Study:
    """A world of 16 keys and decoders of one layer."""
    corpus = FactGrid.Config(num_keys=16, num_values=5, queries=4, num_domains=4, group_size=2, seen=5)
    profile = dataclasses.replace(
        PROFILES["smoke"], size=Size(16, 1, 2, 2, 24, 6), reader=Reader(16, 1, 2, 16, 8), steps=Steps(2, 0, 3), batch_size=6, corpus=corpus
    )  # fmt: skip
    return Study(Cell(profile, corpus, corpus, 0))


def selector_of(study: Study) -> HardConcrete:
    reads = study.predictor()
    arm = study.pruned("concrete", HardConcrete.Config(backbone=reads.backbone, rank=reads.rank))
    torch.manual_seed(0)
    selector = build(arm, study.cell.corpus.build())[1]
    assert isinstance(selector, HardConcrete)
    return selector


@pytest.mark.parametrize("z", [-4.0, -1.6, 0.0, 2.5])
def test_expected_open_against_sampling(z: float) -> None:
    random = torch.Generator().manual_seed(3)
    draws = 200_000
    gates = sampled(torch.full((draws,), z), torch.rand(draws, generator=random))
    probability = expected_open(torch.tensor([z])).item()
    error = 4 * (probability * (1 - probability) / draws) ** 0.5
    assert (gates > 0).float().mean().item() == pytest.approx(probability, abs=error + 1e-6)


def test_gates_reach_both_ends_and_stay_between() -> None:
    gates = sampled(torch.zeros(10_001), torch.rand(10_001, generator=torch.Generator().manual_seed(0)))
    assert gates.min() == 0
    assert gates.max() == 1
    assert torch.equal(sampled(torch.zeros(2), torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))  # no infinities
    assert torch.equal(settled(torch.tensor([-9.0, 0.0, 9.0])), torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(("level", "sign"), [(4.0, 1), (-9.0, -1)])
def test_penalty_moves_multipliers_and_gates(study: Study, level: float, sign: int) -> None:
    """Too many open: both multipliers rise, gates close. Too few: the first falls, the second still rises and opens gates."""
    selector = selector_of(study)
    selector.multipliers.data.copy_(torch.tensor([0.0, 0.02]))
    z = torch.full((3, 1, 1, 24), level, requires_grad=True)
    selector.price(expected_open(z).mean(dim=-1)).backward()
    grad = selector.multipliers.grad
    assert grad is not None
    assert sign * grad[0] < 0  # descent goes against the gradient
    assert grad[1] < 0
    assert z.grad is not None
    assert (sign * z.grad > 0).all()


def test_gates_begin_with_k_open(study: Study) -> None:
    selector = selector_of(study)
    examples = study.cell.corpus.build().batch("sft", 40, 0, 0)
    selector.calibrate(examples, torch.linspace(0, 1, 24)[None])
    share = expected_open(selector.logits(examples)).mean()
    assert share.item() == pytest.approx(6 / 24, abs=1e-5)


def test_penalty_is_nothing_at_the_target_and_in_evaluation(study: Study) -> None:
    selector = selector_of(study)
    selector.multipliers.data.fill_(1.0)
    assert selector.price(torch.full((2, 1, 1), 6 / 24)).item() == 0
    examples = study.cell.corpus.build().batch("sft", 5, 0, 0)
    gates = selector.eval()(examples)
    assert selector.penalty is None
    assert torch.equal(gates, selector(examples))  # no noise
    assert (gates > 0).sum(dim=-1).max() <= 6
    noisy = selector.train()(examples)
    assert selector.penalty is not None
    assert not torch.equal(noisy, selector(examples))
    assert (noisy > 0).sum(dim=-1).max() > 6  # how many are open is for training to find

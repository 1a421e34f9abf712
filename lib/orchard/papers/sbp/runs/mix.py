"""Stage 5, mix: which documents the joint model reads, in which order, in which step.

    budget B tokens = share * B of synthetic documents, each once  +  D repeated to fill the rest

The budget counts predicted tokens, body and eos (two neighbours in one context have one eos), and is met exactly: the last sequence
is cut. A sequence belongs to the step in
whose share of the budget its first token falls, so all arms have equally many steps and tokens, whatever their documents' lengths.
Synthetic documents replace real tokens, they are never added to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from safetensors.numpy import save_file
from torch import Tensor

from orchard.config import REQUIRED
from orchard.errors import BadInput
from orchard.papers.sbp.method.documents import Batch, Corpus, Documents, check_enough, document_batch, pair_batch
from orchard.runs import Finished, Run, Workspace

ORDERS = ("mixed", "synthetic_first", "real_first")


class Mix(Run):
    """The order of the documents. Real documents come in epochs, each in its own permutation; synthetic ones lie between them at
    random places, or all before or after them.

    Result: ``tokens``, ``real_tokens``, ``synthetic_tokens``, ``unique_real_tokens``, ``repeats`` of the real documents.
    Files: ``order.safetensors``: ``document`` [sequences], numbers of real documents and, from their count on, of synthetic ones;
    ``partner`` [sequences], the same for neighbours in context, -1: none; ``ends`` [steps], where each step's sequences end;
    ``last``, tokens of the last sequence that count.
    """

    class Config(Run.Config):
        corpus: Corpus.Config = REQUIRED
        real: str = "train"  # the split that is repeated: train, or pool for the oracle
        synthetic: Run.Config | None = None  # a run that ends with kept documents (`runs.filter`)
        share: float = 0.0  # of the budget, synthetic
        neighbours: Run.Config | None = None  # a run of pairs: every real document is followed by one of its partners
        budget: int = REQUIRED  # tokens
        steps: int = REQUIRED
        order: str = "mixed"
        seed: int = 0

    cfg: Config

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Draw the order. Raises BadInput for a share without documents, or with fewer than it needs."""
        cfg = self.cfg
        check(cfg)
        random = np.random.default_rng([cfg.seed, 3])
        real = cfg.corpus.build().documents(cfg.real)
        check_enough(real, 1, f"Mix.Config.real = {cfg.real!r}")
        sizes = real.lengths + 1
        wanted = round(cfg.share * cfg.budget)
        synthetic, synthetic_tokens = np.empty(0, np.int64), 0
        if cfg.synthetic is not None and wanted:
            own = kept_documents(work.result_of(cfg.synthetic)).lengths + 1
            count = int(np.searchsorted(np.cumsum(own), wanted)) + 1
            if count > len(own):
                raise BadInput(
                    f"a share of {cfg.share:g} of {cfg.budget} tokens needs {wanted} synthetic tokens, {own.sum()} were kept: "
                    "synthesise more, or take a smaller share"
                )
            synthetic, synthetic_tokens = len(real) + np.arange(count), int(own[:count].sum())
            sizes = np.concatenate([sizes, own[:count]])
        partners = None if cfg.neighbours is None else _Partners(work.result_of(cfg.neighbours), len(real))
        document, partner = _real_stream(sizes, len(real), cfg.budget - synthetic_tokens, partners, random)
        if len(synthetic):
            document = _insert(document, random.permutation(synthetic), cfg.order, random)
            partner = np.full(len(document), -1)
        length = _lengths(sizes, document, partner)
        starts = np.cumsum(length) - length
        inside = starts < cfg.budget
        document, partner, length, starts = document[inside], partner[inside], length[inside], starts[inside]
        step = starts * cfg.steps // cfg.budget
        ends = np.searchsorted(step, np.arange(cfg.steps), side="right")
        if (np.diff(ends, prepend=0) == 0).any():
            raise BadInput(
                f"{cfg.budget} tokens in {cfg.steps} steps leave a step without a document: take fewer steps, or a larger budget"
            )
        last = int(cfg.budget - starts[-1])
        length[-1] = last
        is_synthetic = document >= len(real)
        order = {"document": document, "partner": partner, "ends": ends, "last": np.array(last)}
        save_file(order, work.folder / "order.safetensors")
        real_tokens = int(length[~is_synthetic].sum())
        unique = int(sizes[: len(real)].sum())
        return {
            "tokens": int(length.sum()), "steps": cfg.steps, "real_tokens": real_tokens,
            "synthetic_tokens": int(length[is_synthetic].sum()), "unique_real_tokens": unique, "repeats": real_tokens / unique,
        }  # fmt: skip


def check(cfg: Mix.Config) -> None:
    """Raise ``BadInput`` for a share, an order, a size or a combination that means nothing."""
    if not 0 <= cfg.share <= 1 or cfg.order not in ORDERS:
        raise BadInput(
            f"Mix.Config: share {cfg.share}, order {cfg.order!r}: share is in [0, 1], order one of {', '.join(ORDERS)}"
        )
    if cfg.steps < 1 or cfg.budget < cfg.steps:
        raise BadInput(
            f"Mix.Config: budget {cfg.budget}, steps {cfg.steps}: give at least one step, and a token for each"
        )
    if (cfg.share > 0) != (cfg.synthetic is not None):
        raise BadInput(
            f"Mix.Config: share {cfg.share:g} with synthetic {cfg.synthetic and cfg.synthetic.label!r}: give both or neither"
        )
    if cfg.neighbours is not None and cfg.synthetic is not None:
        raise BadInput("Mix.Config: neighbours in context and synthetic documents are two arms: give one of them")


class _Partners:
    """A random partner among those that a document is paired with; -1 for a document without."""

    def __init__(self, pairs: Finished, count: int) -> None:
        found = pairs.tensors("pairs")
        first, second = found["first"].numpy(), found["second"].numpy()
        order = np.argsort(first, kind="stable")
        self.second = second[order]
        self.starts = np.searchsorted(first[order], np.arange(count + 1))

    def draw(self, documents: Int64[np.ndarray, "_"], random: np.random.Generator) -> Int64[np.ndarray, "_"]:
        low, high = self.starts[documents], self.starts[documents + 1]
        place = low + (random.random(len(documents)) * (high - low)).astype(np.int64)
        return np.where(high > low, self.second[np.minimum(place, len(self.second) - 1)], -1)


def _lengths(
    sizes: Int64[np.ndarray, "_"], document: Int64[np.ndarray, "sequences"], partner: Int64[np.ndarray, "sequences"]
) -> Int64[np.ndarray, "sequences"]:
    """Tokens that count in a sequence; ``sizes`` have an eos each, and the first of two neighbours ends with a separator instead."""
    return sizes[document] + np.where(partner >= 0, sizes[partner] - 1, 0)


def _real_stream(
    sizes: Int64[np.ndarray, "_"], count: int, budget: int, partners: _Partners | None, random: np.random.Generator
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Epochs of permutations until their tokens fill the budget, and a partner for each."""
    documents, chosen, tokens = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    while tokens < budget:
        epoch = random.permutation(count)
        partner = np.full(count, -1) if partners is None else partners.draw(epoch, random)
        length = _lengths(sizes, epoch, partner)
        needed = int(np.searchsorted(np.cumsum(length), budget - tokens)) + 1
        documents.append(epoch[:needed])
        chosen.append(partner[:needed])
        tokens += int(length[:needed].sum())
    return np.concatenate(documents), np.concatenate(chosen)


def _insert(
    real: Int64[np.ndarray, "_"], synthetic: Int64[np.ndarray, "_"], order: str, random: np.random.Generator
) -> Int64[np.ndarray, "_"]:
    if order == "synthetic_first":
        return np.concatenate([synthetic, real])
    if order == "real_first":
        return np.concatenate([real, synthetic])
    whole = np.empty(len(real) + len(synthetic), dtype=np.int64)
    taken = np.zeros(len(whole), dtype=bool)
    taken[random.choice(len(whole), size=len(synthetic), replace=False)] = True
    whole[taken], whole[~taken] = synthetic, real
    return whole


def kept_documents(run: Finished) -> Documents:
    """The documents that a finished run of `runs.filter` kept, in the order they were made in."""
    found = run.tensors("kept")
    return Documents(found["tokens"].numpy(), found["offsets"].numpy())


class MixBatches:
    """The steps of a finished mix as batches, for the loader."""

    def __init__(self, cfg: Mix.Config, mixed: Finished, synthetic: Finished | None) -> None:
        corpus = cfg.corpus.build()
        self.symbols = corpus.symbols
        self.documents = corpus.documents(cfg.real)
        if synthetic is not None:
            self.documents = self.documents + kept_documents(synthetic)
        order = {name: tensor.numpy() for name, tensor in mixed.tensors("order").items()}
        self.document, self.partner, self.ends = order["document"], order["partner"], order["ends"]
        self.last = int(order["last"])
        self.length = cfg.budget // cfg.steps  # tokens of a step, about

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, number: int) -> Batch:
        """The sequences of a step."""
        low, high = (0 if number == 0 else self.ends[number - 1]), self.ends[number]
        first, partner = self.document[low:high], self.partner[low:high]
        paired = bool((partner >= 0).any())
        batch = self._neighbours(first, partner) if paired else document_batch(self.documents.take(first), self.symbols)
        if number == len(self) - 1:  # the budget ends within the last sequence
            counts = batch.counts.clone()
            counts[-1] &= counts[-1].cumsum(0) <= self.last
            batch = Batch(batch.tokens, counts)
        return batch

    def _neighbours(self, first: np.ndarray, partner: np.ndarray) -> Batch:
        """Pairs, and documents alone where there is no partner, in the order of the step."""
        paired = partner >= 0
        one, other = (self.documents.take(numbers[paired]) for numbers in (first, partner))
        pairs = pair_batch(one, other, self.symbols, both=True)
        alone = document_batch(self.documents.take(first[~paired]), self.symbols)
        width = pairs.tokens.shape[1]
        tokens = torch.full((len(first), width), self.symbols.pad)
        counts = torch.zeros(len(first), width - 1, dtype=torch.bool)
        for rows, part in ((paired, pairs), (~paired, alone)):
            where = torch.from_numpy(np.flatnonzero(rows))
            tokens[where, : part.tokens.shape[1]] = part.tokens
            counts[where, : part.counts.shape[1]] = part.counts
        return Batch(tokens, counts)

    def batch(self, indices: Int64[np.ndarray, "batch"]) -> dict[str, Tensor]:
        """The one step that ``indices`` names; see `orchard.data.OrderedLoader`."""
        return vars(self.step(int(indices[0])))

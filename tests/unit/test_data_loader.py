"""ResumableLoader: the order, the state, and both under Lightning's own loops."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from orchard.data import DataError, ResumableLoader, TokenCorpus, Windows

WINDOWS, BATCH = 23, 4  # 5 whole batches, 3 windows left over


def make(seed: int = 0, batch_size: int = BATCH, **options: int) -> ResumableLoader:
    stream = np.arange(WINDOWS + 1, dtype=np.uint16)
    corpus = TokenCorpus(tokens=stream, offsets=np.array([0, len(stream)]), names=["d"], bos=999, bytes=0)
    return ResumableLoader(Windows(corpus, 1), batch_size, seed, **options)


def first_tokens(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["tokens"][:, 0].tolist()


def stream(loader: ResumableLoader, count: int) -> list[list[int]]:
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    return [first_tokens(batch) for batch in itertools.islice(epochs, count)]


def test_epochs_are_different_permutations_of_whole_batches() -> None:
    loader = make()
    assert len(loader) == 5
    epochs = [[first_tokens(batch) for batch in loader] for _ in range(2)]
    for epoch, batches in enumerate(epochs):
        assert batches == loader.order(epoch)[:20].reshape(5, 4).tolist()
        assert len(set(itertools.chain(*batches))) == 20
    assert epochs[0] != epochs[1]
    assert stream(make(seed=0), 5) == epochs[0] != stream(make(seed=1), 5)
    assert sorted(loader.order(7)) == list(range(WINDOWS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 10, 13])
def test_resuming_gives_the_rest(done: int, workers: int) -> None:
    """Also with workers, which read ahead: what nobody got is read again."""
    whole = stream(make(), 20)
    first = make(workers=workers)
    assert stream(first, done) == whole[:done]
    state = first.state_dict()
    assert (state["epoch"], state["position"]) == divmod(done, 5)
    second = make(workers=workers)
    second.load_state_dict(state)
    iter(second)  # made and not used: nothing is skipped
    assert stream(second, 20 - done) == whole[done:]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_left_half_way_is_left(workers: int) -> None:
    loader, whole = make(workers=workers), stream(make(), 20)
    for _ in zip(range(2), loader, strict=False):
        pass
    assert stream(loader, 5) == whole[5:10]


def test_errors() -> None:
    with pytest.raises(DataError, match="batch_size = 24 with 23 windows"):
        make(batch_size=24)
    with pytest.raises(DataError, match="batch_size = 4 and accumulate = 3 and ranks = 2 with 23 windows"):
        make(accumulate=3, ranks=2)
    with pytest.raises(DataError, match=r"batch_size = 4, this loader 2; start anew"):
        make(batch_size=2).load_state_dict(make().state_dict())


def test_ranks_share_the_batches_of_one_process_and_epochs_are_whole_steps() -> None:
    whole = stream(make(), 8)
    parts = [stream(make(batch_size=2, rank=rank, ranks=2), 8) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    loader = make(accumulate=2)
    assert len(loader) == 4
    assert stream(loader, 8) == [*stream(make(), 4), *stream(make(), 9)[5:9]]


def test_the_random_numbers_of_others_are_left_alone() -> None:
    state = torch.random.get_rng_state()
    assert stream(make(workers=1), 7) == stream(make(), 7)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_lightning_fetches_nothing_ahead() -> None:
    """Its fetcher with prefetch 1, as the fit loop drives it: the state is that of the batch in hand, to the last."""
    loader = make()
    fetcher = _PrefetchDataFetcher(prefetch_batches=1)
    fetcher.setup(CombinedLoader(loader, "max_size_cycle"))
    for epoch in range(3):
        iter(fetcher)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (epoch, 0)
        for used in range(1, 6):
            batch, _, _ = next(fetcher)
            state = loader.state_dict()
            assert 5 * state["epoch"] + state["position"] == 5 * epoch + used
            assert first_tokens(batch) == loader.order(epoch)[(used - 1) * BATCH : used * BATCH].tolist()
        assert fetcher.done


class Recorder(LightningModule):
    """Remembers the batches it was trained on."""

    def __init__(self, loader: ResumableLoader) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loader, self.seen = loader, list[list[int]]()

    def train_dataloader(self) -> ResumableLoader:
        return self.loader

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        self.seen.append(first_tokens(batch))
        return self.weight * batch["tokens"].float().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAndSave(Callback):
    """Saves after a step and raises, as a killed run would stop."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyError("killed")


def fit(steps: int, callbacks: list[Callback], checkpoint: Path | None = None, workers: int = 0) -> Recorder:
    module = Recorder(make(workers=workers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        with contextlib.suppress(KeyError):
            trainer.fit(module, ckpt_path=None if checkpoint is None else str(checkpoint))
    return module


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (4, 0), (5, 0), (6, 0), (10, 0), (13, 0), (4, 2), (5, 2)])
def test_lightning_resumes_where_it_stopped(tmp_path: Path, stop: int, workers: int) -> None:
    whole = fit(17, [])
    assert whole.seen == stream(make(), 17)
    killed = fit(17, [StopAndSave(stop, tmp_path / "state.ckpt")], workers=workers)
    resumed = fit(17, [], tmp_path / "state.ckpt", workers)
    assert killed.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.weight, whole.weight)

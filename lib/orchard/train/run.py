"""What every training run has: its settings, the hardware rules, the loop around Lightning, the weights.

class TrainMine(TrainingRun):
    class Config(TrainingRun.Config):
        model: Decoder.Config = REQUIRED
        batch_size: int = REQUIRED

    sizes = (*TrainingRun.sizes, "batch_size")

    def compute(self, work: Workspace) -> dict[str, Any]:
        from orchard.train.loop import LanguageModel  # Lightning takes seconds to import: only when training

        hardware = self.set_up(work)
        seed_everything(self.cfg.seed)
        model = self.cfg.model.build()
        module = LanguageModel(model, self.cfg.optim.build(), self.cfg.steps, hardware.fused_optimizer, loss=my_loss)
        measured = self.train(work, hardware, module, loader, validate, tokens=…, flops=…)
        save_weights(model, work.folder / "model.safetensors")
        return measured
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from safetensors.torch import save_file
from torch import Tensor, nn

from orchard.config import REQUIRED, Config
from orchard.errors import BadInput
from orchard.files import share
from orchard.nn.compilation import compiled, no_fallback
from orchard.runs import Finished, Run, Store, Workspace, dependencies, execute
from orchard.train.hardware import Hardware, choose, describe
from orchard.train.optim import AdamW

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger


class TrainingRun(Run):
    """Base of the runs that train. A subclass implements ``compute`` with the methods below; see the top of this file.

    ``sizes`` names the fields that are 1 or more; a run with another value is refused when it is built.
    """

    class Config(Run.Config):
        optim: AdamW.Config = AdamW.Config()
        steps: int = REQUIRED  # of the optimizer
        seed: int = 0  # of the initial weights and of the order of the data
        clip: float = 1.0  # norm of the gradient; 0 leaves it as it is
        accumulate: int = 1  # batches whose gradients are averaged for one step
        precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: by the hardware rules
        compile: Literal["auto"] | bool = "auto"  # auto: by the hardware rules, where it saves more than it costs
        log_every: int = 10
        validate_every: int = 50
        checkpoint_every: int = 100

        @property
        def batches(self) -> int:
            """Batches that the whole training reads."""
            return self.steps * self.accumulate

    sizes: ClassVar[tuple[str, ...]] = ("steps", "accumulate", "log_every", "validate_every", "checkpoint_every")
    preload = "orchard.train.loop"
    cfg: Config

    def __init__(self, cfg: TrainingRun.Config) -> None:
        check_sizes(cfg, self.sizes)
        check_sizes(cfg, ("clip", "seed"), least=0)
        super().__init__(cfg)

    def set_up(self, work: Workspace) -> Hardware:
        """The hardware rules for this run, logged and noted in its provenance. First of all: what an attempt in another precision
        left is thrown away."""
        hardware = choose(work.device, self.cfg.precision)
        work.begin(hardware.as_dict())
        work.log(str(hardware))
        return hardware

    def train(
        self,
        work: Workspace,
        hardware: Hardware,
        module: pl.LightningModule,
        loader: Any,
        validate: Callable[[], dict[str, float]],
        *,
        tokens: int | float,
        flops: float,
        dynamic: bool = False,
    ) -> dict[str, float]:
        """Train from the newest checkpoint, if there is one, to the last step. Returns what ``validate`` measures there.

        Args:
            module: what is trained; `orchard.train.loop.LanguageModel` with a loss, or one of the caller's own.
            loader: batches, from a position that is stored, such as `orchard.data.ResumableLoader`.
            validate: measures the model as it is, every ``validate_every`` steps and at the end.
            tokens: in a batch, on average.
            flops: forward, per token.
            dynamic: the shapes of batches differ. Then "auto" compiles nothing, since a block mask makes every length a graph of
                its own; ``compile=True`` makes one graph for many shapes where the model allows it.

        The loss of a `LanguageModel` is compiled where ``compile`` says so; modules of the caller's own are not.
        """
        from orchard.train.callbacks import diverged
        from orchard.train.loop import train_loop
        from orchard.train.metrics import Monitor, ThroughputMeter

        cfg = self.cfg
        if len(loader) % cfg.accumulate:
            raise BadInput(
                f"{type(cfg).__qualname__}.accumulate is {cfg.accumulate}, an epoch has {len(loader)} batches: give a loader "
                "whose epochs are whole steps, as ResumableLoader(..., accumulate=cfg.accumulate)"
            )
        meter = ThroughputMeter(tokens, flops, hardware)
        monitor = Monitor(cfg.log_every, cfg.validate_every, validate, meter)
        compiles = self._compile(module, hardware, 3 * flops * tokens * cfg.accumulate, dynamic)
        work.notes["hardware"]["compiled"] = compiles
        work.log(f"the training step is {'compiled' if compiles else 'not compiled'}")
        callbacks, loggers = _OBSERVERS.get()
        watching = [meter, monitor, *callbacks]
        with no_fallback() if compiles else nullcontext():
            train_loop(module, loader, cfg, work, hardware, watching, accumulate=cfg.accumulate, loggers=loggers)
        work.log(str(meter))
        work.notes["throughput"] = meter.read()
        done = monitor.last is not None and monitor.last[0] == cfg.steps
        measured = monitor.last[1] if monitor.last is not None and done else validate()
        if not all(math.isfinite(value) for name, value in measured.items() if name.endswith("loss")):
            raise diverged(cfg.steps, cfg.optim.learning_rate * cfg.optim.build().scale(cfg.steps - 1, cfg.steps))
        return measured

    def _compile(self, module: pl.LightningModule, hardware: Hardware, flops: float, dynamic: bool) -> bool:
        """Compile the loss, if the config or the rules say so for a training whose steps take so many ``flops``."""
        from orchard.train.loop import LanguageModel

        wanted = self.cfg.compile
        if wanted == "auto":
            wanted = hardware.compiles(self.cfg.steps, flops) and not dynamic
        if not wanted:
            return False
        if isinstance(module, LanguageModel) and type(module).training_step is LanguageModel.training_step:
            module.loss = compiled(module.loss, dynamic=dynamic)
            return True
        if self.cfg.compile is True:
            raise BadInput(
                f"{type(self.cfg).__qualname__}.compile is True, and {type(module).__name__} has a training step of its own: "
                "only the loss of a LanguageModel is compiled; leave it at 'auto'"
            )
        return False


def check_sizes(cfg: Config, names: Sequence[str], least: int = 1) -> None:
    """Raise BadInput that names the first of these fields that is less than ``least``, its value and the fix."""
    for name in names:
        value = getattr(cfg, name)
        if value < least:
            raise BadInput(f"{type(cfg).__qualname__}.{name} is {value}: give {least} or more")


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights of a module by name, as safetensors."""
    save_tensors({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, path)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors by name, as safetensors that colleagues may read if they may read other new files."""
    save_file(tensors, path)
    share(path)


def fit(
    cfg: TrainingRun.Config,
    store: Store | None = None,
    device: str = "auto",
    *,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Finished:
    """Train as ``cfg`` says, or find it finished in the store; a killed training goes on. Prints the hardware rules that apply.

    Args:
        callbacks, loggers: Lightning's, to watch the training. They must not change its numbers, which ``cfg`` alone stands
            for, and they see nothing of a training that is found finished.

    Raises:
        BadInput: a field of ``cfg`` has a value that cannot be, found before anything is computed.
    """
    cfg.clone().build()
    print(describe(device, cfg.precision), flush=True)
    if not (callbacks or loggers):
        return execute([cfg], store, device=device)[0]
    store = store or Store()
    execute(dependencies(cfg), store, device=device)
    with _observed(callbacks, loggers):
        return store.compute(cfg, device)


_OBSERVERS: ContextVar[tuple[Sequence[Any], Sequence[Any]]] = ContextVar("observers", default=((), ()))


@contextmanager
def _observed(callbacks: Sequence[Any], loggers: Sequence[Any]) -> Iterator[None]:
    token = _OBSERVERS.set((callbacks, loggers))
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


__all__ = ["TrainingRun", "check_sizes", "fit", "save_tensors", "save_weights"]

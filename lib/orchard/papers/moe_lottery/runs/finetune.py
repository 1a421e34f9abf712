"""Fine-tuning a model whose experts were dropped, which every arm of the series does in the same way.

Section 3.4 of the specification: all parameters, next-token loss alone (the load-balance loss is off), AdamW with a cosine, the
optimizer new in every round. Lightning's part is imported when it is needed, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from torch import nn

from orchard.data import ResumableLoader
from orchard.data.loader import Indexed
from orchard.nn import Decoder, MixtureOfExperts
from orchard.runs import Workspace
from orchard.train import AdamW, choose
from orchard.train.losses import Loss, next_token_loss

CHECKPOINT_EVERY = 200  # steps


def finetune(
    model: Decoder, batches: Indexed, *, steps: int, batch_size: int, learning_rate: float, seed: int, work: Workspace, name: str,
    trains: Callable[[str], bool] = lambda name: True, balance: bool = False, loss: Loss = next_token_loss,
) -> None:  # fmt: skip
    """Fine-tune `model` in place for `steps` steps; 0 leaves it alone. It ends in evaluation mode, on the run's device.

    Its weights are kept in the workspace until the run is complete, so that a killed run does not repeat it.

    Args:
        batches: windows of tokens, shuffled by `seed`.
        name: of this fine-tuning within the run; its checkpoints lie in a folder of that name.
        trains: which parameters learn, by their name in the model.
        balance: whether the load-balance loss, with the model's own factor, is added.
        loss: of a batch, without auxiliary losses.
    """
    if steps == 0:
        return
    from orchard.train.checkpoint import DamagedCheckpoint, SafetensorsIO
    from orchard.train.loop import LanguageModel, Schedule, train_loop

    hardware = choose(work.device)
    own = Workspace(work.checkpoints / name, work.checkpoints / name, work.device, work.threads)
    own.folder.mkdir(parents=True, exist_ok=True)
    finished = own.checkpoints / "finished.safetensors"
    if finished.exists():
        with suppress(DamagedCheckpoint):
            model.load_state_dict(SafetensorsIO().load_checkpoint(finished)["model"])
            model.to(hardware.device).eval()
            return
    frozen = [p for parameter, p in model.named_parameters() if not trains(parameter)]
    optim = AdamW.Config(learning_rate=learning_rate, weight_decay=0.0).build()
    schedule = Schedule(steps, seed, f"{work.folder.name} {name}", CHECKPOINT_EVERY)
    loader = ResumableLoader(batches, batch_size, seed)
    with _frozen(frozen), nullcontext() if balance else without_balance(model):
        module = LanguageModel(model.train(), optim, steps, hardware.fused_optimizer, loss)
        train_loop(module, loader, schedule, own, hardware, [])
    weights = {parameter: p.detach().cpu().contiguous() for parameter, p in model.state_dict().items()}
    SafetensorsIO().save_checkpoint({"model": weights}, finished)
    for step in own.checkpoints.glob("step_*.safetensors"):
        step.unlink()  # with the optimizer's state three times as large
    model.to(hardware.device).eval()


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def without_balance(model: nn.Module) -> Iterator[None]:
    """Inside the block the mixtures of `model` add no auxiliary loss."""
    mixtures = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    factors = [(module, module.load_balance, module.z_loss) for module in mixtures]
    for module in mixtures:
        module.load_balance = module.z_loss = 0.0
    try:
        yield
    finally:
        for module, balance, z in factors:
            module.load_balance, module.z_loss = balance, z

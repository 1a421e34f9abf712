"""Fine-tuning a model whose experts were dropped, which every arm of the series does in the same way.

Section 3.4 of the specification: all parameters, next-token loss alone (the load-balance loss is off), AdamW with a cosine, the
optimizer new in every round. Lightning's part is imported when it is needed, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

from orchard.data import ResumableLoader
from orchard.data.loader import Indexed
from orchard.nn import Decoder, MixtureOfExperts
from orchard.papers.moe_lottery.method.dropping import swapped
from orchard.runs import Workspace
from orchard.train import AdamW, choose
from orchard.train.losses import Loss, next_token_loss

CHECKPOINT_EVERY = 200  # steps


class Piece(AdamW):
    """AdamW for a part of a longer fine-tuning: the rate follows one cosine of `whole` steps from its step `first` on."""

    def __init__(self, cfg: AdamW.Config, first: int, whole: int) -> None:
        super().__init__(cfg)
        self.first, self.whole = first, whole

    def scale(self, step: int, steps: int) -> float:
        return super().scale(self.first + step, self.whole)


def finetune(
    model: Decoder, batches: Indexed, *, steps: int, batch_size: int, learning_rate: float, seed: int, work: Workspace, name: str,
    trains: Callable[[str], bool] = lambda name: True, balance: bool = False, loss: Loss = next_token_loss,
    piece: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Fine-tune `model` in place for `steps` steps; 0 leaves it alone. It ends in evaluation mode, on the run's device.

    Its weights are kept in the workspace until the run is complete, so that a killed run does not repeat it.

    Args:
        batches: windows of tokens, shuffled by `seed`.
        name: of this fine-tuning within the run; its checkpoints lie in a folder of that name.
        trains: which parameters learn, by their name in the model.
        balance: whether the load-balance loss, with the model's own factor, is added.
        loss: of a batch, without auxiliary losses.
        piece: first step and length of the cosine that this is a piece of; None for a cosine of its own.
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
    optim = Piece(AdamW.Config(learning_rate=learning_rate, weight_decay=0.0), *(piece or (0, steps)))
    schedule = Schedule(steps, seed, f"{work.folder.name} {name}", CHECKPOINT_EVERY)
    loader = ResumableLoader(batches, batch_size, seed)
    with ExitStack() as stack:
        for parameter, p in model.named_parameters():
            stack.enter_context(swapped(p, requires_grad=trains(parameter)))
        for module in () if balance else model.modules():
            if isinstance(module, MixtureOfExperts):
                stack.enter_context(swapped(module, load_balance=0.0, z_loss=0.0))
        learner = LanguageModel(model.train(), optim, steps, hardware.fused_optimizer, loss)
        train_loop(learner, loader, schedule, own, hardware, [])
    weights = {parameter: p.detach().cpu().contiguous() for parameter, p in model.state_dict().items()}
    SafetensorsIO().save_checkpoint({"model": weights}, finished)
    for step in own.checkpoints.glob("step_*.safetensors"):
        step.unlink()  # with the optimizer's state three times as large
    model.to(hardware.device).eval()

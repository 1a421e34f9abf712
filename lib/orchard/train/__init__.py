"""Training: hardware rules, checkpoints that resume bit for bit, the throughput meter, language modelling, models to take away."""

from orchard.train.hardware import choose, describe
from orchard.train.lm import TrainLM, load_model
from orchard.train.optim import AdamW, Cosine, Linear
from orchard.train.run import TrainingRun, fit
from orchard.train.saved import TextModel, load_saved, save_model

__all__ = [
    "AdamW",
    "Cosine",
    "Linear",
    "TextModel",
    "TrainLM",
    "TrainingRun",
    "choose",
    "describe",
    "fit",
    "load_model",
    "load_saved",
    "save_model",
]

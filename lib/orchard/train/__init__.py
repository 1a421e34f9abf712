"""Training: hardware rules, checkpoints that resume bit for bit, the throughput meter, language modelling, models to take away."""

from orchard.train.hardware import choose, describe
from orchard.train.lm import AdamW, TrainLM, fit, load_model
from orchard.train.saved import TextModel, load_saved, save_model

__all__ = [
    "AdamW",
    "TextModel",
    "TrainLM",
    "choose",
    "describe",
    "fit",
    "load_model",
    "load_saved",
    "save_model",
]

"""Training: hardware rules, checkpoints that resume bit for bit, the throughput meter, language modelling."""

from orchard.train.hardware import choose, describe
from orchard.train.lm import AdamW, TrainLM, fit, load_model

__all__ = ["AdamW", "TrainLM", "choose", "describe", "fit", "load_model"]

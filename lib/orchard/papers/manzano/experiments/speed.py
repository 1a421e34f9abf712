"""Times of the tokenizer, of drawing codes and of the decoder beside their peers; no claim is about them."""

from __future__ import annotations

import pandas as pd

from orchard.papers.manzano.experiments.arms import NO_WORDS, tuning_study
from orchard.papers.manzano.method.models import image_decoder, language_model
from orchard.papers.manzano.runs.speed import Speed
from orchard.runs import Runner, Setting
from orchard.runs.measurement import with_machine


def speed(setting: Setting, run: Runner) -> pd.DataFrame:
    """Columns part, name, items, round, seconds, reason, device, hardware."""
    study = tuning_study(setting)
    profile = study.profile
    decoder = image_decoder(
        profile.picture, profile.decoder, profile.decoder_patch or profile.editing_patch, len(study.codebook)
    )
    cfg = Speed.Config(
        tokenizer=study.tokenizer().tokenizer, language_model=language_model(profile.size, NO_WORDS), decoder=decoder,
        batch=profile.timed, rounds=profile.rounds, label="speed",
    )  # fmt: skip
    return with_machine(run([cfg])[0])

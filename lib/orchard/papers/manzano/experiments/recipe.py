"""The recipe (02): what the tokenizer has learned, how codes are used, what decoders can draw of true codes, curves, and the mixture.

`tokenizers` and `ceilings` come before anything is compared and are the source of gates.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from orchard.evidence import Tables, rows, together
from orchard.papers.manzano.data.prompts import TAGS
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.experiments.arms import ARMS, OWN, PIXELS, studies, untuned
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.papers.manzano.runs.drawing import asked
from orchard.papers.manzano.runs.scores import Reconstructions
from orchard.papers.manzano.runs.tokenizer import ADAPTERS, SHUFFLED
from orchard.runs import Finished, Run, Runner, Setting

FIRST = "read k1"  # what stage 0 learns first


def tokenizers(setting: Setting, run: Runner) -> pd.DataFrame:
    """What is read through either adapter, and of another picture beside it: seed, stream, adapter, accuracy, exact, loss, initial,
    settled, steps, rho (of texts: bits of a code over bits of text)."""
    of, found = untuned(setting), list[dict[str, Any]]()
    for study, done in zip(of, run([study.tokenizer() for study in of]), strict=True):
        bits = np.log2(codebook_size(study.codebook)) / np.log2(study.shown.alphabet)
        for stream, scores in done.result["scores"].items():
            for adapter, score in scores.items():
                own = adapter in ADAPTERS
                found.append({
                    "seed": study.seed, "stream": stream, "adapter": adapter, **score, "steps": study.profile.lessons[-1].until,
                    "initial": done.result["initial"][f"{adapter}/{stream}/loss"] if own else np.nan,
                    "settled": done.result["settled"][f"{adapter}/{stream}"] if own else np.nan,
                    "rho": bits / int(stream.split(" k")[1]) if stream.startswith("read") else np.nan,
                })  # fmt: skip
    return pd.DataFrame(found)


def ceilings(setting: Setting, run: Runner) -> pd.DataFrame:
    """What true codes keep: seed, codes (hybrid, auto-encoder), drawn by (decoder, auto-encoder), overall (GenEval-mini; NaN of
    reconstructions), objects, characters (shares right)."""
    of, found = untuned(setting), list[dict[str, Any]]()
    drawn = [(study, whose) for study in of for whose in (OWN, PIXELS)]
    for (study, whose), done in zip(drawn, run([study.drawings(whose=whose) for study, whose in drawn]), strict=True):
        kept = done.tensors("drawings")
        shares = {name: float(kept[name].double().mean()) for name in ("objects", "characters")}
        about = {"seed": study.seed, "codes": whose, "drawn by": "decoder", "overall": done.result["overall"]}
        found.append(about | shares)
    again = [
        Reconstructions.Config(autoencoder=study.autoencoder(), count=study.profile.items, label=f"reconstructions, seed {study.seed}")
        for study in of
    ]  # fmt: skip
    for study, done in zip(of, run(again), strict=True):
        found.append({"seed": study.seed, "codes": PIXELS, "drawn by": PIXELS, "overall": np.nan, **done.result})
    return pd.DataFrame(found)


def code_use(setting: Setting, run: Runner) -> pd.DataFrame:
    """How codebooks are used on training pictures: seed, codes, position (row by row), perplexity, used, dead, size (of the codebook)."""
    keys = [(study, whose) for study in untuned(setting) for whose in (OWN, PIXELS)]
    found = []
    for (study, whose), done in zip(keys, run([study.codes(whose) for study, whose in keys]), strict=True):
        use = done.result["use"]
        about = {"seed": study.seed, "codes": whose, "used": use["codes"], "dead": use["dead"], "size": done.result["codes"]}  # fmt: skip
        found += [about | {"position": i, "perplexity": value} for i, value in enumerate(use["perplexity"])]
    return pd.DataFrame(found)


def curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """Losses along the trainings of the first seed: seed, part (tokenizer, auto-encoder, image decoder of ..., an arm), step, measure,
    value."""
    study = studies(setting, run)[0]
    wanted: dict[str, Run.Config] = {
        "tokenizer": study.tokenizer(), PIXELS: study.codes(PIXELS),
        **{f"image decoder of {whose} codes": study.decoder(whose) for whose in (OWN, PIXELS)},
        **{arm: study.unified(arm) for arm in ARMS},
    }  # fmt: skip
    parts = zip(wanted, run(list(wanted.values())), strict=True)
    return pd.concat([_curve(done).assign(seed=study.seed, part=part) for part, done in parts], ignore_index=True)


def _curve(done: Finished) -> pd.DataFrame:
    logged = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    shown = [
        {"step": row["step"], "measure": name, "value": float(value)}
        for row in logged for name, value in row.items() if name.endswith(("loss", "accuracy"))
    ]  # fmt: skip
    return pd.DataFrame(shown)


def mixture(setting: Setting, run: Runner) -> pd.DataFrame:
    """What language models read: seed, arm, kind, sequences, share, text_targets, image_targets (means of a batch), frozen_bytes,
    frozen_codes (changed in training), parameters."""
    keys = [(study, arm) for study in studies(setting, run) for arm in ARMS if study.has(arm)]
    found = []
    for (study, arm), done in zip(keys, run([study.unified(arm) for study, arm in keys]), strict=True):
        result, targets = done.result, done.result["targets"]
        total = sum(result["sequences"].values())
        about = {
            "seed": study.seed, "arm": arm, "text_targets": targets["text"], "image_targets": targets["image"],
            **{name: result[name] for name in ("frozen_bytes", "frozen_codes", "parameters")},
        }  # fmt: skip
        found += [about | {"kind": kind, "sequences": n, "share": n / total} for kind, n in result["sequences"].items()]
    return pd.DataFrame(found)


def gallery(setting: Setting, run: Runner) -> pd.DataFrame:
    """The first drawings of the first seed: seed, arm, number, prompt, tag, score, pixels (hex of uint8; see :func:`picture`)."""
    study = studies(setting, run)[0]
    drawing = [arm for arm, about in ARMS.items() if about.generation and arm != "dual_semantic"]
    wanted = {arm: study.drawings(arm) for arm in drawing} | {"true codes": study.drawings()}
    world: SceneWorld = study.shown.build()
    prompts = asked(world, world.scenes("test").records, "geneval", seed=0)
    found = []
    for arm, done in zip(wanted, run(list(wanted.values())), strict=True):
        kept = done.tensors("drawings")
        for number, pixels in enumerate(done.tensors("pictures")["pictures"].numpy()):
            found.append({
                "seed": study.seed, "arm": arm, "number": number, "prompt": prompts[number]["prompt"],
                "tag": TAGS[int(kept["tag"][number])], "score": float(kept["score"][number]), "pixels": pixels.tobytes().hex(),
            })  # fmt: skip
    return pd.DataFrame(found)


def picture(pixels: str, height: int, width: int) -> np.ndarray:
    """A picture [height, width, 3] from its hex."""
    return np.frombuffer(bytes.fromhex(pixels), dtype=np.uint8).reshape(height, width, 3)


# ---------------------------------------------------------------------- evidence


def _first(tables: Tables, adapter: str) -> pd.DataFrame:
    table = tables("tokenizers")
    return table[(table["stream"] == FIRST) & (table["adapter"] == adapter)].set_index("seed")


def learned(tables: Tables, prefix: str = "") -> pd.DataFrame:
    """S7: the loss of the first texts over that before the first step, an adapter a part; as the control ``prefix`` is `SHUFFLED`."""
    losses = {adapter: _first(tables, prefix + adapter)["loss"] / _first(tables, adapter)["initial"] for adapter in ADAPTERS}  # fmt: skip
    return together(rows(adapter, ratio.index, FIRST, ratio) for adapter, ratio in losses.items())


def sees(tables: Tables) -> pd.DataFrame:
    """S7b: characters read through an adapter minus those read of another picture."""
    pairs = {adapter: [_first(tables, name)["accuracy"] for name in (adapter, SHUFFLED + adapter)] for adapter in ADAPTERS}  # fmt: skip
    return together(rows(adapter, own.index, FIRST, own - other) for adapter, (own, other) in pairs.items())

"""Any causal language model of `transformers` as the backbone that reads continuous vectors and writes codes, and the whole as a folder.

    ids    those of the model 0 ... V - 1,  <img_start> V,  <img_end> V + 1,  codes V + 2 ...        `method.unified.Vocabulary`

Its embedding, and its output matrix where that is another one, get rows for the new ids: old rows stay bit for bit, new ones are the mean
of the old. `Backbone` makes the model look like our decoder, so losses, sampling and caches are those of the method.

    config.json, model.safetensors, tokenizer.json ...    as `transformers` reads them
    pictures/                                             the picture tokenizer, its continuous adapter of the model's width; see `export`
    manzano.json                                          text_size, levels: what joins the two

Nothing is downloaded, no code of the folder is run, no pickle is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from PIL.Image import Image
from torch import Tensor, nn

from orchard.errors import BadInput
from orchard.files import to_json, write
from orchard.nn import Decoder, Sampling
from orchard.nn.packed import Packed
from orchard.nn.transformer import DecoderCache
from orchard.papers.manzano.integrations.export import SavedTokenizer, load_tokenizer, save_tokenizer
from orchard.papers.manzano.method.unified import Vocabulary, answers, draw_codes
from orchard.pretrained import folder as folders
from orchard.pretrained.folder import first_line, new_folder, quiet

GREEDY, DRAWN = Sampling(), Sampling(1.0, top_p=0.95)
SAME = 1e-3  # of the largest logit: what states times the output matrix may differ from the model's own logits


class BackboneCache(DecoderCache):
    """The cache of transformers in the place of ours."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def position(self) -> int:  # type: ignore[override]
        return int(self.inner.get_seq_length())


class Backbone(Decoder):
    """A causal language model with rows for a vocabulary, behind the methods of a decoder.

    Raises BadInput where the embedding was not resized (see `resize`), and for a model without key-value cache or output matrix.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        nn.Module.__init__(self)
        self.model, self.vocab_size = model, vocabulary.size
        rows, self.dim = model.get_input_embeddings().weight.shape
        if rows != vocabulary.size:
            raise BadInput(
                f"the embedding of this {type(model).__name__} has {rows} rows, {vocabulary.text_size} ids of text, two marks and "
                f"{vocabulary.codes} codes are {vocabulary.size}: resize it with causal_lm.resize, once"
            )
        _check(self)

    @property
    def embedding(self) -> Any:  # type: ignore[override]
        """The input embedding of the model."""
        return self.model.get_input_embeddings()

    def features(
        self, tokens: Int[Tensor, "batch time"] | None = None, cache: DecoderCache | None = None, packed: Packed | None = None,
        *, embeddings: Float[Tensor, "batch prefix dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:  # fmt: skip
        parts = ([] if embeddings is None else [embeddings]) + ([] if tokens is None else [self.embed(tokens)])
        inner = cache.inner if isinstance(cache, BackboneCache) else None
        found = self.model.base_model(
            inputs_embeds=torch.cat(parts, dim=1), past_key_values=inner, use_cache=inner is not None
        )
        states: Float[Tensor, "batch length dim"] = found.last_hidden_state
        return states

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        config = self.model.config.get_text_config()
        found: Tensor = self.model.get_output_embeddings()(features)
        found = found / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return found if not cap else cap * torch.tanh(found / cap)

    def new_cache(
        self, batch: int, max_length: int, *, device: torch.device | str, dtype: torch.dtype, spare: int = 0
    ) -> BackboneCache:
        """An empty cache. Raises BadInput where the model has no positions for ``max_length`` tokens."""
        from transformers import DynamicCache

        most = positions(self.model.config)
        if most is not None and max_length > most:
            raise BadInput(f"the language model reads {most} tokens, these would be {max_length}: give shorter texts")
        return BackboneCache(DynamicCache(config=self.model.config))


def positions(config: Any) -> int | None:
    """Tokens that a model of this config of `transformers` can read; None: any number."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


@torch.no_grad()
def _check(backbone: Backbone) -> None:
    tokens = torch.arange(4, device=backbone.embedding.weight.device)[None] % backbone.vocab_size
    try:
        cache = backbone.new_cache(1, 4, device=tokens.device, dtype=torch.float32)
        ours = backbone.logits(torch.cat([backbone.features(part, cache) for part in tokens.split(2, dim=1)], dim=1))
        theirs = backbone.model(tokens).logits
        same = bool((ours - theirs).abs().max() <= SAME * theirs.abs().max())
    except (TypeError, AttributeError, IndexError):  # no key-value cache, no hidden states, no embeddings as input
        same = False
    if not same:
        raise BadInput(
            f"{type(backbone.model).__name__} is no decoder with a key-value cache whose logits are one matrix times its states: choose "
            "a model such as Llama, Qwen2, Mistral or GPT-2"
        )


@torch.no_grad()
def resize(model: Any, codes: int) -> Vocabulary:
    """Add two marks and ``codes`` ids to a model of `transformers`, in place, and return the vocabulary. Nothing random is drawn."""
    old = model.get_input_embeddings().weight.shape[0]
    vocabulary = Vocabulary(old, codes)
    with torch.random.fork_rng(), quiet():
        model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    output = model.get_output_embeddings()
    for rows in (model.get_input_embeddings().weight, output.weight, getattr(output, "bias", None)):
        if rows is not None:
            rows[old:] = rows[:old].mean(dim=0)
    return vocabulary


class Words:
    """A tokenizer of `transformers` for text beside pictures. Raises BadInput for one without an end of text."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise BadInput(f"the tokenizer of {tokenizer.name_or_path} has no eos token: add one, answers end with it")
        self.tokenizer, self.eos = tokenizer, int(tokenizer.eos_token_id)
        self.before = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special ones among them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


@dataclass(frozen=True)
class UnifiedModel:
    """A backbone, its words, and a picture tokenizer whose continuous vectors it reads. Raises BadInput where they do not fit."""

    backbone: Backbone
    words: Words
    pictures: SavedTokenizer
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        codes, width = self.pictures.model.quantizer.size, self.pictures.config.dim
        if (codes, width) != (self.vocabulary.codes, self.backbone.dim):
            raise BadInput(
                f"the picture tokenizer has {codes} codes and vectors of width {width}, the language model writes {self.vocabulary.codes} "
                f"codes and is {self.backbone.dim} wide: use the tokenizer it was trained with"
            )

    def read(
        self,
        pictures: Num[Tensor, "b height width 3"],
        prompts: Sequence[str],
        most: int = 64,
        sampling: Sampling = GREEDY,
    ) -> list[str]:
        """What is said after each picture and its prompt, an empty one or a question."""
        vectors = self.pictures.encode(pictures)[0].to(self.backbone.embedding.weight.device)
        made = answers(
            self.backbone, self.vocabulary, self._ids(prompts), most, self.words.eos, sampling, None, vectors
        )
        return [self.words.decode(row) for row in made]

    def draw(
        self,
        prompts: Sequence[str],
        sampling: Sampling = DRAWN,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "b n"]:
        """The codes of a picture for each prompt; ``pictures.decode`` draws them."""
        return draw_codes(
            self.backbone, self.vocabulary, self._ids(prompts), self.pictures.model.n, sampling, generator
        )

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return [[*self.words.before, *self.words.encode(prompt)] for prompt in prompts]


def save_unified(model: UnifiedModel, folder: str | Path, extra: Mapping[str, Image] | None = None) -> Path:
    """Write a unified model, and pictures by name, to a new folder. Raises BadInput where the folder exists."""
    with quiet(), new_folder(folder) as part:
        model.backbone.model.save_pretrained(part)
        folders.save_tokenizer(model.words.tokenizer, part)
        save_tokenizer(model.pictures, part / "pictures")
        for name, picture in (extra or {}).items():
            picture.save(part / name)
        write(
            part / "manzano.json", to_json({"text_size": model.vocabulary.text_size, "levels": model.pictures.levels})
        )
    return Path(folder).expanduser().absolute()


def load_unified(folder: str | Path) -> UnifiedModel:
    """The model that `save_unified` wrote, on the CPU. Raises BadInput for what is missing, or is of another codebook."""
    folder = Path(folder).expanduser()
    try:
        about = json.loads((folder / "manzano.json").read_text("utf-8"))
        text_size, levels = int(about["text_size"]), list(about["levels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder} holds no unified model ({first_line(error)}): give a folder that save_unified wrote"
        ) from None
    pictures = load_tokenizer(folder / "pictures")
    if pictures.levels != levels:
        raise BadInput(
            f"{folder} writes codes of levels {levels}, its pictures/ has {pictures.levels}: put back its own tokenizer"
        )
    vocabulary = Vocabulary(text_size, pictures.model.quantizer.size)
    backbone = Backbone(folders.load_model(folder, dtype=torch.float32), vocabulary)
    return UnifiedModel(backbone.eval(), Words(folders.load_tokenizer(folder)), pictures, vocabulary)

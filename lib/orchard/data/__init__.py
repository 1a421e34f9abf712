"""Corpora and pictures with manifests and splits, tokenizers, and batches (see data/README.md of the repository).

text_source(DATA) -> Source.Config;  tokens(source, tokenizer, split) -> TokenCorpus;
ResumableLoader(Windows(corpus, length), batch_size, seed) -> batches
image_source(DATA, height=36, width=36).build().pictures(split) -> Pictures
"""

from orchard.data.cache import DataError
from orchard.data.corpus import TokenCorpus, Windows, tokens
from orchard.data.embedded import EmbeddedText
from orchard.data.hub import HubText
from orchard.data.image_rows import ImageRows, image_source
from orchard.data.images import Digits, Picture, Pictures, PictureSource
from orchard.data.loader import OrderedLoader, ResumableLoader
from orchard.data.local import LocalText
from orchard.data.source import SPLITS, Document, Manifest, Source
from orchard.data.text import text_source
from orchard.data.tokenizer import BPETokenizer, ByteTokenizer, Tokenizer
from orchard.paths import cache_dir

__all__ = [
    "SPLITS",
    "BPETokenizer",
    "ByteTokenizer",
    "DataError",
    "Digits",
    "Document",
    "EmbeddedText",
    "HubText",
    "ImageRows",
    "LocalText",
    "Manifest",
    "OrderedLoader",
    "Picture",
    "PictureSource",
    "Pictures",
    "ResumableLoader",
    "Source",
    "TokenCorpus",
    "Tokenizer",
    "Windows",
    "cache_dir",
    "image_source",
    "text_source",
    "tokens",
]

"""Corpora with manifests and splits, tokenizers, and batches (see data/README.md of the repository).

text_source(DATA) -> Source.Config;  tokens(source, tokenizer, split) -> TokenCorpus;
ResumableLoader(Windows(corpus, length), batch_size, seed) -> batches
"""

from orchard.data.cache import DataError
from orchard.data.corpus import TokenCorpus, Windows, tokens
from orchard.data.embedded import EmbeddedText
from orchard.data.hub import HubText
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
    "Document",
    "EmbeddedText",
    "HubText",
    "LocalText",
    "Manifest",
    "OrderedLoader",
    "ResumableLoader",
    "Source",
    "TokenCorpus",
    "Tokenizer",
    "Windows",
    "cache_dir",
    "text_source",
    "tokens",
]

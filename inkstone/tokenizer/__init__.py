"""Text to token ids and back: train, measure, and write a corpus as memory-mapped token shards."""

from inkstone.tokenizer.extend import Extension, extend_tokenizer
from inkstone.tokenizer.settings import ExtendSettings, TokenizerSettings, TokensSettings
from inkstone.tokenizer.stage import TOKENIZER, train_tokenizer
from inkstone.tokenizer.token_shards import HeldoutDocument, TokenShards, open_shards, read_heldout_documents
from inkstone.tokenizer.tokenizer import CONTROL_TOKENS, Tokenizer
from inkstone.tokenizer.write_shards import TOKENS, encode_corpus

__all__ = [
    "CONTROL_TOKENS",
    "TOKENIZER",
    "TOKENS",
    "ExtendSettings",
    "Extension",
    "HeldoutDocument",
    "TokenShards",
    "Tokenizer",
    "TokenizerSettings",
    "TokensSettings",
    "encode_corpus",
    "extend_tokenizer",
    "open_shards",
    "read_heldout_documents",
    "train_tokenizer",
]

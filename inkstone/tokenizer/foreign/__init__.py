"""Vocabularies of others, opened with identical ids (SentencePiece, GGUF, transformers), and ours written as theirs."""

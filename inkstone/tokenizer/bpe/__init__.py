"""Byte-pair encoding: how text is cut into words, how merges are learned, and how they are applied to whole batches."""

"""Model directories on disk: tensors by name, families' tables applied, reading, writing, converting."""

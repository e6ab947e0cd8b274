"""Raw files of every kind to batches of documents: which files, what encoding, what layout."""

"""The run of a curation: its passes over the corpus, what they leave on disk, and what is told of them."""

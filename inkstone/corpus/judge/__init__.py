"""What is decided of one document alone: its language, its repairs, its private data, the rules and its quality."""

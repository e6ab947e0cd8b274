"""How good a vocabulary is: compression, average log probability, several side by side."""

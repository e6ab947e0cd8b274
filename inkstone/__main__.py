"""`python -m inkstone`, and `torchrun ... -m inkstone`: the command line."""

from inkstone.cli import main

if __name__ == "__main__":
    main()

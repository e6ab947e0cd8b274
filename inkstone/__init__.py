"""Inkstone (砚): raw Chinese and English text in, an evaluated chat model out.

Each folder is a room with one job and a directory on disk as its border; the README's file tree is the map.
"""

__version__ = "0.1.0"

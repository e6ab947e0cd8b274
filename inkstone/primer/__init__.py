"""The embedded primer: small tables of facts, rendered into a dirty raw corpus, chats, preference pairs and a quiz."""

from inkstone.primer.settings import PrimerSettings
from inkstone.primer.stage import PRIMER, render_primer

__all__ = ["PRIMER", "PrimerSettings", "render_primer"]

"""The one decoding engine: chat, evaluation and (later) rollouts and the server all generate and score here.

new_ids = generate(model, prompts, SamplingSettings(), stop_ids)
for token_id in stream(model, prompt, SamplingSettings(temperature=0.7), stop_ids): ...
scored = score(model, [(context_ids, continuation_ids), ...])
"""

from inkstone.generate.dialogue import build_prompt, read_sampling, stream_reply
from inkstone.generate.engine import Engine, generate, generate_each, stream
from inkstone.generate.request import Constraint, Delta, Request, TokenScore
from inkstone.generate.sampler import SamplingSettings
from inkstone.generate.score import Scored, score
from inkstone.generate.text import Shown, TextStream, text_deltas

__all__ = [
    "Constraint",
    "Delta",
    "Engine",
    "Request",
    "SamplingSettings",
    "Scored",
    "Shown",
    "TextStream",
    "TokenScore",
    "build_prompt",
    "generate",
    "generate_each",
    "read_sampling",
    "score",
    "stream",
    "stream_reply",
    "text_deltas",
]

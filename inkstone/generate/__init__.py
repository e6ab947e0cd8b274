"""The one decoding engine: chat, evaluation and (later) rollouts and the server all generate and score here.

new_ids = generate(model, prompts, SamplingSettings(), stop_ids)
for token_id in stream(model, prompt, SamplingSettings(temperature=0.7), stop_ids): ...
scored = score(model, [(context_ids, continuation_ids), ...])
"""

from inkstone.generate.dialogue import build_prompt, read_sampling, stream_reply, text_deltas
from inkstone.generate.engine import Delta, Engine, Request, generate, generate_each, stream
from inkstone.generate.sampler import SamplingSettings
from inkstone.generate.score import Scored, next_token_logprobs, score

__all__ = [
    "Delta",
    "Engine",
    "Request",
    "SamplingSettings",
    "Scored",
    "build_prompt",
    "generate",
    "generate_each",
    "next_token_logprobs",
    "read_sampling",
    "score",
    "stream",
    "stream_reply",
    "text_deltas",
]

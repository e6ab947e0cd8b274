"""Conversations: messages, templates that turn them into ids and loss weights, and the file formats they come in."""

from inkstone.chat.datasets import (
    CHATS,
    PREFERENCES,
    TEXTS,
    VERDICTS,
    ChatDataset,
    Faults,
    Kind,
    MalformedRows,
    PreferenceDataset,
    Problem,
    check_rows,
    read_chats,
    read_preferences,
    read_verdicts,
    stream,
)
from inkstone.chat.export import attach_template, load_template, save_template
from inkstone.chat.fit import encode_to_fit, prompt_to_fit, training_sequences, without_rounds
from inkstone.chat.jinja import to_jinja
from inkstone.chat.library import CHATML, TEMPLATES, TemplateChoice, choose_template, find_template, template_named
from inkstone.chat.messages import Message, Preference, Role, Segment, Verdict
from inkstone.chat.template import Sampling, Template, encode_chat, encode_segments, encode_together, require_tokens

__all__ = [
    "CHATML",
    "CHATS",
    "PREFERENCES",
    "TEMPLATES",
    "TEXTS",
    "VERDICTS",
    "ChatDataset",
    "Faults",
    "Kind",
    "MalformedRows",
    "Message",
    "Preference",
    "PreferenceDataset",
    "Problem",
    "Role",
    "Sampling",
    "Segment",
    "Template",
    "TemplateChoice",
    "Verdict",
    "attach_template",
    "check_rows",
    "choose_template",
    "encode_chat",
    "encode_segments",
    "encode_to_fit",
    "encode_together",
    "find_template",
    "load_template",
    "prompt_to_fit",
    "read_chats",
    "read_preferences",
    "read_verdicts",
    "require_tokens",
    "save_template",
    "stream",
    "template_named",
    "to_jinja",
    "training_sequences",
    "without_rounds",
]

"""Conversations: messages, templates that turn them into ids and loss weights, and the file formats they come in."""

from inkstone.chat.datasets import ChatDataset, PreferenceDataset, Problem, read_chats, read_preferences
from inkstone.chat.export import load_template, save_template, to_jinja
from inkstone.chat.fit import encode_to_fit
from inkstone.chat.messages import Message, Preference, Role, Segment
from inkstone.chat.template import CHATML, TEMPLATES, Template, encode_chat, encode_segments

__all__ = [
    "CHATML",
    "TEMPLATES",
    "ChatDataset",
    "Message",
    "Preference",
    "PreferenceDataset",
    "Problem",
    "Role",
    "Segment",
    "Template",
    "encode_chat",
    "encode_segments",
    "encode_to_fit",
    "load_template",
    "read_chats",
    "read_preferences",
    "save_template",
    "to_jinja",
]

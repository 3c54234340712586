"""Frozen encoders: where they come from (`load_encoder`) and what they give (`Encoder`)."""

from isthmus.encoders.base import Encoder, Output, encode_views
from isthmus.encoders.callables import from_callable
from isthmus.encoders.load import load_encoder, load_encoders, load_recorded
from isthmus.encoders.states import States
from isthmus.encoders.uri import EncoderURI

__all__ = [
    "Encoder",
    "EncoderURI",
    "Output",
    "States",
    "encode_views",
    "from_callable",
    "load_encoder",
    "load_encoders",
    "load_recorded",
]

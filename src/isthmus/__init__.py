"""isthmus joins frozen encoders: thin trained projectors make one image and one text encoder a CLIP-like model."""

__version__ = "0.1.0"

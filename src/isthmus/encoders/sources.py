"""The sources of encoders: the scheme of each source's URIs, and the function that loads from it.

Another package adds one by an entry point of the group `isthmus.encoder_sources`; its function is called as
`load(uri: EncoderURI, *, modality, device, trust_remote_code, fetch) -> Encoder`, see `load_encoder`.
"""

from __future__ import annotations

from isthmus.registry import DEMO, Registry

SOURCES = Registry(
    "isthmus.encoder_sources",
    {
        "hf": "isthmus.encoders.huggingface:load",
        "st": "isthmus.encoders.sentence:load",
        "timm": "isthmus.encoders.timm_models:load",
        "open_clip": "isthmus.encoders.openclip:load",
    },
    noun="encoder source",
    elsewhere={"wheel": DEMO},
)

"""One loader for every kind of model, by the kind in a folder's configuration, or a pretrained one by its URI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.models.pretrained import is_uri
from isthmus.models.saved import DUAL, kind_of
from isthmus.registry import Registry

# Classes with `from_pretrained`, `save_pretrained`, `records`, `summary` and `describe`, by the `kind` in config.json.
KINDS = Registry(
    "isthmus.models",
    {
        DUAL: "isthmus.models.dual_encoder:DualEncoder",
        "fusion": "isthmus.models.fusion_model:FusionModel",
        "language": "isthmus.models.language_model:VisionLanguageModel",
        "speech": "isthmus.models.speech_model:SpeechModel",
    },
    noun="kind of model",
)


def load_model(path: str | Path, **options: Any) -> Any:
    """Load a saved model of any kind, or a pretrained dual encoder by its URI.

    Use this when the kind of model does not matter: `isthmus.load_model("model/")`.

    options: those of the class's `from_pretrained`, such as `load`, `device`, `trust_remote_code`.

    Raises:
        InputError: the model cannot be used.
        UsageError: a kind that neither this version nor an installed package knows.
    """
    kind = DUAL if is_uri(path) else kind_of(Path(path))
    return KINDS.find(kind).from_pretrained(path, **options)

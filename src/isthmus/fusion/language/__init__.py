"""Language models that see: a frozen causal LM, states of an image encoder, a projector, and managers between."""

from isthmus.fusion.language.causal import CausalLanguage, load_language
from isthmus.fusion.language.managers import LanguageManagers
from isthmus.fusion.language.network import LanguageNetwork
from isthmus.fusion.language.packing import Packed, packed
from isthmus.fusion.language.pictures import PictureTokens
from isthmus.fusion.language.plan import LanguageOptions, LanguagePlan, ManagerOptions, PictureOptions
from isthmus.fusion.language.prompts import ChatPrompts, Prompt

__all__ = [
    "CausalLanguage",
    "ChatPrompts",
    "LanguageManagers",
    "LanguageNetwork",
    "LanguageOptions",
    "LanguagePlan",
    "ManagerOptions",
    "Packed",
    "PictureOptions",
    "PictureTokens",
    "Prompt",
    "load_language",
    "packed",
]

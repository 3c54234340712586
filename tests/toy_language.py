"""A language model of two layers with a chat template, and a store of pictures with questions, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from fusion_cases import write_questions
from isthmus.embedding import embed
from isthmus.encoders import load_encoders
from isthmus.fusion.language import LanguageNetwork, LanguagePlan, load_language
from isthmus.models.language_model import VisionLanguageModel
from tiny_encoders import WORDS, save_dinov2

SAID = ["<pad>", "<end>", "<unk>", "<user>", "<assistant>", "<system>", "\n", *WORDS, "green", "what", "colour", "is"]
SAID += ["describe", "picture", ".", "?", "paris"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def save_language(folder: Path, *, template: str | None = TEMPLATE, context: int = 128, layers: int = 2) -> Path:
    """A random Llama, 32 wide, whose tokens are words."""
    words = {word: k for k, word in enumerate(dict.fromkeys(SAID))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<end>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>", "<system>"]})
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        **shape, num_key_value_heads=2, vocab_size=len(words), max_position_embeddings=context,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    for one in network.parameters():  # so that what is said depends on what was
        one.data.mul_(4)
    network.save_pretrained(folder)
    return folder


def language_store(folder: Path, layers: str = "1,2,3", count: int = 24) -> Path:
    """A store of the states of a tiny ViT on pictures with questions, in `folder`; 9 patches each."""
    save_dinov2(folder / "vit")
    embed(
        write_questions(folder / "data", count), f"hf:{folder / 'vit'}?layer={layers}&pool=states", out=folder / "store"
    )
    return folder / "store"


def toy_speaker(folder: Path) -> VisionLanguageModel:
    """A model of random weights over a tiny ViT and a language model of two layers, both in `folder`."""
    view = load_encoders([f"hf:{save_dinov2(folder / 'vit')}?layer=2&pool=states"], modality="image")[0]
    language = load_language(f"hf:{save_language(folder / 'lm')}")
    plan = LanguagePlan(widths=[32], fed=[0], tokens=9, patches=[9], prefix=1, hidden=32)
    return VisionLanguageModel(
        LanguageNetwork(plan, language.network),
        records={"image": [view.record()]},
        language=language.record,
        prompting={"template": "", "system": "", "caption": "describe"},
        loaded=language,
        answers=["two", "red", "no"],
        encoders={"image": [view]},
    )

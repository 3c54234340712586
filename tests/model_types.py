"""Tiny random models of many `model_type`s of transformers, saved in the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from tiny_encoders import VOCABULARY, save_processor, save_tokenizer

Shape = dict[str, Any]

# Shrinks whatever of these a configuration has.
SMALL: Shape = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 16),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "ffn_dim", "hidden_dim", "n_inner"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 40),
    **{"vocab_size": len(VOCABULARY) + 15, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    **{"image_size": 28, "patch_size": 7, "projection_dim": 24},
}
STAGES: Shape = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "image_size": 64}
HEADS: Shape = {**STAGES, "num_attention_heads": [1, 1, 2, 2]}
WINDOWS: Shape = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
MOBILE: Shape = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 32], "patch_size": 2}

ENCODERS = """albert bert bert-generation big_bird camembert data2vec-text deberta deberta-v2 distilbert electra ernie
    esm eurobert flaubert gte ibert jina_embeddings_v3 layoutlm longformer luke markuplm megatron-bert mobilebert
    modernbert mpnet mra nomic_bert rembert roberta roberta-prelayernorm roc_bert roformer splinter squeezebert tapas
    xlm xlm-roberta xlm-roberta-xl xlnet"""
DECODERS = """biogpt bloom cohere ernie4_5 falcon gemma gemma2 gemma3_text glm gpt2 gpt_bigcode gpt_neox granite helium
    llama mamba mistral mixtral nemotron olmo olmo2 opt persimmon phi phi3 qwen2 qwen3 rwkv smollm3 stablelm starcoder2
    xglm"""
BOTH = """bart bigbird_pegasus blenderbot blenderbot-small led longt5 m2m_100 marian mbart mt5 mvp pegasus plbart t5
    umt5"""  # of which the encoder is taken
# All of these pool on their own by the mean of their tokens.
TEXTS: dict[str, Shape] = {
    **{name: {} for name in f"{ENCODERS} {DECODERS} {BOTH}".split()},
    "ctrl": {"n_positions": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"n_positions": 64, "rotary_dim": 8},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 4},
    "mpt": {"max_seq_len": 64},
    "switch_transformers": {"num_experts": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
# With what each pools on its own.
IMAGES: dict[str, tuple[str, Shape]] = {
    **dict.fromkeys(("beit", "data2vec-vision", "deit", "dpt", "vit", "vit_msn", "internvl_vision"), ("cls", {})),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit", "sapiens2", "tipsv2_vision_model"), ("cls", {})),
    **dict.fromkeys(("ijepa", "vitdet", "sam_vision_model"), ("mean", {})),
    **dict.fromkeys(("aimv2_vision_model", "chinese_clip_vision_model", "clip_vision_model"), ("pooler_output", {})),
    **dict.fromkeys(("mlcd_vision_model", "pixio", "siglip_vision_model"), ("pooler_output", {})),
    "radio": ("summary", {}),
    **dict.fromkeys(("convnext", "convnextv2", "dinov3_convnext"), ("pooler_output", STAGES)),
    "regnet": ("pooler_output", {**STAGES, "embedding_size": 8, "groups_width": 8}),
    "resnet": ("pooler_output", {**STAGES, "embedding_size": 8}),
    "bit": ("pooler_output", {**STAGES, "embedding_size": 8, "num_groups": 4}),
    **dict.fromkeys(("segformer", "glpn", "pvt_v2"), ("mean", HEADS)),
    "pvt": ("cls", {**HEADS, "patch_sizes": [4, 2, 2, 2]}),
    "poolformer": ("mean", STAGES),
    "swiftformer": ("mean", {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32], "image_size": 64}),
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), ("pooler_output", {**WINDOWS, "window_size": 4})),
    "focalnet": (
        "pooler_output",
        {"image_size": 28, "patch_size": 4, "embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
        | {"focal_levels": [1, 1], "focal_windows": [3, 3]},
    ),
    "mobilenet_v1": ("pooler_output", {"image_size": 64, "depth_multiplier": 0.1}),
    "mobilevit": ("pooler_output", {**MOBILE, "image_size": 64}),
}
# The image's and the text's own pooling of dual encoders.
TOWERS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("clip", "metaclip_2", "siglip", "altclip"), ("pooler_output", "pooler_output")),
    "chinese_clip": ("pooler_output", "cls"),
}
# Those that have no features of a text or an image to give, or none that were its own, and what is said.
REFUSED: dict[str, tuple[Shape, str]] = {
    "bros": ({}, "bbox"),  # asks for the place of every word
    "convbert": ({}, "convbert, reads the padding"),
    "yoso": ({}, "yoso, reads the padding|gives other features each time"),  # draws its hashes
    "nystromformer": ({}, "nystromformer, reads the padding"),
    "dpr": ({}, "no tokens .* DPRQuestionEncoderOutput"),
    "fsmt": ({}, "encoder of a fsmt cannot be run without its decoder"),
    "hgnet_v2": ({}, "no tokens .* BackboneOutput"),
    "pixtral": ({}, "1 row for 2 images: it merges a batch"),
    "timesformer": ({}, "a timesformer is made for video"),
    "videomae": ({}, "a videomae is made for video"),
    "vivit": ({}, "a vivit is made for video"),
    "speech_to_text": ({}, "made for audio"),
    "wav2vec2": ({}, "its feature extractor is a preprocessor of something else"),
    "whisper": ({}, "its feature extractor is a preprocessor of something else"),
}


def tiny_config(model_type: str, changes: Shape) -> Any:
    """A configuration of `model_type` with few and narrow layers."""
    kind = CONFIG_MAPPING[model_type]
    known = kind().to_dict()
    nested = {name: value for name, value in known.items() if name in ("text_config", "vision_config")}
    small = {name: {key: SMALL[key] for key in SMALL if key in inner} for name, inner in nested.items()}
    return kind(**{key: value for key, value in SMALL.items() if key in known} | small | changes)


def save_type(folder: Path, model_type: str, changes: Shape) -> Any:
    """Save a random model with a tokenizer and an image processor; returns it as its own class loads it."""
    config = tiny_config(model_type, changes)
    owner: Any = MODEL_MAPPING[type(config)]
    owner = owner[-1] if isinstance(owner, tuple) else owner
    torch.manual_seed(0)
    network = owner(config)
    with torch.no_grad():
        for parameter in network.parameters():  # what starts at 0 or 1 would hide what it does
            parameter += 0.05 * torch.randn_like(parameter)
        for module in network.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # as training leaves it
    network.save_pretrained(folder)
    save_tokenizer(save_processor(folder, crop=changes.get("image_size", SMALL["image_size"])))
    return owner.from_pretrained(folder).eval()

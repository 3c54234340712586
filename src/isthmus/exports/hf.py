"""`--to hf`: one folder for AutoModel, the zero-shot pipeline and SentenceTransformer, with its code inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from isthmus.exports.assembly import MODELING, Assembled, assemble, image_processor, import_file, tokenizer
from isthmus.exports.parity import check_close, differences
from isthmus.files import write_json
from isthmus.models.dual_encoder import DualEncoder

CODE = MODELING.removesuffix(".py")
AUTO = {
    "AutoConfig": f"{CODE}.IsthmusConfig",
    "AutoModel": f"{CODE}.IsthmusModel",
    "AutoModelForZeroShotImageClassification": f"{CODE}.IsthmusModel",
    "AutoImageProcessor": f"{CODE}.IsthmusImageProcessor",
    "AutoTokenizer": [None, f"{CODE}.IsthmusTokenizer"],
}
PROCESSOR = "VisionTextDualEncoderProcessor"
BASE = "sentence_transformers.base.modules"
BATCH = 8


def write(model: DualEncoder, folder: Path) -> dict[str, Any]:
    """Write all but the card into `folder`; the largest difference for each side.

    Raises `UsageError` for what has no such form, `InputError` for an export that differs.
    """
    assembled = assemble(model, folder)
    assembled.model.save_pretrained(folder)
    edit_json(folder / "config.json", auto_map=AUTO, architectures=["IsthmusModel"])
    image_processor(assembled).save_pretrained(folder)
    own = {"AutoImageProcessor": AUTO["AutoImageProcessor"]}
    edit_json(folder / "preprocessor_config.json", auto_map=own, processor_class=PROCESSOR)
    tokenizer(assembled).save_pretrained(folder)
    own = {"AutoTokenizer": AUTO["AutoTokenizer"]}
    edit_json(folder / "tokenizer_config.json", auto_map=own, processor_class=PROCESSOR)
    write_sentence_files(folder)
    found = differences(model, *reading(folder))
    check_close(found)
    return {"differences": found}


def write_sentence_files(folder: Path) -> None:
    """What Sentence-Transformers reads besides."""
    modules = [("", f"{BASE}.transformer.Transformer"), ("1_Normalize", f"{BASE}.normalize.Normalize")]
    listed = [{"idx": i, "name": str(i), "path": path, "type": type_} for i, (path, type_) in enumerate(modules)]
    write_json(folder / "modules.json", listed)
    write_json(folder / "1_Normalize" / "config.json", {})
    methods = {name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"} for name in ("text",)}
    methods["image"] = {"method": "get_image_features", "method_output_name": "pooler_output"}
    told = {"transformer_task": "feature-extraction", "module_output_name": "sentence_embedding"}
    write_json(folder / "sentence_bert_config.json", {**told, "modality_config": methods})
    named = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", {**named, "prompts": {}, "default_prompt_name": None})


def reading(folder: Path) -> tuple[Any, Any]:
    """Functions of pictures and of texts to embeddings, by the files in `folder` alone."""
    module = import_file(folder / MODELING)
    model = module.IsthmusModel.from_pretrained(folder).eval()
    processor = module.IsthmusImageProcessor.from_pretrained(folder)
    tokens = module.IsthmusTokenizer.from_pretrained(folder)

    def image(pictures: list[Any]) -> Any:
        return _encoded(pictures, lambda some: model.get_image_features(**processor(some, return_tensors="pt")))

    def text(texts: list[str]) -> Any:
        return _encoded(texts, lambda some: model.get_text_features(**tokens(some, return_tensors="pt")))

    return image, text


@torch.no_grad()
def _encoded(items: list[Any], features: Any) -> Any:
    parts = [features(items[start : start + BATCH]).pooler_output for start in range(0, len(items), BATCH)]
    return torch.cat(parts).numpy()


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a file that another library wrote."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


__all__ = ["Assembled", "reading", "write"]

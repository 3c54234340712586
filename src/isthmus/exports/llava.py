"""`--to llava`: a language model that sees as LLaVA of transformers, stock where that is exact, else with code."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from isthmus.encoders import Encoder
from isthmus.errors import InputError, UsageError
from isthmus.exports import modeling_isthmus_llava as coded
from isthmus.exports.hf import edit_json
from isthmus.exports.licences import joint_licence
from isthmus.exports.parity import probe_pictures
from isthmus.fusion.language import LanguagePlan
from isthmus.fusion.language.grids import TOLERATED
from isthmus.fusion.language.packing import packed
from isthmus.fusion.language.prompts import SLOT
from isthmus.models.card import encoder_rows, summary_rows
from isthmus.models.language_model import NEW_TOKENS, VisionLanguageModel
from isthmus.version import __version__

TOLERANCE = 1e-4  # of logits, relative to the largest
QUESTIONS = ("What is it?", "How many things are there, and which colours do they have?")
CODE = "modeling_isthmus_llava"
AUTO = {
    "AutoConfig": f"{CODE}.IsthmusLlavaConfig",
    "AutoModelForImageTextToText": f"{CODE}.IsthmusLlavaForConditionalGeneration",
}
# Contents of messages may be lists of parts, as processors have them; the language model's template takes texts.
PARTS = (
    "{%- set plain = namespace(said=SYSTEM) -%}{%- for m in messages -%}{%- if m.content is string -%}"
    "{%- set plain.said = plain.said + [m] -%}{%- else -%}{%- set one = namespace(text='') -%}"
    "{%- for part in m.content -%}{%- if part.type == 'image' -%}{%- set one.text = one.text + '<image>\\n' -%}"
    "{%- else -%}{%- set one.text = one.text + part.text -%}{%- endif -%}{%- endfor -%}"
    "{%- set plain.said = plain.said + [{'role': m.role, 'content': one.text}] -%}{%- endif -%}{%- endfor -%}"
    "{%- set messages = plain.said -%}"
)
CARD = """\
---
license: {licence}
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, isthmus]
---
# A language model that sees, joined by isthmus {version}

{needs}

```python
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/this/folder"{trust}).eval()
processor = AutoProcessor.from_pretrained("path/to/this/folder"{trust})
asked = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": "What is it?"}}]}}]
prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
inputs = processor(images=Image.open("cat.jpg").convert("RGB"), text=prompt, return_tensors="pt")
said = model.generate(**inputs, max_new_tokens={new}, do_sample=False)
print(processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

Logits of probes differ from isthmus' own by at most {difference:.1g}. Lay transparent pictures on white first, as
training did.

## What is in it
{described}.

| modality | encoder | width | fingerprint | licence |
|---|---|---|---|---|
{encoders}

Language model: `{uri}`, licence {language_licence}. {note}
This folder holds copies of the weights of both: the licences of both apply to it.

## Training
{training}
"""


def licences(model: VisionLanguageModel) -> dict[str, str]:
    """The licences of the image encoder and the language model by their URIs, "unknown" where none is known."""
    view = model.encoders_of("image")[0]
    return {
        str(view.uri.backbone()): view.licence or "unknown",
        model.language["uri"]: model.language["licence"] or "unknown",
    }


def write(model: VisionLanguageModel, folder: Path) -> dict[str, Any]:
    """Write all but the card into `folder`: whether it is stock, and the largest difference of logits.

    Raises `UsageError` for what has no such form, `InputError` for logits that differ.
    """
    view = model.encoders_of("image")[0]
    _check(model, view)
    stock = why_not_stock(model) is None
    llava = _made(model, view, stock)
    tokenizer = copy.deepcopy(model._prompts().tokenizer)
    system = [{"role": "system", "content": model.prompting["system"]}] * bool(model.prompting["system"])
    tokenizer.chat_template = PARTS.replace("SYSTEM", repr(system)) + tokenizer.chat_template
    processor = _processor(model, view, tokenizer, stock)
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    difference = _difference(model, folder, stock)
    if not stock:  # only now, or transformers would ask whether our code may run
        shutil.copy(coded.__file__, folder / f"{CODE}.py")
        edit_json(folder / "config.json", auto_map=AUTO, architectures=["IsthmusLlavaForConditionalGeneration"])
    if not difference <= TOLERANCE:
        raise InputError(
            f"Nothing was written: logits of the export differ from the model's own by up to {difference:.2g} of the "
            f"largest, more than {TOLERANCE:g}."
        )
    return {"stock": stock, "differences": {"logits": difference}}


def why_not_stock(model: VisionLanguageModel) -> str | None:
    """What the stock LLaVA of transformers has no form for; None where it can hold the model."""
    plan, layers = model.network.plan, [one.get("layer") for one in model.records["image"]]
    if plan.before:
        return "it has managers"
    if plan.projector != "mlp":
        return "its projector is linear"
    if plan.tokens - plan.cls != plan.patches[plan.fed[0]]:
        return "it averages patches on a coarser grid"
    if None in layers:
        return "it reads the tokens after the encoder's final norm, not a hidden state"
    if plan.prefix > 1 or (plan.cls and not plan.prefix):
        return "its encoder has several tokens, or none, in front of the patches"
    return None


def _why_no_next(plan: LanguagePlan, view: Encoder) -> str | None:
    """What the stock LLaVA-NeXT has no form for, beside what `why_not_stock` says."""
    if plan.cls:
        return "it gives the encoder's first token of the picture as a whole alone"
    if plan.tiles and any(rows * columns > plan.tiles * TOLERATED**2 for rows, columns in plan.grids):
        return "it averages tokens down where a grid has too many (picture.tiles)"
    if (size := getattr(view.network.config, "image_size", None)) != plan.pixels:
        return f"its tiles have {plan.pixels} pixels, and its encoder's configuration says {size}"
    return None


def _check(model: VisionLanguageModel, view: Encoder) -> None:
    """Raise `UsageError` for what neither form can hold."""
    from transformers import AutoModel, PreTrainedModel

    plan, language = model.network.plan, model.network.language
    if plan.grids and (why := why_not_stock(model) or _why_no_next(plan, view)):
        raise UsageError(
            f"--to llava: a model with grids has the form of LLaVA-NeXT alone, which cannot hold this one: {why}."
        )
    if plan.head is not None:
        raise UsageError("--to llava: its pictures go through a head of isthmus, which LLaVA has no place for.")
    if plan.blind:
        raise UsageError("--to llava: the model was trained blind, on zeros in place of pictures.")
    for what, one in ((str(view.uri), view.network), (model.language["uri"], language.base_model)):
        alike = isinstance(one, PreTrainedModel)
        if alike:
            with torch.device("meta"):
                alike = type(AutoModel.from_config(one.config)) is type(one)
        if not alike:
            raise UsageError(
                f"--to llava: {what} is a {type(one).__name__}, which is no model that transformers makes from a "
                "configuration alone, so that no folder of LLaVA can hold it."
            )


def _made(model: VisionLanguageModel, view: Encoder, stock: bool) -> Any:
    """The LLaVA with all weights in it, and a row of the embeddings for the picture's slot."""
    plan, language = model.network.plan, model.network.language
    slot = model._prompts().slot
    layers = [one.get("layer") for one in model.records["image"]]
    text = copy.deepcopy(language.config)
    text.vocab_size = max(text.vocab_size, slot + 1)
    fed = [layers[place] for place in plan.fed]
    shared: dict[str, Any] = {
        "vision_config": copy.deepcopy(view.network.config),
        "text_config": text,
        "image_token_index": slot,
        "image_seq_length": plan.tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_select_strategy": _strategy(model, stock),
        "vision_feature_layer": (fed[0] if len(fed) == 1 else fed) if stock else -1,
        "multimodal_projector_bias": True,
        "tie_word_embeddings": bool(language.config.tie_word_embeddings),
    }
    llava = _projecting(model, shared, layers, stock)
    llava.model.vision_tower.load_state_dict(view.network.state_dict())
    weights = _grown(_merged(language), text.vocab_size)
    body = language.base_model_prefix + "."
    llava.model.language_model.load_state_dict(
        {k.removeprefix(body): v for k, v in weights.items() if k.startswith(body)}
    )
    llava.lm_head.weight.data.copy_(_widened(language.get_output_embeddings().weight.data, text.vocab_size))
    llava.tie_weights()
    llava.generation_config = _generation(model, slot)
    return llava.eval()


def _projecting(model: VisionLanguageModel, shared: dict[str, Any], layers: list[Any], stock: bool) -> Any:
    """The LLaVA of a configuration, with what was trained between the encoder and the language model."""
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    network, llava = model.network, cast(Any, None)
    if not stock:
        config = coded.IsthmusLlavaConfig(**shared, isthmus=_facts(model, layers))  # type: ignore[call-arg]
        llava = coded.IsthmusLlavaForConditionalGeneration(config)
        own = {name: one for name, one in network.own_state().items() if not name.startswith("language.")}
        missing, unexpected = llava.model.load_state_dict(own, strict=False)
        odd = [one for one in missing if not one.startswith(("vision_tower.", "language_model."))] + unexpected
        assert not odd, odd
        return llava
    if network.newline is None:
        llava = LlavaForConditionalGeneration(LlavaConfig(**shared))
    else:
        llava = LlavaNextForConditionalGeneration(
            LlavaNextConfig(**shared, image_grid_pinpoints=_pinpoints(network.plan))
        )
        llava.model.image_newline.data.copy_(network.newline)
    llava.model.multi_modal_projector.load_state_dict(_folded(model))
    return llava


def _pinpoints(plan: LanguagePlan) -> list[list[int]]:
    """Height and width of the grids in pixels."""
    return [[rows * plan.pixels, columns * plan.pixels] for rows, columns in plan.grids]


def _facts(model: VisionLanguageModel, layers: list[Any]) -> dict[str, Any]:
    plan = model.network.plan
    managers = model.network.managers
    kept = ("fed", "managed", "before", "cls", "prefix", "projector", "norm", "widths")
    told: dict[str, Any] = {name: getattr(plan, name) for name in kept}
    left_out = None if managers is None else managers.fed
    return {**told, "layers": layers, "side": plan.side, "shared": plan.shared, "left_out": left_out}


def _folded(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The projector with the norms of its inputs taken in."""
    network = model.network
    first, _, second = (cast(nn.Linear, one) for one in cast(nn.Sequential, network.projector))
    mean = torch.cat(
        [_norm(network.norms[place], "mean", 0.0, network.plan.widths[place]) for place in network.plan.fed]
    )
    spread = torch.cat(
        [_norm(network.norms[place], "spread", 1.0, network.plan.widths[place]) for place in network.plan.fed]
    )
    weight = first.weight.double() / spread.double()
    bias = first.bias.double() - weight @ mean.double()
    return {
        "linear_1.weight": weight.float(),
        "linear_1.bias": bias.float(),
        "linear_2.weight": second.weight,
        "linear_2.bias": second.bias,
    }


def _norm(norm: nn.Module, name: str, default: float, width: int) -> Tensor:
    return getattr(norm, name, torch.full((width,), default))


def _merged(language: nn.Module) -> dict[str, Tensor]:
    """The language model's weights, adapters added to what they adapt."""
    if not any("lora_" in name for name, _ in language.named_parameters()):
        return dict(language.state_dict())
    from peft.tuners.lora import LoraLayer

    found = {}
    layers: dict[str, Any] = {name: one for name, one in language.named_modules() if isinstance(one, LoraLayer)}
    for name, one in language.state_dict().items():
        if "lora_" not in name:
            place, _, last = name.replace(".base_layer.", ".").rpartition(".")
            adapted = layers.get(place)
            found[f"{place}.{last}"] = (
                one + adapted.get_delta_weight("default") if adapted is not None and last == "weight" else one
            )
    return found


def _grown(weights: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    return {
        name: _widened(one, vocabulary) if "embed_tokens" in name or "wte" in name else one
        for name, one in weights.items()
    }


def _widened(table: Tensor, rows: int) -> Tensor:
    """An embedding table with rows of zeros behind it."""
    return torch.cat([table, table.new_zeros(max(0, rows - len(table)), table.shape[1])])


def _generation(model: VisionLanguageModel, slot: int) -> Any:
    from transformers import GenerationConfig

    reader = model._prompts().tokenizer
    return GenerationConfig(
        eos_token_id=reader.eos_token_id,
        pad_token_id=reader.pad_token_id,
        bos_token_id=reader.bos_token_id,
        max_new_tokens=NEW_TOKENS,
        suppress_tokens=[slot],
    )


def _strategy(model: VisionLanguageModel, stock: bool) -> str:
    return "default" if stock and model.network.plan.prefix and not model.network.plan.cls else "full"


def _processor(model: VisionLanguageModel, view: Any, tokenizer: Any, stock: bool) -> Any:
    """LLaVA's processor; where patches are averaged, its patches are as large as the averages."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    plan = model.network.plan
    pixels = view.preprocess([probe_pictures()[0]])["pixel_values"].shape[-1]
    patch = pixels // plan.side
    if pixels // patch != plan.side:
        raise UsageError(f"--to llava: {plan.side} × {plan.side} tokens do not go into {pixels} pixels evenly enough.")
    made: Any = LlavaNextProcessor if plan.grids else LlavaProcessor
    return made(
        image_processor=_tiler(plan, view.processor) if plan.grids else view.processor,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=_strategy(model, stock),
        chat_template=tokenizer.chat_template,
        image_token=SLOT,
        num_additional_image_tokens=plan.prefix if stock else int(plan.cls),
    )


def _tiler(plan: LanguagePlan, processor: Any) -> Any:
    """LLaVA-NeXT's image processor, for grids of a plan, with an encoder's mean and deviation."""
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    size = {"height": plan.pixels, "width": plan.pixels}
    same = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return LlavaNextImageProcessorPil(
        size=size,
        crop_size=size,
        image_grid_pinpoints=_pinpoints(plan),
        **{name: getattr(processor, name) for name in same},
    )


@torch.no_grad()
def _difference(model: VisionLanguageModel, folder: Path, stock: bool) -> float:
    """The largest difference of logits of probes, relative to the largest logit, by the files in `folder` alone."""
    from transformers import AutoModelForImageTextToText, LlavaNextProcessor, LlavaProcessor

    if stock:
        llava = AutoModelForImageTextToText.from_pretrained(folder).eval()
    else:
        llava = coded.IsthmusLlavaForConditionalGeneration.from_pretrained(folder).eval()
    reader: Any = LlavaNextProcessor if model.network.plan.grids else LlavaProcessor
    processor, worst = reader.from_pretrained(folder), 0.0
    pictures = [one.convert("RGB") for one in probe_pictures()[:3]]
    states = model.side("image", pictures)
    for row, picture in enumerate(pictures):
        asked = QUESTIONS[row % len(QUESTIONS)]
        (prompt,), one = model._asked(states.take(torch.tensor([row])).trimmed(), [asked])
        sight = model.network.see(one)
        own = model.network.logits(packed([prompt], 0), sight, torch.arange(len(prompt)))
        said: Any = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}]
        text = processor.apply_chat_template(said, add_generation_prompt=True)
        inputs = processor(images=picture, text=text, return_tensors="pt")
        if inputs["input_ids"][0].tolist() != prompt.ids.tolist():
            raise InputError("Nothing was written: the exported processor makes other tokens of a question.")
        found = llava(**inputs).logits[0, :, : own.shape[1]]
        worst = max(worst, float((found - own).abs().max() / own.abs().max()))
    return worst


def write_card(path: Path, model: VisionLanguageModel, found: dict[str, str], report: dict[str, Any]) -> None:
    """Write `README.md` of an export."""
    why = why_not_stock(model)
    which = "LLaVA-NeXT" if model.network.plan.grids else "LLaVA"
    needs = f"Stock {which} of transformers 5: no code of its own, and isthmus is not needed."
    if why:
        needs = (
            f"**Needs `trust_remote_code=True`**: {why}, which the stock LLaVA of transformers has no form for. What "
            f"runs is `{CODE}.py` in this folder, which imports torch and transformers alone."
        )
    text = CARD.format(
        licence=joint_licence(found),
        version=__version__,
        needs=needs,
        trust=", trust_remote_code=True" * bool(why),
        new=NEW_TOKENS,
        difference=report["differences"]["logits"],
        described=model.describe(),
        encoders="\n".join(encoder_rows(model.records)),
        uri=model.language["uri"],
        language_licence=found[model.language["uri"]],
        note=model.language["note"],
        training="\n".join(summary_rows(model.summary)) or "No summary was recorded.",
    )
    path.write_text(text, encoding="utf-8")

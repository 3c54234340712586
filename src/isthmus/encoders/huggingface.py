"""`hf:` – vision, text and speech models in the format of transformers, from the hub or a folder."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.encoders import hub
from isthmus.encoders.base import (
    Encoder,
    Inputs,
    Output,
    block_outputs,
    find_blocks,
    flatten_map,
    refuse_what_reads_padding,
)
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.images import to_pil
from isthmus.encoders.modality import Modality, check_texts
from isthmus.encoders.portable import TEXT_INPUTS, Portable, image_processor, prefixed, transformer
from isthmus.encoders.portable import tokenizer as portable_tokenizer
from isthmus.encoders.speech import load_speech
from isthmus.encoders.uri import EncoderURI
from isthmus.encoders.vetting import check_folder
from isthmus.errors import InputError, UsageError

POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
INPUTS = {  # main inputs of models, and the modality of each
    "pixel_values": "image",
    "input_ids": "text",
    "input_values": "audio",
    "input_features": "audio",
    "pixel_values_videos": "video",
}
PREFIX_TOKENS = ("cls_token", "class_embedding", "distillation_token", "register_tokens", "cls_register_token")
UNMASKED = ("siglip_text_model", "siglip2_text_model")  # trained on full length with padding, without a mask
POOLED_FIRST = ("dinov3_convnext",)  # models that put their pooled output before the patches
TIME_FIRST = ("xlnet",)  # models whose blocks pass on [T, N, D]


def load(uri: EncoderURI, *, modality: Modality | None, fetch: bool, **options: Any) -> Encoder:
    """Load an `hf:` encoder; see `load_encoder`."""
    return from_folder(hub.resolve(uri, uri.name, uri.revision, fetch=fetch), uri, modality=modality, **options)


def language_folder(uri: EncoderURI, *, fetch: bool = True) -> hub.LanguageFolder:
    """The folder of a causal language model; see `isthmus.fusion.language.load_language`."""
    folder = hub.resolve(uri, uri.name, uri.revision, fetch=fetch)
    return hub.LanguageFolder(folder, hub.licence_of(folder), hub.revision_of(folder))


def from_folder(
    folder: Path,
    uri: EncoderURI,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """The encoder in `folder`. A model with two towers (CLIP, SigLIP) gives the one of `modality`."""
    if not trust_remote_code:
        check_folder(folder, uri)
    network, missing = _load_network(folder, uri, trust_remote_code)
    network, modality = _tower(network, modality, uri)
    _refuse_missing(missing, uri)
    build: Any = ENCODERS[modality]
    if modality == "text":
        build = partial(build, trained_pooler=not any("pooler" in name.split(".") for name in missing))
    encoder: Encoder = build(folder, uri, network, device, trust_remote_code)
    encoder.licence, encoder.revision = hub.licence_of(folder), hub.revision_of(folder)
    return encoder


def _load_network(folder: Path, uri: EncoderURI, trust_remote_code: bool) -> tuple[nn.Module, set[str]]:
    """The network without a task head, and the names of the weights its files lack."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel
    from transformers import AutoModelForTextEncoding as AutoTextModel

    shared: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    with hub.loading(uri):
        config = AutoConfig.from_pretrained(folder, **shared)
        known = MODEL_MAPPING.get(type(config), ())
        for model in known if isinstance(known, tuple) else (known,):
            _modality_of(model, uri)  # before weights are read, for any auto class
        _refuse_video(config, uri)
    shared |= {"use_safetensors": True, "output_loading_info": True, "dtype": uri.dtype or "float32"}
    with hub.loading(uri):
        whole = getattr(config, "is_encoder_decoder", False)
        alone = whole and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING  # the encoder has a class of its own
        network, info = (AutoTextModel if alone else AutoModel).from_pretrained(folder, config=config, **shared)
    missing = set(info["missing_keys"])
    if whole and not alone and network.main_input_name in ("input_ids", "input_features"):
        network, missing = network.get_encoder(), {name for name in missing if "decoder" not in name.split(".")}
        if not hasattr(network, "config"):
            raise InputError(f"{uri}: the encoder of a {config.model_type} cannot be run without its decoder.")
    return network, missing


class HFImageEncoder(Encoder):
    """A vision transformer or CNN. Its own pooled output: the final CLS of a plain ViT, else its pooler."""

    def __init__(
        self,
        folder: Path,
        uri: EncoderURI,
        network: Any,
        device: str | torch.device | None,
        trust_remote_code: bool,
    ) -> None:
        self.processor, settings = load_processor(folder, uri, trust_remote_code)
        self.pads = bool(getattr(self.processor, "do_pad", False))
        takes = inspect.signature(network.forward).parameters
        self._needed = [
            name for name, one in takes.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        ]
        self._prefix = prefix_length(network)
        self._plain = self._prefix > 0 and not _pools_itself(network)
        self._pooled_first = network.config.model_type in POOLED_FIRST
        self._blocks = find_blocks(network, getattr(network.config, "num_hidden_layers", None))
        self._forward_options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        self._masks = "noise" in takes and hasattr(network.config, "mask_ratio")
        if self._masks:  # of masked autoencoders, which hide patches at random
            network.config.mask_ratio = 0.0
        pools = ("cls", "mean", "max") if self._prefix else ("mean", "max")
        ingredients: dict[str, Any] = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": hub.read_config(folder),
            "image_processor": settings,
        }
        if self._masks:
            ingredients["mask_ratio"] = 0.0
        whole = ingredients | (hub.code(folder) if trust_remote_code else {})
        default = "cls" if self._prefix else "mean"
        options: dict[str, Any] = {"pools": pools, "default_pool": default, "device": device}
        super().__init__(uri, "image", network, whole, earlier=ingredients, **options)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """The model's own resize, crop and normalisation: {"pixel_values": [N, 3, H, W]}, and what else it needs."""
        given = self.processor([to_pil(item) for item in items], return_tensors="pt")
        if missing := [name for name in self._needed if name not in given]:
            raise InputError(f"{self.uri}: its network needs {missing[0]}, which its image processor does not give.")
        inputs = {name: given[name] for name in dict.fromkeys(["pixel_values", *self._needed])}
        if self._masks:  # hides no patch; they keep the order of this noise
            patch: int = self.network.config.patch_size  # type: ignore[union-attr, assignment]
            count = (inputs["pixel_values"].shape[-2] // patch) * (inputs["pixel_values"].shape[-1] // patch)
            inputs["noise"] = torch.arange(count, dtype=torch.float32).expand(len(items), -1)
        return inputs

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        states, result = run_network(self.network, self._blocks, inputs | self._forward_options, layers)
        tokens, mask = flatten_map(last_states(result, self.uri)), inputs.get("pixel_attention_mask")
        tokens = tokens[:, 1:] if self._pooled_first else tokens
        pooled = self._pooled_name(result)
        return Output(
            pooled=None if pooled is None else getattr(result, pooled).flatten(1),
            tokens=tokens,
            mask=None if mask is None else mask.bool(),
            layers=[flatten_map(state) for state in states],
            prefix=self._prefix,
        )

    def _pooled_name(self, result: Any) -> str | None:
        """Where the network's own pooled output stands; None for a plain ViT, and where there is none."""
        name = "pooler_output" if hasattr(result, "pooler_output") else "summary"
        return None if self._plain or getattr(result, name, None) is None else name

    def portable(self) -> Portable:
        if set(self._needed) - {"pixel_values", "noise"}:
            raise UsageError(f"{self.uri}: its network takes more than pixels ({', '.join(self._needed)}).")
        inputs = self.preprocess([self.spec.probe()])
        with torch.no_grad():
            result = self.network(**{name: self._place(one) for name, one in inputs.items()}, **self._forward_options)
        config: Any = self.network.config
        network = {
            "kind": "image",
            **transformer(self.network, self.uri),
            "depth": getattr(config, "num_hidden_layers", None),
            "options": self._forward_options,
            "noise": config.patch_size if self._masks else None,
            "pooled": self._pooled_name(result),
            "pooled_first": self._pooled_first,
        }
        return Portable(network, prefixed("network", self.network), processor=image_processor(self.processor, self.uri))


class HFTextEncoder(Encoder):
    """A text model. Its own pooled output: the mean of its real tokens, or the pooler of a dual encoder's tower."""

    def __init__(
        self,
        folder: Path,
        uri: EncoderURI,
        network: Any,
        device: str | torch.device | None,
        trust_remote_code: bool,
        trained_pooler: bool = True,
    ) -> None:
        self.tokenizer = load_tokenizer(folder, uri, trust_remote_code)
        self.max_tokens = max_tokens(uri, network, self.tokenizer.model_max_length)
        self.position_limit, self.unknown_id = position_limit(network), unknown_id(self.tokenizer)
        self.prompt = uri.prompt or ""
        self._lock = threading.Lock()
        takes_mask = "attention_mask" in inspect.signature(network.forward).parameters
        self._unmasked = network.config.model_type in UNMASKED or not takes_mask
        tower = network.config.model_type.endswith("_text_model")
        headless = tower and getattr(network, "pooler", self) is None  # projected from its CLS, as in Chinese CLIP
        self._has_pooler = tower and trained_pooler and not headless
        self.cls_last = _cls_last(self.tokenizer)
        self._blocks = find_blocks(network, getattr(network.config, "num_hidden_layers", None))
        self._time_first = network.config.model_type in TIME_FIRST
        network.config.use_cache = False
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": hub.read_config(folder),
            "tokenizer": tokenizer_digest(self.tokenizer.get_vocab(), self.tokenizer.encode),
            "max_tokens": self.max_tokens,
            "prompt": self.prompt,
        }
        pools = ("mean", "max", "last") if self._has_pooler else text_pools(self.tokenizer)
        whole = ingredients | (hub.code(folder) if trust_remote_code else {})
        default = "cls" if headless and "cls" in pools else "mean"
        options: dict[str, Any] = {"pools": pools, "default_pool": default, "device": device}
        super().__init__(uri, "text", network, whole, earlier=ingredients, **options)
        refuse_what_reads_padding(self, network.config.model_type)

    def preprocess(self, items: Sequence[str]) -> Inputs:
        """Token ids of the prompt and each text, cut to `max_tokens` and padded on the right."""
        texts = [self.prompt + item for item in check_texts(items)]
        with self._lock:  # a fast tokenizer keeps truncation and padding as state
            batch = self.tokenizer(
                [text or self.tokenizer.eos_token or " " for text in texts],
                padding="max_length" if self._unmasked else True,
                truncation=True,
                max_length=self.max_tokens,
                return_attention_mask=True,
                return_tensors="pt",
            )
        return dict(batch)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompt and text, special ones included, nothing cut off."""
        with self._lock:
            return uncut_ids(self.tokenizer, [self.prompt + text for text in check_texts(texts)])

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        mask = inputs["attention_mask"].bool()
        if self._unmasked:
            inputs = {"input_ids": inputs["input_ids"]}
        states, result = run_network(self.network, self._blocks, inputs, layers)
        if self._time_first:
            states = [state.transpose(0, 1) for state in states]
        states = [state[:, : mask.shape[1]] for state in states]  # Longformer fills its last window
        pooled = result.pooler_output if self._has_pooler else None
        return Output(pooled=pooled, tokens=last_states(result, self.uri), mask=mask, layers=states)

    def portable(self) -> Portable:
        config: Any = self.network.config
        inputs = ["input_ids"] if self._unmasked else list(self.preprocess(["a"]))
        if set(inputs) - set(TEXT_INPUTS):
            raise UsageError(f"{self.uri}: its network takes more than tokens ({', '.join(inputs)}).")
        network = {
            "kind": "text",
            **transformer(self.network, self.uri),
            "depth": getattr(config, "num_hidden_layers", None),
            "inputs": inputs,
            "pooled": "pooler_output" if self._has_pooler else None,
            "time_first": self._time_first,
            "pool": None,
            "modules": [],
        }
        how = {"prompt": self.prompt, "max_tokens": self.max_tokens, "full": self._unmasked}
        how["empty"] = self.tokenizer.eos_token or " "
        told = portable_tokenizer(self.tokenizer, self.uri, **how)
        return Portable(network, prefixed("network", self.network), tokenizer=told)


ENCODERS: dict[Modality, Any] = {"image": HFImageEncoder, "text": HFTextEncoder, "audio": load_speech}


def run_network(
    network: nn.Module, blocks: Sequence[nn.Module], inputs: Inputs, layers: bool
) -> tuple[Sequence[Tensor], Any]:
    """One forward pass and, if `layers`, the hidden states before the final norm."""
    if not layers:
        return (), network(**inputs)
    if not blocks:  # stages of a CNN: there is no norm after the last one
        result = network(**inputs, output_hidden_states=True)
        return getattr(result, "hidden_states", None) or (), result
    with block_outputs(blocks) as states:
        result = network(**inputs)
    return states, result


def last_states(result: Any, uri: EncoderURI) -> Tensor:
    """The tokens that a network gives, [N, T, D] or [N, C, H, W]; `InputError` if it gives none."""
    tokens = getattr(result, "last_hidden_state", None)
    if tokens is None:
        raise InputError(f"{uri}: its network gives no tokens (last_hidden_state) but a {type(result).__name__}.")
    return tokens


def load_processor(folder: Path, uri: EncoderURI, trust_remote_code: bool) -> tuple[Any, dict[str, Any]]:
    """The image processor saved with the model (Pillow and NumPy only) and its settings with `size=` applied.

    A model without one is refused: with guessed preprocessing, features would look right but be wrong.
    """
    # Not from `transformers` itself, which in some versions needs torchvision there.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    settings = _processor_settings(folder, uri)
    overrides = _resized(settings, uri.size) if uri.size else {}
    with hub.loading(uri):
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=trust_remote_code, local_files_only=True, **overrides
        )
    return processor, settings | overrides


def load_tokenizer(folder: Path, uri: EncoderURI, trust_remote_code: bool) -> Any:
    """The tokenizer saved with the model; a decoder without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    with hub.loading(uri):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True, padding_side="right"
        )
    if tokenizer.pad_token is None:  # any token will do: padding is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def text_pools(tokenizer: Any) -> tuple[str, ...]:
    """The poolings that make sense: `cls` only if texts begin with a token that represents the whole."""
    has_cls = getattr(tokenizer, "cls_token_id", None) is not None
    return ("cls", "mean", "max", "last") if has_cls else ("mean", "max", "last")


def _cls_last(tokenizer: Any) -> bool:
    """Whether the token that stands for the whole text ends it, as in XLNet."""
    cls, ids = getattr(tokenizer, "cls_token_id", None), list(tokenizer.encode("a"))
    return cls is not None and ids[:1] != [cls] and ids[-1:] == [cls]


def max_tokens(uri: EncoderURI, network: nn.Module, model_max_length: float) -> int:
    """The length limit: the tokenizer's, within the position table; `max_tokens=` moves it in the table."""
    table = position_limit(network)
    if uri.max_tokens and table and uri.max_tokens > table:
        raise UsageError(f"{uri}: max_tokens is at most {table}: the model has no more positions.")
    stated = int(model_max_length) if model_max_length < 1e9 else table or 512
    return uri.max_tokens or min(stated, table or stated)


def position_limit(network: nn.Module) -> int | None:
    """How many positions a table holds; None for relative or rotary positions, which have no end."""
    stated = getattr(getattr(network, "config", None), "max_position_embeddings", None)
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(weight, Tensor) and weight.ndim == 2:
            # RoBERTa counts positions after the padding index, OPT from an offset.
            padding = getattr(module, "padding_idx", None)
            unused = 0 if padding is None else padding + 1
            held = len(weight) - max(unused, getattr(module, "offset", 0))
            return min(held, stated or held)  # Nyströmformer and similar models have two unused rows
    return None


def uncut_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each text, special ones included, nothing cut off.

    By a tokenizer of transformers, of tokenizers, or of words, as Sentence-Transformers has them.
    """
    if callable(tokenizer):
        options = {"truncation": False, "padding": False, "verbose": False}
        return [list(ids) for ids in tokenizer(texts, **options)["input_ids"]]
    if not hasattr(tokenizer, "encode_batch"):
        return [list(tokenizer.tokenize(text)) for text in texts]
    return [encoded.ids for encoded in tokenizer.encode_batch(texts)]


def unknown_id(tokenizer: Any) -> int | None:
    """The id of what the tokenizer does not know; None if nothing is unknown to it (bytes), or it has no such id."""
    if not callable(tokenizer):
        if not hasattr(tokenizer, "token_to_id"):
            return None  # leaves out words it does not know
        found = (tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>"))
        return next((id for id in found if id is not None), None)
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "bos", "pad")}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return None if unknown in others else unknown  # CLIP and GPT-2 name their end token


def prefix_length(network: nn.Module) -> int:
    """Number of CLS, distillation and register tokens before the patches, read from the parameters."""
    named = [(name.split("."), parameter) for name, parameter in network.named_parameters()]
    # The query token of a head (AIMv2) is not part of the sequence.
    extra = [parameter for path, parameter in named if path[-1] in PREFIX_TOKENS and "head" not in path]
    return sum(parameter.numel() // parameter.shape[-1] for parameter in extra)


def _tower(network: Any, modality: Modality | None, uri: EncoderURI) -> tuple[Any, Modality]:
    if hasattr(network, "vision_model") and hasattr(network, "text_model"):
        if modality is None:
            raise UsageError(f"{uri}: has two towers: pass modality='image' or modality='text'.")
        return (network.vision_model if modality == "image" else network.text_model), modality
    return network, _modality_of(network, uri)


def _modality_of(model: Any, uri: EncoderURI) -> Modality:
    """The modality of a model of transformers, by the main input of the model or its class; other code may not state
    it.

    Raises `UsageError` for video and other modalities without an encoder here.
    """
    takes = inspect.signature(model.forward).parameters
    stated = [model.main_input_name] if isinstance(model.main_input_name, str) else list(model.main_input_name)
    name = next((known for known in (*stated, *INPUTS) if known in takes), stated[0])
    modality = INPUTS.get(name)
    if modality not in ENCODERS:
        what = f"is made for {modality or 'something else'}: its main input is {name}. That is not supported yet;"
        raise UsageError(f"{uri}: {what} hf: loads models of {' and '.join(ENCODERS)}.")
    return modality


def _refuse_video(config: Any, uri: EncoderURI) -> None:
    """Refuse networks for video: their inputs are called pixel_values, as those of images are."""
    if hasattr(config, "num_frames") and not hasattr(config, "vision_config"):
        raise UsageError(f"{uri}: a {config.model_type} is made for video, which hf: does not load yet.")


def _refuse_missing(missing: set[str], uri: EncoderURI) -> None:
    """Weights that the files lack are random. Only those that plain features do not use may be missing: poolers, and
    what speech models in training put in the place of masked frames.
    """
    unused = {"pooler", "masked_spec_embed"}
    needed = sorted(name for name in missing if not unused & {*name.split(".")})
    if needed:
        raise InputError(f"{uri}: its files lack {len(needed)} weights of the network, such as {needed[0]}.")


def _pools_itself(network: nn.Module) -> bool:
    """Whether the pooler is part of the features, as in CLIP-like towers; in plain ViTs it is only for classifiers."""
    several = any(name.endswith("cls_token") and p.shape[-2] > 1 for name, p in network.named_parameters())
    return several or any(hasattr(network, name) for name in ("post_layernorm", "head", "summary_idxs"))


def _processor_settings(folder: Path, uri: EncoderURI) -> dict[str, Any]:
    if (folder / "preprocessor_config.json").exists():
        settings = hub.read_config(folder, "preprocessor_config.json")
    elif (folder / "processor_config.json").exists():
        settings = hub.read_config(folder, "processor_config.json").get("image_processor", {})
    else:
        settings = {}
    if not settings:
        raise InputError(
            f"{uri}: {folder} has no preprocessor_config.json. Its resize and normalisation are unknown and"
            " are not guessed: put the file of the original model there."
        )
    kind = str(settings.get("image_processor_type", ""))
    kept = {key: value for key, value in settings.items() if key not in hub.INCIDENTAL}
    return kept | {"image_processor_type": kind.removesuffix("Fast").removesuffix("Pil")}


def _resized(settings: dict[str, Any], size: int) -> dict[str, Any]:
    """Settings for `size` × `size` pixels, with the ratio of resize to crop kept."""
    square = {"height": size, "width": size}
    resize, crop = settings.get("size"), settings.get("crop_size")
    edge = resize.get("shortest_edge") if isinstance(resize, dict) else resize
    if not (settings.get("do_center_crop") and crop and edge):
        return {"size": square, "crop_size": square}
    side = crop["height"] if isinstance(crop, dict) else crop
    return {"size": {"shortest_edge": round(edge * size / side)}, "crop_size": square}

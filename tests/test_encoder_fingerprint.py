"""What a fingerprint depends on, and what it must not depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from isthmus.encoders import fingerprint, load_encoder
from isthmus.encoders.fingerprint import files_digest, module_digest
from isthmus.errors import InputError
from tiny_encoders import (
    VOCABULARY,
    edit_json,
    save_bert,
    save_dinov2,
    save_gpt2,
    save_tokenizer,
)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


def of(folder: Path, query: str = "") -> str:
    return load_encoder(f"hf:{folder}{query}").fingerprint


def test_it_is_64_hex_digits_and_repeats(bert: Path) -> None:
    assert of(bert) == of(bert)
    assert len(of(bert)) == 64
    assert int(of(bert), 16) > 0


def test_layer_pool_prompt_length_and_size_change_it(bert: Path, tmp_path: Path) -> None:
    queries = ["", "?layer=1", "?layer=2", "?pool=max", "?layer=1&pool=max", "?prompt=a ", "?max_tokens=8"]
    assert len({of(bert, query) for query in queries}) == len(queries)
    image = save_dinov2(tmp_path / "dinov2")
    assert of(image) != of(image, "?size=56")


def test_saying_what_is_implied_does_not_change_it(bert: Path) -> None:
    assert of(bert) == of(bert, "?pool=mean")
    assert of(bert, "?layer=-1") == of(bert, "?layer=3&pool=mean")
    assert of(bert) == of(bert, "?max_tokens=16")


def test_compute_type_is_recorded_and_not_compared(bert: Path) -> None:
    half = load_encoder(f"hf:{bert}?dtype=bfloat16")
    assert half.fingerprint == of(bert)
    assert half.record()["compute_dtype"] == "bfloat16"
    assert half.encode(["a cat"]).dtype == "float32"


def test_the_same_folder_elsewhere_is_the_same_encoder(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "copy")
    assert of(bert) == of(tmp_path / "copy")


def test_shards_do_not_change_it(bert: Path, tmp_path: Path) -> None:
    sharded = save_bert(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert of(sharded) == of(bert)


def test_shards_do_not_change_it_when_weights_are_tied(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_embd=32, n_layer=2, n_head=2, n_positions=16))
    assert network.lm_head.weight is network.transformer.wte.weight
    found = set()
    for name, size in [("one", "1GB"), ("many", "8KB")]:
        network.save_pretrained(tmp_path / name, max_shard_size=size)
        found.add(of(save_tokenizer(tmp_path / name, special=False)))
    assert len(found) == 1
    assert found != {of(save_gpt2(tmp_path / "other"))}


def test_one_changed_weight_changes_it(bert: Path) -> None:
    from safetensors.torch import load_file

    before, file = of(bert), bert / "model.safetensors"
    state = load_file(file)
    state["embeddings.LayerNorm.weight"][0] += 1e-6
    save_file(state, file, metadata={"format": "pt"})
    assert of(bert) != before


def test_another_tokenizer_changes_it(bert: Path) -> None:
    before = of(bert)
    swapped = VOCABULARY | {"cat": VOCABULARY["dog"], "dog": VOCABULARY["cat"]}
    save_tokenizer(bert, words=swapped)
    assert of(bert) != before


def test_another_preprocessing_or_architecture_changes_it(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path)
    found = [of(folder)]
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    found.append(of(folder))
    edit_json(folder / "config.json", num_attention_heads=4)
    found.append(of(folder))
    assert len(set(found)) == 3


def test_who_saved_it_does_not_change_it(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path)
    before = of(folder)
    edit_json(folder / "config.json", transformers_version="4.0", _name_or_path="elsewhere", dtype="float16")
    edit_json(folder / "preprocessor_config.json", image_processor_type="BitImageProcessorFast")
    assert of(folder) == before


def test_weights_are_read_once_per_version(bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    reads: list[int] = []
    hash_tensors = fingerprint._tensors_digest
    monkeypatch.setattr(fingerprint, "_tensors_digest", lambda p: reads.append(1) or hash_tensors(p))
    first = files_digest([bert / "model.safetensors"], bert)
    assert files_digest([bert / "model.safetensors"], bert) == first
    assert len(reads) == 1
    save_file({"x": torch.zeros(2)}, bert / "model.safetensors")
    assert files_digest([bert / "model.safetensors"], bert) != first
    assert len(reads) == 2


def test_names_types_and_shapes_count_and_order_does_not(tmp_path: Path) -> None:
    def digest(**tensors: torch.Tensor) -> str:
        save_file(tensors, tmp_path / "x.safetensors")
        return files_digest([tmp_path / "x.safetensors"], tmp_path)

    zero, one = torch.zeros(4), torch.ones(4)
    assert digest(a=zero, b=one) == digest(b=one, a=zero)
    different = [
        digest(a=zero, b=one),
        digest(a=one, b=zero),
        digest(a=zero, c=one),
        digest(a=zero.reshape(2, 2), b=one),
        digest(a=zero.int(), b=one),
    ]
    assert len(set(different)) == len(different)


def test_a_module_in_memory_hashes_by_names_and_values() -> None:
    layer, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert module_digest(layer) != module_digest(other)
    other.load_state_dict(layer.state_dict())
    assert module_digest(layer) == module_digest(other)


def test_a_truncated_weight_file_is_refused(bert: Path) -> None:
    file = bert / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"truncated|cannot be loaded"):
        load_encoder(f"hf:{bert}")
    with pytest.raises(InputError, match="truncated"):
        files_digest([file], bert)

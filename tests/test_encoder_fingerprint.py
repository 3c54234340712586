"""What a fingerprint depends on, and what it must not depend on."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import isthmus as ist
from isthmus.cli import main
from isthmus.embedding import embed
from isthmus.encoders import base, encode_views, fingerprint, hub, load_encoder
from isthmus.encoders.fingerprint import digest, files_digest, module_digest, read_again, view_fingerprint
from isthmus.errors import InputError
from isthmus.files import write_sealed
from isthmus.models.saved import check_encoders
from isthmus.store import open_store
from tiny_encoders import (
    VOCABULARY,
    edit_json,
    read_weights,
    save_bert,
    save_dinov2,
    save_gpt2,
    save_nested_pipeline,
    save_tokenizer,
)
from toys import write_pairs


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_said", set())


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
    before, file = of(bert), bert / "model.safetensors"
    state = read_weights(file)
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


def test_a_file_whose_size_and_time_were_put_back_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(2)}, file)
    first, stat = files_digest([file], tmp_path), file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    with open(file, "rb+") as handle:  # the same inode
        handle.write(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = files_digest([file], tmp_path)
    assert second != first
    save_file({"x": torch.zeros(2)}, tmp_path / "other")  # another inode
    os.utime(tmp_path / "other", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(tmp_path / "other", file)
    assert files_digest([file], tmp_path) == first


@pytest.mark.parametrize("damage", [b"", b"0" * 64, b"\xff\xfe", b"{}", b'{"digest": 3}', b"[]", None])
def test_a_damaged_cache_file_counts_as_absent(bert: Path, cache: Path, damage: bytes | None) -> None:
    first = files_digest([bert / "model.safetensors"], bert)
    (known,) = (cache / "digests").iterdir()
    held = known.read_bytes()
    other = first.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    known.write_bytes(held.replace(first.encode(), other.encode()) if damage is None else damage)
    assert files_digest([bert / "model.safetensors"], bert) == first
    assert known.read_bytes() == held


def test_reading_again_ignores_the_cache(bert: Path, cache: Path) -> None:
    first = files_digest([bert / "model.safetensors"], bert)
    (known,) = (cache / "digests").iterdir()
    write_sealed(known, {"digest": "0" * 64})
    assert files_digest([bert / "model.safetensors"], bert) == "0" * 64
    with read_again():
        assert files_digest([bert / "model.safetensors"], bert) == first
    assert files_digest([bert / "model.safetensors"], bert) == first


@pytest.mark.parametrize("name", ["document_0_Dense", "query_0_Dense"])
def test_weights_of_a_module_inside_a_module_change_it(tmp_path: Path, name: str) -> None:
    folder = save_nested_pipeline(tmp_path)
    before = load_encoder(f"st:{folder}").fingerprint
    file = folder / "2_Router" / name / "model.safetensors"
    save_file({key: tensor + 1 for key, tensor in read_weights(file).items()}, file)
    assert load_encoder(f"st:{folder}").fingerprint != before


def test_settings_of_a_module_change_it(tmp_path: Path) -> None:
    folder = save_nested_pipeline(tmp_path)
    found = [load_encoder(f"st:{folder}").fingerprint]
    parameters = json.loads((folder / "2_Router" / "router_config.json").read_text())["parameters"]
    edit_json(folder / "2_Router" / "router_config.json", parameters=parameters | {"default_route": "query"})
    found.append(load_encoder(f"st:{folder}").fingerprint)
    edit_json(folder / "2_Router" / "query_0_Dense" / "config.json", activation_function="torch.nn.ReLU")
    found.append(load_encoder(f"st:{folder}").fingerprint)
    text = {"method": "forward", "method_output_name": ["hidden_states", -2]}
    edit_json(folder / "sentence_bert_config.json", modality_config={"text": text})
    found.append(load_encoder(f"st:{folder}").fingerprint)
    assert len(set(found)) == 4


def test_code_that_runs_changes_it(bert: Path) -> None:
    def trusted() -> str:
        with pytest.warns(RuntimeWarning, match="trust_remote_code is on"):
            return load_encoder(f"hf:{bert}", trust_remote_code=True).fingerprint

    plain = of(bert)
    assert trusted() == plain
    (bert / "code.py").write_text("a = 1")
    found = {plain, trusted()}
    (bert / "code.py").write_text("a = 2")
    assert len(found | {trusted()}) == 3 and of(bert) == plain


def by_the_earlier_rule(folder: Path) -> str:
    """What the fingerprint of a nested pipeline was when it saw the outer modules only."""
    encoder = load_encoder(f"st:{folder}")
    outer = {"": {"type": "Transformer", **hub.read_config(folder)}}
    outer |= {"1_Pooling": {"type": "Pooling", **hub.read_config(folder / "1_Pooling")}, "2_Router": {"type": "Router"}}
    kept = {key: encoder.ingredients[key] for key in ("modality", "tokenizer", "max_tokens", "prompt")}
    weights = files_digest([folder / "model.safetensors"], folder)
    return view_fingerprint(digest({**kept, "weights": weights, "config": outer}), None, None)


def test_what_the_earlier_rule_made_is_recognised_and_said_once(tmp_path: Path) -> None:
    folder = save_nested_pipeline(tmp_path)
    old, uri = by_the_earlier_rule(folder), f"st:{folder}"
    encoder = load_encoder(uri)
    record = encoder.record()
    assert encoder.fingerprint != old
    with pytest.warns(RuntimeWarning, match=f"fingerprint {old[:12]} is of an earlier version"):
        check_encoders([encoder], [record | {"fingerprint": old}])
    assert encoder.fingerprint == old and len(encode_views([encoder, encoder.at(pool=None)], encoder.preprocess(["a"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_encoders([load_encoder(uri)], [record])
        check_encoders([load_encoder(uri)], [record | {"fingerprint": old}])
    with pytest.raises(InputError, match="is not the encoder"):
        check_encoders([load_encoder(uri)], [record | {"fingerprint": "0" * 64}])


def test_a_store_of_the_earlier_rule_goes_on(tmp_path: Path) -> None:
    folder, store = save_nested_pipeline(tmp_path / "st"), tmp_path / "store"
    old, image = by_the_earlier_rule(folder), f"hf:{save_dinov2(tmp_path / 'dinov2')}"
    pairs = write_pairs(tmp_path / "pairs", copies=1)
    text = load_encoder(f"st:{folder}")
    with pytest.warns(RuntimeWarning, match="earlier version"):
        assert text.recognise(old)
    first = embed(pairs, image, text, out=store)
    again = embed(pairs, image, f"st:{folder}", out=store)
    assert first.encoded["text"] > 0 and again.encoded["text"] == 0
    assert [record["fingerprint"] for record in open_store(store).encoders if record["modality"] == "text"] == [old]


def test_doctor_sees_other_weights_and_deep_what_is_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder, image = save_nested_pipeline(tmp_path / "st"), f"hf:{save_dinov2(tmp_path / 'dinov2')}"
    embed(write_pairs(tmp_path / "pairs"), image, f"st:{folder}", out=tmp_path / "store")
    ist.train(tmp_path / "store", recipe="cca", overrides=["head.width=4"], out=tmp_path / "model")
    assert main(["doctor", str(tmp_path / "model")]) == 0
    monkeypatch.setattr(fingerprint, "_state", lambda path: str(path))  # a disk that changes bytes and nothing else
    assert main(["doctor", str(tmp_path / "model")]) == 0
    file = folder / "2_Router" / "query_0_Dense" / "model.safetensors"
    save_file({key: tensor + 1 for key, tensor in read_weights(file).items()}, file)
    assert main(["doctor", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    assert main(["doctor", "--deep", str(tmp_path / "model")]) == 1
    assert "what differs: weights" in capsys.readouterr().out


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

"""`hf:` – models saved in the hub's format: families, lengths, padding, and files that cannot be used."""

from __future__ import annotations

import json
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import isthmus as ist
from isthmus.encoders import load_encoder, load_recorded
from isthmus.errors import InputError, IsthmusError, OfflineError, UsageError
from sounds import save_speech
from tiny_encoders import (
    TEXT,
    TEXTS,
    VISION,
    VOCABULARY,
    edit_json,
    pictures,
    read_weights,
    save_bert,
    save_dinov2,
    save_gpt2,
    save_network,
    save_processor,
    save_tokenizer,
)


def save_clip(folder: Path) -> Path:
    text = {**TEXT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = {"text_config": text, "vision_config": VISION, "projection_dim": 24}
    return save_tokenizer(save_processor(save_network(folder, "CLIP", config)))


def save_siglip(folder: Path) -> Path:
    config = {"text_config": TEXT, "vision_config": VISION}
    return save_tokenizer(save_processor(save_network(folder, "Siglip", config)))


def save_qwen(folder: Path) -> Path:
    config = {**TEXT, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096}
    return save_tokenizer(save_network(folder, "Qwen3", config), special=False)


def save_t5(folder: Path) -> Path:
    shape = {"vocab_size": len(VOCABULARY), "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 3}
    config = {**shape, "num_heads": 2, "decoder_start_token_id": 0}
    return save_tokenizer(save_network(folder, "T5", config), special=False)


def save_roberta(folder: Path) -> Path:
    config = {**TEXT, "max_position_embeddings": 18, "pad_token_id": 0}
    return save_tokenizer(save_network(folder, "Roberta", config))


TEXT_FAMILIES = [save_bert, save_roberta, save_gpt2, save_qwen, save_t5, save_clip, save_siglip]


@pytest.mark.parametrize("save", TEXT_FAMILIES)
def test_a_text_has_the_same_features_alone_and_beside_longer_ones(save, tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save(tmp_path)}", modality="text")
    for view in [encoder, encoder.at(0), encoder.at(-1, "last"), encoder.at(2, "mean+max")]:
        together = view.encode(TEXTS, batch_size=len(TEXTS))
        alone = np.concatenate([view.encode([text]) for text in TEXTS])
        assert np.isfinite(together).all()
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_layers_of_a_decoder_are_taken_before_its_final_norm(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save_gpt2(tmp_path)}")
    output = encoder.run(encoder.preprocess(["two dogs"]), layers=True)
    torch.testing.assert_close(encoder.network.ln_f(output.layers[-1]), output.tokens)
    assert not torch.allclose(output.layers[-1], output.tokens)
    np.testing.assert_allclose(encoder.at(pool="last").encode(["two dogs"])[0], output.tokens[0, -1], atol=1e-6)


def test_a_decoder_has_no_cls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no pooling 'cls'.*last, max, mean"):
        load_encoder(f"hf:{save_gpt2(tmp_path)}?pool=cls")


def test_clip_gives_either_tower_with_its_pooler(tmp_path: Path) -> None:
    folder = save_clip(tmp_path)
    image = load_encoder(f"hf:{folder}", modality="image")
    text = load_encoder(f"hf:{folder}", modality="text")
    with torch.no_grad():
        seen = image.network(**image.preprocess(pictures())).pooler_output
        read = text.network(**text.preprocess(TEXTS)).pooler_output
    np.testing.assert_allclose(image.encode(pictures()), seen, atol=1e-6)
    np.testing.assert_allclose(text.encode(TEXTS), read, atol=1e-6)
    assert image.fingerprint != text.fingerprint
    with pytest.raises(UsageError, match="two towers"):
        load_encoder(f"hf:{folder}")


def test_siglip_texts_are_padded_to_full_length_without_a_mask(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save_siglip(tmp_path)}", modality="text")
    ids = encoder.preprocess(["a cat"])["input_ids"]
    assert ids.shape == (1, 16)
    with torch.no_grad():
        expected = encoder.network(input_ids=ids).pooler_output
    np.testing.assert_allclose(encoder.encode(["a cat"]), expected, atol=1e-6)


def test_length_limit_follows_the_position_table_and_moves_within_it(tmp_path: Path) -> None:
    bert = save_bert(tmp_path / "bert")
    assert load_encoder(f"hf:{bert}").max_tokens == 16  # the tokenizer says 64, the table holds 16
    assert load_encoder(f"hf:{bert}?max_tokens=7").preprocess(TEXTS)["input_ids"].shape[1] == 7
    with pytest.raises(UsageError, match="at most 16"):
        load_encoder(f"hf:{bert}?max_tokens=17")
    assert load_encoder(f"hf:{save_roberta(tmp_path / 'roberta')}").max_tokens == 17
    assert load_encoder(f"hf:{save_qwen(tmp_path / 'qwen')}?max_tokens=500").max_tokens == 500


def test_a_prompt_is_put_before_each_text(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    prompted = load_encoder(f"hf:{folder}?prompt=a photo of ").encode(["the cat", "a dog"])
    written = load_encoder(f"hf:{folder}").encode(["a photo of the cat", "a photo of a dog"])
    np.testing.assert_allclose(prompted, written, atol=1e-6)


def test_size_scales_resize_and_crop_together(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save_dinov2(tmp_path)}?size=84")
    assert encoder.preprocess(pictures())["pixel_values"].shape == (3, 3, 84, 84)
    assert encoder.ingredients["image_processor"]["size"] == {"shortest_edge": 96}
    assert encoder.encode(pictures()).shape == (3, 32)


def test_preprocessing_is_the_saved_one(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save_dinov2(tmp_path)}")
    image = pictures()[0].resize((48, 48))
    pixels = np.asarray(image)[3:45, 3:45].transpose(2, 0, 1) / 255
    mean, std = (
        np.array(encoder.ingredients["image_processor"][k])[:, None, None] for k in ("image_mean", "image_std")
    )
    np.testing.assert_allclose(encoder.preprocess([image])["pixel_values"][0], (pixels - mean) / std, atol=1e-5)


def test_preprocessing_may_run_in_several_threads(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{save_bert(tmp_path)}")
    batches = [[text] * 3 for text in TEXTS if text]
    expected = [encoder.preprocess(batch)["input_ids"] for batch in batches]
    wrong: list[object] = []

    def work(i: int) -> None:
        for _ in range(50):
            try:
                if not torch.equal(encoder.preprocess(batches[i])["input_ids"], expected[i]):
                    wrong.append(i)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_half_precision_checkpoints_are_computed_in_float32(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path)
    from transformers import Dinov2Model

    Dinov2Model.from_pretrained(folder).to(torch.float16).save_pretrained(folder)
    encoder = load_encoder(f"hf:{folder}")
    assert {parameter.dtype for parameter in encoder.network.parameters()} == {torch.float32}


def test_without_preprocessing_nothing_is_guessed(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json.*not guessed"):
        load_encoder(f"hf:{folder}")


def test_preprocessing_inside_a_processor_config_is_found(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path)
    before = load_encoder(f"hf:{folder}").encode(pictures())
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    np.testing.assert_array_equal(load_encoder(f"hf:{folder}").encode(pictures()), before)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no safetensors.*save_pretrained"):
        load_encoder(f"hf:{folder}")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, max_shard_size="20KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        load_encoder(f"hf:{folder}")


def test_missing_weights_are_not_left_random(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = save_bert(tmp_path)
    state = read_weights(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if "layer.2" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack \d+ weights.*layer\.2"):
        load_encoder(f"hf:{folder}")
    without_pooler = {name: tensor for name, tensor in state.items() if "pooler" not in name}
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(f"hf:{folder}").width == 32


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    edit_json(folder / "config.json", model_type="no-such-type")
    with pytest.raises(InputError, match="no-such-type"):
        load_encoder(f"hf:{folder}")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_encoder(f"hf:{tmp_path / 'nothing'}")


def test_a_hub_name_offline_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OfflineError, match="hf download nobody/nothing --revision v1"):
        load_encoder("hf:nobody/nothing@v1", fetch=False)
    with pytest.raises(UsageError, match="a b/c"):
        load_encoder("hf:a b/c", fetch=False)


def test_the_hub_cache_is_used_with_its_revision_and_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, commit = tmp_path / "models--org--name", "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "v2").write_text(commit)
    folder = save_bert(repo / "snapshots" / commit)
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Name\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load_encoder("hf:org/name@v2", fetch=False)
    assert (encoder.revision, encoder.licence) == (commit, "apache-2.0")
    assert encoder.record()["uri"] == "hf:org/name@v2"


REMOTE = """
from transformers import BertConfig, BertModel
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


def save_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a text model that brings its own code."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_bert(tmp_path / "own")
    (folder / "own.py").write_text(REMOTE)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    edit_json(folder / "config.json", model_type="own", auto_map=auto_map)
    return folder


def test_remote_code_runs_only_when_asked_for_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_own(tmp_path, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="trust_remote_code"):
            load_encoder(f"hf:{folder}")
    with pytest.warns(RuntimeWarning, match="trust_remote_code is on"):
        encoder = load_encoder(f"hf:{folder}?trust_remote_code=1")
    assert type(encoder.network).__name__ == "OwnModel"
    with pytest.raises(InputError), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(f"hf:{folder}?trust_remote_code=0", trust_remote_code=True)
    with pytest.raises(InputError, match="trust_remote_code"):  # what a file says is no permission
        load_recorded([f"hf:{folder}?trust_remote_code=1"], modality="text")
    with pytest.warns(RuntimeWarning, match="trust_remote_code is on"):
        load_recorded([f"hf:{folder}?trust_remote_code=1"], modality="text", trust_remote_code=True)


def test_a_saved_model_does_not_bring_the_permission_to_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_own(tmp_path, monkeypatch)
    record = {"uri": f"hf:{folder}?trust_remote_code=1", "fingerprint": "0" * 64, "width": 6}
    draws = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    pairs = ist.FeaturePairs.from_arrays(*draws, image_encoder=[record], text_encoder=[record])
    ist.train(pairs, recipe="cca", overrides=["head.width=4", "loss.scale=10"], out=tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="trust_remote_code"):
            ist.evaluate(tmp_path / "model", "zeroshot", tmp_path)
    with pytest.warns(RuntimeWarning, match="trust_remote_code is on"), pytest.raises(IsthmusError):
        ist.evaluate(tmp_path / "model", "zeroshot", tmp_path, trust_remote_code=True)  # of texts, not of images


def test_a_modality_follows_from_the_main_input_not_from_a_vocabulary(tmp_path: Path) -> None:
    """wav2vec 2.0 has a `vocab_size`; an encoder and decoder of audio would fall to the auto class of texts."""
    for kind in ("wav2vec2", "whisper"):
        save_speech(tmp_path / kind, kind)
        folder = save_tokenizer(tmp_path / kind)
        assert load_encoder(f"hf:{folder}").modality == "audio"
        with pytest.raises(UsageError, match="is an encoder of audios, not of texts"):
            load_encoder(f"hf:{folder}", modality="text")
    beit = save_network(tmp_path / "beit", "Beit", {**VISION, "vocab_size": 30})
    assert load_encoder(f"hf:{save_processor(beit)}").modality == "image"


def test_remote_code_that_does_not_state_its_main_input_is_known_by_its_parameters(tmp_path: Path) -> None:
    code = """
    import torch
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput

    class OwnConfig(PretrainedConfig):
        model_type = "own"

    class OwnModel(PreTrainedModel):
        config_class = OwnConfig
        def __init__(self, config):
            super().__init__(config)
            self.patch = torch.nn.Conv2d(3, 8, 14, 14)
            self.post_init()
        def forward(self, pixel_values, **_):
            return BaseModelOutput(self.patch(pixel_values).flatten(2).mT)
    """
    (tmp_path / "own.py").write_text(textwrap.dedent(code))
    network = torch.nn.ModuleDict({"patch": torch.nn.Conv2d(3, 8, 14, 14)})
    save_file(network.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    auto = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    with pytest.warns(RuntimeWarning, match="trust_remote_code is on"):
        encoder = load_encoder(f"hf:{save_processor(tmp_path)}?trust_remote_code=1")
    assert (encoder.modality, encoder.encode(pictures()).shape) == ("image", (3, 8))

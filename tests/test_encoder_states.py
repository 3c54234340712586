"""Hidden states of the layers asked for: what they are, which tokens are real, and that training goes on from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from isthmus.encoders import States, encode_views, load_encoder, load_encoders
from isthmus.errors import UsageError
from tiny_encoders import TEXTS, VISION, pictures, save_bert, save_dinov2, save_network, save_processor
from toys import word_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {"image": save_dinov2(root / "dinov2"), "text": save_bert(root / "bert")}


@pytest.mark.parametrize(("modality", "items"), [("image", pictures()), ("text", TEXTS)])
def test_states_are_the_networks_own_hidden_states(folders: dict[str, Path], modality: str, items: list) -> None:
    encoder = load_encoder(f"hf:{folders[modality]}")
    inputs = encoder.preprocess(items)
    with torch.no_grad():
        result = encoder.network(**inputs, output_hidden_states=True)
    states = encoder.states(items)
    assert states.values.shape == (len(items), 4, *result.last_hidden_state.shape[1:])
    torch.testing.assert_close(states.values, torch.stack(result.hidden_states, dim=1))
    some = encoder.states(inputs, layers=[-1, None, 0])
    expected = [result.hidden_states[3], result.last_hidden_state, result.hidden_states[0]]
    torch.testing.assert_close(some.values, torch.stack(expected, dim=1))
    real = inputs.get("attention_mask", torch.ones(states.values.shape[::2]))
    assert states.mask.dtype == torch.bool and torch.equal(states.mask, real.bool())
    assert (states.rate_hz, states.prefix) == (None, 1 if modality == "image" else 0)


def test_a_view_of_tokens_has_the_states_and_pools_them_as_it_encodes(folders: dict[str, Path]) -> None:
    view = load_encoder(f"hf:{folders['text']}?layer=2&pool=mean")
    states = view.states(TEXTS, layers=[2])
    weights = states.mask / states.mask.sum(1, keepdim=True)
    mean = (weights[:, None, None] @ states.values[:, :]).squeeze(2)[:, 0]
    np.testing.assert_allclose(view.encode(TEXTS), mean, atol=1e-6)


def test_layers_that_differ_in_width_or_tokens_come_as_a_list(tmp_path: Path) -> None:
    config = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    encoder = load_encoder(f"hf:{save_processor(save_network(tmp_path, 'ConvNext', config), crop=64)}")
    states = encoder.states(pictures(2))
    shapes = [(2, 256, 8), (2, 256, 8), (2, 64, 16), (2, 16, 24), (2, 4, 32)]
    assert [tuple(one.shape) for one in states.values] == shapes
    assert [tuple(one.shape) for one in states.mask] == [shape[:2] for shape in shapes]
    assert all(bool(one.all()) for one in states.mask)
    alike = encoder.states(pictures(2), layers=[0, 1])
    assert alike.values.shape == (2, 2, 256, 8) and alike.mask.shape == (2, 256)


def test_a_dead_token_is_real_whatever_its_values_are(tmp_path: Path) -> None:
    """The stem of a ReLU network on a picture that is all one colour: many tokens of zeros, all of them real."""
    config = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    folder = save_processor(save_network(tmp_path, "ResNet", config), crop=64)
    encoder = load_encoder(f"hf:{folder}")
    with torch.no_grad():
        encoder.network.embedder.embedder.normalization.bias.fill_(-1e4)
    states = encoder.states(pictures(2), layers=[0])
    assert not states.values.any() and bool(states.mask.all())


def test_what_is_trained_on_top_gets_gradients_and_the_encoder_none(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['text']}")
    states = encoder.states(TEXTS)
    assert not states.values.is_inference() and not states.values.requires_grad
    mix, head = nn.Parameter(torch.zeros(states.values.shape[1])), nn.Linear(32, 2)
    mixed = (mix.softmax(0)[None, :, None, None] * states.values).sum(1)
    head(mixed)[states.mask].square().mean().backward()
    assert mix.grad.abs().sum() > 0 and head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.network.parameters())
    with torch.inference_mode():
        lost = encoder.states(TEXTS).values
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        head(lost)


def test_pooled_features_are_bit_for_bit_those_of_inference_mode(folders: dict[str, Path]) -> None:
    for name, items in (("image", pictures()), ("text", TEXTS)):
        views = load_encoders([f"hf:{folders[name]}?layer=*&pool=mean", f"hf:{folders[name]}"])
        inputs = views[0].preprocess(items)
        features = encode_views(views, inputs)
        with torch.inference_mode():
            before = encode_views(views, inputs)
        for a, b in zip(features, before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_layers_that_do_not_exist_are_refused(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['image']}")
    for layers, message in (([4], "Layers run from 0"), ([], "name at least one layer")):
        with pytest.raises(UsageError, match=message):
            encoder.states(pictures(), layers=layers)
    for layers, message in (("all", "does not expose its layers"), ([None], "gives no tokens")):
        with pytest.raises(UsageError, match=message):
            word_encoder().states(TEXTS, layers=layers)


def test_states_of_layers_of_one_shape_are_one_tensor() -> None:
    mask = torch.tensor([[True, False]])
    states = States.of([torch.zeros(1, 2, 3), torch.ones(1, 2, 3)], mask, rate_hz=50.0)
    assert states.values.shape == (1, 2, 2, 3) and states.mask is mask and states.rate_hz == 50.0


def test_the_registers_of_a_vit_are_counted(tmp_path: Path) -> None:
    config = {**VISION, "num_register_tokens": 4}
    encoder = load_encoder(f"hf:{save_processor(save_network(tmp_path, 'Dinov2WithRegisters', config))}")
    states = encoder.states(pictures(), layers=[-1])
    assert states.prefix == 5
    np.testing.assert_allclose(encoder.at(-1, "mean").encode(pictures()), states.values[:, 0, 5:].mean(1), atol=1e-6)

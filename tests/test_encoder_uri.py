"""Encoder names: what is read, what is refused and what is written back."""

from __future__ import annotations

import re

import pytest

from isthmus.encoders.uri import EncoderURI
from isthmus.errors import UsageError


def test_all_parts_are_read() -> None:
    uri = EncoderURI.parse("hf:facebook/dinov2-large@main?pool=cls+mean&layer=-2&size=336&dtype=bfloat16")
    assert uri == EncoderURI(
        "hf", "facebook/dinov2-large", "main", layer=-2, pool="cls+mean", size=336, dtype="bfloat16"
    )


@pytest.mark.parametrize(
    "text",
    [
        "hf:facebook/dinov2-base",
        "hf:org/name@v1.0?layer=*&pool=cls+mean",
        "hf:org/name?layer=4,8,-1&pool=states",
        "st:org/name?max_tokens=128&prompt=query: 100%25 of a%26b = c? é",
        "hf:/models/my@folder?trust_remote_code=1",
        "st:./folder?trust_remote_code=0",
        "open_clip:ViT-B-32@laion2b_s34b_b79k",
        "timm:vit_tiny_patch16_224.augreg_in21k?size=112",
        "wheel:minilm-l6?layer=0&pool=mean",
    ],
)
def test_canonical_names_round_trip(text: str) -> None:
    assert str(EncoderURI.parse(text)) == text
    assert EncoderURI.parse(str(EncoderURI.parse(text))) == EncoderURI.parse(text)


def test_options_are_sorted_and_prompts_decoded() -> None:
    uri = EncoderURI.parse("st:a/b?prompt=a%26b %25&layer=3")
    assert uri.prompt == "a&b %"
    assert str(uri) == "st:a/b?layer=3&prompt=a%26b %25"


def test_a_path_keeps_its_at_sign() -> None:
    uri = EncoderURI.parse("hf:./a@b")
    assert (uri.name, uri.revision) == ("./a@b", None)


def test_the_backbone_has_neither_layer_nor_pool() -> None:
    assert str(EncoderURI.parse("hf:a/b@c?layer=3&pool=cls&size=42").backbone()) == "hf:a/b@c?size=42"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("facebook/dinov2", "source:name"),
        ("hg:a/b", "Did you mean 'hf'"),
        ("hf:", "empty"),
        ("hf:a/b?pol=cls", "Did you mean 'pool'"),
        ("hf:a/b?pool=clss", "Did you mean 'cls'"),
        ("hf:a/b?pool=cls+cls", "twice"),
        ("hf:a/b?pool=", "no value"),
        ("hf:a/b?layer=last", "whole number"),
        ("hf:a/b?size=0", "at least 1"),
        ("hf:a/b?dtype=float8", "Did you mean 'float32'"),
        ("hf:a/b?trust_remote_code=maybe", "0 or 1"),
        ("hf:a/b?layer=1&layer=2", "twice"),
        ("hf:a/b?layer=1,1", "twice"),
        ("hf:a/b?layer=1,", "whole number"),
        ("hf:a/b?layer=1,*", "whole number"),
        ("hf:a/b?pool=cls+states", "cannot be joined"),
        ("callable:mine", "pass the encoder itself"),
    ],
)
def test_bad_names_are_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderURI.parse(text)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("facebook/dinov2-small?layer=3", "hf:facebook/dinov2-small?layer=3"),
        ("sentence-transformers/all-MiniLM-L6-v2", "st:sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_a_bare_hub_name_is_shown_with_its_source(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"for example {meant}.")):
        EncoderURI.parse(name)

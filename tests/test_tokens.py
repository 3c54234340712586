"""Tokens as features: what the views hold, what a token head computes of them, and the whole way to a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import isthmus as ist
from colour_model import PatchColours
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import pairs_from_lists
from isthmus.embedding import plan
from isthmus.encoders import load_encoder
from isthmus.encoders.pooling import average_grid, pool_tokens
from isthmus.encoders.whole import WholePictures
from isthmus.errors import InputError, UsageError
from isthmus.files import read_sealed, write_sealed
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import TokenProjector, build_projector, from_config
from isthmus.projectors import tokens as tokens_module
from isthmus.selection.candidates import from_store
from isthmus.training import load_recipe, train_projectors
from isthmus.training.contrastive.pixels import PixelFeatures, live_split, random_crop
from tiny_encoders import TEXTS, pictures, save_bert, save_dinov2
from toys import picture, pixel_encoder, write_pairs

WHOLE = ("cls:parallel,tokens:parallel", "tokens:parallel+residual")
FEW = ["head.width=16", "optim.batch=64", "optim.epochs=3"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ViT of 3 × 3 patches and a BERT of at most 16 tokens, both 32 wide."""
    root = tmp_path_factory.mktemp("tiny")
    return {"image": save_dinov2(root / "dinov2"), "text": save_bert(root / "bert")}


@pytest.fixture(scope="module")
def store(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ist.store.Store:
    root = tmp_path_factory.mktemp("tokens")
    views = [f"hf:{folders['image']}?pool={pool}" for pool in ("cls+patches", "cls+grid4", "cls+mean", "patches")]
    texts = [f"hf:{folders['text']}?max_tokens=12&pool={pool}" for pool in ("tokens", "mean")]
    return ist.embed(write_pairs(root / "data", copies=2), views, texts, out=root / "store", precision="float32")


def view(store: ist.store.Store, modality: str, pool: str) -> str:
    return next(r["uri"] for r in store.encoders if r["modality"] == modality and r["pool"] == pool)


# --- views -------------------------------------------------------------------------------------------------------


def test_patches_and_grids_are_the_tokens_of_the_last_layer(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['image']}")
    with torch.no_grad():
        tokens = encoder.network(**encoder.preprocess(pictures())).last_hidden_state
    every = encoder.at(pool="cls+patches")
    assert every.parts == [32] * 10
    np.testing.assert_allclose(every.encode(pictures()), tokens.flatten(1), atol=1e-6)
    np.testing.assert_allclose(encoder.at(pool="grid9").encode(pictures()), tokens[:, 1:].flatten(1), atol=1e-6)
    one = encoder.at(pool="cls+grid1").encode(pictures())
    np.testing.assert_allclose(one, encoder.at(pool="cls+mean").encode(pictures()), atol=1e-6)
    assert len({encoder.at(pool=p).fingerprint for p in ("cls+grid1", "cls+mean", "cls+grid4", "grid9")}) == 4


def test_a_grid_averages_the_patches_of_each_square() -> None:
    patches = torch.arange(16.0).reshape(1, 16, 1)  # 4 × 4, row by row
    assert average_grid(patches, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    prefixed = torch.cat([torch.full((1, 1, 1), -1.0), patches], dim=1)
    assert pool_tokens(prefixed, "cls+grid4", prefix=1).tolist() == [[-1, 2.5, 4.5, 10.5, 12.5]]
    with pytest.raises(InputError, match="no square grid"):
        average_grid(patches[:, :12], 2)


def test_tokens_of_a_text_stand_on_the_left_whatever_the_side_of_the_padding() -> None:
    tokens = torch.arange(1.0, 9).reshape(2, 4, 1)
    for mask in ([[1, 1, 0, 0], [1, 1, 1, 1]], [[0, 0, 1, 1], [1, 1, 1, 1]]):
        real = torch.tensor(mask).bool()
        expected = [[*tokens[i, real[i], 0].tolist(), *[0.0] * int(5 - real[i].sum())] for i in (0, 1)]
        assert pool_tokens(tokens, "tokens", real, length=5).tolist() == expected


def test_the_length_of_a_text_is_known_even_where_its_last_token_is_zeros() -> None:
    tokens = torch.ones(5, 4, 3)
    tokens[0, 1] = tokens[1, 2] = tokens[2, 3] = 0
    tokens[3, 1] = 1e-9  # zeros in a store's float16
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    for mask, given in ((real, tokens), (real.flip(1), tokens.flip(1))):
        length = real.sum(1) if mask is real else torch.tensor([3, 3, 4, 2, 0])
        features = pool_tokens(given, "tokens", mask, length=6)
        stored = torch.from_numpy(features.numpy().astype(np.float16).astype(np.float32))
        head = build_projector("tokens:linear", [3] * 6, 2)
        assert head._real(stored.unflatten(1, (6, 3))).sum(1).tolist() == length.tolist()
        order = [given[row, mask[row]] for row in range(5)]
        for row, expected in enumerate(order):
            torch.testing.assert_close(stored[row].reshape(6, 3)[: len(expected)], expected, atol=1e-7, rtol=0)


def test_texts_have_as_many_tokens_as_their_limit_and_zeros_behind(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['text']}?max_tokens=12&pool=tokens")
    features = encoder.encode(TEXTS).reshape(len(TEXTS), 12, 32)
    real = encoder.preprocess(TEXTS)["attention_mask"].numpy()
    lengths = (features != 0).any(-1).sum(1)
    assert lengths.tolist() == real.sum(1).tolist() and 12 in lengths and lengths.min() < 12
    means = np.stack([row[:length].mean(0) for row, length in zip(features, lengths, strict=True)])
    np.testing.assert_allclose(means, encoder.at(pool="mean").encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("modality", "pool", "message"),
    [
        ("image", "grid16", "grid16 needs more tokens than the 9 patches"),
        ("image", "grid5", "not square"),
        ("image", "tokens", "no pooling 'tokens'"),
        ("text", "patches", "no pooling 'patches'.*tokens"),
    ],
)
def test_views_that_cannot_be_are_refused(folders: dict[str, Path], modality: str, pool: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder(f"hf:{folders[modality]}?pool={pool}")


def test_an_encoder_without_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="no pooling 'patches': this image encoder gives pooled features only"):
        pixel_encoder().at(pool="patches")


def test_the_plan_states_the_bytes_of_each_view(folders: dict[str, Path], tmp_path: Path) -> None:
    table = write_pairs(tmp_path, copies=1)
    views = [f"hf:{folders['image']}?pool={pool}" for pool in ("cls+mean", "cls+patches")]
    planned = plan(table, views, f"hf:{folders['text']}?max_tokens=12&pool=tokens")
    pooled, every, texts = planned.view_bytes.values()
    assert (pooled, every, texts) == (64 * (2 * 64 + 16), 64 * (2 * 320 + 16), 64 * (2 * 12 * 32 + 16))
    assert planned.disk_bytes == pooled + every + texts
    assert f"{every / 2**20:,.1f} MiB  {views[1]}" in str(planned)


# --- heads -------------------------------------------------------------------------------------------------------


def size(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def naive(projector: TokenProjector, x: torch.Tensor) -> torch.Tensor:
    """The published head, token by token: every block on its own token, then the mean over those that are real."""

    def token_block(slot: torch.nn.Module, token: torch.Tensor) -> torch.Tensor:
        token = F.layer_norm(token, token.shape, slot.norm.weight, slot.norm.bias)
        block = slot.block
        return block.linear[0](token) + block.down[0](F.gelu(block.up[0](token)))

    out = []
    for row in x.unflatten(1, (-1, projector.parts[0])):
        cls, tokens = (row[:1], row[1:]) if projector.has_cls else (row[:0], row)
        real = len(tokens)
        while projector.padded and real > 1 and not tokens[real - 1].any():
            real -= 1
        projected = [token_block(projector.tokens, token) for token in tokens[:real]]
        total = sum(projected) / len(projected)
        for token in cls:
            total = total + token_block(projector.cls, token)
        out.append(projector.head(total[None])[0])
    return torch.stack(out)


def test_the_whole_head_has_the_published_size() -> None:
    with torch.device("meta"):
        image = build_projector(WHOLE[0], [1024] * 325, 1024)
        text = build_projector(WHOLE[1], [1024] * 77, 1024)
    assert size(image, text) + 1 == 11_553_793


@pytest.mark.parametrize("kind", WHOLE)
def test_a_token_head_is_the_mean_over_real_tokens_of_their_projections(kind: str) -> None:
    torch.manual_seed(0)
    projector = build_projector(kind, [6] * 9, 5)
    x = torch.randn(20, 9, 6)
    for row, length in enumerate(torch.randint(2, 10, (20,))):
        x[row, length:] = 0
    torch.testing.assert_close(projector(x.flatten(1)), naive(projector, x.flatten(1)))


@pytest.mark.parametrize("padded", [False, True])
def test_a_dead_patch_is_a_patch(padded: bool) -> None:
    """A token of zeros counts, unless padding may stand there: at the end of a text."""
    torch.manual_seed(0)
    projector = build_projector(WHOLE[0], [6] * 9, 5, padded=padded)
    torch.nn.init.normal_(projector.tokens.norm.bias)  # what a token of zeros becomes
    x = torch.randn(4, 9, 6)
    alive = projector(x.flatten(1))
    x[0, 3] = x[1, 5:7] = 0  # behind the class token, before other patches
    x[2, 8] = 0
    torch.testing.assert_close(projector(x.flatten(1)), naive(projector, x.flatten(1)))
    mean = projector.tokens(x[:, 1:]).mean(1) + projector.cls(x[:, 0])
    same = torch.isclose(projector(x.flatten(1)), mean, atol=1e-6).all(-1)
    assert same.tolist() == [True, True, not padded, True]
    assert not torch.isclose(projector(x.flatten(1))[:3], alive[:3]).all(-1).any()


def test_models_from_before_padding_was_written_down_know_it_by_their_modality(tmp_path: Path) -> None:
    heads = [build_projector(WHOLE[0], [6] * 5, 4, padded=False), build_projector(WHOLE[1], [6] * 5, 4)]
    records = {m: [{"modality": m, "uri": f"hf:{m}", "fingerprint": "0" * 64, "width": 30}] for m in ("image", "text")}
    saved = DualEncoder(*heads, scale=1.0, records=records).save_pretrained(tmp_path)
    config = read_sealed(saved / "config.json")
    assert [config["projectors"][m].pop("padded") for m in ("image", "text")] == [False, True]
    write_sealed(saved / "config.json", config)
    model = DualEncoder.from_pretrained(saved, load=False, device="cpu")
    assert (model.image_projector.padded, model.text_projector.padded) == (False, True)
    x = torch.randn(3, 30)
    x[0, 24:] = x[1, 6:12] = 0
    for side, head in zip(("image", "text"), heads, strict=True):
        expected = F.normalize(head(x).detach(), dim=-1)
        torch.testing.assert_close(model.project(side, x.numpy(), as_tensor=True), expected)


@pytest.mark.parametrize("limit", [("TOKENS_AT_ONCE", 10), ("TOKENS_KEPT", 10)])
def test_neither_tiles_nor_computing_twice_change_values_or_gradients(limit, monkeypatch) -> None:
    torch.manual_seed(0)
    projector, x = build_projector(WHOLE[1], [6] * 9, 5), torch.randn(20, 54)
    x[3, 12:] = x[7, 30:] = 0

    def results() -> list[torch.Tensor]:
        projector.zero_grad()
        out = projector(x)
        out.square().sum().backward()
        return [out.detach(), *(p.grad.clone() for p in projector.parameters())]

    whole = results()
    monkeypatch.setattr(tokens_module, *limit)
    for a, b in zip(whole, results(), strict=True):
        torch.testing.assert_close(a, b)


def test_one_token_is_the_pooled_head() -> None:
    pooled, tokens = build_projector("parallel", [6, 6], 5), build_projector(WHOLE[0], [6, 6], 5)
    for part, slot in enumerate((tokens.cls, tokens.tokens)):
        slot.norm.load_state_dict(pooled.norm.norms[part].state_dict())
        for name in ("linear", "up", "down"):
            getattr(slot.block, name)[0].load_state_dict(getattr(pooled.blocks[0], name)[part].state_dict())
    x = torch.randn(4, 12)
    torch.testing.assert_close(tokens(x), pooled(x))


def test_dense_embeddings_average_to_the_image_embedding() -> None:
    projector = build_projector(WHOLE[0], [6] * 10, 5)
    x = torch.randn(4, 10, 6)
    dense = projector.dense(x[:, 1:], x[:, 0])
    assert dense.shape == (4, 9, 5)
    torch.testing.assert_close(dense.mean(1), projector(x.flatten(1)))
    alone = projector.dense(x[:, 1:])
    torch.testing.assert_close(dense - alone, projector.cls(x[:, 0])[:, None].expand(4, 9, 5))


def test_slots_are_left_out_or_pass_the_tokens_on() -> None:
    x = torch.randn(4, 9, 6)
    without = build_projector("cls:none,tokens:linear", [6] * 9, 5)
    torch.testing.assert_close(without(x.flatten(1)), without.tokens(x[:, 1:]).mean(1))
    only = build_projector("cls:linear,tokens:none", [6] * 9, 5)
    torch.testing.assert_close(only(x.flatten(1)), only.cls(x[:, 0]))
    with pytest.raises(UsageError, match="no embedding of a single patch"):
        only.dense(x)
    through = build_projector("tokens:identity+residual", [6] * 9, 5)
    torch.testing.assert_close(through(x.flatten(1)), through.head(F.layer_norm(x, [6]).mean(1)))


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        ("patches:parallel", [6] * 3, "the slots are cls and tokens"),
        ("cls:parallel", [6] * 3, "the slots are cls and tokens"),
        ("cls:linear,tokens:parallell", [6] * 3, "Did you mean 'parallel'"),
        ("tokens:identity", [6] * 3, "no kind 'identity'"),
        ("cls:none,tokens:none", [6] * 3, "cannot be summed"),
        ("tokens:linear+parallell", [6] * 3, "Did you mean 'parallel'"),
        ("tokens:linear", [6, 7], "tokens of one width"),
        ("cls:linear,tokens:linear", [6], "tokens of one width"),
    ],
)
def test_kinds_that_make_no_sense_are_refused(kind: str, parts: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_projector(kind, parts, 5)


def test_a_token_head_is_made_again_from_its_configuration() -> None:
    projector = build_projector(WHOLE[1], [6] * 4, 5, dropout=0.1, expand=2).eval()
    again = from_config(projector.config()).eval()
    again.load_state_dict(projector.state_dict())
    x = torch.randn(3, 24)
    assert torch.equal(again(x), projector(x))


# --- the whole way -----------------------------------------------------------------------------------------------


def test_a_model_on_tokens_encodes_pixels_and_captions_as_it_was_trained(
    store: ist.store.Store, tmp_path: Path
) -> None:
    chosen = {"image": view(store, "image", "cls+patches"), "text": view(store, "text", "tokens")}
    ist.train(store, recipe="freeze-align", overrides=FEW, out=tmp_path / "model", **chosen)
    model = DualEncoder.from_pretrained(tmp_path / "model")
    pairs = store.pairs(**chosen)
    data = ist.read_pairs(store.path.parent / "data" / "pairs.jsonl")
    images = [data.decode(row) for row in range(4)]
    cached = model.project("image", pairs.subset(np.arange(4)).image)
    np.testing.assert_allclose(model.encode_image(images), cached, atol=2e-3)  # the store is in fp16
    texts = model.project("text", pairs.subset(np.arange(4)).text)
    np.testing.assert_allclose(model.encode_text(pairs.captions[:4]), texts, atol=2e-3)
    assert model.image_projector.kind == WHOLE[0]


def test_token_heads_learn_and_resume_in_the_same_bits(store: ist.store.Store, tmp_path: Path) -> None:
    pairs = store.pairs(image=view(store, "image", "cls+grid4"), text=view(store, "text", "tokens"))
    recipe = load_recipe("freeze-align", [*FEW, "optim.epochs=5", "optim.batch=32", "optim.warmup=0"])
    whole = train_projectors(pairs, None, recipe)
    assert whole.history[-1]["loss"] < whole.history[1]["loss"]
    for seconds in (0.05, 0.2, 0.8, 3.2):  # until a busy machine has done a step
        some = train_projectors(pairs, None, recipe, out=tmp_path, max_seconds=seconds)
        if some.summary["steps"]:
            break
    assert 0 < some.summary["steps"] < whole.summary["steps"]
    resumed = train_projectors(pairs, None, recipe, out=tmp_path)
    for name, value in whole.image_projector.state_dict().items():
        assert torch.equal(value, resumed.image_projector.state_dict()[name])


@pytest.mark.parametrize(
    ("recipe", "overrides", "image", "text", "message"),
    [
        ("freeze-align", [], "cls+mean", "tokens", "are pooled. Embed the images again with pool=cls.patches"),
        ("freeze-align", [], "cls+grid4", "mean", "are pooled. Embed the texts again with pool=tokens"),
        ("freeze-align", [], "patches", "tokens", "has no class token. Use --set head.image='tokens:parallel'"),
        ("freeze-align", ["head.image=tokens:linear"], "cls+grid4", "tokens", "'cls:none,tokens:linear'"),
        ("freeze-align-pooled", [], "cls+grid4", "mean", "gives 5 tokens side by side. Use --recipe freeze-align"),
        ("default", [], "cls+mean", "tokens", "takes pooled features.*pool=mean"),
        ("freeze-align", ["head.beside=cca"], "cls+grid4", "tokens", "closed forms are of pooled features"),
        ("freeze-align", ["head.init=cca"], "cls+grid4", "tokens", "closed forms are of pooled features"),
    ],
)
def test_heads_and_stores_that_do_not_fit_are_told_what_to_embed(
    store: ist.store.Store, recipe: str, overrides: list[str], image: str, text: str, message: str
) -> None:
    chosen = {"image": view(store, "image", image), "text": view(store, "text", text)}
    with pytest.raises(UsageError, match=message):
        ist.train(store, recipe=recipe, overrides=overrides, **chosen)


def test_selection_leaves_views_of_tokens_out_and_says_so(store: ist.store.Store) -> None:
    found = from_store(store)
    assert [view.record["pool"] for side in found.encoders.values() for view in side] == ["cls+mean", "mean"]
    assert len(found.failed) == 4 and all("gives tokens" in str(one) for one in found.failed)


def test_tokens_of_two_encoders_are_not_mixed(store: ist.store.Store) -> None:
    both = [view(store, "image", "cls+grid4"), view(store, "image", "cls+patches")]
    with pytest.raises(UsageError, match="tokens of one encoder, not of 2"):
        ist.train(store, recipe="freeze-align", image=both, text=view(store, "text", "tokens"))


# --- encoded while training ---------------------------------------------------------------------------------------


def test_images_encoded_while_training_give_the_model_that_a_store_gives(
    store: ist.store.Store, tmp_path: Path
) -> None:
    """Up to the store's fp16: the same views, the same steps."""
    uri, pixels = view(store, "image", "cls+grid4"), store.path.parent / "data" / "pairs.jsonl"
    options = {"recipe": "freeze-align", "text": view(store, "text", "tokens"), "image": uri}
    options["overrides"] = [*FEW, "head.dropout=0", "optim.precision=float32"]
    stored, live = ist.train(store, **options), ist.train(store, **options, pixels=pixels, out=tmp_path / "live")
    again = DualEncoder.from_pretrained(tmp_path / "live")
    assert again.encode_image([picture("red", "dark", "left")]).shape == (1, 16)
    assert live.records["image"][0]["fingerprint"] == stored.records["image"][0]["fingerprint"]
    x = torch.randn(8, 5 * 32)
    cosine = F.cosine_similarity(stored.image_projector(x), live.image_projector(x))
    assert cosine.min() > 0.99
    assert live.summary["validation"]["val_recall"] == pytest.approx(
        stored.summary["validation"]["val_recall"], abs=0.1
    )


def test_pictures_are_augmented_anew_at_every_step_and_the_same_when_it_is_repeated(
    store: ist.store.Store, folders: dict[str, Path]
) -> None:
    chosen = {"image": view(store, "image", "cls+mean"), "text": view(store, "text", "tokens"), "only": None}
    encoder = load_encoder(f"hf:{folders['image']}?pool=cls+grid4")
    train, val = live_split(store, chosen | {"image": encoder}, store.path.parent / "data" / "pairs.jsonl", "crop")
    assert (train.image.shape, train.image_parts) == ((len(train), 5 * 32), [32] * 5)
    torch.manual_seed(3)
    first, second = (train.image.gather([0, 1, 2]) for _ in range(2))
    torch.manual_seed(3)
    np.testing.assert_array_equal(train.image.gather([0, 1, 2]), first)
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_array_equal(val.image.gather([0, 1]), val.image.gather([0, 1]))


def test_the_encoder_sees_a_crop_whole_and_not_without_its_border() -> None:
    """The encoder's own preprocessing cuts a border off: the white frame of a crop must arrive."""
    encoder = PatchColours()  # takes the centre 32 × 32 of 40 × 40
    framed = Image.new("RGB", (40, 40), "white")
    framed.paste(Image.new("RGB", (36, 36), "black"), (2, 2))
    whole = WholePictures(encoder)
    assert whole.side == 32
    seen, own = whole([framed.resize((32, 32))])["pixels"][0], encoder.preprocess([framed])["pixels"][0]
    assert seen[:, 0].mean() > 0.8 and own[:, 0].mean() < -0.9
    exact = torch.tensor(np.array(framed)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(whole([framed])["pixels"][0], exact)
    live = PixelFeatures(pairs_from_lists([framed] * 2, ["a", "b"]), ["0", "1"], encoder, "crop")
    prepared = live._prepare([0, 1], [4, 5])["pixels"]
    torch.testing.assert_close(prepared, whole([random_crop(framed, seed, 32) for seed in (4, 5)])["pixels"])


def test_a_random_crop_is_a_square_part_of_the_picture() -> None:
    rows, columns = np.mgrid[0:40, 0:60]
    picture = Image.fromarray(np.stack([rows * 4, columns * 4, 0 * rows], -1).astype(np.uint8))
    shares, flips = [], 0
    for seed in range(60):
        crop = np.asarray(random_crop(picture, seed, 30)).astype(float)
        assert crop.shape == (30, 30, 3)
        high, wide = (np.ptp(crop[..., band]) / 4 for band in (0, 1))
        shares.append(high * wide / (40 * 60))
        flips += crop[0, 0, 1] > crop[0, -1, 1]
        assert np.array_equal(crop, np.asarray(random_crop(picture, seed, 30)))
    assert 0.1 < min(shares) < 0.35 and 0.7 < max(shares) <= 1.0
    assert 15 < flips < 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": ["data.augment=crop"]}, "their features are stored. Give the pictures"),
        ({"pixels": "there", "image": None}, "needs one image encoder by name"),
        ({"pixels": "there", "overrides": ["data.augment=crop", "head.beside=cca"]}, "a closed form needs"),
        ({"pixels": "elsewhere"}, "of .* images are not among the pictures given"),
    ],
)
def test_what_cannot_be_encoded_while_training_is_refused(
    store: ist.store.Store, tmp_path: Path, options: dict, message: str
) -> None:
    if "pixels" in options:
        there, fewer = store.path.parent / "data" / "pairs.jsonl", write_pairs(tmp_path, copies=1)
        fewer.write_text("".join(fewer.read_text().splitlines(keepends=True)[:9]))
        options = options | {"pixels": there if options["pixels"] == "there" else fewer}
    chosen = {"image": view(store, "image", "cls+mean"), "text": view(store, "text", "mean")}
    with pytest.raises((UsageError, InputError), match=message):
        ist.train(store, recipe="freeze-align-pooled", **chosen | options)


def test_arrays_of_tokens_need_no_store() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(80, 1, 8)).astype(np.float32)
    image, text = (latent + 0.3 * rng.normal(size=(80, count, 8)).astype(np.float32) for count in (5, 7))
    parts = {"image_parts": [8] * 5, "text_parts": [8] * 7}
    pairs = FeaturePairs.from_arrays(image.reshape(80, -1), text.reshape(80, -1), **parts)
    trained = train_projectors(pairs, pairs, load_recipe("freeze-align", [*FEW, "optim.epochs=20"]))
    assert trained.summary["validation"]["val_recall"] > 0.5

# Copyright the isthmus authors. Licensed under the Apache License, Version 2.0.
"""Embeddings by the ONNX graphs beside this file: needs onnxruntime, tokenizers, numpy and pillow, nothing else.

from embed import Embedder
model = Embedder("path/to/this/folder")
model.encode_image([PIL.Image.open("cat.jpg")]) @ model.encode_text(["a cat", "a dog"]).T
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Embedder:
    """int8: the graphs with weights of 8 bits, where they were written. options: of `onnxruntime.InferenceSession`."""

    def __init__(self, folder=".", int8=False, **options):
        suffix = "_int8" if int8 else ""
        self.inputs = GraphInputs(folder)
        self.sessions = {
            side: onnxruntime.InferenceSession(Path(folder) / f"{side}{suffix}.onnx", **options)
            for side in self.inputs.settings
        }

    def encode_image(self, images, batch_size=16):
        """Pictures of Pillow to unit embeddings float32 [N, d]."""
        return self._encode("image", images, self.inputs.pixels, batch_size)

    def encode_text(self, texts, batch_size=16):
        """Strings to unit embeddings float32 [M, d]."""
        return self._encode("text", texts, self.inputs.tokens, batch_size)

    def _encode(self, side, items, prepare, batch_size):
        parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        return np.concatenate([self.sessions[side].run(None, prepare(part))[0] for part in parts])


class GraphInputs:
    """Pictures and texts as the graphs take them."""

    def __init__(self, folder="."):
        self.settings = json.loads((Path(folder) / "preprocessing.json").read_text(encoding="utf-8"))
        self.tokenizers = [Tokenizer.from_str(one["json"]) for one in self.settings["text"]]

    def pixels(self, images):
        """{"pixel_values": float32 [N, 3, H, W]}, or [N, K, 3, H, W] where K networks stand side by side."""
        upright = [upright_rgb(image) for image in images]
        given = [np.stack([prepare(image, how) for image in upright]) for how in self.settings["image"]]
        if len(given) == 1:
            return {"pixel_values": given[0]}
        height, width = (max(one.shape[axis] for one in given) for axis in (-2, -1))
        pixels = np.zeros((len(images), len(given), 3, height, width), np.float32)
        for number, one in enumerate(given):
            pixels[:, number, :, : one.shape[-2], : one.shape[-1]] = one
        return {"pixel_values": pixels}

    def tokens(self, texts):
        """{"input_ids", "attention_mask"}: int64 [N, T], or [N, K, T]."""
        rows = [encode_all(one, how, texts) for one, how in zip(self.tokenizers, self.settings["text"], strict=True)]
        longest = max(len(row) for row, _ in (pair for one in rows for pair in one))
        found = {}
        for name, place in (("input_ids", 0), ("attention_mask", 1)):
            pads = [how["pad"] if place == 0 else 0 for how in self.settings["text"]]
            padded = [
                [pad_row(pair[place], longest, pad, how["left"]) for pair in one]
                for one, pad, how in zip(rows, pads, self.settings["text"], strict=True)
            ]
            array = np.array(padded, np.int64).transpose(1, 0, 2)
            found[name] = array[:, 0] if len(rows) == 1 else array
        return found


def encode_all(tokenizer, how, texts):
    """Of each text (ids, mask): with the prompt, cut; of full length where the network wants that."""
    limit = how["max_tokens"] or 2**30
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    given = [(how["prompt"] + text) or how["empty"] for text in texts]
    encoded = tokenizer.encode_batch(given, add_special_tokens=how["add_special_tokens"])
    ids = [one.ids or [how["pad"]] for one in encoded]
    masks = [[1] * len(one.ids) or [0] for one in encoded]
    if how["full"]:
        ids = [pad_row(row, limit, how["pad"], how["left"]) for row in ids]
        masks = [pad_row(row, limit, 0, how["left"]) for row in masks]
    return list(zip(ids, masks, strict=True))


def pad_row(row, length, value, left):
    filled = [value] * (length - len(row))
    return filled + row if left else row + filled


def prepare(image, how):
    """Resize, crop, scale and normalise: [3, H, W]."""
    if how["do_resize"]:
        image = image.resize(resized(image.size, how["size"]), how["resample"])
    pixels = np.asarray(image)
    if how["do_center_crop"]:
        pixels = cropped(pixels, how["crop_size"]["height"], how["crop_size"]["width"])
    pixels = pixels.astype(np.float32)
    if how["do_rescale"]:
        pixels = pixels * np.float32(how["rescale_factor"])
    if how["do_normalize"]:
        pixels = (pixels - np.array(how["image_mean"], np.float32)) / np.array(how["image_std"], np.float32)
    return pixels.transpose(2, 0, 1)


def resized(size, wanted):
    """(width, height): as wanted, or with the shorter side as wanted."""
    if "shortest_edge" not in wanted:
        return wanted["width"], wanted["height"]
    short, edge = min(size), wanted["shortest_edge"]
    return tuple(edge if side == short else int(edge * side / short) for side in size)


def cropped(pixels, height, width):
    """The middle; black around what is smaller."""
    missing = [max(wanted - have, 0) for wanted, have in zip((height, width), pixels.shape, strict=False)]
    pixels = np.pad(pixels, [*(((one + 1) // 2, one // 2) for one in missing), (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def upright_rgb(image):
    """Turned as its EXIF says, grey of 16 bits divided by 257 and rounded, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


if __name__ == "__main__":
    model = Embedder(Path(__file__).parent)
    path, *texts = sys.argv[1:]
    scores = model.encode_text(texts) @ model.encode_image([Image.open(path)])[0]
    sys.stdout.writelines(f"{score:.3f}  {text}\n" for score, text in zip(scores, texts, strict=True))

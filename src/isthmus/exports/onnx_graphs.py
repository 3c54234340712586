"""`--to onnx`: a graph for each side, the head and the norm inside, and a script that embeds by them."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.encoders.hub import quiet
from isthmus.errors import UsageError, caught
from isthmus.evaluation.inputs import embed_for_evaluation, named
from isthmus.exports.assembly import Assembled, assemble, import_file
from isthmus.exports.parity import TEXTS, check_close, check_cosine, cosines, differences, probe_pictures
from isthmus.files import write_json
from isthmus.metrics.retrieval import retrieval
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store.opening import holds_features

SCRIPT, PREPROCESSING = "embed.py", "preprocessing.json"
BLOCK = 32  # weights that share a scale
INLINE = 1_500_000_000  # bytes of weights: a larger graph keeps them in a file beside it
EXAMPLES = ["two dogs running in a park", "a cat"]
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
ASKED = (*STEPS, "size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std")


def write(model: DualEncoder, folder: Path, *, int8: Any = None) -> dict[str, Any]:
    """Write all but the card into `folder`; the largest difference for each side.

    int8: pairs; then graphs with weights of 8 bits are written too, and what they lose in recall on these is measured.
    Raises `UsageError` for what has no such form, `InputError` for an export that differs.
    """
    _need_packages()
    with TemporaryDirectory() as beside:
        assembled = assemble(model, Path(beside))
        _write_preprocessing(assembled, folder)
        for side, graph in zip(SIDES, (_ImageGraph, _TextGraph), strict=True):
            _write_graph(folder / f"{side}.onnx", graph(assembled.model), _example(folder, side))
    found = differences(model, *_reading(folder))
    check_close(found)
    return {"differences": found, **({} if int8 is None else _write_int8(model, folder, int8))}


def write_text_side(model: DualEncoder, folder: Path) -> None:
    """The text side alone, for `isthmus.exports.embed.Embedder` here: `text.onnx` and `preprocessing.json`.

    Raises as `write`, and `UsageError` for weights that would not stand in one file.
    """
    _need_packages()
    from isthmus.exports.embed import Embedder, GraphInputs

    text = SIDES[1]
    model.encoders_of(text)
    with TemporaryDirectory() as beside, quiet():
        assembled = assemble(model, Path(beside), [text])
        graph = _TextGraph(assembled.model)
        if _weighs(graph) > INLINE:
            raise UsageError(f"its text encoder has {_weighs(graph):,} bytes of weights, more than {INLINE:,}.")
        write_json(folder / PREPROCESSING, {text: assembled.tokenizers})
        _write_graph(folder / f"{text}.onnx", graph, _inputs(GraphInputs(folder), text))
    own, other = model.encode_text(TEXTS), Embedder(folder).encode_text(TEXTS)
    check_close({text: float(np.abs(own - other).max())})


class _ImageGraph(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values).pooler_output


class _TextGraph(nn.Module):
    """All tokens are of the first type, as those of single texts are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        types = torch.zeros_like(input_ids)
        return self.model.get_text_features(input_ids, attention_mask, types).pooler_output


def _need_packages() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"graphs of ONNX need onnx, onnxscript and onnxruntime: pip install 'isthmus[export]' ({error})."
        ) from None


def _write_preprocessing(assembled: Assembled, folder: Path) -> None:
    settings = [_steps(one) for one in assembled.processors]
    write_json(folder / PREPROCESSING, {"image": settings, "text": assembled.tokenizers})
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)


def _steps(processor: dict[str, Any]) -> dict[str, Any]:
    """What `embed.prepare` does; a processor that does more is found by the check."""
    settings = processor["settings"]
    return {name: settings.get(name, False if name in STEPS else None) for name in ASKED}


def _example(folder: Path, side: str) -> dict[str, Tensor]:
    """Inputs to trace a side with, as the script makes them."""
    script = import_file(folder / SCRIPT)
    with caught(folder, "its inputs cannot be prepared"):
        return _inputs(script.GraphInputs(folder), side)


def _inputs(prepared: Any, side: str) -> dict[str, Tensor]:
    given = prepared.pixels(probe_pictures()[:2]) if side == "image" else prepared.tokens(EXAMPLES)
    return {name: torch.from_numpy(value) for name, value in given.items()}


def _weighs(graph: nn.Module) -> int:
    """Bytes."""
    return sum(one.nbytes for one in graph.parameters())


def _write_graph(path: Path, graph: nn.Module, example: dict[str, Tensor]) -> None:
    last = next(iter(example.values())).ndim - 1
    axes = {0: "batch"} if path.stem == "image" else {0: "batch", last: "tokens"}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it says that operators of torchvision are missing
    with warnings.catch_warnings(), caught(path, "the graph cannot be made"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            kwargs=example,
            f=path,
            output_names=[f"{path.stem}_embeds"],
            dynamic_shapes=dict.fromkeys(example, axes),
            external_data=_weighs(graph) > INLINE,
            verbose=False,
        )


def _reading(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The written script's functions, on the written graphs."""
    with caught(folder, "the graphs cannot be read"):
        model = import_file(folder / SCRIPT).Embedder(folder, **options)
    return model.encode_image, model.encode_text


def _write_int8(model: DualEncoder, folder: Path, pairs: Any) -> dict[str, Any]:
    """Graphs whose matrix products have weights of 8 bits, and what they cost on `pairs`."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    if not isinstance(pairs, Pairs) and holds_features(pairs):
        raise UsageError(
            f"{named(pairs)}: holds features; int8 is measured on pairs, whose pictures the graphs encode."
        )
    measured = pairs if isinstance(pairs, Pairs) else read_pairs(pairs)
    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)  # it tells of every node
    for side in SIDES:
        with caught(folder, "int8 cannot be made"):
            graph = onnx.load(folder / f"{side}.onnx")
            # Weights alone: with activations of 8 bits too, a real text encoder misses the bound of `check_cosine`.
            quantizer = MatMulNBitsQuantizer(graph, block_size=BLOCK, is_symmetric=True, bits=8)
            quantizer.process()
            quantizer.model.save_model_to_file(str(folder / f"{side}_int8.onnx"))
    found = cosines(model, *_reading(folder, int8=True))
    check_cosine(found)
    recalls = {name: _recall(model, folder, name == "int8", measured) for name in ("float32", "int8")}
    return {
        "cosines": found,
        "recall": recalls,
        "measured_on": {"pairs": Path(named(pairs)).name, "images": len(measured)},
    }


class _Runner:
    """Graphs in the place of a model that is evaluated."""

    modalities = SIDES

    def __init__(self, model: DualEncoder, read: tuple[Any, Any]) -> None:
        self.width, self._read = model.width, dict(zip(SIDES, read, strict=True))

    def encode(self, modality: str, items: list[Any], *, batch_size: int = 16) -> Any:
        return self._read[modality](items, batch_size)


def _recall(model: DualEncoder, folder: Path, int8: bool, pairs: Pairs) -> dict[str, float]:
    runner: Any = _Runner(model, _reading(folder, int8=int8))
    embedded = embed_for_evaluation(runner, pairs)
    found = retrieval(embedded.image, embedded.text, embedded.image_of, groups=embedded.groups, bootstrap=0)
    return {name: value for name, value in found["metrics"].items() if name.startswith("mean_recall")}

"""Errors that tell the user which input is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

PANIC = "PanicException"  # error of Rust code, by name: its class cannot be imported, and is no Exception


class IsthmusError(Exception):
    """Base of all errors raised on purpose; the command line prints them and exits with `exit_code`."""

    exit_code = 1


class InputError(IsthmusError, ValueError):
    """The data, a store or a model cannot be used as it is. Names the file, the row and the remedy."""


class BadFile(InputError):
    """A file that is damaged, or not what its name says. If it is one of several, it is listed and the rest is read."""


class UsageError(IsthmusError, ValueError):
    """A name, key or option that does not exist, or options that do not go together."""

    exit_code = 2


class OfflineError(IsthmusError):
    """Something is not in the cache and may not, or cannot, be fetched now."""


# Other usual names of our keys and tasks; a dotted key is looked up by its last part.
SYNONYMS = {
    **dict.fromkeys(("learning_rate", "max_lr", "base_lr", "eta"), "lr"),
    **dict.fromkeys(("batch_size", "bs", "minibatch", "train_batch_size"), "batch"),
    **dict.fromkeys(("num_epochs", "n_epochs", "max_epochs", "epoch", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("wd", "l2", "decay"), "weight_decay"),
    **dict.fromkeys(("warmup_steps", "warmup_ratio", "warmup_epochs"), "warmup"),
    **dict.fromkeys(("grad_clip", "gradient_clip", "clip_grad", "max_grad_norm", "clip_norm"), "clip"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule"), "schedule"),
    **dict.fromkeys(("optimizer", "optimiser"), "optim.name"),
    **dict.fromkeys(("loss_type", "loss", "criterion", "objective"), "loss.name"),
    **dict.fromkeys(("temperature", "logit_scale", "tau"), "scale"),
    **dict.fromkeys(("early_stopping", "early_stop"), "patience"),
    **dict.fromkeys(("dim", "embed_dim", "projection_dim", "output_dim", "out_dim", "latent_dim"), "width"),
    **dict.fromkeys(("drop", "dropout_rate", "p_dropout"), "dropout"),
    **dict.fromkeys(("amp", "dtype", "mixed_precision", "fp16", "bf16"), "precision"),
    **dict.fromkeys(("augmentation", "augmentations", "aug"), "augment"),
    **dict.fromkeys(("clip_loss", "contrastive", "ntxent", "softmax"), "infonce"),
    **dict.fromkeys(("siglip", "siglip_loss", "bce"), "sigmoid"),
    **dict.fromkeys(("classification", "zero_shot", "zero_shot_classification", "zeroshot_classification"), "zeroshot"),
    **dict.fromkeys(("zeroshot_retrieval", "retrieve", "recall"), "retrieval"),
    **dict.fromkeys(("k_nn", "nearest_neighbours", "nearest_neighbors"), "knn"),
    **dict.fromkeys(("linear", "probe", "logistic_regression"), "linear_probe"),
    **dict.fromkeys(("few_shot",), "fewshot"),
    **dict.fromkeys(("benchmark", "clip_benchmark"), "suite"),
    **dict.fromkeys(("filename", "filepath", "file_name", "path", "img", "picture"), "image"),
    **dict.fromkeys(("text", "title", "sentence", "description"), "caption"),
    **dict.fromkeys(("class", "category", "target"), "label"),
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'cca'?"` for a similar name or a synonym, otherwise the existing names; appended to an error."""
    known = sorted(known)
    meant = SYNONYMS.get(name.rpartition(".")[2].lower().replace("-", "_").replace(" ", "_"))
    same = [one for one in known if meant is not None and meant in (one, one.rpartition(".")[2])]
    near = same[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."


@contextmanager
def caught(what: Any, failure: str = "cannot be loaded") -> Iterator[None]:
    """Turn any error of a library on untrusted files into an `InputError` about `what`.

    Our own errors, an interrupt and an exit pass.
    """
    try:
        yield
    except IsthmusError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what}: {failure}: {said[:1000]}") from error

"""The quality of one encoder by labels: k-NN and a linear probe on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isthmus.data.matrix import Matrix, rows
from isthmus.errors import UsageError
from isthmus.metrics.nearest import top_k

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
RIDGES = (1e-2, 0.1, 1.0)  # weight of ‖W‖² / 2 per training item, on standardised features


def knn_correct(
    train: Matrix,
    train_labels: np.ndarray,
    val: Matrix,
    val_labels: np.ndarray,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> dict[int, np.ndarray]:
    """Whether k-NN with `train` [n, D] gives each item of `val` [m, D] its label: bool [m] for every k.

    The protocol of DINO and SAIL: cosine, the k nearest vote with weight exp(similarity / temperature). Labels are
    any sortable ids; of equal votes the smaller label wins. Raises `UsageError` for a k above n.
    """
    n = train.shape[0]
    if not ks or min(ks) < 1 or max(ks) > n:
        raise UsageError(f"k = {', '.join(map(str, ks))}: there are {n} labelled training items to vote.")
    classes, number = np.unique(train_labels, return_inverse=True)
    queries = rows(val, slice(0, val.shape[0]))
    scores, index = top_k(queries, rows(train, slice(0, n)), max(ks))
    votes = np.exp((scores.astype(np.float64) - scores.max(axis=1, keepdims=True)) / temperature)
    correct = {}
    for k in ks:
        total = np.zeros((len(scores), len(classes)))
        np.add.at(total, (np.arange(len(scores))[:, None], number[index[:, :k]]), votes[:, :k])
        correct[k] = classes[total.argmax(axis=1)] == val_labels
    return correct


def linear_probe_correct(
    train: Matrix,
    train_labels: np.ndarray,
    val: Matrix,
    val_labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """bool [m]: whether multinomial logistic regression on `train` gives each item of `val` its label.

    Features are standardised. The ridge is chosen on a fifth of the training items, whole `groups` [n], then all
    of them are fitted. Labels that `train` lacks are always missed.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    x = scaler.fit_transform(rows(train, slice(0, train.shape[0])))
    ridge = _chosen_ridge(x, train_labels, np.arange(len(x)) if groups is None else groups, seed)
    model = _logistic(ridge, len(x)).fit(x, train_labels)
    return model.predict(scaler.transform(rows(val, slice(0, val.shape[0])))) == val_labels


def _chosen_ridge(x: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> float:
    from sklearn.model_selection import GroupShuffleSplit

    if len(np.unique(groups)) < 5:
        return RIDGES[-1]
    fit, held = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(x, groups=groups))
    if len(np.unique(labels[fit])) < 2:
        return RIDGES[-1]
    models = [(ridge, _logistic(ridge, len(fit)).fit(x[fit], labels[fit])) for ridge in RIDGES]
    return max((model.score(x[held], labels[held]), ridge) for ridge, model in models)[1]


def _logistic(ridge: float, items: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1 / (ridge * items), tol=1e-3, max_iter=500)

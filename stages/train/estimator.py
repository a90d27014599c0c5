"""Heads as scikit-learn estimators, over features from the cache.

    table = FeatureTable(gather(samples, ...))
    scores = cross_val_score(HeadClassifier("gupta2018:attention_c"), table, labels, cv=5)

A photo has as many faces as it has, so `X` is no matrix but a `FeatureTable`: samples that scikit-learn can count, pick
and hand on. A head that reads nothing but the photo's vector also takes a plain (n, G) array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from stages.errors import DataError, SettingError
from stages.heads import registry
from stages.heads.losses import chances, loss_of, sample_weights
from stages.train.answering import answer, one_thread, probabilities_of
from stages.train.feature_table import FeatureTable
from stages.train.features import Features
from stages.train.models import build_head
from stages.train.population.engine import train_population
from stages.train.population.members import Member, Plan
from stages.train.rows import Scale
from stages.train.settings import HeadSettings
from stages.train.training import batches_of, schedule_of


class OneClassError(DataError, ValueError):
    """All labels are the same; a ValueError too, as scikit-learn has it."""


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """A head that is trained by `fit`, as `kuleshov train` does it.

    It is trained on the CPU, on one thread, in a population of one. The same `random_state` gives the same head.

    Args:
        kind: `FILE:VARIANT` of `stages/heads/`.
        options: of the head's file, by name.
        epochs, batch_size, optimiser, learning_rate, step, gamma, schedule, momentum, weight_decay, dropout, loss,
            class_weights, sampling, standardize: as in `train.heads`, see `HeadSettings`; what is None follows the
            head's paper. `schedule` and `loss` are mappings. Samples have one label. Standardization is part of `fit`:
            mean and deviation are those of the samples that it is given.
        random_state: the seed, or a RandomState that one is drawn from; None: another one each time.

    Attributes:
        classes_: (K,) the labels, sorted.
        head_: the trained module, in eval mode.
        shapes_: of what it reads.
        losses_: mean training loss of each epoch.
        seed_: it was trained with.
        n_features_in_: G, of a plain array.
    """

    def __init__(
        self,
        kind: str = "tan2017:global",
        *,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        batch_size: int = 32,
        optimiser: Literal["sgd", "adam"] = "sgd",
        learning_rate: float = 0.001,
        step: int | None = None,
        gamma: float = 0.1,
        schedule: Mapping[str, Any] | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        dropout: float = 0.5,
        loss: Mapping[str, Any] | None = None,
        class_weights: Literal["none", "balanced"] = "none",
        sampling: Literal["natural", "balanced"] = "natural",
        standardize: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.kind = kind
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.step = step
        self.gamma = gamma
        self.schedule = schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.loss = loss
        self.class_weights = class_weights
        self.sampling = sampling
        self.standardize = standardize
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a head of its own.

        Args:
            X: a `FeatureTable` of n samples; or an array (n, G), for a head that reads photos alone.
            y: (n,) labels, of at least two classes.
            sample_weight: (n,), what the loss of each sample is multiplied by, after division by their mean; of a head
                that is solved as a whole (`baselines`) as it is. Standardization does not weigh. None: all the same.

        Raises:
            SettingError: a parameter is wrong, or the head reads what X has not, or the loss is not finite.
            DataError: fewer than two classes or samples, or a feature that is not finite.
            ValueError: X, y and sample_weight do not fit each other.
        """
        settings = self._settings()
        table, y = self._given(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = _weights(sample_weight, len(labels))
        counted = np.unique(labels if weights is None else labels[weights > 0])
        if len(counted) < 2:
            raise OneClassError(f"y has one class only ({self.classes_[counted[0]]}): a head needs at least two")
        if settings.class_weights == "balanced":
            weights = sample_weights(labels, len(self.classes_)) * (1.0 if weights is None else weights)
        state = self.random_state
        self.seed_ = int(state if isinstance(state, int | np.integer) else check_random_state(state).randint(2**31))
        self.shapes_ = table.shapes(self.kind)
        self._scales = _scales(table) if settings.standardize else None
        features = self._scaled(table)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.head_ = build_head(settings, self.shapes_, len(self.classes_))
            self.losses_ = _train(self.head_, settings, features, table.rows, labels, weights, self.seed_)
        if not np.isfinite(self.losses_).all():
            epoch = int(np.argmin(np.isfinite(self.losses_)))
            raise SettingError(
                f"the loss of {self.kind} is {self.losses_[epoch]} in epoch {epoch + 1}; lower its learning_rate "
                f"({self.learning_rate:g})"
            )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, K) float64 of `classes_`.

        Args:
            X: as in `fit`, of any number of samples.

        Raises:
            DataError: its features have another shape than those of `fit`, or one is not finite.
        """
        check_is_fitted(self)
        table, _ = self._given(X, None, fitting=False)
        found = table.shapes(self.kind)
        if found != self.shapes_:
            raise DataError(f"X has features of {found}, and {self.kind} was fitted on {self.shapes_}")
        if not len(table):
            return np.empty((0, len(self.classes_)))
        return probabilities_of(answer(self.head_, self._scaled(table), table.rows).logits, several=False)

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the most probable of `classes_`; see `predict_proba`."""
        answers = self.predict_proba(X).argmax(1)
        return self.classes_[answers]

    def __sklearn_tags__(self) -> Tags:
        """A matrix is taken by heads that read photos alone."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = _reads_photos_alone(self.kind)
        return tags

    def _settings(self) -> HeadSettings:
        """The parameters, checked."""
        given = {name: value for name, value in self.get_params(deep=False).items() if name != "random_state"}
        given |= {name: given[name] or {} for name in ("options", "loss")}
        try:
            settings = HeadSettings.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SettingError(f"{where or 'HeadClassifier'}: {first['msg'].removeprefix('Value error, ')}") from None
        if settings.loss.several:
            raise SettingError(
                f"loss.kind is {settings.loss.kind}, which is for samples of several labels: y has one each"
            )
        if settings.loss.kind == "soft":
            raise SettingError("loss.kind is soft, which is for samples with annotators' shares: y has a label each")
        registry.options_of(settings.kind, settings.options)
        return settings

    def _given(self, x: Any, y: Any, fitting: bool = True) -> tuple[FeatureTable, Any]:
        """X as a table, and y as an array."""
        if isinstance(x, FeatureTable):
            x.require_finite()
            if fitting:
                if y is None:
                    raise ValueError("HeadClassifier requires y to be passed, but the target y is None")
                y = column_or_1d(y, warn=True)
                check_consistent_length(x, y)
            return x, y
        if not _reads_photos_alone(self.kind):
            raise SettingError(
                f"{self.kind} reads more than photos' vectors, so that X must be a FeatureTable, not {type(x).__name__}"
            )
        if not fitting:
            return FeatureTable.of_arrays(validate_data(self, x, reset=False, dtype=np.float32)), None
        x, y = validate_data(self, x, y, dtype=np.float32)
        return FeatureTable.of_arrays(x), y

    def _scaled(self, table: FeatureTable) -> Features:
        return table.features if self._scales is None else table.features.scaled(*self._scales)


def _reads_photos_alone(kind: str) -> bool:
    module, variant = registry.find(kind)
    return module.NEEDS[variant] == ("global",) and not registry.inputs_of(kind)


def _scales(table: FeatureTable) -> tuple[Scale, Scale, dict[str, Scale]]:
    return *table.features.scales(table.rows), table.features.input_scales(table.rows)


def _train(
    head: nn.Module,
    settings: HeadSettings,
    features: Features,
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    seed: int,
) -> list[float]:
    """Train a head in place; the mean training loss of each epoch.

    Args:
        rows: (n,) positions of the training samples in the features; one may be there more than once.
        labels: (n,) int64.
        weights: (n,) or None.
    """
    fit = registry.fitter(settings.kind)
    if fit is not None:
        given = None if weights is None else torch.from_numpy(weights.astype(np.float32))
        options = registry.options_of(settings.kind, settings.options)
        with one_thread():
            return [fit(head, batches_of(features, rows), torch.from_numpy(labels), given, options, seed)]
    targets = np.zeros(len(features), np.int64)
    targets[rows] = labels
    if (targets[rows] != labels).any():
        raise DataError("X has a sample twice, with two labels: give each sample one")
    epochs, schedule = schedule_of(settings)
    member = Member(
        head=head,
        seed=seed,
        learning_rate=settings.learning_rate,
        rows=rows,
        epochs=epochs,
        schedule=schedule,
        weight_decay=settings.weight_decay,
        weights=None if weights is None else _of_samples(weights, rows, len(features)),
        chances=chances(labels, int(labels.max()) + 1) if settings.sampling == "balanced" else None,
    )
    plan = Plan(
        batch_size=settings.batch_size,
        optimiser=settings.optimiser,
        momentum=settings.momentum,
        loss=loss_of(settings.loss),
        alone=registry.alone(settings.kind),
    )
    [outcome] = train_population([member], features, targets, plan)
    return outcome.losses


def _of_samples(weights: np.ndarray, rows: np.ndarray, samples: int) -> np.ndarray:
    """(samples,) float32 weights of mean 1 over `rows`; of a sample that is there twice the mean of both."""
    total, times = np.bincount(rows, weights, samples), np.bincount(rows, minlength=samples)
    return (total / np.maximum(times, 1) / weights.mean()).astype(np.float32)


def _weights(given: Any, samples: int) -> np.ndarray | None:
    """(samples,) float64, or None.

    Raises:
        ValueError: it is of another shape, or has numbers below 0, or no number above.
    """
    if given is None:
        return None
    weights = np.asarray(check_array(given, ensure_2d=False, input_name="sample_weight"), np.float64)
    if weights.ndim != 1:
        raise ValueError(f"sample_weight has shape {weights.shape}: Sample weights must be 1D array or scalar")
    if len(weights) != samples:
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(samples,)}!")
    if (weights < 0).any() or not weights.any():
        raise ValueError("sample_weight has a weight below zero, or is zero for every sample")
    return weights

"""GDA: its parts by hand, against scikit-learn's discriminant, and the choice of its weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional

from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.gda import ALPHAS, class_means, discriminant, shrunk_precision
from capt_core.methods.image_evidence import WithEvidence
from capt_core.methods.task import Task
from tests.methods.toy_task import NAMES, labels_of, quick, with_features
from tests.refusals import refusal


def test_the_parts_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    means = class_means(features, torch.tensor([0, 0, 1]))
    assert means.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    # Deviations (-1, 0), (1, 0), (0, 0): scatter diag(2, 0), its trace / (n - 1) is 1, so
    # 2 (diag(2, 0) + I)^-1 = diag(2/3, 2).
    precision = shrunk_precision(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(precision, torch.diag(torch.tensor([2 / 3, 2.0])))
    # w = (4/3, 0) and (0, 4); b = log(1/2) - 2 x 4/3 / 2 and log(1/2) - 2 x 4 / 2.
    weight, bias = discriminant(means, precision)
    torch.testing.assert_close(weight, torch.tensor([[4 / 3, 0.0], [0.0, 4.0]]))
    assert bias.tolist() == pytest.approx([math.log(0.5) - 4 / 3, math.log(0.5) - 4])


@given(st.integers(0, 999), st.integers(2, 5), st.integers(2, 6), st.integers(2, 12))
def test_it_is_the_shrunk_linear_discriminant(
    seed: int, classes: int, shots: int, width: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(shots)
    features = torch.randn(classes * shots, width, generator=drawn, dtype=torch.float64)
    features = functional.normalize(features + 2 * torch.eye(classes, width)[labels], dim=1)
    means = class_means(features, labels)
    weight, bias = discriminant(means, shrunk_precision(features - means[labels]))
    # scikit-learn inverts (1 - s) C + s tr(C) / d I, C = scatter / n; the estimator
    # d (n C + n / (n - 1) tr(C) I)^-1 is of that form with s = d / (n - 1 + d), times a constant.
    count = len(labels)
    shrinkage = width / (count - 1 + width)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    reference.fit(features.numpy(), labels.numpy())
    constant = width * (1 - shrinkage) / count
    coefficients, intercepts = reference.coef_, reference.intercept_
    if classes == 2:
        # One row tells the second class from the first.
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        prior = 0.0
    else:
        prior = math.log(1 / classes)
    np.testing.assert_allclose(weight.numpy(), constant * coefficients, rtol=1e-7, atol=1e-9)
    expected = constant * (intercepts - prior) + prior
    np.testing.assert_allclose(bias.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_the_likeliest_weight_is_chosen(task: Task) -> None:
    assert task.features is not None
    labels = labels_of(task.dataset)
    val = [index for index in range(24, 32) if labels[index] < 2]
    features, base = task.features()[val], Classes.of(task.dataset)
    base = Classes(NAMES[:2], base.templates[:2])
    losses = []
    for alpha in ALPHAS:
        logits = fit_method(quick("gda", alpha=alpha), task).fitted.logits(features, base)
        picked = logits.double().log_softmax(dim=1)[range(len(val)), labels[val]]
        losses.append(-picked.mean().item())
    found = fit_method(quick("gda"), task).fitted
    assert isinstance(found, WithEvidence)
    assert found.alpha == ALPHAS[losses.index(min(losses))]


def test_images_that_do_not_differ_are_refused(task: Task) -> None:
    assert task.features is not None
    same = torch.eye(4, task.features().shape[1])[labels_of(task.dataset)]
    assert "raise fewshot.shots" in refusal(fit_method, quick("gda"), with_features(task, same))

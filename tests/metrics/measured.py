"""The values per case of a metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.metrics import PerCaseMetric


def measured(metric: PerCaseMetric, *arguments: Any) -> np.ndarray:
    """Return the value of each case, after an update of a new metric with these arguments."""
    metric.update(*arguments)
    values = metric.per_case().numpy()
    assert values.dtype == np.float64
    assert float(metric.compute()) == pytest.approx(values.mean(), abs=1e-12)
    return values

"""Centres and spreads: NumPy's where NumPy is finite, and finite where it is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.data.scales import median, moments, quantiles, robust, smooth_clip


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1e308, -1e308, 1.7e308], 1.1440668201153676e308),
        ([1e-300, 2e-300, 3e-300], 8.164966e-301),
        ([5e-324, 1e-323], 0.0),
        ([0.1] * 9, 0.0),
    ],
)
def test_moments_of_extreme_values_are_finite(values, wanted):
    mean, std = moments(np.array(values))
    assert min(values) <= mean <= max(values)
    assert std == pytest.approx(wanted, rel=1e-6, abs=0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values, share):
    np.testing.assert_allclose(
        quantiles(np.array(values), (share,))[0], np.quantile(values, share), rtol=1e-9, atol=1e-9
    )


def test_quartiles_of_extreme_values_are_finite():
    values = np.array([-1.7e308, -1.7e308, 0.0, 1.7e308, 1.7e308])
    assert robust(values) == (0.0, np.finfo(float).max)
    assert robust(np.array([-1.7e308, 0.0, 0.0, 0.0, 1.7e308])) == (0.0, 1.7e308)
    assert median(np.array([1.6e308, 1.7e308])) == pytest.approx(1.65e308)


def test_the_smooth_clip_is_the_identity_near_zero_and_three_far_away():
    x = np.array([-1e300, -4.0, -1e-6, 0.0, 1.0, 1e9])
    wanted = [-3, -2.4, -1e-6, 0, 3 / 10**0.5, 3]
    np.testing.assert_allclose(smooth_clip(x), wanted, rtol=1e-12)

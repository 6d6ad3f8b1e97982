"""Intervals: known answers, and by simulation how often they hold the true mean."""

import numpy as np
import pytest
import scipy.stats

import intervals

RNG = np.random.default_rng(0)


def test_one_seed_has_students_interval_over_videos():
    values = RNG.normal(size=[20, 3])
    low, high = intervals.interval(values[None])
    want = scipy.stats.t.interval(0.95, 19, values.mean(0), scipy.stats.sem(values))
    np.testing.assert_allclose([low, high], want)


def test_the_variance_is_that_of_two_random_effects():
    values = RNG.normal(size=[4, 30]) + RNG.normal(size=[4, 1]) + RNG.normal(size=[30])
    mean, rows, columns = values.mean(), values.mean(1), values.mean(0)
    squares = np.array([
        30 * ((rows - mean) ** 2).sum() / 3, 4 * ((columns - mean) ** 2).sum() / 29,
        ((values - rows[:, None] - columns + mean) ** 2).sum() / 87])
    signed = squares * [1, 1, -1]
    freedom = signed.sum() ** 2 / (squares**2 / [3, 29, 87]).sum()
    reach = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(signed.sum() / 120)
    np.testing.assert_allclose(intervals.interval(values), [mean - reach, mean + reach])


def test_paired_videos_leave_only_what_differs():
    hard = 10 * RNG.normal(size=[40])
    one, other = (hard + RNG.normal(size=[1, 40]) for _ in range(2))
    low, high = intervals.interval(one + 1, other)
    np.testing.assert_allclose(
        [low, high], scipy.stats.t.interval(0.95, 39, (one + 1 - other).mean(),
                                            scipy.stats.sem((one - other)[0])))
    assert high - low < np.ptp(intervals.interval(one)) / 4
    np.testing.assert_allclose(intervals.interval(other, one + 1), [-high, -low])


def test_seeds_of_two_models_count_once_each():
    one, other = RNG.normal(size=[3, 1]) + np.zeros([3, 25]), RNG.normal(size=[5, 1]) + np.zeros([5, 25])
    low, high = intervals.interval(one, other)  # Videos are alike: Welch's test of the seeds' means.
    want = scipy.stats.ttest_ind(one[:, 0], other[:, 0], equal_var=False).confidence_interval()
    np.testing.assert_allclose([low, high], want)


def test_where_nothing_varies_a_share_has_the_exact_interval():
    ones = np.ones([3, 20])
    low, high = intervals.interval(ones, limits=(0, 1))
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 20))
    assert intervals.interval(0 * ones, limits=(0, 1))[1] == pytest.approx(1 - 0.025 ** (1 / 20))
    exact = scipy.stats.binomtest(20, 20).proportion_ci(method="exact")
    np.testing.assert_allclose([low, high], exact)
    others = 1 - 0.025 ** (1 / 20)  # So large a share of other videos may be right, or wrong.
    np.testing.assert_allclose(
        intervals.interval(0.5 * ones, limits=(0, 1)), [0.5 - others / 2, 0.5 + others / 2])
    for value in (0, 0.5, 1):  # A difference of 0, between -1 and 1.
        np.testing.assert_allclose(
            intervals.interval(value * ones, value * ones, limits=(0, 1)), [-others, others])
    np.testing.assert_allclose(intervals.interval(18.3 * ones), [18.3, 18.3])


def test_of_right_and_wrong_videos_it_is_wilsons_interval():
    right = np.repeat([1.0, 0.0], [46, 4])
    low, high = intervals.interval(right[None], limits=(0, 1))
    # His equation, with Student's quantile, and n - 1 for n.
    bounds = np.array([low, high])
    np.testing.assert_allclose((0.92 - bounds) ** 2,
                               scipy.stats.t.ppf(0.975, 49) ** 2 * bounds * (1 - bounds) / 49)
    assert 0 < low < 0.92 < high < 1


def test_little_is_not_taken_for_nothing_where_the_rest_is_larger_than_both_effects():
    values = RNG.normal(size=[3, 4])
    values -= values.mean(0)
    values -= values.mean(1, keepdims=True) * 0.99
    low, high = intervals.interval(values)
    assert 0 < high - low < 2 * scipy.stats.t.ppf(0.975, 2)  # Two degrees of freedom are the least here.


def test_it_ends_at_the_limits():
    values = np.abs(RNG.normal(size=[2, 3])) ** 3
    assert intervals.interval(values)[0] < 0
    assert intervals.interval(values, limits=(0, np.inf))[0] == 0


def test_one_video_has_no_interval():
    assert np.isnan(intervals.interval(np.ones([1, 1, 4]))).all()
    assert np.isnan(intervals.interval(np.ones([3, 1]), limits=(0, 1))).all()


def test_undefined_values_are_left_out_and_counted():
    values = RNG.normal(size=[2, 10, 3])
    holes = values.copy()
    holes[0, 3, 1] = holes[1, 5, 1] = np.nan  # A video counts where every seed has a number.
    holes[:, :9, 2] = np.nan
    low, high = intervals.interval(holes)
    np.testing.assert_allclose([low[0], high[0]], intervals.interval(values[:, :, 0]))
    kept = np.delete(values[:, :, 1], [3, 5], 1)
    np.testing.assert_allclose([low[1], high[1]], intervals.interval(kept))
    assert np.isnan([low[2], high[2]]).all()
    found = intervals.estimate(holes[:, :, 1])
    assert found["mean"] == pytest.approx(kept.mean()) and found["videos"] == 8
    np.testing.assert_allclose(found["confidence_95"], [low[1], high[1]])
    assert intervals.estimate(holes[0, :9, 2]) == {"mean": None, "confidence_95": None, "videos": 0}
    assert intervals.estimate(holes[:, :, 2])["confidence_95"] is None
    np.testing.assert_array_equal(
        intervals.defined_mean(np.array([[1, np.nan, 5], [np.nan] * 3]), 1), [3, np.nan])


def test_an_estimate_is_valid_json():
    assert intervals.estimate([1.0]) == {"mean": 1.0, "confidence_95": None, "videos": 1}
    found = intervals.estimate([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert found["mean"] == pytest.approx(4 / 3) and found["videos"] == 3
    assert [type(bound) for bound in found["confidence_95"]] == [float, float]


def test_spans_of_frames():
    holds = np.array([True, True, False, True, False, False, True, True, True])
    assert intervals.spans(holds) == [(0, 1), (3, 3), (6, 8)]
    assert intervals.spans(np.zeros(4, bool)) == [] and intervals.spans(np.ones(4, bool)) == [(0, 3)]


# ---------------------------------------------------------------------------------------- coverage

TRIES, VIDEOS = 2000, 50


def normal(rng, seeds):
    """Scores without limits, as PSNR: seeds and videos differ as much as what is left."""
    effects = [rng.normal(size=[*shape, TRIES]) for shape in ([seeds, 1], [1, VIDEOS], [seeds, VIDEOS])]
    return sum(effects), 0, intervals.UNBOUNDED


def skewed(rng, seeds):
    """A few videos are far better than most, as with position errors."""
    of_videos, rest = (rng.exponential(size=[*shape, TRIES]) for shape in ([1, VIDEOS], [seeds, VIDEOS]))
    return 0.3 * rng.normal(size=[seeds, 1, TRIES]) + of_videos + rest, 2, intervals.UNBOUNDED


def near_one(rng, seeds):
    """Shares of 20 digits read rightly, 0.92 in the mean, 1 in most videos."""
    def share(of_seeds, of_videos):
        return 1 / (1 + np.exp(-(np.log(0.97 / 0.03) + 0.5 * of_seeds + 2 * of_videos)))

    shares = share(rng.normal(size=[seeds, 1, TRIES]), rng.normal(size=[1, VIDEOS, TRIES]))
    return rng.binomial(20, shares) / 20, share(*rng.normal(size=[2, 10**6])).mean(), (0, 1)


@pytest.mark.parametrize("make", [normal, skewed, near_one])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_hold_the_true_mean_as_often_as_they_say(make, seeds):
    values, true, limits = make(np.random.default_rng(seeds), seeds)
    low, high = intervals.interval(values, limits=limits)
    assert 0.92 <= np.mean((low <= true) & (true <= high)) <= 0.98


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_differences_hold_the_true_one(seeds):
    rng = np.random.default_rng(seeds)
    videos = 3 * rng.normal(size=[1, VIDEOS, TRIES])
    one, other = (videos + rng.normal(size=[seeds, 1, TRIES]) + rng.normal(size=[seeds, VIDEOS, TRIES])
                  for _ in range(2))
    low, high = intervals.interval(one, other)
    assert 0.92 <= np.mean((low <= 0) & (high >= 0)) <= 0.98

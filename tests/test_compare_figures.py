"""Means, deviations and paired differences of results."""

import numpy as np
import pytest
from scipy import stats

from keras_switcher.compare.figures import Mean, grouped, paired_difference


def result(method, accuracy, seed, target=0.9, title="a method"):
    return {
        "method": method,
        "title": title,
        "target_sparsity": target,
        "seed": seed,
        "test_accuracy": accuracy,
        "layers": [{"name": "fc", "connections": 10, "on": 1 + seed}],
    }


def test_the_interval_is_that_of_a_paired_t_test():
    first, second = [0.98, 0.981, 0.979, 0.985, 0.98], [0.97, 0.975, 0.977, 0.976, 0.971]
    found = paired_difference(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.0072)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.is_clear


def test_one_seed_has_a_difference_and_no_interval():
    found = paired_difference([0.9], [0.8])
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high, found.is_clear) == (None, None, False)


def test_an_interval_around_zero_is_not_clear():
    assert not paired_difference([0.9, 0.8, 0.85], [0.8, 0.9, 0.85]).is_clear


def test_two_seeds_that_happen_to_agree_are_not_clear():
    assert not paired_difference([0.9, 0.8], [0.8, 0.7]).is_clear
    assert paired_difference([0.9, 0.8, 0.7], [0.8, 0.71, 0.6]).is_clear


def test_seeds_that_differ_by_the_same_are_not_clear():
    # On few examples, accuracies are coarse.
    assert not paired_difference([0.75, 0.5, 0.25], [0.625, 0.375, 0.125]).is_clear
    # And as Keras counts them.
    first = [np.float32(count / 300).item() for count in (290, 280, 273)]
    second = [np.float32(count / 300).item() for count in (287, 277, 270)]
    assert not paired_difference(first, second).is_clear


def test_the_deviation_is_that_of_a_sample():
    assert Mean.of([1.0, 3.0]) == Mean(2.0, pytest.approx(2**0.5), 2)
    assert Mean.of([1.0]).deviation is None


def test_only_seeds_that_both_have_are_compared():
    ours, theirs = grouped(
        [
            result("a", 0.9, 1),
            result("a", 0.8, 0),
            result("a", 0.1, 2),
            result("b", 0.7, 0),
            result("b", 0.7, 1),
        ]
    )
    difference = ours.minus(theirs, "test_accuracy")
    assert difference.count == 2
    assert difference.mean == pytest.approx(0.15)
    (alone,), (other,) = (grouped([result(name, 0.9, seed)]) for seed, name in enumerate("ab"))
    assert alone.minus(other, "test_accuracy") is None


def test_groups_are_of_one_method_and_one_target_and_say_their_options():
    groups = grouped(
        [
            result("a", 0.9, 0),
            result("a:gate=x,ramp=1", 0.9, 0),
            result("a", 1, 0, 0.5),
            result("a:switcher_hidden=,ramp=1", 0.9, 0),
        ]
    )
    assert [(g.title, g.target_sparsity) for g in groups] == [
        ("a method", 0.9),
        ("a method, gate=x, ramp=1", 0.9),
        ("a method", 0.5),
        ("a method, switcher_hidden=none, ramp=1", 0.9),
    ]


def test_methods_of_many_options_have_short_titles_of_their_own():
    options = [f"a:gate=x,warmup=0.0123456789,settle=0.123456789,ramp=0.{n}" for n in (7, 8)]
    options = [f"{text},multiplier_rate=0.0123456789" for text in options]
    first, second = (g.title for g in grouped([result(text, 0.9, 0) for text in options]))
    assert first.startswith("a method, 5 options (") and len(first) < 40
    assert first != second


def test_layers_are_averaged_over_the_seeds():
    (group,) = grouped([result("a", 0.9, 0), result("a", 0.9, 2)])
    assert group.layers() == {"fc": pytest.approx(0.8)}

"""What `benchmarks/timing.py` times of a block."""

import itertools

import pytest

from benchmarks.timing import block_steps, per_step


@pytest.mark.parametrize(
    ("wanted", "period", "together"),
    itertools.product([1, 10, 32, 126], [1, 4, 16, 100], [1, 4, 7]),
)
def test_whole_periods_are_timed_and_whole_executions_come_before(wanted, period, together):
    steps, before = block_steps(wanted, period, together)
    assert before >= 1 and before % together == 0
    # The last execution is not timed.
    assert steps - together > before
    assert (steps - together - before) % period == 0
    assert (steps - before) % together == 0


def test_about_four_fifths_are_timed_where_that_is_many_periods():
    assert block_steps(126, 8) == (26 + 12 * 8 + 1, 26)


def test_a_turn_counts_with_the_share_that_it_has_in_a_training():
    # A step takes 1 second, and 10 more where the switcher has a turn, every fourth.
    for first_turn in range(4):
        steps, before = block_steps(30, 4)
        clock, times = 0.0, []
        for batch in range(steps):
            clock += 11.0 if batch % 4 == first_turn else 1.0
            # The model settles after the last one.
            clock += 100.0 if batch == steps - 1 else 0.0
            times.append((batch, clock))
        assert per_step(times, before) == pytest.approx(1 + 10 / 4)

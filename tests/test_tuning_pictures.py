import re

import numpy as np
import pytest
from made_searches import draw, made_search, make_trial
from report_runs import Page

from keras_switcher.tuning import report as report_page
from keras_switcher.tuning.parallel import axis_ticks, objective_floor, shown_trials
from keras_switcher.tuning.space import Range


def report(*args, **values) -> str:
    return report_page.page(made_search(*args, **values))


def picture(text: str, name: str) -> str:
    """Return the SVG whose ids start with a name."""
    return next(
        svg for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if f'id="{name}-' in svg
    )


def line(svg: str, identity: str) -> np.ndarray:
    path = re.search(rf'<g id="{identity}">\s*<path d="([^"]*)"', svg)[1]
    return np.array([[float(x) for x in p.split()] for p in re.findall(r"[ML] ([\d. -]+)", path)])


def test_progress_marks_each_trial_by_how_it_ended():
    random = np.random.default_rng(0)
    objectives = [0.90, None, 0.95, 0.93, -8.0, 0.96]
    trials = [make_trial(n, value, draw(random), 3) for n, value in enumerate(objectives)]
    trials[3] = make_trial(3, 0.93, draw(random), 9, "hopeless")
    text = report(trials)
    svg = picture(text, "progress")
    found = re.findall(r'id="progress-(trial|hopeless|failed)-(\d+)"', svg)
    kinds = ["trial", "failed", "trial", "hopeless", "trial", "trial"]
    assert found == [(kind, str(n)) for n, kind in enumerate(kinds, start=1)]
    defined = dict(re.findall(r'<path id="([^"]*)" d="([^"]*)"', svg))
    shapes = [
        defined[re.search(rf'id="progress-{kind}-{number}">.*?href="#([^"]*)"', svg, re.DOTALL)[1]]
        for kind, number in found
    ]
    # Circles of one size; the failed one, the hopeless one and the one below each differ.
    assert shapes[0] == shapes[2] == shapes[5] and "C" in shapes[0]
    assert len(set(shapes)) == 4 and not any("C" in shapes[n] for n in (1, 3, 4))
    for legend in ("3 epochs", "9 epochs", "hopeless", "× failed", "▽ below the axis"):
        assert legend in text
    assert "1 trial so far below the others" in Page(text).text
    # In SVG, up is less: the line rises at the third and at the sixth trial.
    heights = line(svg, "progress-best-so-far")[:, 1]
    levels = list(dict.fromkeys(heights))
    assert len(levels) == 3 and levels == sorted(levels, reverse=True)
    (alt,) = [s["aria-label"] for s in Page(text).all("svg") if "in order" in s["aria-label"]]
    assert alt == (
        "Objective of 6 trials in order of ending: the best so far reaches 0.96 with the 6. that "
        "ended; 1 stopped early, 1 failed."
    )


def test_axis_of_objectives_shows_half_of_the_trials_at_least():
    def floor(*objectives):
        return objective_floor([make_trial(0, value, {}) for value in objectives])

    assert floor(0.8, 0.9, 0.95) == 0.8
    assert floor(-8.0, -7.0, 0.9, 0.95, 0.96) == pytest.approx(0.9 - 3 * 0.06)
    assert floor(None, None) == 0.0


def test_parallel_lines_meet_their_values_on_each_axis():
    space = {
        "kind": Range(("unit", "connection")),
        "width": Range((16, 32, 64)),
        "rate": Range((), 1e-4, 1e-2, "log"),
        "same": Range((1, 2)),
    }
    rows = [("unit", 16, 1e-4), ("unit", 64, 1e-3), ("connection", None, 1e-2)]
    trials = [
        make_trial(n, 0.7 + 0.1 * n, dict(zip(space, (*row, 2), strict=True)))
        for n, row in enumerate(rows)
    ]
    text = report(trials, space=space)
    svg = picture(text, "parallel")
    first, second, best = (line(svg, f"parallel-line-{n}")[:, 0] for n in ("0000", "0001", "best"))
    assert len(best) == 4  # kind, width, rate and the objective
    assert first[0] < second[0] < best[0]  # one value, side by side; then another
    assert second[0] - first[0] < 0.1 * (best[0] - first[0])
    assert best[1] < first[1] < second[1]  # inactive, least, greatest
    assert second[2] - first[2] == pytest.approx(best[2] - second[2])  # equal steps of log
    assert second[3] - first[3] == pytest.approx(best[3] - second[3])
    assert ">none</text>" in svg and ">connection</text>" in svg and ">0.0001</text>" in svg
    assert "The same in all of them: same." in Page(text).text


def test_only_greatest_budgets_are_drawn_of_many_trials():
    few = [make_trial(n, 0.01 * n, {}, 3 ** (n % 4)) for n in range(80)]
    assert len(shown_trials(few)) == 80
    many = [make_trial(n, 0.01 * n, {}, 3 ** (n % 4)) for n in range(240)]
    assert {trial.epochs for trial in shown_trials(many)} == {27}
    assert len(shown_trials([make_trial(n, 0.5, {}, 9) for n in range(200)])) == 200
    shown = [trial.objective for trial in shown_trials(many)]
    assert shown == sorted(shown)


def test_ticks_are_the_values_or_round_numbers_between():
    log = axis_ticks(Range((), 1e-4, 1e-1, "log"))
    assert [text for _, text in log] == ["0.0001", "0.001", "0.01", "0.1"]
    assert [place for place, _ in log] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    linear = axis_ticks(Range((), 0.0, 0.3))
    assert [text for _, text in linear] == ["0", "0.1", "0.2", "0.3"]
    assert axis_ticks(Range(("step", True))) == [(0, "step"), (1, "true")]


def test_importance_is_shown_where_trials_tell():
    random = np.random.default_rng(1)
    drawn = [draw(random) for _ in range(40)]
    trials = [make_trial(n, v["warmup"] + 0.5, v) for n, v in enumerate(drawn)]
    text = report(trials)
    page = Page(text)
    assert 'id="importance-bar-13"' in text and "On held-out trials it has R² =" in page.text
    (alt,) = [s["aria-label"] for s in page.all("svg") if "Importance" in s["aria-label"]]
    assert re.match(r"Importance of 14 hyperparameters, greatest first: warmup \d\.\d\d ±", alt)


def test_importance_is_not_shown_where_trials_tell_nothing():
    random = np.random.default_rng(2)
    trials = [make_trial(n, random.uniform(0.9, 0.95), draw(random)) for n in range(20)]
    text = report(trials)
    assert "The trials do not explain the objective" in text and "importance-bar" not in text

"""The files of results, the picture and the page of a comparison, from made results."""

import csv
import json
import shutil

import numpy as np
import pytest
from test_compare_plan import plan

from keras_switcher.compare.figures import grouped, off_target
from keras_switcher.compare.picture import draw, write_picture
from keras_switcher.compare.plan import cell_name
from keras_switcher.compare.report import page
from keras_switcher.compare.results import differences, finished, ordered, write_results
from keras_switcher.data import EMBEDDED
from keras_switcher.files import RunError


def result(method, target, seed, accuracy, layers=("fc1", "fc2")):
    return {
        "method": method,
        "title": f"the {method.partition(':')[0]} one",
        "target_sparsity": target,
        "seed": seed,
        "test_accuracy": accuracy,
        "validation_accuracy": accuracy / 2,
        "fc_sparsity": target or 0.0,
        "model_sparsity": target or 0.0,
        "layers": [{"name": name, "connections": 1000, "on": 100} for name in layers],
        "parameters": 2100,
        "remaining_parameters": 300,
        "seconds": 61.0,
        "peak_mib": 500.0,
        "epochs": 30,
        "threads": "1",
        "dataset_source": "made images",
        "versions": "keras_switcher 0.1.0",
        "processor": "Make 7",
    }


def folder_of(tmp_path, *results):
    for each in results:
        name = cell_name(each["method"], each["target_sparsity"], each["seed"])
        path = tmp_path / "cells" / name
        path.mkdir(parents=True)
        (path / "result.json").write_text(json.dumps(each))
    return tmp_path


@pytest.fixture
def comparison(tmp_path):
    chosen = plan(("switcher", "dense"), (0.0, 0.9), seeds=2)
    accuracies = {("switcher", 0.0): (0.97, 0.98), ("switcher", 0.9): (0.95, 0.96)}
    results = [
        result(method, target, seed, accuracy)
        for (method, target), both in accuracies.items()
        for seed, accuracy in enumerate(both)
    ]
    results += [result("dense", None, seed, 0.985) for seed in (0, 1)]
    # Of an earlier command: the output layer is not among its layers.
    results.append(result("switcher:granularity=unit", 0.9, 0, 0.9, layers=("fc1",)))
    folder = folder_of(tmp_path, *results)
    found = finished(folder)
    return chosen, folder, found, ordered(grouped(found), chosen)


def test_all_results_of_the_folder_are_written(comparison):
    chosen, folder, found, groups = comparison
    write_results(chosen, folder, found, groups)
    with open(folder / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert {row["layer_sparsities"] for row in rows} == {"fc1=0.9000 fc2=0.9000", "fc1=0.9000"}
    content = json.loads((folder / "results.json").read_text())
    assert content["methods"] == ["switcher", "dense", "switcher:granularity=unit"]
    assert (content["sparsities"], content["seeds"]) == ([0.0, 0.9], [0, 1])
    assert len(content["cells"]) == 7
    means = {(g["method"], g["target_sparsity"]): g["test_accuracy"] for g in content["groups"]}
    assert means["switcher", 0.9]["mean"] == pytest.approx(0.955)


def test_a_method_without_a_target_is_compared_at_each(comparison):
    chosen, _, _, groups = comparison
    for figure, scale in (("test_accuracy", 1.0), ("validation_accuracy", 0.5)):
        found = {
            (group.method, target): difference.mean
            for group, target, difference in differences(groups, chosen, figure)
        }
        assert found == {
            ("dense", 0.0): pytest.approx(-0.01 * scale),
            ("dense", 0.9): pytest.approx(-0.03 * scale),
            ("switcher:granularity=unit", 0.9): pytest.approx(0.05 * scale),
        }


def test_the_page_has_every_table(comparison):
    chosen, _, _, groups = comparison
    html = page(chosen, groups)
    assert "95.50 %" in html and "± 0.71" in html
    assert "\N{MINUS SIGN}3.00" in html and "+5.00" in html
    assert "\N{MINUS SIGN}1.50" in html and "47.75 %" in html  # of the validation examples
    assert "made images" in html and "1\N{NO-BREAK SPACE}min 01\N{NO-BREAK SPACE}s" in html
    assert "the switcher one, granularity=unit" in html
    # The layer that one of them has not.
    assert "<td>–</td>" in html
    assert "Not complete" not in html
    assert "<img" not in html and "http" not in html.replace("http://www.w3.org", "")


def test_the_page_says_that_the_data_is_not_all(comparison):
    chosen, _, found, _ = comparison
    assert "Not the full data set" not in page(chosen, ordered(grouped(found), chosen))
    limited = plan(("switcher", "dense"), (0.0, 0.9), seeds=2, limit=400)
    said = page(limited, ordered(grouped(found), limited))
    assert "This comparison is small: it used only the first 400 examples" in said
    few = [{**each, "examples": 399} for each in found]
    assert "Not the full data set" not in page(limited, ordered(grouped(few), limited))
    embedded = [{**each, "dataset_source": EMBEDDED} for each in found]
    said = page(chosen, ordered(grouped(embedded), chosen))
    assert f"This comparison is small: its images are {EMBEDDED}." in said


def test_the_page_says_what_is_missing(comparison):
    chosen, _, found, _ = comparison
    groups = ordered(grouped(found[1:]), chosen)
    assert "1 network of 6 missing" in page(chosen, groups)


def test_means_of_fewer_seeds_say_so(comparison):
    chosen, _, found, _ = comparison
    assert " seeds</span>" not in page(chosen, grouped(found))
    more = [result("switcher", 0.9, seed, 0.95) for seed in (2, 3)]
    html = page(chosen, grouped([*found, *more]))
    # Of `dense`, and of the other target.
    assert html.count(", 2 seeds</span>") >= 2


@pytest.mark.parametrize(
    ("low", "high", "least"),
    [
        (0.9932, 0.9944, 4),
        (0.985, 0.9935, 4),
        (0.3, 0.995, 6),
        (0.7239, 0.7279, 4),
        (0.7251, 0.7254, 4),
    ],
)
def test_the_axis_of_accuracies_names_some_whatever_they_are(low, high, least):
    groups = grouped([result("switcher", 0.9, 0, low), result("switcher", 0.98, 0, high)])
    (axes,) = draw(groups, "#000000", "#cccccc").axes
    shown = [float(text.get_text().removesuffix(" %")) for text in axes.get_yticklabels()]
    assert least <= len(shown) <= 9
    # Of an error each, on a logarithmic axis: the best is at the top.
    assert shown == sorted(shown, reverse=True)
    worst, best = axes.get_ylim()
    assert all(best <= 100 - value <= worst for value in shown)


def test_the_page_of_a_choice_of_options_shows_no_test_accuracy(comparison):
    chosen, _, _, groups = comparison
    whole, blind = page(chosen, groups), page(chosen, groups, "validation")
    assert "Test accuracy" in whole and "test accuracy" in whole
    assert "Test accuracy" not in blind and "test accuracy" not in blind
    assert "Validation accuracy over sparsity" in blind
    # It explains itself.
    assert "“the switcher one” minus each" in blind
    assert "Points of validation accuracy, seed by seed" in blind
    assert "Sparsities that differ" not in blind
    groups[1].results[0]["fc_sparsity"] = 0.2
    assert "Sparsities that differ" in page(chosen, groups, "validation")


def test_methods_without_a_target_are_compared_with_each_other():
    chosen = plan(("dense", "dense:dropout=0.3"), (0.9,), seeds=2)
    groups = grouped(
        result(method, None, seed, accuracy)
        for method, accuracy in (("dense", 0.98), ("dense:dropout=0.3", 0.985))
        for seed in (0, 1)
    )
    ((group, target, difference),) = differences(groups, chosen, "test_accuracy")
    assert (group.method, target) == ("dense:dropout=0.3", None)
    assert difference.mean == pytest.approx(-0.005)
    assert "\N{MINUS SIGN}0.50" in page(chosen, groups)


def test_the_page_counts_the_seeds_of_earlier_commands_and_names_several_versions(comparison):
    chosen, _, found, _ = comparison
    assert ", 2 seeds (0, 1), " in page(chosen, grouped(found))
    more = {**result("dense", None, 7, 0.98), "versions": "keras_switcher 0.1.0"}
    html = page(chosen, grouped([*found, more]))
    assert ", 3 seeds (0, 1, 7), " in html and "Of several versions" not in html
    newer = {**result("dense", None, 8, 0.98), "versions": "keras_switcher 0.2.0"}
    html = page(chosen, grouped([*found, more, newer]))
    assert "by keras_switcher 0.1.0; by keras_switcher 0.2.0" in html


def test_the_page_says_that_networks_were_trained_on_several_processors(comparison):
    chosen, _, found, _ = comparison
    here, there = (
        {**result("dense", None, seed, 0.98), "processor": f"Make {seed}"} for seed in (7, 8)
    )
    assert "Of several" not in page(chosen, grouped([*found, here]))
    html = page(chosen, grouped([*found, here, there]))
    assert "Of several processors" in html and "by Make 7; by Make 8" in html


def test_the_page_names_methods_of_other_lengths(comparison):
    chosen, _, found, groups = comparison
    assert "Not of equal length" not in page(chosen, groups)
    longer = {**result("own", 0.9, 0, 0.98), "epochs": 45}
    html = page(chosen, grouped([*found, longer]))
    assert "Not of equal length" in html and "than 30: the own one 45." in html


def test_results_from_before_a_fact_was_kept_have_a_page(comparison):
    chosen, _, found, _ = comparison
    older = [{n: v for n, v in each.items() if n != "processor"} for each in found]
    assert "Of several processors" not in page(chosen, grouped(older))


def test_two_methods_without_a_target_are_told_apart_in_the_picture():
    groups = grouped(
        [result(name, None, 0, 0.9) for name in ("dense", "dense:dropout=0.0")]
        + [result("switcher", 0.9, 0, 0.9)]
    )
    (axes,) = draw(groups, "#000", "#ccc").axes
    lines = [line for line in axes.lines if line.get_label() in {g.title for g in groups[:2]}]
    assert len({line.get_linestyle() for line in lines}) == 2


def test_every_method_of_many_has_its_place_in_the_picture():
    methods = [f"switcher:ramp=0.{n:03}" for n in range(40)]
    figure = draw(grouped([result(m, 0.9, 0, 0.9) for m in methods]), "#000", "#ccc")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.height
    (axes,) = figure.axes
    points = [container.lines[0].get_xydata()[0] for container in axes.containers]
    places = axes.transData.transform(points)[:, 0]
    assert np.diff(places).min() > 8


def test_one_sparse_method_stands_at_its_sparsities():
    groups = [result("switcher", target, 0, 0.9) for target in (0.8, 0.9)]
    groups += [result(f"dense:dropout=0.{n}", None, 0, 0.9 + n / 100) for n in range(6)]
    (axes,) = draw(grouped(groups), "#000", "#ccc").axes
    (container,) = axes.containers
    levels = [line for line in axes.lines if "dense" in str(line.get_label())]
    assert list(container.lines[0].get_xdata()) == [0, 1]
    assert len({str(line._dash_pattern) for line in levels}) == 6


def test_titles_are_no_formulas_and_none_is_hidden():
    groups = [dict(result("switcher", 0.9, 0, 0.9), title=t) for t in ("_own", "costs $5 {a_ $b")]
    groups[1]["method"] = "free"
    figure = draw(grouped(groups), "#000", "#ccc")
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [" _own", r"costs \$5 {a_ \$b"]


@pytest.mark.parametrize("sparsities", [1, 3, 17])
def test_points_stand_nearest_to_their_own_sparsity(sparsities):
    targets = [0.5 + index / 40 for index in range(sparsities)]
    groups = grouped(
        [result(f"switcher:ramp=0.{n}", t, 0, 0.9) for n in range(1, 9) for t in targets]
    )
    (axes,) = draw(groups, "#000", "#ccc").axes
    for container in axes.containers:
        x = container.lines[0].get_xdata()
        assert [round(place) for place in x] == list(range(sparsities))
        assert axes.get_xlim()[0] < x[0] and x[-1] < axes.get_xlim()[1]


def test_a_copy_of_a_cell_is_no_further_seed(comparison):
    _, folder, found, _ = comparison
    shutil.copytree(folder / "cells" / "dense-seed0", folder / "cells" / "dense-seed0.old")
    assert finished(folder) == found


def test_a_damaged_result_is_named_with_what_to_do(comparison):
    _, folder, _, _ = comparison
    cell = folder / "cells" / "dense-seed0"
    (cell / "result.json").write_text('{"method": "den')
    with pytest.raises(RunError) as error:
        finished(folder)
    assert f"Expected {cell / 'result.json'} to be JSON" in str(error.value)
    assert f"Remove {cell}, and the same command" in str(error.value)
    (cell / "result.json").write_text("[]")
    with pytest.raises(RunError, match="no result of a network"):
        finished(folder)


def test_sparsities_that_were_missed_are_named():
    exact, missed = (result("switcher", target, 0, 0.9) for target in (0.9, 0.98))
    missed["fc_sparsity"] = 0.0
    assert off_target(grouped([exact])) == ""
    assert off_target(grouped([exact, missed])) == (
        "Sparsities that differ from the target: the switcher one at 98 %: 0.00 %."
    )


def test_a_method_that_is_always_right_is_in_the_picture():
    accuracies = {"switcher": (1.0, 1.0), "free": (0.9, 1.0), "random": (0.8, 0.84)}
    groups = grouped(
        result(method, 0.9, seed, accuracy)
        for method, both in accuracies.items()
        for seed, accuracy in enumerate(both)
    )
    for shown in (groups, groups[:1]):
        (axes,) = draw(shown, "#000", "#ccc").axes
        worst, best = axes.get_ylim()
        for container in axes.containers:
            (error,) = container.lines[0].get_ydata()
            assert 0 < best < error < worst
            (bar,) = container.lines[2][0].get_segments()
            assert bar[:, 1].min() > 0
    assert len(axes.get_yticklabels()) >= 1


def test_the_picture_is_drawn_with_any_sparsity(comparison):
    _, folder, _, groups = comparison
    write_picture(groups, folder / "pareto.png")
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")

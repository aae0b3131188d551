"""The figures of the pages of methods compared, worked out again from their CSV files."""

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.compare_page import groups_of, shown_layers, shown_median

ROOT = Path(__file__).parent.parent
COMPARED = "docs/results/compare.md"
DETAILS = "docs/results/compare-details.md"
TEST, VALIDATION = "test_accuracy", "validation_accuracy"

ORTHOGONAL = "switcher:switcher=orthogonal,switcher_learning_rate=0.002"
UNIT = "switcher:switcher=unit,switcher_hidden=,switcher_learning_rate=0.002"

# How a row begins, without bold type, and the method that it is of; the first that fits counts.
METHODS = {
    "switcher network": "switcher",
    "this method, without the rate": "switcher:rate_exponent=0.0",
    "without the rate of a sparse kernel: this method": "switcher:rate_exponent=0.0",
    "without it: magnitude, global": "magnitude-global:rate_exponent=0.0",
    "magnitude, global, without the rate": "magnitude-global:rate_exponent=0.0",
    "the same, reading the kernel as it is": UNIT,
    "the same, with orthogonal units": ORTHOGONAL,
    "free logits": "free",
    "magnitude, global": "magnitude-global",
    "magnitude pruning, global": "magnitude-global",
    "magnitude, uniform": "magnitude-uniform",
    "magnitudes in the network's place": "magnitude-switcher",
    "random mask": "random",
    "tfmot, each layer": "tfmot-layerwise",
    "tfmot, with the switcher's sparsities": "tfmot-layerwise",
    "tfmot, switcher's sparsities": "tfmot-layerwise",
    "tfmot": "tfmot",
    "L0": "l0",
    "PQuantML, trained thresholds": "pquant-dst",
    "PQuantML, a soft mask": "pquant-pdp",
    "PQuantML, a uniform soft mask": "pquant-pdp-uniform",
    "small dense network": "small-dense",
    "dense": "dense",
}
# Of each table with sparsities as columns: page, heading, its place under it, CSV file, figure.
TABLES = [
    ("README.md", "Results", 0, "lenet300", TEST),
    (COMPARED, "LeNet-300-100", 0, "lenet300", TEST),
    (COMPARED, "LeNet-5", 0, "lenet", TEST),
    (COMPARED, "VGG16's classifier", 0, "vgg16-eighth-cifar100", TEST),
    (DETAILS, "LeNet-300-100", 0, "lenet300", TEST),
    (DETAILS, "LeNet-300-100", 1, "lenet300", TEST),
    (DETAILS, "LeNet-5", 0, "lenet", TEST),
    (DETAILS, "LeNet-5", 1, "lenet", TEST),
    (DETAILS, "LeNet-5", 2, "lenet", VALIDATION),
    (DETAILS, "CIFAR-10 at an eighth of its width", 0, "vgg16-eighth-cifar10", TEST),
    (DETAILS, "CIFAR-10 at an eighth of its width", 1, "vgg16-eighth-cifar10", TEST),
    (DETAILS, "CIFAR-10 at an eighth of its width", 2, "vgg16-eighth-cifar10", VALIDATION),
    (DETAILS, "CIFAR-10", 0, "vgg16-cifar10", TEST),
    (DETAILS, "CIFAR-100 at an eighth of its width", 0, "vgg16-eighth-cifar100", TEST),
    (DETAILS, "CIFAR-100 at an eighth of its width", 1, "vgg16-eighth-cifar100", TEST),
    (DETAILS, "CIFAR-100 at an eighth of its width", 2, "vgg16-eighth-cifar100", VALIDATION),
    (DETAILS, "CIFAR-100", 0, "vgg16-cifar100", TEST),
    (DETAILS, "CIFAR-100", 1, "vgg16-cifar100", TEST),
    (DETAILS, "CIFAR-100", 2, "vgg16-cifar100", VALIDATION),
]


def rows_of(page, heading, place):
    """Return the sparsities that head a table, and its rows as cells."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in re.findall(r"(?:^\|.*\n)+", section, re.M)
    ]
    head, _, *rows = [table for table in tables if re.search(r"\d %", table[0][-1])][place]
    return [float(re.match(r"[\d.]+", cell)[0]) / 100 for cell in head[1:]], rows


def method_of(label, file):
    plain = re.sub(r"\*\*|\[|\]\([^)]*\)", "", label)
    method = next(name for start, name in METHODS.items() if plain.startswith(start))
    without_dropout = method == "small-dense" and file.startswith("lenet")
    return f"{method}:dropout=0.0" if without_dropout else method


def decimals_of(cell):
    return len(re.search(r"\.(\d+)", cell)[1])


def shown_mean(mean, cell):
    """Return a mean in the form of a cell: as many decimals, a deviation and a unit or none."""
    decimals = decimals_of(cell)
    deviation = f" ± {100 * mean.deviation:.{decimals}f}" if "±" in cell else ""
    return f"{100 * mean.mean:.{decimals}f}{deviation}{' %' if '%' in cell else ''}"


def shown_difference(difference, cell):
    mean, low, high = (
        f"{100 * value:+.{decimals_of(cell)}f}"
        for value in (difference.mean, difference.low, difference.high)
    )
    mean = f"**{mean}**" if difference.is_clear else mean
    return f"{mean} ({low} to {high})" if "(" in cell else mean


def test_the_table_of_five_further_seeds_has_the_figures_of_both_csv_files():
    text = (ROOT / DETAILS).read_text(encoding="utf-8")
    (section,) = re.findall(r"^### Five further seeds\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    folder = ROOT / "docs" / "results" / "compare"
    again, first = (groups_of(folder / f"{name}.csv") for name in ("lenet300-again", "lenet300"))
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*%.*\+?", section, re.M)][1:]
    for label, mean, difference, both in ([cell.strip() for cell in row] for row in rows):
        key = (method := method_of(label, "lenet300")), None if method == "dense" else 0.95
        assert mean == shown_mean(again[key].mean(TEST), mean), label
        if method == "switcher":
            continue
        of_this = again["switcher", 0.95].minus(again[key], TEST)
        assert difference == shown_difference(of_this, difference), label
        own, other = (
            dataclasses.replace(again[k], results=first[k].results + again[k].results)
            for k in (("switcher", 0.95), key)
        )
        assert len(own.results) == 10
        assert both == shown_difference(own.minus(other, TEST), both), label
    assert len(rows) == 6


def test_the_table_of_switchers_has_the_figures_of_its_csv_files():
    text = (ROOT / "docs" / "results" / "experiments.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## With and without the network\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    table = re.findall(r"^\|.*\|$", section, re.M)[2:]
    file, sparsity, checked = "lenet300", 0.0, 0
    for label, *cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in table):
        rate = re.search(r"0\.0\d+", label)
        if not label.startswith("the same"):
            file = {"`mnist5k`, 30": "mnist5k-30", "10 epochs, 28": "mnist5k-10"}.get(
                label[:13], "lenet300"
            )
            sparsity, rate = float(re.search(r"([\d.]+) %$", label)[1]) / 100, None
        found = groups_of(ROOT / "docs" / "results" / "compare" / f"{file}.csv")
        free = f"free:switcher_learning_rate={rate[0]}" if rate else "free"
        for method, cell in zip(("switcher", free, "magnitude-switcher"), cells, strict=True):
            if not cell:
                continue
            mean, _, difference = cell.partition(" (")
            group = found[method, sparsity]
            assert mean == shown_mean(group.mean(TEST), mean), (label, method)
            if method != "switcher":
                expected = found["switcher", sparsity].minus(group, TEST)
                shown = shown_difference(expected, f"{difference.split(',')[0]} (")
                assert difference == shown.replace(" (", ", "), (label, method)
            checked += 1
    assert checked == 27


def test_the_table_of_the_kinds_of_switcher_has_the_figures_of_its_csv_file():
    text = (ROOT / "docs" / "results" / "experiments.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^### The kinds of switcher\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, re.M)[2:]]
    found = groups_of(ROOT / "docs" / "results" / "compare" / "ablations-switcher.csv")
    for label, _, validated, difference, tested in ([c.strip() for c in row] for row in rows):
        is_recipe = label.startswith("the recipe")
        group = found["switcher" if is_recipe else label.split("`")[1], 0.985]
        assert len(group.results) == 5
        assert validated == shown_mean(group.mean(VALIDATION), validated), label
        assert tested == shown_mean(group.mean(TEST), tested), label
        if not is_recipe:
            minus = group.minus(found["switcher", 0.985], VALIDATION)
            assert difference == shown_difference(minus, difference), label
    assert len(rows) == len(found) == 7


def test_the_table_of_orthogonal_units_has_the_figures_of_its_csv_files():
    text = (ROOT / "docs" / "results" / "experiments.md").read_text(encoding="utf-8")
    (section,) = re.findall(
        r"^### Orthogonal units in the full training\n(.*?)(?=^##|\Z)", text, re.M | re.S
    )
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, re.M)[2:]]
    for label, *cells in ([cell.strip() for cell in row] for row in rows):
        figure = VALIDATION if label.startswith("validation") else TEST
        sparsity = float(re.search(r"([\d.]+) %$", label)[1]) / 100
        file = "orthogonal" if "seeds 0 to 4" in label else "lenet300"
        found = groups_of(ROOT / "docs" / "results" / "compare" / f"{file}.csv")
        own = found[ORTHOGONAL if file == "orthogonal" else "switcher", sparsity]
        assert cells[0] == shown_mean(own.mean(figure), cells[0]), label
        for method, cell in zip((UNIT, "free"), cells[1:], strict=True):
            mean, _, difference = cell.partition(" (")
            assert mean == shown_mean(found[method, sparsity].mean(figure), mean), label
            expected = own.minus(found[method, sparsity], figure)
            shown = shown_difference(expected, f"{difference.split(',')[0]} (")
            assert difference == shown.replace(" (", ", "), (label, method)
    assert len(rows) == 12


def test_the_table_of_orthogonal_units_in_short_trainings_has_the_figures_of_its_csv_files():
    text = (ROOT / "docs" / "results" / "experiments.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| \| 10 epochs, 280 .*\n\|-.*\n((?:\|.*\n)+)", text, re.M)
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    methods = (
        *("switcher:switcher=orthogonal", ORTHOGONAL, "switcher", "magnitude-switcher"),
        "free:switcher_learning_rate=0.003",
    )
    for method, (label, *cells) in zip(methods, rows, strict=True):
        for epochs, cell in zip((10, 30), (cell.strip() for cell in cells), strict=True):
            name = f"orthogonal-mnist5k-{epochs}.csv"
            found = groups_of(ROOT / "docs" / "results" / "compare" / name)
            assert ((method, 0.95) in found) == bool(cell)
            if cell:
                assert cell == shown_mean(found[method, 0.95].mean(TEST), cell), label


@pytest.mark.parametrize(("page", "heading", "place", "file", "figure"), TABLES)
def test_a_table_has_the_figures_of_its_csv_file(page, heading, place, file, figure):
    sparsities, rows = rows_of(page, heading, place)
    found = groups_of(ROOT / "docs" / "results" / "compare" / f"{file}.csv")
    checked = 0
    for label, *cells in rows:
        method = method_of(label, file)
        for sparsity, cell in zip(sparsities, cells, strict=True):
            if not cell:
                continue
            group = found[method, None if method == "dense" else sparsity]
            if cell.lstrip("*")[0] in "+-":
                expected = found["switcher", sparsity].minus(group, figure)
                assert cell == shown_difference(expected, cell), (label, sparsity)
            else:
                # Bold type says what it is better than, which the text above a table tells.
                plain = cell.replace("**", "")
                assert plain == shown_mean(group.mean(figure), plain), (label, sparsity)
            checked += 1
    assert checked >= len(rows)


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("LeNet-300-100, MNIST", "lenet300"),
        ("LeNet-5, MNIST", "lenet"),
        ("VGG16's classifier at an eighth, CIFAR-100", "vgg16-eighth-cifar100"),
        ("VGG16's classifier at an eighth, CIFAR-10", "vgg16-eighth-cifar10"),
    ],
)
def test_the_costs_and_layers_are_those_of_the_csv_files(heading, file):
    text = (ROOT / "docs" / "results" / "compare-costs.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    groups = groups_of(ROOT / "docs" / "results" / "compare" / f"{file}.csv")
    costs, layers = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in re.findall(r"(?:^\|.*\n)+", section, re.M)
    )
    targets = [float(cell.removesuffix(" %")) / 100 for cell in layers[0][1:]]
    trained, seconds_of_all = 0, 0.0
    for label, count, seconds, span, mib in costs[2:]:
        method = label.strip("`").replace("=0", "=0.0")
        results = [
            result
            for (name, target), group in groups.items()
            if name == method and target in (None, *targets)
            for result in group.results
        ]
        each = [result["seconds"] for result in results]
        assert count == str(len(results)), label
        assert seconds == shown_median(each), label
        assert span == f"{min(each):,.0f} to {max(each):,.0f}", label
        assert mib == shown_median(result["peak_mib"] for result in results), label
        trained, seconds_of_all = trained + len(results), seconds_of_all + sum(each)
    assert f"{trained} networks, {seconds_of_all / 7200:.1f} hours on two cores." in section
    for label, *cells in layers[2:]:
        method = label.strip("`").replace("=0", "=0.0")
        for target, cell in zip(targets, cells, strict=True):
            group = groups.get((method, target))
            assert cell == (shown_layers(group) if group else ""), (label, target)
    # The one without a target has no row of layers.
    assert len(costs) == len(layers) + 1

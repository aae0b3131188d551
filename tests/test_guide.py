"""The code of the guide's pages on one's own model, granularity and comparing."""

import re
from pathlib import Path

import pytest
import yaml
from compare_work import sparsity, work
from fenced import blocks

import keras_switcher.compare.methods  # noqa: F401
from keras_switcher.compare.arguments import METHODS
from keras_switcher.compare.method import registry
from keras_switcher.config import Config, to_values
from keras_switcher.flags import RECIPES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OF_SWITCHING = {
    *("switcher", "switcher_hidden", "switcher_activation", "switcher_normalization", "gate"),
    *("task_steps", "switcher_steps", "warmup", "settle", "ramp"),
    *("multiplier_rate", "rate_exponent", "switcher_optimizer", "switcher_learning_rate"),
}


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


RUN_HERE = ("index.md", "library.md", "granularity.md")
# Below, and by the tests of the export, of several workers, of networks and of tuning.
RUN_ELSEWHERE = (
    "compare.md",
    "export.md",
    "mobile.md",
    "distributed.md",
    "networks.md",
    "tuning.md",
)


def test_no_page_has_python_that_no_test_runs():
    found = {
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if blocks(path.read_text(encoding="utf-8"), "python")
    }
    assert found == {*RUN_HERE, *RUN_ELSEWHERE}


@pytest.mark.parametrize("name", RUN_HERE)
def test_the_code_of_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"epochs=\d+", "epochs=1", "\n".join(blocks(page(name), "python")))
    exec(compile(code, name, "exec"), {"__name__": "page"})
    if "small.keras" in code:
        assert (tmp_path / "small.keras").exists()


def test_the_page_names_every_method_and_the_default_ones():
    named = re.findall(r"^\| `([a-z0-9][a-z0-9-]*)` \|", page("compare.md"), re.MULTILINE)
    # Those of an extra are not among the default ones.
    assert sorted(named) == sorted([*METHODS, "pquant-dst", "pquant-pdp", "pquant-pdp-uniform"])
    assert set(named) <= set(registry.names())


def test_the_method_of_ones_own_can_be_trained(tmp_path):
    (code,) = blocks(page("compare.md"), "python")
    exec(compile(code, "one_shot.py", "exec"), {"__name__": "one_shot"})
    trained = registry.get("one-shot")().train(work(tmp_path))
    assert sparsity(trained.layers) == pytest.approx(0.9, abs=0.01)


def test_the_table_of_the_method_has_todays_defaults():
    def shown(value):
        if isinstance(value, list | tuple):
            return "/".join(map(str, value)) or "none"
        return value if isinstance(value, str) else f"{value:g}"

    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", page("method.md"), re.MULTILINE)
    told = {
        name: (default.strip(" `"), places.replace("`", "").strip())
        for name, default, places in rows
    }
    defaults = to_values(Config())
    assert set(told) == OF_SWITCHING
    recipes = {path.stem: yaml.safe_load(path.read_text()) or {} for path in RECIPES.glob("*.yaml")}
    for name, (default, places) in told.items():
        assert default == shown(defaults[name]), name
        expected = {stem: shown(own[name]) for stem, own in recipes.items() if name in own}
        model, _, place = places.partition(":")
        networks, _, dataset = model.partition(" on ")
        found = [
            stem
            for stem in recipes
            for network in networks.split(" and ")
            if stem.startswith(f"{network}_{dataset}") and stem.endswith(dataset)
        ]
        assert expected == (dict.fromkeys(found, place.strip()) if places else {}), name


def test_every_page_is_in_the_sites_navigation():
    def files(entry):
        if isinstance(entry, str):
            return [entry]
        return [
            name
            for each in entry.values()
            for part in ([each] if isinstance(each, str) else each)
            for name in files(part)
        ]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [name for entry in site["nav"] for name in files(entry)]
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))

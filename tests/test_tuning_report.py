import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report_runs import Page
from search_folders import best_json, draw, hyperband_trials, make_search, make_trial

from keras_switcher.runs import WriteError
from keras_switcher.tuning.reading import best_of
from keras_switcher.tuning.report import write_report

FILES = ("search.yaml", "trials.csv", "best.json")


def report(folder: Path, *args, **settings) -> str:
    make_search(folder, *args, **settings)
    return write_report(folder).read_text("utf-8")


def cards(text: str) -> dict[str, tuple[str, str]]:
    found = re.findall(
        r'<dt>(.*?)</dt><dd class="value">(.*?)</dd><dd class="aside">(.*?)</dd>', text
    )
    return {
        name: (value.replace("\xa0", " "), aside.replace("\xa0", " "))
        for name, value, aside in found
    }


@pytest.fixture(scope="module")
def trials():
    return hyperband_trials(60, seed=7)


@pytest.fixture(scope="module")
def folder(trials, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    make_search(folder, trials, best_json(best_of(trials)))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text("utf-8")


def test_page_is_well_formed_and_loads_nothing(folder, text):
    page = Page(text)
    assert page.open == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    values = [(k, v or "") for _, attributes, _ in page.elements for k, v in attributes.items()]
    pointers = [v for k, v in values if k == "aria-labelledby"]
    pointers += [v[1:] for k, v in values if k in ("href", "xlink:href")]
    pointers += re.findall(r"url\(#(.*?)\)", text)
    assert pointers and set(pointers) <= set(ids)
    tags = {tag for tag, _, _ in page.elements}
    assert not {"script", "link", "iframe", "object", "base", "form", "img"} & tags
    assert not [k for k, _ in values if k.startswith("on") or k in ("src", "srcset")]
    assert not re.findall(r"https?:|file:|@import|url\((?!#)", text)
    assert str(folder) not in text


def test_blind_readers_get_words_and_headers(text):
    page = Page(text)
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in page.all("svg"))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 2


def test_every_colour_follows_light_and_dark(text):
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert not re.findall(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", svg)
        used = set(re.findall(r"var\((--[\w-]+)\)", svg))
        assert used and all(text.count(f"  {name}: #") == 2 for name in used)


def test_headline_counts_trials_and_reads_the_test_once(trials, text):
    failed = sum(trial.objective is None for trial in trials)
    hopeless = sum(trial.stopped == "hopeless" for trial in trials)
    assert failed and hopeless
    found = cards(text)
    accuracy = f"{100 * best_of(trials).val_accuracy:.2f} %"
    assert found["Test accuracy"] == (
        "97.31 %",
        f"read once, after the search; validation accuracy {accuracy}",
    )
    sparsity = best_of(trials).sparsity
    assert found["FC sparsity"] == (
        f"{100 * sparsity:.2f} %",
        f"{100 * (sparsity - 0.95):.2f} points above the target (95.00 %)",
    )
    assert found["Trials"] == (
        f"{60 - failed}",
        f"completed, {hopeless} of them stopped early; {failed} failed; 60 planned",
    )
    assert found["Time"][1] == "of all trials together, on 2 workers"
    words = Page(text).text
    assert "Oracle hyperband, 14 hyperparameters, at most 27 epochs a trial, seed 3." in words
    assert "not finished" not in words
    assert "python train.py --config SEARCH/best.yaml" in words


def test_best_trial_has_its_values_and_what_was_searched(trials, text):
    page, best = Page(text), best_of(trials)
    said = f"Trial {best.name}: its objective is {best.objective:.4f}, after 27 epochs."
    assert said in page.text
    rate = f"{best.values['switcher_learning_rate']:.4g}"
    assert page.row("switcher_learning_rate")[1:] == [rate, "0.0001 to 0.01, logarithmic"]
    assert page.row("task_steps")[1:] == [str(best.values["task_steps"]), "1, 2, 4, 8"]


def test_table_has_all_trials_best_first(trials, text):
    rows = [row for row in Page(text).cells if re.fullmatch(r"\d{4}", row[0])]
    assert sorted(row[0] for row in rows) == [trial.name for trial in trials]
    ends = [row[4] for row in rows]
    assert ends == sorted(ends, key=["completed", "hopeless", "failed"].index)
    done = [float(row[1]) for row in rows if row[4] == "completed"]
    assert done == sorted(done, reverse=True) and rows[0][0] == best_of(trials).name
    assert {row[1] for row in rows if row[4] == "failed"} == {"–"}
    assert {row[5] for row in rows if row[4] == "hopeless"} <= {"1 of 3", "1 of 9", "1 of 27"}


def test_search_under_way_with_few_trials_says_what_is_missing(trials, tmp_path):
    three = [trial for trial in trials if trial.objective is not None][:3]
    words = Page(report(tmp_path, three)).text
    assert "The search is not finished. 3 trials of 60 have ended" in words
    assert "Too few trials to tell. It takes 10" in words
    assert "being the folder of this search, once the search has written this file" in words
    assert "So far 3 have the most frequent budget, and 3 differ." in words
    assert cards((tmp_path / "report.html").read_text())["Validation accuracy"][1] == (
        f"of trial {best_of(three).name}"
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_search_without_an_objective_can_be_reported(tmp_path, count):
    random = np.random.default_rng(0)
    trials = [make_trial(n, None, draw(random)) for n in range(count)]
    text = report(tmp_path, trials, target_sparsity=None)
    page = Page(text)
    assert page.open == [] and not page.all("svg")
    assert page.text.count("No trial has an objective yet.") == 2
    assert "No target of the sparsity" in page.text
    assert ("No trial has ended yet." in page.text) == (count == 0)


def test_a_single_trial_can_be_reported(tmp_path):
    text = report(tmp_path, [make_trial(0, 0.9, draw(np.random.default_rng(0)))])
    assert Page(text).open == []
    assert "There are no two trials yet whose hyperparameters differ." in text


def test_hostile_names_stay_text(tmp_path):
    evil = "</code></svg></style>\"'><script>alert(1)</script>$\\x$"
    trials = [make_trial(n, 0.9 + 0.01 * n, {evil: f"{evil}{n}", "b": n}) for n in range(3)]
    text = report(
        tmp_path, trials, model=evil, dataset=evil, oracle=evil, space={evil: {"values": [evil]}}
    )
    page = Page(text)
    assert page.open == [] and not page.all("script")
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_nothing_is_wider_than_a_phone(text):
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for part in text.split("<table>")[:-1]:
        assert re.search(r'<div class="scroll"[^>]*>$', part)
    rules = dict(re.findall(r"^([^@{}\n]+?) \{([^{}]*)\}", style, re.MULTILINE))
    assert "overflow-x: auto" in rules[".scroll"] and "width: 100%" in rules[".picture svg"]
    # The one wide picture scrolls in itself.
    assert "min-width" in rules[".wide-picture svg"]
    assert text.count("wide-picture") == text.count('class="scroll wide-picture"') + 1


def test_same_files_give_the_same_report(folder, text, tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert write_report(tmp_path).read_text("utf-8") == text


def test_report_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    make_search(tmp_path, [make_trial(0, 0.9, {"a": 1})])
    (tmp_path / "report.html").write_text("the report before")

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(WriteError, match="The disk is full"):
            write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "the report before"
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("report.html", "search.yaml", "trials.csv")
    ]


def test_neither_tensorflow_nor_keras_is_needed(tmp_path):
    make_search(tmp_path, hyperband_trials(20)[:5])
    code = """
import importlib, os, pathlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "keras_tuner"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
# As a command does before it imports a package that would load them all.
for package in ("keras_switcher", "keras_switcher.tuning"):
    os.environ["KERAS_SWITCHER_FLAGS_FIRST"] = "1"
    importlib.import_module(package)
from keras_switcher.tuning.report import write_report
write_report(pathlib.Path(sys.argv[1]))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")

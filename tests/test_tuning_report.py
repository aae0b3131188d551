import re

import numpy as np
import pytest
from made_searches import draw, hyperband_trials, made_search, make_trial
from report_runs import Page

from keras_switcher.tuning import report as report_page
from keras_switcher.tuning.results import best_of
from keras_switcher.tuning.space import Range


def report(*args, **values) -> str:
    return report_page.page(made_search(*args, **values))


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
def text(trials):
    return report(trials, 0.9731)


def test_page_is_well_formed_and_loads_nothing(text):
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


def test_search_under_way_with_few_trials_says_what_is_missing(trials):
    three = [trial for trial in trials if trial.objective is not None][:3]
    text = report(three)
    words = Page(text).text
    assert "The search is not finished. 3 trials of 60 have ended" in words
    assert "Too few trials to tell. It takes 10" in words
    assert "being the folder of this search, once the search has written this file" in words
    assert "So far 3 have the most frequent budget, and 3 differ." in words
    assert cards(text)["Validation accuracy"][1] == f"of trial {best_of(three).name}"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_search_without_an_objective_can_be_reported(count):
    random = np.random.default_rng(0)
    trials = [make_trial(n, None, draw(random)) for n in range(count)]
    text = report(trials, target_sparsity=None)
    page = Page(text)
    assert page.open == [] and not page.all("svg")
    assert page.text.count("No trial has come to its end.") == 2
    assert "No target of the sparsity" in page.text
    assert ("No trial has ended yet." in page.text) == (count == 0)


def test_a_single_trial_can_be_reported():
    text = report([make_trial(0, 0.9, draw(np.random.default_rng(0)))])
    assert Page(text).open == []
    assert "There are no two trials yet whose hyperparameters differ." in text


def test_hostile_names_stay_text():
    evil = "</code></svg></style>\"'><script>alert(1)</script>$\\x$"
    trials = [make_trial(n, 0.9 + 0.01 * n, {evil: f"{evil}{n}", "b": n}) for n in range(3)]
    space = {evil: Range(tuple(f"{evil}{n}" for n in range(3))), "b": Range((), 0, 2)}
    text = report(trials, model=evil, dataset=evil, oracle=evil, space=space)
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


def test_same_results_give_the_same_report(trials, text):
    assert report(trials, 0.9731) == text

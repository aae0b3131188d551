import html
import re

import pytest
from report_runs import HISTORY, Page, finished_run, sparse_model

from keras_switcher.config import to_yaml
from keras_switcher.data import EMBEDDED
from keras_switcher.report import page as report_page

NO_BASELINE = {"dense_test_accuracy": None, "dense_gzip_bytes": None, "dense_seconds": None}


@pytest.fixture(scope="module")
def functional():
    return sparse_model()


@pytest.fixture(scope="module")
def run(functional):
    return finished_run(functional)


@pytest.fixture(scope="module")
def text(run):
    return report_page.page(run)


def report(model, **values) -> str:
    return report_page.page(finished_run(model, **values))


def cards(text: str) -> dict[str, tuple[str, str]]:
    found = re.findall(
        r'<dt>(.*?)</dt><dd class="value">(.*?)</dd><dd class="aside">(.*?)</dd>', text
    )
    return {
        name: (value.replace("\xa0", " "), aside.replace("\xa0", " "))
        for name, value, aside in found
    }


@pytest.mark.parametrize(
    ("kind", "granularity", "summary"),
    [
        ("functional", "connection", {}),
        ("functional", "unit", {"granularity": "unit"}),
        ("functional", "block4", {"target_sparsity": None, **NO_BASELINE}),
        ("sequential", "connection", NO_BASELINE),
        ("subclassed", "connection", {"target_sparsity": None}),
    ],
)
def test_page_is_well_formed_and_loads_nothing(kind, granularity, summary):
    text = report(sparse_model(kind, granularity), summary=summary)
    page = Page(text)
    assert page.open == []
    assert {"html", "head", "body", "h1", "table", "svg", "img"} <= {e[0] for e in page.elements}

    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    values = [(k, v or "") for _, attributes, _ in page.elements for k, v in attributes.items()]
    pointers = [v for k, v in values if k in ("aria-labelledby",)]
    pointers += [v[1:] for k, v in values if k in ("href", "xlink:href")]
    pointers += re.findall(r"url\(#(.*?)\)", text)
    assert pointers and set(pointers) <= set(ids)

    assert all(v.startswith("data:image/png;base64,") for k, v in values if k == "src")
    assert all(v.startswith("#") for k, v in values if k in ("href", "xlink:href"))
    assert not {"script", "link", "iframe", "object", "base", "form"} & {
        e[0] for e in page.elements
    }
    assert not [k for k, _ in values if k.startswith("on") or k == "srcset"]
    assert not re.findall(r"https?:|file:|@import|url\((?!#)", text)


def test_headline_agrees_with_the_summary(run, text):
    # 160 + 24 connections, of them 32 + 5 on; 11 biases.
    assert cards(text) == {
        "Test accuracy": ("91.23 %", "2.48 points below the dense network (93.71 %)"),
        "FC sparsity": ("79.89 %", "0.11 points below the target (80.00 %)"),
        "Model sparsity": ("75.38 %", "of all parameters, of which 94.36 % can be switched off"),
        "Parameters left": ("48", "of 195: 4.1 times fewer"),
    }
    words = Page(text).text
    assert "50,000 training, 4,000 validation and 10,000 test examples" in words
    assert "source: tfds dots/1.0.0" in words and "4 epochs, seed 7" in words
    assert "Validation accuracy after the last epoch: 71.25 %, on 4,000 examples" in words


def test_comparison_shows_dense_and_sparse(text):
    page = Page(text)
    assert page.row("Test accuracy") == ["Test accuracy", "93.71 %", "91.23 %"]
    assert page.row("Switched connections")[1:] == ["184", "37"]
    assert page.row("Parameters")[1:] == ["195", "48"]
    assert page.row("Weights")[1:] == ["98.8 kB", "1.2 kB"]
    assert page.row("Training time")[1:] == ["2 min 05 s", "4.2 s"]
    assert "54,321 parameters more" in page.text


def test_layer_table_counts_connections_and_dead_units(text):
    page = Page(text)
    # Switches 0, 5, 10, 15 and 20 of (8, 3) read the hidden units 0, 1, 3, 5 and 6, not the others.
    assert page.row("hidden") == ["hidden 20×8", "160", "32", "80.00 %", "3"]
    assert page.row("logits") == ["logits 8×3", "24", "5", "79.17 %", "0"]
    assert page.row("All") == ["All", "184", "37", "79.89 %", "3"]
    assert 'style="width:79.17%"' in text


def test_every_epoch_stands_in_a_table(text):
    page = Page(text)
    assert page.row("epoch") == list(HISTORY[0])
    assert page.row("3") == "3 alternate 1 0.625 0.7 0.9 0.65 0.001 1".split()


def test_curves_have_phases_a_target_and_words_for_the_blind(text):
    svgs = [svg for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]
    assert len(svgs) == 3
    for svg in svgs:
        assert re.findall(r">(warm-up|alternate|settle)</text>", svg) == [
            "warm-up",
            "alternate",
            "settle",
        ]
    assert [svg.count('-target"') for svg in svgs] == [0, 0, 1]
    labels = [svg["aria-label"].replace("\xa0", " ") for svg in Page(text).all("svg")]
    assert labels[0].endswith("training from 2.25 to 0.75; validation from 2 to 0.8.")
    assert labels[1].endswith(
        "training from 25.00 % to 75.00 %; validation from 30.00 % to 70.00 %."
    )
    assert labels[2].endswith("sparsity from 0.00 % to 75.00 %; target 80.00 %.")
    assert re.findall(r'<span class="key(?: second)?">(.*?)</span>', text) == [
        *("training", "validation") * 2,
        "sparsity",
        "target 80\xa0%",
    ]


def test_first_layer_is_shown_as_images(text):
    masks = [image for image in Page(text).all("img") if image["alt"].startswith("Mask of unit")]
    assert [image["alt"] for image in masks] == [
        f"Mask of unit {unit}, 4 of 20 inputs on" for unit in range(8)
    ]
    assert all((image["width"], image["height"]) == ("4", "5") for image in masks)


def test_run_without_target_and_dense_baseline(functional):
    summary = {"target_sparsity": None, **NO_BASELINE}
    text = report(functional, summary=summary)
    page = Page(text)
    assert cards(text)["Test accuracy"] == ("91.23 %", "on 10,000 test examples")
    assert cards(text)["FC sparsity"][1] == "of the switched connections; no target was set"
    assert page.row("Test accuracy") == ["Test accuracy", "–", "91.23 %"]
    assert page.row("Weights")[1] == page.row("Training time")[1] == "–"
    assert "The dense network was not trained in this run." in page.text
    assert '-target"' not in text and "target 80" not in text


def test_whole_units_are_shown_as_cells():
    text = report(sparse_model(granularity="unit"))
    alts = [image["alt"] for image in Page(text).all("img")]
    assert alts == ["2 of 8 units on."]  # the output layer is not switched
    assert "8 units; 2 of them read all 20 inputs." in text


def test_subclassed_model_counts_only_incoming_connections():
    page = Page(report(sparse_model("subclassed")))
    assert page.row("hidden")[-1] == "0"
    assert all(image["alt"].startswith("Density over") for image in page.all("img"))


@pytest.mark.parametrize(
    ("source", "limit", "said"),
    [
        ("tfds dots/1.0.0", None, []),
        (EMBEDDED, None, [f"its images are {EMBEDDED}."]),
        ("images of embedded devices", None, []),
        ("tfds dots/1.0.0", 1500, ["it used only the first 1500 examples"]),
        (EMBEDDED, 2, [f"its images are {EMBEDDED}; it used only the first 2 "]),
    ],
)
def test_small_data_is_owned_up_to(functional, source, limit, said):
    text = report(functional, summary={"dataset_source": source}, config={"limit": limit})
    assert ("Not the full data set." in text) == bool(said)
    assert all(words in text for words in said)


def test_command_and_configuration_to_do_it_again(run, text):
    codes = [code for code in re.findall(r"<pre.*?><code>(.*?)</code></pre>", text, re.DOTALL)]
    assert codes[0] == "python train.py \\\n  --config RUN/config.yaml \\\n  --run-dir NEW"
    assert html.unescape(codes[1]) == to_yaml(run.config)


def test_hostile_names_stay_text(functional):
    evil = "</code></svg></style>\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
    text = report(
        functional,
        summary={
            "model": evil,
            "dataset": evil,
            "dataset_source": f"embedded {evil}",
            "granularity": evil,
        },
        config={"data_dir": evil, "init_from": evil},
        history=[
            {"epoch": 1, "phase": "</svg><script>1</script>$\\x$", "loss": 1.0, "<b>val": 2.0}
        ],
    )
    page = Page(text)
    assert page.open == []
    assert not page.all("script") and not page.all("b")
    assert len(page.all("img")) == text.count('<img class="mask"')
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "</svg><script>1</script>$\\x$" in page.text


def test_nothing_is_wider_than_a_phone(text):
    page = Page(text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    scrolling = text.split('<div class="scroll"')
    assert len(scrolling) - 1 == len(page.all("table")) == 3
    assert all(part.split(">", 1)[1].startswith("<table>") for part in scrolling[1:])
    rules = dict(re.findall(r"^([^@{}\n]+?) \{([^{}]*)\}", style, re.MULTILINE))
    assert "overflow-x: auto" in rules[".scroll"]
    assert "width: 100%" in rules[".mask"]
    assert "width: 100%" in rules[".curves svg"]
    assert "pre-wrap" in rules["pre"] and "overflow-wrap: anywhere" in rules["pre"]
    assert "overflow-wrap: break-word" in rules["body"]
    assert "min-width: 0" in rules[".card, .curves > *, .masks > *, .pair > *, .pixels > *"]
    # Fixed widths of more than a small phone: only in the conditions of media queries.
    plain = re.sub(r"@media[^{]*|max-width:[^;}]*|minmax\(min\([^)]*\)", "", style)
    widths = re.findall(r"width: ?([\d.]+)(rem|px)", plain)
    assert all(float(n) * (16 if unit == "rem" else 1) < 100 for n, unit in widths)
    inline = [
        attributes["style"]
        for tag, attributes, inside in page.elements
        if "style" in attributes and "svg" not in (tag, *inside)
    ]
    assert inline
    for style in inline:
        share = re.fullmatch(r"width:([\d.]+)%|aspect-ratio:[\d.]+", style)
        assert share and float(share[1] or 0) <= 100
    assert not [svg for svg in page.all("svg") if "width" in svg]


def test_history_may_have_gaps_and_lack_columns(functional):
    nan = float("nan")
    history = [
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "loss": 1.0, "val_loss": 1.5},
        {"epoch": 3, "loss": nan},
    ]
    text = report(functional, history=history)
    assert text.count("<svg") == 1
    assert "<td>–</td>" in text
    assert "validation from 1.5 to 1.5" in text


def test_same_run_gives_the_same_report(run, text):
    assert report_page.page(run) == text

"""The code and the commands of the guide's pages on one's own model, granularity and comparing."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from compare_work import sparsity, work

import keras_switcher.compare.methods  # noqa: F401
from keras_switcher.compare.command import METHODS, checked_plan
from keras_switcher.compare.method import registry
from keras_switcher.flags import resolve

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", page(name), re.DOTALL)


def commands(name):
    return [line for text in blocks(name, "sh") for line in text.splitlines()]


@pytest.mark.parametrize("name", ["index.md", "library.md", "granularity.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(name, "python")).replace("epochs=5", "epochs=1")
    exec(compile(code, name, "exec"), {"__name__": "page"})
    if "small.keras" in code:
        assert (tmp_path / "small.keras").exists()


def of_all_pages(start):
    """Return the commands of all pages that start so, each in one line."""
    pages = [str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md"))]
    joined = "\n".join("".join(blocks(name, "sh")) for name in pages).replace("\\\n", " ")
    lines = dict.fromkeys(line.split("#")[0].strip() for line in joined.splitlines())
    return [line for line in lines if line.startswith(start)]


@pytest.mark.parametrize("command", of_all_pages("python -m keras_switcher.compare"))
def test_comparisons_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dense.keras").touch()
    Path("one_shot.py").write_text(blocks("compare.md", "python")[0])
    for index, found in enumerate(re.findall(r"config=(\S+)", command)):
        Path(found).parent.mkdir(parents=True)
        Path(found).write_text(f"task_steps: {index + 1}\n")
    program, *flags = shlex.split(command)
    assert (program, *flags[:2]) == ("python", "-m", "keras_switcher.compare")
    options, plan = checked_plan(flags[2:])
    assert options.out.parent == Path("comparisons")
    assert len(plan.cells()) >= len(plan.variants)


def test_the_page_names_every_method_and_the_default_ones():
    named = re.findall(r"^\| `([a-z0-9][a-z0-9-]*)` \|", page("compare.md"), re.MULTILINE)
    # Those of an extra are not among the default ones.
    assert sorted(named) == sorted([*METHODS, "pquant-dst", "pquant-pdp"])
    assert set(named) <= set(registry.names())


def test_the_method_of_ones_own_can_be_trained(tmp_path):
    exec(
        compile(blocks("compare.md", "python")[0], "one_shot.py", "exec"), {"__name__": "one_shot"}
    )
    trained = registry.get("one-shot")().train(work(tmp_path))
    assert sparsity(trained.layers) == pytest.approx(0.9, abs=0.01)


def test_the_command_of_the_page_on_granularity_is_understood():
    (command,) = commands("granularity.md")
    assert resolve(shlex.split(command)[2:]).switching.granularity == "block4"


@pytest.mark.parametrize("command", of_all_pages("python train.py"))
def test_trainings_are_understood(command):
    flags = shlex.split(command)[2:]
    if "--config" not in flags:
        assert resolve(flags).network.model in command or "--model" not in flags


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

"""What is compared: variants, cells, and when a comparison is another one."""

import pytest

from keras_switcher.checks import ConfigError
from keras_switcher.compare.ablations import ABLATIONS, ablated
from keras_switcher.compare.plan import COURSE, Cell, Plan, Variant
from keras_switcher.config import Config, from_values, to_values, to_yaml
from keras_switcher.flags import recipe

AIMS = {
    "switcher": (True, ()),
    "dense": (False, ()),
    "layerwise": (True, ("switcher",)),
}


def plan(methods=("switcher", "dense"), sparsities=(0.9, 0.98), seeds=2, **options):
    return Plan(
        from_values({"model": "lenet300", **options}),
        tuple(map(Variant.parse, methods)),
        tuple(sparsities),
        tuple(range(seeds)),
        {"threads": 1},
        AIMS,
    )


@pytest.mark.parametrize(
    "text",
    [
        "switcher",
        "switcher:gate=relu_tanh",
        "switcher:warmup=0.0,settle=0.2",
        "switcher:switcher_hidden=64/32",
        # No hidden layer.
        "switcher:switcher_hidden=",
        "switcher:jit=false",
    ],
)
def test_a_variant_is_written_as_it_is_read(text):
    assert str(Variant.parse(text)) == text


def test_a_variant_has_one_name_however_it_is_written():
    written = "switcher:ramp=5e-1,learning_rate=1e-3,gate=relu_tanh"
    other = "switcher:gate=relu_tanh,learning-rate=0.001,ramp=0.5"
    assert str(Variant.parse(written)) == str(Variant.parse(other))


def test_cells_of_methods_with_many_options_have_names_that_a_file_can_have():
    options = "switcher:switcher_hidden=64/32,settle=0.2,warmup=0.0123456789,ramp=0.123456789,"
    options += "multiplier_rate=0.0123456789,switcher_learning_rate=0.00123456789,gate=step,"
    first, second = (Variant.parse(f"{options}rate_exponent={rate}") for rate in (0.1, 0.2))
    names = [Cell(variant, 0.9, 3).name for variant in (first, second)]
    assert all(len(name) < 200 and name.endswith("-0.9-seed3") for name in names)
    assert names[0] != names[1]
    assert names[0] == Cell(Variant.parse(str(first)), 0.9, 3).name
    # Letters of any language are as good, but take up to four bytes.
    many = Cell(Variant("\N{CJK UNIFIED IDEOGRAPH-65B9}" * 90), 0.9, 3).name
    assert len(many.encode()) < 200 and many.endswith("-0.9-seed3")
    assert Cell(Variant("\N{GREEK SMALL LETTER LAMDA}"), None, 0).name.endswith(
        "\N{GREEK SMALL LETTER LAMDA}-seed0"
    )
    # Folders of earlier comparisons keep their names.
    assert Cell(Variant.parse("switcher:gate=step"), None, 0).name == "switcher_gate_step-seed0"


def test_options_of_a_variant_reach_the_training_of_its_cells():
    cell = Cell(Variant.parse("switcher:settle=0.2,switcher-hidden=64/32"), 0.9, 3)
    config = cell.config(from_values({"settle": 0.4, "epochs": 7}))
    assert config.alternation.settle == 0.2
    assert config.switching.switcher_hidden == (64, 32)
    assert config.optimisation.epochs == 7
    assert (config.switching.target_sparsity, config.optimisation.seed) == (0.9, 3)
    for written in ("switcher:switcher_hidden=", "switcher:switcher_hidden=none"):
        assert Variant.parse(written).options == (("switcher_hidden", ()),)


def test_what_a_recipe_has_for_its_switcher_is_not_for_another_one():
    shared = from_values({**recipe("lenet300", "mnist"), "model": "lenet300", "dataset": "mnist"})

    def options(config):
        return (config.switching.switcher_hidden, config.optimisation.switcher_learning_rate)

    assert options(shared) == ((64,), 0.002)
    config = Cell(Variant.parse("switcher:switcher=connection"), 0.9, 0).config(shared)
    assert options(config) == ((16,), 0.001)
    # The other way round, too.
    config = Cell(Variant.parse("switcher:switcher=orthogonal"), 0.9, 0).config(config)
    assert options(config) == ((64,), 0.002)
    # What was asked for stays.
    asked = from_values({**to_values(shared), "switcher_hidden": (5,)})
    variant = Variant.parse("switcher:switcher=connection,switcher_learning_rate=0.01")
    config = Cell(variant, 0.9, 0).config(asked)
    assert config.switching.switcher_hidden == (5,)
    assert config.optimisation.switcher_learning_rate == 0.01


def test_the_configuration_of_a_search_is_a_variant(tmp_path):
    best = from_values(
        {"gate": "relu_tanh", "settle": 0.25, "switcher_hidden": (), "switcher_learning_rate": 0.01}
    )
    path = tmp_path / "best.yaml"
    # Of these, the comparison has its own.
    other = from_values({**to_values(best), "seed": 7, "target_sparsity": 0.5, "epochs": 99})
    path.write_text(to_yaml(other))
    variant = Variant.parse(f"switcher:config={path},warmup=0.05")
    config = Cell(variant, 0.9, 3).config(from_values({"epochs": 7, "limit": 300}))
    expected = {"warmup": 0.05, "seed": 3, "target_sparsity": 0.9, "epochs": 7, "limit": 300}
    expected["dense_baseline"] = False
    assert config == from_values({**to_values(best), **expected})
    # Of the file, what a method reads.
    course = Variant.parse(f"magnitude-global:config={path},warmup=0.05", COURSE)
    assert dict(course.options) == {"warmup": 0.05, "settle": 0.25, "ramp": 0.8}
    # What is compared does not depend on the file any more.
    assert Variant.parse(str(variant)) == variant
    with pytest.raises(ConfigError, match="Can't read the config file"):
        Variant.parse(f"switcher:config={tmp_path / 'none.yaml'}")
    with pytest.raises(ConfigError, match="Expected a file with an option that small-dense reads"):
        Variant.parse(f"small-dense:config={path}", {"dropout"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("switcher:gat=step", "Did you mean 'gate'?"),
        ("switcher:gate=stop", "the method switcher:gate=stop: Unknown gate 'stop'"),
        ("switcher:settle", "name:option=value"),
        ("switcher:seed=3", "the comparison sets it"),
        ("switcher:epochs=9", "the same for all. Give --epochs to the comparison"),
        ("switcher:fc_units=512", "Give --fc-units"),
    ],
)
def test_a_wrong_variant_is_refused_with_what_is_wrong(text, said):
    with pytest.raises(ConfigError, match="(?s)" + said.replace("?", r"\?")):
        Variant.parse(text)


def test_a_method_without_a_target_is_trained_once_for_all_sparsities():
    names = [cell.name for cell in plan().cells()]
    assert names == [
        "switcher-0.9-seed0",
        "dense-seed0",
        "switcher-0.98-seed0",
        "switcher-0.9-seed1",
        "dense-seed1",
        "switcher-0.98-seed1",
    ]


def test_what_a_cell_needs_comes_before_it_even_if_it_is_not_compared():
    chosen = plan(("layerwise",), (0.9,), seeds=1)
    switcher, layerwise = chosen.cells()
    assert (switcher.name, layerwise.name) == ("switcher-0.9-seed0", "layerwise-0.9-seed0")
    assert chosen.needed(layerwise) == [switcher]
    assert chosen.needed(switcher) == []


def test_more_cells_are_the_same_comparison_and_another_training_is_not():
    first = plan().content()
    more = plan(("layerwise",), (0.5,), seeds=3)
    assert more.changes(first) == []
    grown = more.grown(first)
    assert grown["methods"] == ["switcher", "dense", "layerwise"]
    assert grown["sparsities"] == [0.9, 0.98, 0.5]
    assert grown["seeds"] == [0, 1, 2]
    assert plan().changes({**first, "config": {**first["config"], "threads": 2}}) == [
        "threads: 2 -> 1"
    ]
    assert plan(epochs=31).changes(first) == ["epochs: 30 -> 31"]


# Values that no ablation has.
OTHERS = {
    "switcher": "free",
    "switcher_hidden": (5,),
    "gate": "own",
    "task_steps": 3,
    "switcher_steps": 3,
    "granularity": "own",
    **dict.fromkeys(("warmup", "settle", "ramp"), 0.15),
    **dict.fromkeys(("multiplier_rate", "rate_exponent", "switcher_learning_rate"), 0.15),
}


def test_every_ablation_changes_something_that_exists():
    for names in ABLATIONS.values():
        for name in names:
            shared = from_values(OTHERS)
            config = Cell(Variant.parse(name), 0.9, 0).config(shared)
            changed = config != Cell(Variant("switcher"), 0.9, 0).config(shared)
            assert changed or name in ("free", "magnitude-switcher"), name


def test_an_ablation_that_does_not_go_with_the_flags_is_left_out_and_named(caplog):
    config = from_values({"model": "lenet300", "settle": 0.75, "warmup": 0.05})
    assert ablated(["warmup"], config) == [
        *("switcher", "switcher:warmup=0.0", "switcher:warmup=0.1", "switcher:warmup=0.2")
    ]
    assert "Without switcher:warmup=0.3." in caplog.text


def test_ablations_are_chosen_by_part_and_a_wrong_part_names_the_right_ones():
    config = Config()
    assert ablated(["gate"], config) == ["switcher", "switcher:gate=relu_tanh"]
    assert set(ablated(["gate", "warmup"], config)) == {
        *("switcher", "switcher:gate=relu_tanh"),
        *(f"switcher:warmup={share}" for share in (0.0, 0.2, 0.3)),
    }
    own = from_values({"gate": "relu_tanh", "task_steps": 16, "switcher_hidden": (64, 64)})
    # What it has in the default's place is held against the default.
    assert ablated(["gate"], own) == ["switcher", "switcher:gate=step"]
    assert "switcher:task_steps=16" in ablated([], config)
    # It is the default.
    assert "switcher:task_steps=8" not in ablated([], config)
    free = from_values({"switcher": "free"})
    assert "free" not in ablated([], free) and "free" in ablated([], config)
    assert "switcher:switcher_hidden=16" in ablated([], config)
    # One without hidden layers is held against those of another kind, once each.
    orthogonal = ablated(["switcher"], from_values({"switcher": "orthogonal"}))
    widths = ("none", "16", "64", "64/64")
    assert orthogonal == [
        *("switcher", "free", "magnitude-switcher", "switcher:switcher=connection"),
        *(f"switcher:switcher=unit,switcher_hidden={each}" for each in widths),
    ]
    assert "magnitude-switcher" in ablated([], free)
    # What a recipe has is among the values.
    slow = from_values({"switcher_learning_rate": 0.01})
    rates = {Variant("switcher", (("switcher_learning_rate", r),)) for r in (0.001, 0.002, 0.003)}
    assert {str(rate) for rate in rates} <= set(ablated(["switcher_rate"], slow))
    with pytest.raises(ConfigError, match="Did you mean 'gate'"):
        ablated(["gates"], config)

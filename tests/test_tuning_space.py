import keras_tuner
import pytest

from keras_switcher.checks import ConfigError
from keras_switcher.tuning.space import DEFAULT, NAMES, Range, Space, read_space


def chosen(space, **values):
    """Return the options for a trial of these values, as an oracle would give them."""
    hp = keras_tuner.HyperParameters()
    # As Keras Tuner does, until all conditional ones are known.
    for _ in range(4):
        space.choose(hp)
        hp.values.update(values)
    hp = hp.copy()
    return hp, space.choose(hp)


def test_the_default_space_gives_options_that_a_run_takes():
    hp, options = chosen(Space.of())
    assert options["switcher"] == "unit"
    assert options["switcher_hidden"] == ()
    assert set(options) <= {
        *("switcher", "switcher_hidden", "switcher_activation", "switcher_normalization", "gate"),
        *("switcher_optimizer", "switcher_learning_rate", "task_steps", "switcher_steps"),
        *("warmup", "settle", "ramp", "multiplier_rate", "rate_exponent"),
    }


@pytest.mark.parametrize(
    ("values", "hidden"),
    [
        ({"switcher": "unit", "unit_depth": 0}, ()),
        ({"switcher": "unit", "unit_depth": 1, "unit_width_1": 32}, (32,)),
        ({"switcher": "unit", "unit_depth": 2, "unit_width_1": 32, "unit_width_2": 16}, (32, 16)),
        ({"switcher": "connection", "connection_depth": 1, "connection_width_1": 8}, (8,)),
    ],
)
def test_depth_and_widths_become_hidden_layers_of_the_kind(values, hidden):
    assert chosen(Space.of(), **values)[1]["switcher_hidden"] == hidden


@pytest.mark.parametrize("kind", ["free", "orthogonal"])
def test_a_kind_without_hidden_layers_may_be_searched_beside_others(kind):
    space = Space.of({"switcher": ["unit", kind]})
    hp, options = chosen(space, switcher=kind, unit_depth=2)
    assert options["switcher"] == kind and "switcher_hidden" not in options
    assert not {p.name for p in hp.space if hp.is_active(p)} & {"unit_depth", "unit_width_1"}
    assert chosen(space, switcher="unit", unit_depth=0)[1]["switcher_hidden"] == ()


def test_orthogonal_units_are_among_the_default_kinds():
    assert Space.of().ranges["switcher"].values == ("unit", "orthogonal", "connection")


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.002), ("sgd", 0.3)])
def test_the_rate_is_that_of_the_optimizer(optimizer, rate):
    values = {"switcher_optimizer": optimizer, f"{optimizer}_learning_rate": rate}
    assert chosen(Space.of(), **values)[1]["switcher_learning_rate"] == rate


def test_what_another_value_makes_pointless_is_inactive():
    hp, _ = chosen(Space.of(), switcher="connection", connection_depth=1, connection_width_1=8)
    active = {p.name for p in hp.space if hp.is_active(p)}
    assert not active & {"unit_depth", "unit_width_1", "connection_width_2"}
    assert {"connection_depth", "connection_width_1"} <= active


def test_a_range_takes_the_place_of_the_default_one():
    space = Space.of(
        {"gate": "step", "granularity": ["connection", "block4"], "warmup": {"min": 0, "max": 0.1}}
    )
    hp, options = chosen(space)
    names = [p.name for p in hp.space]
    assert options["gate"] == "step" and "gate" not in names
    assert options["granularity"] == "connection" and "granularity" in names
    assert space.ranges["warmup"].maximum == 0.1


def test_a_flag_fixes_its_option_and_the_parts_of_it():
    given = {"switcher_hidden": (8,), "switcher_learning_rate": 0.1, "gate": "step", "lr": 1.0}
    space = Space.of(None, given)
    _, options = chosen(space)
    assert not {"switcher_hidden", "switcher_learning_rate", "gate"} & set(options)
    assert len(space.ranges) == len(DEFAULT) - 9


@pytest.mark.parametrize("kind", ["unit", "connection"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("by_flag", [True, False])
def test_what_depends_on_a_fixed_option_is_searched_for_its_value_alone(kind, optimizer, by_flag):
    given = {"switcher": kind, "switcher_optimizer": optimizer}
    space = Space.of(None, given) if by_flag else Space.of(given)
    depth, width, rate = f"{kind}_depth", f"{kind}_width_1", f"{optimizer}_learning_rate"
    hp, options = chosen(space, **{depth: 1, width: 16, rate: 0.005})
    assert options["switcher_hidden"] == (16,)
    assert options["switcher_learning_rate"] == 0.005
    assert options["switcher"] == kind
    names = {p.name for p in hp.space}
    assert {depth, width, rate} <= names
    assert not {"unit_depth", "connection_depth"} - {depth} & names
    assert not {"adam_learning_rate", "sgd_learning_rate"} - {rate} & names


def test_what_is_given_does_not_collide_with_the_ranges_that_it_replaces():
    space = Space.of({"settle": {"min": 0.2, "max": 0.8}}, {"warmup": 0.1})
    assert space.ranges["settle"].maximum == 0.8
    with pytest.raises(ConfigError, match="leave time to alternate"):
        Space.of({"settle": {"min": 0.2, "max": 0.8}}, {"warmup": 0.2})
    space = Space.of({"unit_depth": [1, 2, 3]}, {"switcher_hidden": (64,)})
    assert not {"unit_depth", "unit_width_1"} & {*space.ranges}


def test_widths_beyond_the_greatest_depth_are_not_searched():
    assert "unit_width_1" not in Space.of({"unit_depth": 0}).ranges
    ranges = Space.of({"unit_depth": [0, 1]}).ranges
    assert "unit_width_1" in ranges and "unit_width_2" not in ranges


def test_numbers_that_yaml_reads_as_text_are_numbers():
    read = Range.of("multiplier_rate", {"min": "1e-3", "max": "1e-1", "sampling": "log"})
    assert (read.minimum, read.maximum, read.sampling) == (0.001, 0.1, "log")


@pytest.mark.parametrize(
    ("name", "written", "values"),
    [
        ("warmup", [0, 0.1], (0.0, 0.1)),
        ("adam_learning_rate", [0.001, "1e-2"], (0.001, 0.01)),
        ("ramp", "5e-1", (0.5,)),
        ("task_steps", [1, 2], (1, 2)),
    ],
)
def test_values_have_the_type_of_their_option(name, written, values):
    range_ = Range.of(name, written)
    assert range_.values == values
    assert [type(v) for v in range_.values] == [type(v) for v in values]
    Space.of({name: written})
    assert chosen(Space.of({name: written}))[1]


def test_all_between_two_integers_is_searched_where_the_option_is_no_integer():
    range_ = Range.of("ramp", {"min": 0, "max": 1})
    assert not range_.is_integer and Range.of("unit_depth", {"min": 0, "max": 1}).is_integer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gates": ["step"]}, "Unknown hyperparameter 'gates'.* Did you mean 'gate'"),
        ({"gate": ["stp"]}, "Unknown gate 'stp'"),
        ({"gate": []}, "Expected values of one type for gate"),
        ({"switcher_steps": [1, True]}, "Expected values of one type for switcher_steps"),
        ({"gate": ["step", 3]}, "Unknown gate 3"),
        ({"unit_width_1": [[16, 32]]}, "Expected values of one type for unit_width_1"),
        ({"warmup": ["a"]}, "Expected warmup in the search space to be a share"),
        ({"warmup": {"min": 0.3, "max": 0.1}}, "with a < b"),
        ({"warmup": {"min": 0.1}}, "with a < b"),
        ({"warmup": {"min": 0, "max": 0.1, "sampling": "log"}}, "a > 0 for log"),
        ({"warmup": {"min": 0, "max": 0.1, "step": 0.01}}, "with a < b"),
        ({"warmup": {"min": 0, "max": 0.5}}, "leave time to alternate"),
        ({"warmup": [1.5]}, "Expected warmup in the search space to be a share"),
        ({"unit_depth": [5]}, "an integer from 0 to 4"),
        ({"unit_depth": [3]}, "Expected a range for unit_width_3"),
        ({"unit_width_1": [0]}, "widths of layers"),
        ({"unit_width_3": [8]}, "Expected unit_depth in the search space to go up to 3"),
        ({"adam_learning_rate": {"min": -1.0, "max": 1.0}}, "a number > 0"),
    ],
)
def test_a_wrong_range_is_told(values, message):
    with pytest.raises(ConfigError, match=message):
        Space.of(values)


def test_every_name_has_a_range_or_may_get_one():
    assert set(DEFAULT) < set(NAMES)


def test_a_file_of_ranges(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("task-steps: [1, 2]\nmultiplier_rate: {min: 1e-3, max: 0.1}\n")
    assert Space.of(read_space(path)).ranges["task_steps"].values == (1, 2)


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_a_file_that_is_no_mapping_is_told(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="search space .*space.yaml"):
        read_space(path)
    with pytest.raises(ConfigError, match="Can't read the search space"):
        read_space(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("searched", "listed"),
    [
        (Range(("step", "other", True)), ("step", "other", True)),
        (Range((8, 2, 4.5)), (2, 4.5, 8)),
        (Range((), 10, 16), (10, 11, 12, 13, 14, 15, 16)),
        (Range((), 0, 8), ()),
        (Range((), 1, 4, "log"), ()),
        (Range((), 0.0, 2.0), ()),
    ],
)
def test_few_values_are_listed(searched, listed):
    assert searched.listed == listed


def test_values_have_their_positions_between_the_ends():
    assert [Range(("a", "b", "c")).position(value) for value in "abc"] == [0, 0.5, 1]
    assert Range((8, 2, 4)).position(4) == 0.5
    assert Range((), 0.0, 4.0).position(1) == 0.25
    assert Range((), 1e-4, 1e-2, "log").position(1e-3) == pytest.approx(0.5)
    assert Range(("a",)).position("a") == 0
    assert Range((), 2.0, 2.0).position(2.0) == 0.5

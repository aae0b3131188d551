import pytest

from keras_switcher.registry import Registry


@pytest.fixture
def registry() -> Registry[object]:
    registry: Registry[object] = Registry("switcher", "@register_switcher('name')")
    registry.register("unit")("the unit switcher")
    registry.register("connection")("the connection switcher")
    return registry


def test_get_returns_what_was_registered(registry):
    assert registry.get("unit") == "the unit switcher"
    assert registry.names() == ["connection", "unit"]


def test_register_returns_the_decorated_object_itself(registry):
    class Mine:
        pass

    assert registry.register("mine")(Mine) is Mine
    assert registry.get("mine") is Mine


@pytest.mark.parametrize("wrong", ["unitt", "UNIT"])
def test_unknown_name_is_answered_with_the_nearest_and_all_names(registry, wrong):
    with pytest.raises(ValueError) as error:
        registry.get(wrong)
    assert str(error.value) == (
        f"Unknown switcher '{wrong}'. Did you mean 'unit'? Registered: 'connection', 'unit'. "
        "Add your own with @register_switcher('name')."
    )


@pytest.mark.parametrize("wrong", ["quaternion", None, 3])
def test_unknown_name_without_a_near_one_gets_no_guess(registry, wrong):
    with pytest.raises(ValueError) as error:
        registry.get(wrong)
    assert f"Unknown switcher {wrong!r}. Registered: 'connection', 'unit'." in str(error.value)


def test_a_name_that_cannot_be_hashed_is_unknown(registry):
    with pytest.raises(ValueError, match="Unknown switcher {}"):
        registry.get({})


def test_empty_registry_says_so():
    with pytest.raises(ValueError, match=r"Unknown gate 'step'\. Registered: nothing yet\."):
        Registry("gate", "...").get("step")


def test_taken_name_is_refused_and_keeps_its_object(registry):
    with pytest.raises(ValueError, match="'unit' is registered already.*Received: 'another'"):
        registry.register("unit")("another")
    assert registry.get("unit") == "the unit switcher"


def test_the_same_definition_run_again_replaces_the_first(registry):
    def define():
        @registry.register("mine")
        class Mine:
            pass

        return Mine

    first, second = define(), define()
    assert first is not second
    assert registry.get("mine") is second


@pytest.mark.parametrize("name", ["", None, 3, "two words", "a:b", "a,b=c", "a/b"])
def test_name_must_be_one_that_flags_and_files_can_have(registry, name):
    with pytest.raises(ValueError, match="Received: name="):
        registry.register(name)

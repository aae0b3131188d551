import gc
import importlib
import sys

import pytest

from keras_switcher.commands import load_tensorflow


@pytest.mark.parametrize("fails", [False, True])
def test_tensorflow_comes_without_garbage_collections_and_what_no_command_uses(fails, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    seen = []

    def imported(name):
        with pytest.raises(ImportError):
            __import__("pandas")
        seen.append((name, gc.isenabled()))
        if fails:
            raise ImportError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", imported)
        gc.unfreeze()
        if fails:
            with pytest.raises(ImportError):
                load_tensorflow(verbose=False)
        else:
            load_tensorflow(verbose=False)

    assert seen == [("tensorflow", False), ("keras", False)][: 1 if fails else 2]
    # Afterwards, it can be imported as ever.
    assert "pandas" not in sys.modules
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) == (not fails)

import gc
import importlib
import sys

import pytest

from keras_switcher.commands import load_tensorflow


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_collector_rests_during_the_import_and_leaves_out_what_comes_with_it(
    fails, monkeypatch
):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delitem(sys.modules, "tensorflow")
    seen = []

    def imported(name):
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

    assert seen == [("tensorflow", False)]
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) == (not fails)

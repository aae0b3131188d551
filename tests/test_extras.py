import json
from importlib import metadata

import pytest

from keras_switcher.extras import install_command


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, "'keras-switcher[tune]'"),
        ({"url": "file:///src/a%20checkout", "dir_info": {}}, "'/src/a checkout[tune]'"),
        ({"url": "file:///w/k-1-py3-none-any.whl"}, "'/w/k-1-py3-none-any.whl[tune]'"),
        (
            {"url": "https://example.org/k", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "'keras-switcher[tune] @ git+https://example.org/k'",
        ),
        (
            {"url": "https://example.org/k.whl"},
            "'keras-switcher[tune] @ https://example.org/k.whl'",
        ),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(origin, wanted, monkeypatch):
    class Installed:
        def read_text(self, name):
            return json.dumps(origin) if origin and name == "direct_url.json" else None

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert install_command("tune") == f"pip install {wanted}"


def test_an_extra_of_what_is_not_installed_has_its_plain_name(monkeypatch):
    def fail(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", fail)
    assert install_command("pquant") == "pip install 'keras-switcher[pquant]'"

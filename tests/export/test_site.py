"""What the page of a run consists of, also where an export was changed or is damaged."""

import json
import zlib
from pathlib import Path

import pytest
from served import made_page, made_run

from export.errors import ExportError
from export.site import site


@pytest.fixture
def page(tmp_path):
    return made_page(tmp_path / "page")


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "run")


def change(run, name, how):
    """Changes a JSON file of the export."""
    path = run / "export" / name
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def test_the_site_is_the_page_the_files_and_what_is_known_of_them(run, page):
    assets = site(run, page)
    assert sorted(assets) == [
        "assets/index-abc.js",
        "facts.json",
        "index.html",
        "model_sparse.tflite",
        "page.webmanifest",
    ]
    facts = json.loads(assets["facts.json"].read())
    assert facts["model"] == "lenet300"
    assert [file["file"] for file in facts["files"]] == ["model_sparse.tflite", "model_int8.tflite"]
    assert facts["files"][1]["problems"] == ["wrong"]
    assert site(run / "export", page).keys() == assets.keys()


def test_a_file_that_was_removed_is_told_so(run, page):
    content = json.loads((run / "export" / "export.json").read_text())
    content["artifacts"][1]["problems"] = []
    (run / "export" / "export.json").write_text(json.dumps(content))
    facts = json.loads(site(run, page)["facts.json"].read())
    assert "removed" in facts["files"][1]["problems"][0]


@pytest.mark.parametrize(
    "name", ["../stripped.keras", "/etc/passwd", "other.bin", "model_x.tflite/..", "a/b.tflite", ""]
)
def test_a_changed_export_json_opens_no_other_file(run, page, name):
    content = json.loads((run / "export" / "export.json").read_text())
    content["artifacts"][0]["file"] = name
    (run / "export" / "export.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"Expected files that an export wrote"):
        site(run, page)


def test_a_link_out_of_the_folder_is_refused(run, page):
    (run / "export" / "model_sparse.tflite").unlink()
    (run / "export" / "model_sparse.tflite").symlink_to(run / "stripped.keras")
    with pytest.raises(ExportError, match=r"model_sparse\.tflite"):
        site(run, page)


def test_a_file_that_was_changed_is_told_so(run, page):
    def files():
        return json.loads(site(run, page)["facts.json"].read())["files"]

    crc = zlib.crc32(b"sparse")
    change(run, "export.json", lambda content: content["artifacts"][0].update(crc32=crc))
    assert files()[0]["problems"] == []
    (run / "export" / "model_sparse.tflite").write_bytes(b"SPARSE")
    assert files()[0]["problems"] == ["it was changed after the export"]


@pytest.mark.parametrize("artifacts", [None, ["x"], {"file": 1}, 3])
def test_an_export_json_of_another_form_is_damaged(run, page, artifacts):
    change(run, "export.json", lambda content: content.update(artifacts=artifacts))
    with pytest.raises(
        ExportError, match=r"export\.json is damaged: expected a list.*Export again"
    ):
        site(run, page)


@pytest.mark.parametrize("name", ["inputs", "live_inputs", "labels", "takes_pixels"])
def test_a_page_json_without_what_the_page_reads_is_refused(run, page, name):
    change(run, "page.json", lambda content: content.pop(name))
    with pytest.raises(ExportError, match=f"without `{name}` in page.json"):
        site(run, page)


@pytest.mark.parametrize("name", ["export.json", "page.json", "model_sparse.tflite"])
def test_a_file_that_can_not_be_read_is_not_called_damaged(run, page, name, monkeypatch):
    def deny(method):
        read = getattr(Path, method)

        def denied(path, *args, **options):
            if path.name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path, *args, **options)

        monkeypatch.setattr(Path, method, denied)

    deny("read_text")
    deny("read_bytes")
    with pytest.raises(ExportError, match=rf"Can't read .*{name}: Permission denied\.$"):
        site(run, page)

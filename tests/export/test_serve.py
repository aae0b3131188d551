"""`serve` without a browser, and without the built page: a stand-in of a few files is served."""

import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import ROOT
from served import SECRET, made_page, made_run

from export.bundle import write_bundle
from export.command import main
from export.errors import ExportError
from export.server import HEADERS, ISOLATION, PageServer
from export.site import TYPES, content_type, site
from keras_switcher.files import WriteError
from keras_switcher.signals import Interrupted

# As `python -m export` starts: nothing is imported that the command can do without.
FLAGS_FIRST = {**os.environ, "KERAS_SWITCHER_FLAGS_FIRST": "1"}


@pytest.fixture
def page(tmp_path):
    return made_page(tmp_path / "page")


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "run")


@contextmanager
def serving(find, **names):
    with PageServer(find, "127.0.0.1", 0, **names) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../run/stripped.keras",
        "/%2e%2e/stripped.keras",
        "/..%2fstripped.keras",
        "/assets/../../run/stripped.keras",
        "/assets/",
        "/assets",
        "/index.html%00",
        "/stripped.keras",
        "/other.bin",
        "/export.json",
        "/model_int8.tflite",
        "/index-abc.js.gz",
        "/assets/index-abc.js.gz",
        "/C:/x",
        "/%ff%fe",
    ],
)
def test_nothing_else_is_served(run, page, path):
    with serving(lambda: site(run, page)) as server:
        response, content = get(server, path)
        assert response.status == 404
        assert SECRET not in content


def test_the_start_and_every_file_have_their_type_and_the_isolating_headers(run, page):
    assets = site(run, page)
    with serving(lambda: assets) as server:
        for path in ["/", "/?source=home", *[f"/{name}" for name in assets]]:
            response, content = get(server, path)
            assert response.status == 200
            name = path.partition("?")[0].removeprefix("/") or "index.html"
            assert response.getheader("Content-Type") == content_type(name)
            assert content == assets[name].read()
            for header, value in (*HEADERS.items(), ISOLATION):
                assert response.getheader(header) == value
    assert TYPES[".wasm"] == "application/wasm"
    assert TYPES[".webmanifest"] == "application/manifest+json"


@pytest.mark.parametrize(
    ("headers", "is_isolated"),
    [
        ({}, True),
        ({"Host": "localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "192.168.0.7:8000"}, False),
        ({"Host": "page.example.org", "X_Forwarded_Proto": "https"}, True),
    ],
)
def test_only_where_browsers_take_it_the_opener_is_isolated(run, page, headers, is_isolated):
    with serving(lambda: site(run, page), allowed_hosts=["page.example.org"]) as server:
        response, _ = get(server, "/", **headers)
        assert response.status == 200
        assert (response.getheader(ISOLATION[0]) == ISOLATION[1]) == is_isolated


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("GZIP", "gzip"),
        ("br;q=x", None),
        ("identity", None),
        ("", None),
    ],
)
def test_compressed_files_go_to_those_who_take_them(run, page, accepted, encoding):
    with serving(lambda: site(run, page)) as server:
        response, content = get(server, "/assets/index-abc.js", Accept_Encoding=accepted)
        assert response.getheader("Content-Encoding") == encoding
        assert response.getheader("Vary") == "Accept-Encoding"
        expected = {"br": b"as if by brotli", "gzip": b"plain", None: b"plain"}[encoding]
        assert (gzip.decompress(content) if encoding == "gzip" else content) == expected


def test_what_a_browser_has_is_not_sent_again(run, page):
    with serving(lambda: site(run, page)) as server:
        first, _ = get(server, "/model_sparse.tflite")
        assert first.getheader("Cache-Control") == "no-cache"
        tag = first.getheader("ETag")
        again, content = get(server, "/model_sparse.tflite", If_None_Match=tag)
        assert (again.status, content) == (304, b"")
        (run / "export" / "model_sparse.tflite").write_bytes(b"another")
        changed, content = get(server, "/model_sparse.tflite", If_None_Match=tag)
        assert (changed.status, content) == (200, b"another")
        fixed, _ = get(server, "/assets/index-abc.js")
        assert "immutable" in fixed.getheader("Cache-Control")


def test_other_methods_and_files_that_went_are_answered(run, page):
    with serving(lambda: site(run, page)) as server:
        head, content = get(server, "/model_sparse.tflite", "HEAD")
        assert (head.status, head.getheader("Content-Length"), content) == (200, "6", b"")
        assert get(server, "/", "POST")[0].status == 501
        (run / "export" / "model_sparse.tflite").unlink()
        response, content = get(server, "/model_sparse.tflite")
        assert response.status == 503


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1:8000", True),
        ("10.0.2.2", True),
        ("[::1]", True),
        ("LocalHost", True),
        (socket.gethostname(), True),
        ("Page.example.org:443", True),
        # Whose name server may have it lead here, so that its scripts could read the files.
        ("hostile.example.com", False),
        ("127.0.0.1.hostile.example.com", False),
        ("page.example.org.hostile.example.com", False),
        ("localhost@hostile.example.com", False),
        ("[", False),
        ("", False),
    ],
)
def test_only_own_names_are_answered_to(run, page, host, is_answered):
    with serving(lambda: site(run, page), allowed_hosts=["page.example.org"]) as server:
        response, content = get(server, "/model_sparse.tflite", Host=host)
    assert (response.status, content == b"sparse") == ((200, True) if is_answered else (421, False))
    assert (b"--allowed-hosts" in content) != is_answered


def test_a_request_with_the_whole_address_is_answered(run, page):
    with serving(lambda: site(run, page)) as server:
        for scheme, status in (("http", 200), ("HTTPS", 200), ("ftp", 404)):
            address = f"{scheme}://127.0.0.1:{server.server_port}/model_sparse.tflite?a#b"
            assert get(server, address)[0].status == status
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
            connection.sendall(b"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200 OK" in connection.recv(1000)


def test_what_a_request_holds_can_not_steer_the_terminal(run, page, caplog):
    with (
        caplog.at_level("DEBUG", logger="keras_switcher.export"),
        serving(lambda: site(run, page)) as server,
    ):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
            connection.sendall(b"GET /\x1b[31mred\x07 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"404" in connection.recv(1000)
    assert r"\x1b[31mred\x07" in caplog.text and "\x1b" not in caplog.messages[0]


def test_a_request_that_fails_is_told_to_who_serves(run, page, caplog):
    def find():
        raise KeyError("no such thing")

    with serving(find) as server, pytest.raises(http.client.HTTPException):
        get(server, "/")
    assert "127.0.0.1 could not be answered: KeyError: 'no such thing'" in caplog.text


def test_what_comes_with_a_request_is_not_the_next_one(run, page):
    hidden = b"GET /model_sparse.tflite HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(lambda: site(run, page)) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
            length = f"Content-Length: {len(hidden)}\r\n\r\n".encode()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length + hidden)
            with connection.makefile("rb") as answers:
                answer = answers.read()
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"sparse" not in answer


def test_a_taken_port_is_an_error_that_says_so(run, page):
    assets = site(run, page)
    with PageServer(lambda: assets, "127.0.0.1", 0) as server:
        with pytest.raises(ExportError, match=rf"Port {server.server_port} of 127\.0\.0\.1 is in"):
            PageServer(lambda: assets, "127.0.0.1", server.server_port)
    with pytest.raises(ExportError, match=r"Received: 203\.0\.113\.1"):
        PageServer(lambda: assets, "203.0.113.1", 0)


def test_the_address_for_a_phone_is_that_in_the_network(run, page):
    with PageServer(lambda: site(run, page), "0.0.0.0", 0) as server:
        here, *elsewhere = server.addresses()
        assert here == f"http://127.0.0.1:{server.server_port}/"
        assert all(f":{server.server_port}/" in address for address in elsewhere)
        assert not any("0.0.0.0" in address for address in elsewhere)


def test_after_a_new_export_its_own_figures_are_served(run, page, caplog):
    export = run / "export"
    with serving(lambda: site(run, page)) as server:
        content = json.loads((export / "export.json").read_text())
        content["artifacts"][0] |= {"accuracy": 0.8}
        (export / "export.json").write_text(json.dumps(content))
        (export / "model_sparse.tflite").write_bytes(b"another")
        (file, _) = json.loads(get(server, "/facts.json")[1])["files"]
        assert (file["accuracy"], file["bytes"]) == (0.8, 7)
        assert file["crc32"] == zlib.crc32(b"another")
        # As it may be in the middle of an export.
        (export / "export.json").unlink()
        response, content = get(server, "/facts.json")
        assert (response.status, b"export is not complete" in content) == (503, True)
        assert str(run).encode() not in content
    assert "was not exported yet" in caplog.text


def addresses(monkeypatch, capsys, run, *flags):
    """Return the ports of `serve` and what it says."""
    ports = []

    def stop(server, **options):
        ports.append(server.server_port)
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(PageServer, "serve_forever", stop)
    status, written = call(capsys, run, *flags)
    assert status == 0
    return ports[0], written


def test_a_page_has_the_same_address_each_time_if_it_can(run, page, monkeypatch, capsys):
    monkeypatch.setattr("export.site.PAGE", page)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("export.serve._PORT", port)
    assert addresses(monkeypatch, capsys, run)[0] == port
    with socket.create_server(("127.0.0.1", port)):
        assert addresses(monkeypatch, capsys, run)[0] != port


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_who_can_reach_the_page_is_told(run, page, monkeypatch, capsys, host, is_local):
    monkeypatch.setattr("export.site.PAGE", page)
    # Even if this machine does not know of an address of its own.
    monkeypatch.setattr("export.server._address_in_network", lambda family: None)
    _, written = addresses(monkeypatch, capsys, run, "--host", host, "--port", "0")
    assert ("For a phone in the same network: --host 0.0.0.0" in written) == is_local
    assert ("over plain http" in written) != is_local


def test_a_bundle_is_the_site_and_replaces_only_a_bundle(run, page, tmp_path):
    assets = site(run, page)
    out = tmp_path / "bundle"
    write_bundle(assets, out)
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {*assets, "assets/index-abc.js.br", "assets/index-abc.js.gz"}
    for name, asset in assets.items():
        assert (out / name).read_bytes() == asset.read()
    assert out.stat().st_mode & 0o055 == 0o055
    (out / "model_float16.tflite").write_text("of an earlier one")
    write_bundle(assets, out)
    assert not (out / "model_float16.tflite").exists()
    (out / ".git").mkdir()
    with pytest.raises(ExportError, match=r"holds other files: \.git"):
        write_bundle(assets, out)
    assert (out / ".git").is_dir() and (out / "index.html").is_file()
    assert not list(tmp_path.glob(".bundle*"))
    link = tmp_path / "current"
    link.symlink_to(out)
    shutil.rmtree(out / ".git")
    write_bundle(assets, link)
    assert link.is_symlink() and (out / "index.html").is_file()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("a page of one's own")
    with pytest.raises(ExportError, match=r"holds other files: index\.html"):
        write_bundle(assets, mine)
    assert (mine / "index.html").read_text() == "a page of one's own"
    with pytest.raises(ExportError, match=r"holds other files"):
        write_bundle(assets, other)
    assert (other / "thesis.txt").read_text() == "precious"
    with pytest.raises(ExportError, match=r"which is a file"):
        write_bundle(assets, other / "thesis.txt")


def test_a_bundle_that_can_not_be_replaced_stays(run, page, tmp_path, monkeypatch):
    assets, out = site(run, page), tmp_path / "bundle"
    write_bundle(assets, out)
    rename = os.rename

    def only_aside(source, target):
        if "writing" in Path(source).name and not Path(source).name.endswith("-before"):
            raise PermissionError(13, "not allowed")
        rename(source, target)

    monkeypatch.setattr(os, "rename", only_aside)
    with pytest.raises(WriteError, match="not allowed"):
        write_bundle(assets, out)
    assert (out / "index.html").is_file()
    assert not list(tmp_path.glob(".bundle*"))


def call(capsys, *flags):
    capsys.readouterr()
    try:
        status = main(["serve", *map(str, flags)])
    except SystemExit as left:
        status = left.code
    written = "".join(capsys.readouterr())
    assert "Traceback" not in written
    return status, " ".join(written.split())


def test_what_can_not_be_served_is_told_with_what_to_do(run, page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("export.site.PAGE", tmp_path / "no page")
    status, written = call(capsys, run)
    assert status == 1
    assert "make web" in written
    monkeypatch.setattr("export.site.PAGE", page)
    (tmp_path / "fresh").mkdir()
    status, written = call(capsys, tmp_path / "fresh")
    assert (status, f"python -m export {tmp_path / 'fresh'}" in written) == (1, True)
    status, written = call(capsys, tmp_path / "none")
    assert (status, "does not exist" in written) == (1, True)
    status, written = call(capsys, run, "--port", "65536")
    assert (status, "--port" in written) == (2, True)
    facts = json.loads((run / "export" / "page.json").read_text())
    del facts["picture"]
    (run / "export" / "page.json").write_text(json.dumps(facts))
    status, written = call(capsys, run)
    assert (status, "without `picture` in page.json: run" in written) == (1, True)
    (run / "export" / "page.json").unlink()
    status, written = call(capsys, run)
    assert (status, "earlier version" in written) == (1, True)


def test_the_command_writes_a_bundle(run, page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("export.site.PAGE", page)
    status, written = call(capsys, run, "--bundle", tmp_path / "bundle")
    assert status == 0
    assert str(tmp_path / "bundle") in written
    assert (tmp_path / "bundle" / "model_sparse.tflite").read_bytes() == b"sparse"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_server(run, page, number, status):
    code = (
        "import sys; from pathlib import Path; import export.site; "
        f"export.site.PAGE = Path({str(page)!r}); "
        f"from export.command import main; sys.exit(main(['serve', {str(run)!r}, '--port', '0']))"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        env=FLAGS_FIRST,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        first = process.stdout.readline()
        port = int(first.rpartition(":")[2].strip(" /\n"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/model_sparse.tflite")
        assert connection.getresponse().read() == b"sparse"
        process.send_signal(number)  # with a connection open, as a browser keeps it
        rest, _ = process.communicate(timeout=20)
        connection.close()
    assert process.returncode == status
    assert "Traceback" not in rest


def test_a_signal_that_comes_while_a_connection_is_taken_ends_the_server(run, page, monkeypatch):
    def interrupted(*arguments):
        raise Interrupted(signal.SIGINT)

    with PageServer(lambda: site(run, page), "127.0.0.1", 0) as server:
        monkeypatch.setattr(server, "process_request", interrupted)
        with socket.create_connection(("127.0.0.1", server.server_port)):
            with pytest.raises(Interrupted):
                server.serve_forever(0.01)


def test_serving_needs_no_tensorflow():
    code = (
        "import sys, export.serve, export.command; "
        "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=FLAGS_FIRST,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"

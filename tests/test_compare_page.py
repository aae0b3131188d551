"""What `benchmarks/compare_page.py` makes of a comparison's CSV file, and what it refuses."""

import pytest

from benchmarks.compare_page import main

HEAD = "method,target_sparsity,seed,test_accuracy,validation_accuracy\n"
ROWS = "switcher,0.9,0,0.95,0.9\nswitcher,0.9,1,0.97,0.9\ndense,,0,0.98,0.9\ndense,,1,0.98,0.9\n"


def printed(path, text, monkeypatch, capsys, *flags, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    monkeypatch.setattr("sys.argv", ["compare_page.py", str(path), *flags])
    main()
    return capsys.readouterr().out


def test_the_tables_have_means_and_differences(tmp_path, monkeypatch, capsys):
    # As a spreadsheet writes it.
    out = printed(tmp_path / "a.csv", HEAD + ROWS, monkeypatch, capsys, encoding="utf-8-sig")
    assert "| switcher | 96.00 ± 1.41 % (2) |" in out
    assert "| dense | 98.00 ± 0.00 % (2) |" in out
    assert "| dense | -2.00 (-14.71 to +10.71) |" in out


def test_there_are_tables_of_costs_and_of_layers(tmp_path, monkeypatch, capsys):
    more = ["seconds,peak_mib,layer_sparsities", "9,700.4,a=0.9 b=0.5", "12,704,a=0.8 b=0.5"]
    more += ["5,600,a=0.0 b=0.0", "7,600,a=0.0 b=0.0", "99,800,a=0.5 b=0.5"]
    rows = (HEAD + ROWS + "switcher,0.5,0,0.9,0.9\n").splitlines()
    text = "\n".join(f"{line},{added}" for line, added in zip(rows, more, strict=True))
    out = printed(tmp_path / "a.csv", text, monkeypatch, capsys, "--sparsity", "0.9")
    assert "| switcher | 2 | 10 | 9 to 12 | 702 |" in out
    assert "Sparsity of a, b in percent" in out
    assert "| switcher | 85.0 / 50.0 |" in out


def test_methods_without_a_target_have_a_table_of_their_own(tmp_path, monkeypatch, capsys):
    rows = "".join(ROWS.splitlines(keepends=True)[2:])
    out = printed(tmp_path / "a.csv", HEAD + rows, monkeypatch, capsys)
    assert "| dense | 98.00 ± 0.00 % (2) |" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "Received: others, or none"),
        ("a,b\n1,2\n", "Received: others, or none"),
        (HEAD + ROWS + "dense,,1,0.97,0.9\n", "('dense', '', '1')} several times"),
    ],
)
def test_a_file_of_something_else_is_refused(text, said, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        printed(tmp_path / "a.csv", text, monkeypatch, capsys)
    assert said in capsys.readouterr().err

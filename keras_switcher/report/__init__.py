"""The report of a run: one HTML file with its figures, curves, mask pictures and settings."""

from pathlib import Path

from keras_switcher.runs import REPORT_FILE, RunFolder

__all__ = ["REPORT_FILE", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write the report of a run into its folder.

    Reads `config.yaml`, `summary.json`, `history.csv` and `model.keras`, and writes `report.html`,
    which needs no other file and no network. An existing report is replaced, at once or not at all.

    Args:
        run_dir: The run's folder.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If one of them is damaged, or they are not of the same run.
        WriteError: If the report can't be written.

    Example:

    ```python
    write_report(Path("runs/lenet-mnist-1"))
    ```
    """
    # They load TensorFlow, which the other modules of this package do without.
    from keras_switcher.report.page import page
    from keras_switcher.report.run_files import read_run

    folder = RunFolder(Path(run_dir))
    folder.write_text(REPORT_FILE, page(read_run(folder.path)))
    return folder.path / REPORT_FILE

"""An export from end to end: make the files, verify them, measure them, publish them."""

import dataclasses
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_switcher import __version__
from keras_switcher.display import say
from keras_switcher.files import writing

from . import runtime
from .artifacts import Artifact, artifacts, experimental_sparsity
from .benchmark import machine
from .card import model_card
from .chart import write_chart
from .compact import Compacted
from .convert import Precision, as_given, in_precision, output_names, reason
from .display import show_artifacts, show_compaction
from .errors import ExportError, RuntimeFailure
from .figures import figures, information_bound
from .flatbuffer import read
from .folder import CARD_FILE, CHART_FILE, EXPORT_FILE, PAGE_FILE, exclusive, publish, write
from .metadata import runtime_needed
from .options import ExportOptions
from .page_facts import page_facts
from .source import Source, read_source
from .verify import Reference, Verdict, accuracy, difference, verify

logger = logging.getLogger("keras_switcher.export")

# For every file and number of threads, with and without XNNPACK.
_PROCESSES, _SECONDS = 5, 0.2
# Bytes of the Keras model's inputs in a batch.
_BATCH_BYTES = 2**25
# Number of examples that are also computed in float64.
_FOR_ROUNDING = 256
# Outputs below this are small beside the tolerance that holds where their rounding is not known.
_SMALL = 0.1
_VALUE_BYTES = {
    Precision.FLOAT32: 4,
    Precision.FLOAT16: 2,
    Precision.DYNAMIC: 1,
    Precision.INT8: 1,
}


def export(options: ExportOptions, console: Console | None = None) -> dict[str, Any]:
    """Export a run or a Keras file.

    Args:
        options: The command's options.
        console: Where to show progress and results; nowhere by default.

    Returns:
        The content of `export.json`.

    Raises:
        ExportError: If there is nothing to export, or a file failed. The files that passed are then
            in the folder, and `export.json` says what was wrong with the others.
        WriteError: If the folder can't be written.
    """
    return export_model(read_source(options), folder_of(options), options, console)


def folder_of(options: ExportOptions) -> Path:
    """Return the folder that the files of an export go to."""
    if options.out is not None:
        return options.out
    source = options.source
    return source / "export" if source.is_dir() else source.with_name(f"{source.stem}-export")


def export_model(
    source: Source, out: Path, options: ExportOptions, console: Console | None = None
) -> dict[str, Any]:
    """Export a model.

    Args:
        source: The model and its examples.
        out: Where the files go.
        options: The command's options.
        console: Where to show progress and results; nowhere by default.

    Returns:
        The content of `export.json`.

    Raises:
        ExportError: As for `export`.
        WriteError: If the folder can't be written.
    """
    console = Console(quiet=True) if console is None else console
    with exclusive(out) as scratch:
        # First, as no file can be made of a model that puts out no numbers.
        with console.status("Running the Keras model"):
            reference = _reference(source)
        with console.status("Compacting and converting"):
            made, compacted = artifacts(source, options)
        show_compaction(console, compacted)
        for artifact in made:
            write(scratch / artifact.file, artifact.content)
        with console.status("Verifying"):
            verdicts = {
                artifact.file: _verdict(
                    scratch / artifact.file, artifact, source, reference, options
                )
                for artifact in made
            }
        content = _content(source, reference, made, verdicts, compacted, options)
        if options.measure:
            with console.status("Measuring"):
                content["peers"] = _measured(content, made, scratch, source, reference, options)
        passed = [artifact.file for artifact in made if not _problems(verdicts[artifact.file])]
        names = [*passed, EXPORT_FILE, CARD_FILE, PAGE_FILE]
        if any(entry["latency_us"] for entry in content["artifacts"]):
            with writing(out):
                write_chart(content, scratch / CHART_FILE)
            names.append(CHART_FILE)
        write(scratch / EXPORT_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write(scratch / CARD_FILE, model_card(source, content))
        write(scratch / PAGE_FILE, json.dumps(page_facts(source)) + "\n")
        publish(out, scratch, names)
    show_artifacts(console, content)
    if failed := {name: _problems(v) for name, v in verdicts.items() if _problems(v)}:
        reasons = "; ".join(f"{name}: {', '.join(why)}" for name, why in failed.items())
        raise ExportError(
            f"Not every file does what the Keras model does, and such a file is not left in {out}. "
            f"{reasons}."
        )
    say(console, f"Files: {out}")
    return content


def _reference(source: Source) -> Reference:
    """Run the Keras model on the examples."""
    inputs = as_given(source.model, source.examples.test)
    try:
        outputs = _outputs(source.model, inputs)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise ExportError(
            f"The Keras model '{source.model.name}' can't run on {source.examples.source}: "
            f"{reason(error)} Give --examples a file whose x_test it can run on, such as one with "
            "no word outside the vocabulary."
        ) from error
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise ExportError(
            "Expected a Keras model whose outputs are numbers. Received: "
            f"'{source.model.name}', which puts out values that are not finite on "
            f"{source.examples.source}. Look for nan in its weights and in the examples."
        )
    first = {name: values[:_FOR_ROUNDING] for name, values in inputs.items()}
    labels = source.examples.labels
    reference = Reference(
        inputs,
        outputs,
        None if labels is None else accuracy(outputs, labels),
        _rounding(source.model, first, outputs),
    )
    for name in outputs:
        if name not in reference.rounding and reference.largest(name) < _SMALL:
            logger.warning(
                "Output '%s' is at most %.3g and could not be computed in float64, so float32 "
                "files are only known to be within %.0e of it.",
                *(name, reference.largest(name), reference.tolerance(name)),
            )
    return reference


def _outputs(model: keras.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = [inputs[tensor.name] for tensor in model.inputs]
    # As much at a time as a few dozen images of the size that networks for phones take.
    size = sum(array[0].nbytes for array in arrays)
    batch = max(1, min(256, _BATCH_BYTES // max(1, size)))
    given = keras.tree.pack_sequence_as(model.input, arrays)
    found = keras.tree.flatten(model.predict(given, batch_size=batch, verbose=0))
    return dict(zip(output_names(model), found, strict=True))


def _rounding(
    model: keras.Model, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return how far each of the model's own float32 outputs is from that in float64."""
    try:
        exact = _outputs(in_precision(model, "float64"), inputs)
    except Exception as error:
        # Not every layer computes in float64, and one of a user's own may raise anything.
        logger.debug("No outputs in float64: %s", error)
        return {}
    found = {
        name: difference(values, own)
        for values, (name, own) in zip(exact.values(), outputs.items(), strict=True)
    }
    return {name: error for name, error in found.items() if np.isfinite(error)}


def _verdict(
    path: Path,
    artifact: Artifact,
    source: Source,
    reference: Reference,
    options: ExportOptions,
) -> Verdict | str:
    """Verify a file; return the runtime's message if it could not even run the file."""
    try:
        return verify(
            path,
            artifact.precision,
            source.examples,
            reference,
            accuracy_drop=options.accuracy_drop,
            timeout=options.timeout,
        )
    except RuntimeFailure as failure:
        return str(failure)


def _problems(verdict: Verdict | str) -> tuple[str, ...]:
    return (verdict,) if isinstance(verdict, str) else verdict.problems


def _content(
    source: Source,
    reference: Reference,
    made: Sequence[Artifact],
    verdicts: Mapping[str, Verdict | str],
    compacted: Compacted,
    options: ExportOptions,
) -> dict[str, Any]:
    """Return the content of `export.json` before anything is measured."""
    floats = [
        verdict
        for artifact in made
        if artifact.precision is Precision.FLOAT32
        and isinstance(verdict := verdicts[artifact.file], Verdict)
    ]
    return {
        "keras_switcher": __version__,
        "model": source.name,
        "batch": options.batch,
        "threads": options.threads[0],
        "optimize": options.optimize,
        "outputs": sorted(output_names(source.model)),
        "machine": machine(),
        "parameters": source.model.count_params(),
        "examples": {
            "source": source.examples.source,
            "count": len(next(iter(source.examples.test.values()))),
            "labelled": source.examples.labels is not None,
        },
        "keras_accuracy": reference.accuracy,
        "parity": {
            "max_difference": _finite(max((v.max_difference for v in floats), default=None)),
            "tolerance": max(map(reference.tolerance, reference.outputs)),
            "same_class": min(
                (v.same_class for v in floats if v.same_class is not None), default=None
            ),
        },
        "layers": [dataclasses.asdict(layer) for layer in compacted.layers],
        "artifacts": [_entry(artifact, verdicts[artifact.file], source) for artifact in made],
    }


def _finite(value: float | None) -> float | None:
    """Return a number as JSON has it, which knows none that is not finite."""
    return value if value is not None and np.isfinite(value) else None


def _entry(artifact: Artifact, verdict: Verdict | str, source: Source) -> dict[str, Any]:
    """Return what `export.json` says about a file."""
    found = figures(artifact.content)
    kernels = [np.asarray(w) for w in source.model.weights if len(w.shape) > 1]
    others = source.model.count_params() - sum(kernel.size for kernel in kernels)
    known = verdict if isinstance(verdict, Verdict) else None
    return {
        "file": artifact.file,
        "kind": artifact.kind,
        "precision": str(artifact.precision),
        "purpose": artifact.purpose,
        "runtime": runtime_needed(read(artifact.content)),
        "problems": list(_problems(verdict)),
        "accuracy": known and known.accuracy,
        "max_difference": known and _finite(known.max_difference),
        "same_class": known and known.same_class,
        "bytes": found.bytes,
        "crc32": zlib.crc32(artifact.content),
        "gzip_bytes": found.gzip_bytes,
        "nonzeros": found.nonzeros,
        "weights": found.weights,
        "bound_bytes": information_bound(kernels, others, _VALUE_BYTES[artifact.precision]),
        "storage": {name: str(kind) for name, kind in found.storages.items()},
        "latency_us": None,
        "latency": None,
        "heap_bytes": None,
        "peak_bytes": None,
    }


def _measured(
    content: Mapping[str, Any],
    made: Sequence[Artifact],
    scratch: Path,
    source: Source,
    reference: Reference,
    options: ExportOptions,
) -> list[dict[str, Any]]:
    """Measure the files that passed, and the file that the converter makes of the same model.

    The figures are written into the entries of `content`; the entry of the converter's file is
    returned, if it could be made. A failure here does not affect the files, which are verified.
    """
    entries = {
        scratch / entry["file"]: entry for entry in content["artifacts"] if not entry["problems"]
    }
    peers = []
    try:
        peer = experimental_sparsity(source, options)
        path = scratch / "experimental_sparsity.tflite"
        write(path, peer.content)
        peers.append(_entry(peer, _verdict(path, peer, source, reference, options), source))
        # A wrong file has a speed, too; one that does not run has none.
        if peers[0]["max_difference"] is not None:
            entries[path] = peers[0]
    except (ExportError, ValueError) as error:
        # What it writes is not always right, and none of the exported files is made that way.
        logger.warning("Nothing to compare with: EXPERIMENTAL_SPARSITY failed: %s", error)
    configurations = [(n, delegate) for n in options.threads for delegate in (True, False)]
    try:
        measured = runtime.measure(
            list(entries),
            configurations=configurations,
            processes=_PROCESSES,
            seconds=_SECONDS,
            timeout=options.timeout,
        )
    except RuntimeFailure as failure:
        logger.warning("The files are proven, but could not be measured: %s", failure)
        return peers
    for file, entry in entries.items():
        entry.update(measured_figures(measured[file]))
    return peers


def measured_figures(measurements: Sequence[runtime.Measurement]) -> dict[str, Any]:
    """Return what JSON says about a file's latency and memory.

    Args:
        measurements: One for each configuration; the first without XNNPACK and the first with it
            stand for the file.
    """
    first = {m.latency.delegate: m for m in reversed(measurements)}
    return {
        "latency_us": {
            "default": round(first[True].latency.median_us, 2),
            "no_delegate": round(first[False].latency.median_us, 2),
        },
        "latency": [
            {
                **dataclasses.asdict(m.latency),
                "median_us": round(m.latency.median_us, 2),
                "p90_us": round(m.latency.p90_us, 2),
            }
            for m in measurements
        ],
        "heap_bytes": first[True].memory.heap_bytes,
        "peak_bytes": first[True].memory.peak_bytes,
    }

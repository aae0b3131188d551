"""A stand-in for the built page, and what an export leaves, as far as `serve` reads it."""

import gzip
import json

SECRET = b"not to be served"


def made_page(folder):
    """A stand-in for the built page."""
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    script = folder / "assets" / "index-abc.js"
    script.write_text("plain")
    (folder / "assets" / "index-abc.js.gz").write_bytes(gzip.compress(b"plain"))
    (folder / "assets" / "index-abc.js.br").write_bytes(b"as if by brotli")
    (folder / "page.webmanifest").write_text("{}")
    return folder


def made_run(folder):
    """What an export leaves in the folder of a run."""
    export = folder / "export"
    export.mkdir(parents=True)
    (folder / "stripped.keras").write_bytes(SECRET)
    (export / "other.bin").write_bytes(SECRET)
    (export / "model_sparse.tflite").write_bytes(b"sparse")
    entry = {"kind": "sparse", "precision": "float32", "purpose": "CPU", "accuracy": 0.9}
    entries = [
        {**entry, "file": "model_sparse.tflite", "bytes": 6, "problems": []},
        {**entry, "file": "model_int8.tflite", "kind": "int8", "bytes": 3, "problems": ["wrong"]},
    ]
    (export / "export.json").write_text(json.dumps({"artifacts": entries, "batch": 1}))
    facts = {
        **dict.fromkeys(("dataset", "fc_sparsity", "labels", "live_inputs")),
        **{"model": "lenet300", "picture": [28, 28, 1], "scores": "logits", "examples": []},
        **{"inputs": [{"name": "image", "shape": [28, 28, 1]}], "takes_pixels": True},
    }
    (export / "page.json").write_text(json.dumps(facts))
    return folder

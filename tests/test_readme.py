import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from fenced import blocks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_code_of_the_readme_runs_and_leaves_a_sparse_plain_model(tmp_path):
    # All phases, in less time.
    code = "\n".join(blocks(README, "python")).replace("epochs=20", "epochs=6")
    assert "epochs=6" in code
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint('sparsity', sparse.sparsity)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sparsity = float(re.search(r"^sparsity (.*)$", done.stdout, re.MULTILINE)[1])
    assert sparsity == pytest.approx(0.95, abs=0.005)
    small = keras.models.load_model(tmp_path / "small.keras")
    kernels = [layer.kernel for layer in small.layers if isinstance(layer, keras.layers.Dense)]
    off = sum(float(keras.ops.sum(kernel == 0)) for kernel in kernels)
    assert off >= 0.945 * sum(kernel.shape[0] * kernel.shape[1] for kernel in kernels)

"""Run TFLite files that arrive on stdin, until there are no more; the first deadly one kills it.

Each file arrives as its length in four bytes and its content. The answer is one byte: `k` if it ran
with and without delegates, `e` if the runtime refused it with an error.
"""

import os
import resource
import struct
import sys
from collections.abc import Iterator

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

MEMORY_LIMIT = 4 * 2**30


def files() -> Iterator[bytes]:
    """Yield the files of stdin."""
    while header := sys.stdin.buffer.read(4):
        yield sys.stdin.buffer.read(struct.unpack("<I", header)[0])


def run(content: bytes, resolver: OpResolverType) -> None:
    """Load a file and run it twice, on zeros and on finite numbers."""
    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for scale in (0, 3):
        for detail in interpreter.get_input_details():
            values = random.normal(scale=1.0, size=detail["shape"]) * scale
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
    for detail in interpreter.get_output_details():
        interpreter.get_tensor(detail["index"])


def main() -> None:
    """Answer each file; keep stdout for the answers, away from what the runtime prints."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for content in files():
        answer = b"k"
        for resolver in (
            OpResolverType.AUTO,
            OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        ):
            try:
                run(content, resolver)
            # Whatever the runtime raises counts as refusing.
            except Exception:
                answer = b"e"
        answers.write(answer)


if __name__ == "__main__":
    main()

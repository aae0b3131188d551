"""What the benchmarks have in common: blocks of training steps in turn, and flags."""

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def count(text: str) -> int:
    """Return the value of a flag that is an integer >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1. Received: {text}")
    return int(text)


def share(text: str) -> float:
    """Return the value of a flag that is a number in (0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number in (0, 1). Received: {text}")
    return value


@contextmanager
def names_of(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Report a name or a size that the library refuses in the block as a wrong flag."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


def new_file(text: str) -> Path:
    """Return the value of a flag that names a file to write, before anything is measured."""
    path = Path(text).expanduser()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"expected a file in a folder that exists. Received: {text}"
        )
    return path


def batches(args: argparse.Namespace) -> Any:
    """Return batches of made-up images; the time of a step does not depend on what they show."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    x = random.integers(0, 256, (args.batch_size * 8, *args.image), dtype="uint8")
    y = random.integers(0, 10, args.batch_size * 8, dtype="int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(args.batch_size, drop_remainder=True)
    return data.cache().repeat().take(args.steps).prefetch(2)


def block_steps(wanted: int, period: int, together: int = 1) -> tuple[int, int]:
    """Return how many steps a block has, and how many come before those that are timed.

    The timed steps are a whole number of periods, at least one, and about four fifths of the wanted
    steps. After them comes one more execution, as `per_step` leaves out the last one.

    Args:
        wanted: Number of steps that are wanted.
        period: Steps from one turn of the switcher, or from one choice of tfmot, to the next.
        together: Number of steps in one execution.
    """
    before = max(1, math.ceil(wanted / 5 / together)) * together
    whole = math.lcm(period, together)
    return before + max(1, round((wanted - before) / whole)) * whole + together, before


def block_seconds(model: Any, data: Any, steps: int, before: int | None = None) -> float:
    """Return the seconds per step of one `fit` over the data, without its start.

    Args:
        model: The model.
        data: As many batches as steps.
        steps: Number of steps.
        before: Number of steps at the start that are not timed; a fifth by default.
    """
    import keras

    before = steps // 5 if before is None else before
    state = getattr(model, "alternation_state", None)
    if state is not None:
        # A `fit` ends with a settled model, whose switcher has no more turns.
        state.restart()
        turns = int(model.switcher_optimizer.iterations)
    times: list[tuple[int, float]] = []
    timer = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append((batch, time.perf_counter()))
    )
    # In a training of one block, a switcher would have few turns: that warning is not wanted here.
    logging.getLogger("keras_switcher").setLevel(logging.ERROR)
    model.fit(data, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0, callbacks=[timer])
    if state is not None:
        turns = int(model.switcher_optimizer.iterations) - turns
        if turns != steps // model.alternation.task_steps:
            raise RuntimeError(f"Expected a turn of the switcher every so often. Received: {turns}")
    return per_step(times, before)


def per_step(times: list[tuple[int, float]], before: int) -> float:
    """Return the seconds per step, given the last batch of each execution and when it ended.

    The last execution does not count: at its end, a switched model settles, once in a training.
    """
    first = next(one for one in times if one[0] >= before - 1)
    (begun, start), (ended, end) = first, times[-2:][0]
    if ended <= begun:
        raise SystemExit("Expected several executions in a block: take more --steps.")
    return (end - start) / (ended - begun)


def in_turns(
    kinds: Sequence[str], rounds: int, block: Callable[[str], float]
) -> dict[str, list[float]]:
    """Return what a block of each kind gave in each round, after one that does not count.

    The kinds take turns, every other round in reverse order, so that a change of the machine's
    speed affects all.

    Args:
        kinds: What is compared.
        rounds: Number of rounds.
        block: Function that runs a block of a kind and returns its seconds per step.
    """
    for kind in kinds:
        block(kind)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds):
        for kind in kinds if turn % 2 == 0 else reversed(kinds):
            seconds[kind].append(block(kind))
    return seconds

"""What this machine has for processes: cores, ports, and the environment they start in."""

import os
import random
import socket
from contextlib import ExitStack, suppress

THREADS = "TF_NUM_INTRAOP_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(processes: int) -> str:
    """Return how many threads TensorFlow gets in each of several processes, unless it is set.

    Without it, each would take every core for itself.

    Args:
        processes: How many share the cores.
    """
    return os.environ.get(THREADS, str(max(1, cores() // processes)))


def free_ports(number: int) -> list[int]:
    """Return ports that nothing listens on.

    They lie below the ports that the system assigns to programs that ask for any port, so nobody
    gets one of them by chance between this call and its use.

    Args:
        number: How many ports.

    Raises:
        OSError: If there are too few.
    """
    ports: list[int] = []
    with ExitStack() as taken:
        for port in random.sample(range(15_000, 32_000), 1000):
            listener = taken.enter_context(socket.socket())
            with suppress(OSError):
                # On all interfaces, as TensorFlow will.
                listener.bind(("", port))
                ports.append(port)
            if len(ports) == number:
                return ports
    raise OSError(f"Expected {number} free ports from 15000 to 31999. Received: {len(ports)}")


def child_environment(number: int) -> dict[str, str]:
    """Return the environment variables of one of several processes that train beside each other.

    They are those of this process, but of the GPUs that CUDA_VISIBLE_DEVICES names each gets one.

    Args:
        number: Number of the process, from 0; where there are more processes than GPUs, they begin
            again with the first GPU.
    """
    # Otherwise the first of the processes that share a GPU takes all of its memory.
    environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ}
    if GPUS in os.environ:
        names = [name.strip() for name in os.environ[GPUS].split(",") if name.strip()] or [""]
        environment[GPUS] = names[number % len(names)]
    return environment

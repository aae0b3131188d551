"""The cluster that a worker belongs to, from TF_CONFIG or from Slurm's variables.

Nothing here imports TensorFlow before it must, so a wrong cluster is reported at once.
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_switcher.checks import ConfigError, is_integer

logger = logging.getLogger(__name__)

TF_CONFIG = "TF_CONFIG"
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
_HOW = (
    "Start the workers by the launcher (python -m keras_switcher.launch --workers 2 train.py "
    "--strategy multiworker ...), or set TF_CONFIG on each, such as "
    '\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\'.'
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run by their addresses, the chief first, and which of them this one is.

    Args:
        addresses: `host:port` of each worker.
        index: Number of this worker; 0 is the chief.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.addresses)


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of `host:port`; an IPv6 address is written in brackets.

    Args:
        address: The address.

    Raises:
        ValueError: If it isn't one.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise ValueError(address)
    host = host.strip("[]")
    host.encode("idna")  # as a socket will; an error of it is a ValueError
    return host, int(port)


def find_cluster(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Return the cluster that the environment describes.

    Args:
        environment: The environment variables: TF_CONFIG, or else those of a Slurm step.

    Returns:
        The cluster.

    Raises:
        ConfigError: If it describes none, or a wrong one.
    """
    if environment.get(TF_CONFIG):
        return read_tf_config(environment[TF_CONFIG])
    if all(name in environment for name in _SLURM):
        return _from_slurm(environment)
    raise ConfigError(
        "Expected the environment variable TF_CONFIG, or those of a step of Slurm (srun), with "
        f"--strategy multiworker. {_HOW} Received: TF_CONFIG is not set"
    )


def refuse_lone_workers(strategy: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a strategy with which each of several workers would train by itself.

    For the tasks of a step of Slurm, which may be meant to train different networks, it warns.

    Args:
        strategy: The strategy, not multiworker.
        environment: The environment.

    Raises:
        ConfigError: If TF_CONFIG names more than one worker.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1":
        logger.warning(
            "Each of the %s tasks of this step of Slurm trains the whole by itself: to train "
            "together, they need --strategy multiworker.",
            tasks,
        )
    try:
        cluster = read_tf_config(environment.get(TF_CONFIG, ""))
    except ConfigError:
        # The variable is not meant for this program.
        return
    if cluster.size > 1:
        raise ConfigError(
            f"Expected --strategy multiworker, as TF_CONFIG names {cluster.size} workers, or no "
            "TF_CONFIG: with another strategy each of them would train the whole by itself. "
            f"Received: --strategy {strategy}"
        )


def read_tf_config(text: str) -> Cluster:
    """Return the cluster that the text of TF_CONFIG describes.

    Args:
        text: JSON with `cluster` and `task`, as TensorFlow defines it.

    Returns:
        The cluster.

    Raises:
        ConfigError: If it isn't JSON, or not of this form.
    """

    def wrong(expected: str, received: Any) -> ConfigError:
        return ConfigError(f"Expected TF_CONFIG to {expected}. {_HOW} Received: {received}")

    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong(f"be JSON ({error})", text) from None
    cluster = values.get("cluster") if isinstance(values, dict) else None
    task = values.get("task") if isinstance(values, dict) else None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise wrong('have a "cluster" and a "task", both with names and values', text)
    if unknown := sorted(set(cluster) - {"chief", "master", "worker"}):
        raise wrong(
            "have no tasks but a chief and workers, which train together", f"{', '.join(unknown)}"
        )
    jobs = [(kind, cluster[kind]) for kind in ("chief", "master", "worker") if kind in cluster]
    addresses: list[str] = []
    places: list[tuple[str, int]] = []
    for kind, members in jobs:
        if not isinstance(members, list):
            raise wrong(f"list the addresses of each {kind}", members)
        if kind != "worker" and len(members) > 1:
            raise wrong(f"have one {kind}", members)
        for number, address in enumerate(members):
            try:
                split_address(address)
            except (ValueError, AttributeError):
                raise wrong("give every address as host:port", address) from None
            addresses.append(address)
            places.append((kind, number))
    if "chief" in cluster and "master" in cluster:
        raise wrong("have a chief or a master, which is another name for it", text)
    if not addresses:
        raise wrong("name at least one worker", text)
    if len(set(addresses)) < len(addresses):
        raise wrong("give each worker an address of its own", ", ".join(addresses))
    own = (task.get("type"), task.get("index"))
    if not is_integer(own[1]) or own not in places:
        known = ", ".join(f"{kind} {number}" for kind, number in places)
        raise wrong(f"have a task whose type and index are among {known}", json.dumps(task))
    return Cluster(tuple(addresses), places.index(own))


def to_tf_config(cluster: Cluster) -> str:
    """Return the text of TF_CONFIG for a worker of a cluster.

    Args:
        cluster: The cluster, with the worker's index.
    """
    return json.dumps(
        {
            "cluster": {"worker": list(cluster.addresses)},
            "task": {"type": "worker", "index": cluster.index},
        }
    )


def without_proxy(
    addresses: Iterable[str], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables to add to the environment so that gRPC reaches others directly.

    Without them, gRPC sends even messages to a neighbour to the proxy that `http_proxy` names, and
    waits for ever for an answer. A proxy that `grpc_proxy` names is meant for gRPC, and stays.

    Args:
        addresses: Addresses of the others, host:port.
        environment: The environment.
    """
    if environment.get("grpc_proxy"):
        return {}
    # If the first is set, gRPC does not read the second.
    exempt = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    hosts = dict.fromkeys(split_address(address)[0] for address in addresses)
    return {"no_grpc_proxy": ",".join([*filter(None, [exempt]), *hosts])}


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    import tensorflow as tf

    # Jobs that share a node get ports of their own, below those that systems give out by chance.
    job = environment.get("SLURM_JOB_ID", "0")
    port = 10_000 + 20 * (int(job) % 1000) if job.isdecimal() else 10_000
    try:
        # Only the addresses come from the resolver: without a GPU it fails to count GPUs, and Slurm
        # decides which ones each task may use (--gpus-per-task).
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=10_000, gpus_per_task=1, auto_set_gpu=False
        )
        # The resolver orders the nodes as text, but Slurm numbers the tasks by the nodes' numbers.
        addresses = sorted(resolver.cluster_spec().as_dict()["worker"], key=_by_numbers)
        cluster = Cluster(tuple(addresses), int(environment["SLURM_PROCID"]))
        host, _ = split_address(addresses[cluster.index])
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        received = ", ".join(f"{name}={environment[name]}" for name in _SLURM)
        raise ConfigError(
            f"Expected the variables of a step of Slurm to name its tasks and nodes ({error}). "
            f"Start the workers by srun, or set TF_CONFIG. Received: {received}"
        ) from error
    node = environment.get("SLURMD_NODENAME", host)
    if node != host:
        raise ConfigError(
            f"Expected task {cluster.index} of the step on node {host}, the tasks numbered node "
            "by node. Start them by srun --distribution=block, or set TF_CONFIG. "
            f"Received: SLURMD_NODENAME={node}"
        )
    return cluster


def _by_numbers(address: str) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", address)]

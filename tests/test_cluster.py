import json

import pytest

from keras_switcher.checks import ConfigError
from keras_switcher.cluster import (
    Cluster,
    find_cluster,
    read_tf_config,
    refuse_lone_workers,
    split_address,
    to_tf_config,
    without_proxy,
)


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_worker_finds_its_place():
    text = tf_config({"worker": ["a:1", "b:2", "c:3"]}, index=2)
    assert read_tf_config(text) == Cluster(("a:1", "b:2", "c:3"), 2)


@pytest.mark.parametrize("chief", ["chief", "master"])
def test_chief_comes_first_by_either_of_its_names(chief):
    cluster = {"worker": ["b:2", "c:3"], chief: ["a:1"]}
    assert read_tf_config(tf_config(cluster, chief)) == Cluster(("a:1", "b:2", "c:3"), 0)
    assert read_tf_config(tf_config(cluster, "worker", 1)).index == 2


def test_cluster_survives_the_way_through_tf_config():
    cluster = Cluster(("a:1", "[::1]:2"), 1)
    assert read_tf_config(to_tf_config(cluster)) == cluster
    assert split_address("[::1]:2") == ("::1", 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "be JSON"),
        ("[1]", 'a "cluster" and a "task"'),
        ('{"cluster": {"worker": ["a:1"]}}', 'a "cluster" and a "task"'),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "no tasks but a chief and workers"),
        (tf_config({"worker": "a:1"}), "list the addresses of each worker"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief"), "have one chief"),
        (tf_config({"chief": ["a:1"], "master": ["b:1"]}, "chief"), "a chief or a master"),
        (tf_config({"worker": ["a"]}), "give every address as host:port"),
        (tf_config({"worker": [7]}), "give every address as host:port"),
        (tf_config({"worker": ["a..b:1"]}), "give every address as host:port"),
        (tf_config({"worker": ["a:٣٣"]}), "give every address as host:port"),
        (tf_config({"worker": ["a:99999"]}), "give every address as host:port"),
        (tf_config({"worker": []}), "name at least one worker"),
        (tf_config({"worker": ["a:1", "a:1"]}), "an address of its own"),
        (tf_config({"worker": ["a:1"]}, index=1), "among worker 0"),
        (tf_config({"worker": ["a:1"]}, index="0"), "among worker 0"),
        (tf_config({"worker": ["a:1"]}, "evaluator"), "among worker 0"),
    ],
)
def test_wrong_tf_config_is_answered_by_what_would_be_right(text, expected):
    with pytest.raises(ConfigError, match="Expected TF_CONFIG to ") as error:
        find_cluster({"TF_CONFIG": text})
    assert expected in str(error.value)
    assert "keras_switcher.launch" in str(error.value)
    assert "Received: " in str(error.value)


def test_without_a_cluster_the_launcher_is_named():
    with pytest.raises(ConfigError, match="keras_switcher.launch --workers 2"):
        find_cluster({})


def test_strategy_for_one_is_refused_where_there_are_several_workers(caplog):
    several = {"TF_CONFIG": tf_config({"worker": ["a:1", "b:1"]})}
    with pytest.raises(ConfigError, match="Expected --strategy multiworker"):
        refuse_lone_workers("none", several)
    # One worker, or what is not meant for this program.
    refuse_lone_workers("none", {"TF_CONFIG": tf_config({"worker": ["a:1"]})})
    refuse_lone_workers("none", {"TF_CONFIG": '{"environment": "cloud"}'})
    refuse_lone_workers("mirrored", {})
    refuse_lone_workers("none", {"SLURM_STEP_NUM_TASKS": "1"})
    assert not caplog.messages
    refuse_lone_workers("none", {"SLURM_STEP_NUM_TASKS": "4"})
    assert "Each of the 4 tasks of this step of Slurm trains the whole" in caplog.text


def test_grpc_is_told_to_pass_a_proxy_by():
    cluster = Cluster(("a:1", "b:2", "a:3"), 0)
    assert without_proxy(cluster.addresses, {}) == {"no_grpc_proxy": "a,b"}
    assert without_proxy(cluster.addresses, {"no_proxy": "c"}) == {"no_grpc_proxy": "c,a,b"}
    known = {"no_proxy": "c", "no_grpc_proxy": "d"}
    assert without_proxy(cluster.addresses, known) == {"no_grpc_proxy": "d,a,b"}
    # Meant for it.
    assert without_proxy(cluster.addresses, {"grpc_proxy": "http://p:1"}) == {}


@pytest.fixture
def slurm(monkeypatch):
    """Sets the variables of a step of Slurm; returns the cluster that is found."""

    def find(**changes):
        variables = {
            "PROCID": "0",
            "JOB_ID": "1234567",
            "STEP_NUM_TASKS": "4",
            "STEP_NODELIST": "gpu[9-10]",
            "STEP_TASKS_PER_NODE": "2(x2)",
            **changes,
        }
        environment = {f"SLURM_{name}": value for name, value in variables.items()}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if "NODENAME" in changes:
            environment["SLURMD_NODENAME"] = changes["NODENAME"]
        return find_cluster(environment)

    return find


def test_slurm_step_is_a_cluster_in_the_order_of_its_tasks(slurm):
    # As text, gpu10 comes before gpu9.
    addresses = ("gpu9:21340", "gpu9:21341", "gpu10:21340", "gpu10:21341")
    assert slurm() == Cluster(addresses, 0)
    assert slurm(PROCID="2", NODENAME="gpu10") == Cluster(addresses, 2)


def test_jobs_of_slurm_that_share_a_node_have_ports_of_their_own(slurm):
    ports = [
        {int(address.rpartition(":")[2]) for address in slurm(JOB_ID=job).addresses}
        for job in ("1234567", "1234568", "77")
    ]
    assert len(set.union(*ports)) == sum(len(p) for p in ports)
    assert all(1024 < port < 32_768 for port in set.union(*ports))


def test_tf_config_outdoes_slurm(slurm, monkeypatch):
    slurm()
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1"]}))
    assert find_cluster() == Cluster(("a:1",), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"STEP_NUM_TASKS": "5"},
        {"STEP_NODELIST": "gpu[9-"},
        {"STEP_TASKS_PER_NODE": "two"},
        {"PROCID": "9"},
    ],
    ids=str,
)
def test_wrong_variables_of_slurm_are_shown(slurm, changes):
    with pytest.raises(ConfigError, match="Expected the variables of a step of Slurm") as error:
        slurm(**changes)
    assert "SLURM_STEP_NODELIST=" in str(error.value)


def test_tasks_of_slurm_that_are_dealt_out_in_turn_are_refused(slurm):
    # The second task of `srun --distribution=cyclic` is on the second node.
    with pytest.raises(ConfigError, match="srun --distribution=block"):
        slurm(PROCID="1", NODENAME="gpu10")

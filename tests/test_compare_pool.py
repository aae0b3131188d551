"""The processes that train the networks of a comparison."""

import signal
from unittest import mock

import pytest
from command import SMALL

from keras_switcher.compare.arguments import checked_plan
from keras_switcher.compare.pool import Pool
from keras_switcher.signals import Interrupted


def test_a_network_that_ends_since_it_was_asked_to_has_not_failed(tmp_path, monkeypatch):
    flags = [*SMALL, "--out", str(tmp_path / "out"), "--methods", "dense", "--seeds", "2"]
    _, plan = checked_plan(flags)
    monkeypatch.setattr(
        "keras_switcher.children.subprocess.Popen", lambda *a, **k: mock.Mock(poll=lambda: 1)
    )
    told = []

    def ended(cell, reason):
        told.append(reason)
        # While the results are written, and before the other one is looked at.
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        Pool(plan, tmp_path / "out", "made", 2, 1, ended).run()
    assert told == ["It ended with status 1."]


def test_networks_trained_at_a_time_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    flags = [*SMALL, "--out", str(tmp_path / "out"), "--methods", "dense", "--seeds", "4"]
    _, plan = checked_plan(flags)
    seen = []

    def started(command, env, **options):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        # The second network ends first, and the third takes its place.
        ends = [1] if len(seen) != 1 else [None, None, 1]
        return mock.Mock(poll=lambda: ends.pop(0) if len(ends) > 1 else ends[0])

    monkeypatch.setattr("keras_switcher.children.subprocess.Popen", started)
    Pool(plan, tmp_path / "out", "made", 2, 1, lambda cell, reason: None).run()
    assert seen == ["4", "7", "7", "7"]

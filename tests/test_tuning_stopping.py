import signal

import grpc
import pytest
from keras_tuner.errors import FatalError

from keras_switcher.files import RunError
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.tuning.stopping import PatientOracle


class Lost(grpc.RpcError):
    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


class Client:
    objective = "val_objective"

    def __init__(self, *errors):
        self.errors = list(errors)

    def create_trial(self, tuner_id):
        if self.errors:
            raise Lost(self.errors.pop(0))
        return f"trial of {tuner_id}"


def test_a_chief_that_was_killed_in_the_middle_of_an_answer_is_asked_again():
    client = Client(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)
    oracle = PatientOracle(client, StopSignals(), seconds=0.0)
    assert oracle.create_trial("tuner0") == "trial of tuner0"
    assert client.errors == []


def test_any_other_error_is_one():
    client = Client(grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Lost):
        PatientOracle(client, StopSignals(), seconds=0.0).create_trial("tuner0")
    assert len(client.errors) == 1


def test_a_worker_that_waits_for_its_chief_can_be_stopped():
    stop = StopSignals()
    client = Client(*[grpc.StatusCode.UNAVAILABLE] * 9)
    oracle = PatientOracle(client, stop, seconds=0.0)
    with stop.handled(), pytest.raises(Interrupted), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        oracle.create_trial("tuner0")
    assert client.errors


def test_a_worker_whose_chief_does_not_answer_yet_can_be_stopped():
    class Waiting:
        def create_trial(self, tuner_id):
            signal.raise_signal(signal.SIGINT)
            return "an answer after an hour"

    stop = StopSignals()
    with stop.handled(), pytest.raises(Interrupted), stop.deferred():
        try:
            PatientOracle(Waiting(), stop).create_trial("tuner0")
        except Interrupted:
            # What comes afterwards is deferred again.
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
            raise


def test_a_chief_that_does_not_come_back_is_no_failure_of_a_trial():
    oracle = PatientOracle(Client(grpc.StatusCode.DEADLINE_EXCEEDED), StopSignals())
    with pytest.raises(FatalError, match="has not answered for an hour") as raised:
        oracle.create_trial("tuner0")
    assert isinstance(raised.value, RunError)


def test_what_is_no_question_is_as_it_is():
    assert PatientOracle(Client(), StopSignals()).objective == "val_objective"

import socket
from concurrent.futures import ThreadPoolExecutor

from keras_switcher.messages import ALIVE, DATA, Connection


class Patient(Connection):
    """One that can wait until something has come, without taking it."""

    def wait_for_some(self):
        assert self._socket.recv(1, socket.MSG_PEEK)


def test_what_is_slow_to_be_received_keeps_no_sign_of_life_waiting():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    sender, receiver = Connection(here), Patient(there)
    with ThreadPoolExecutor(1) as pool:
        content = bytes(2**24)  # more than a socket holds
        sending = pool.submit(sender.send, DATA, content)
        receiver.wait_for_some()
        sender.send_if_free(ALIVE)  # else this would wait for ever
        assert not sending.done()
        assert receiver.receive(60.0) == (DATA, content)
        sending.result(timeout=60)
        sender.send_if_free(ALIVE)
        assert receiver.receive(60.0) == (ALIVE, None)
    sender.close()
    receiver.close()

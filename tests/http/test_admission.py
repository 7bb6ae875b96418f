"""Admission are counted across processes, and those of the dead come back."""

from __future__ import annotations

import os
import signal

import pytest

from serving.errors import Busy
from serving.http.admission import Admission


def test_no_more_than_there_are() -> None:
    places = Admission(2)
    first, second = places.take(), places.take()
    with pytest.raises(Busy, match="all 2 places"):
        places.take()
    first()
    first()  # giving back twice frees no one else's
    places.take()
    with pytest.raises(Busy):
        places.check()
    second()
    places.check()
    assert places.taken == 1
    places.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other tests leave threads
def test_other_processes_count_until_they_end() -> None:
    places = Admission(3)
    mine = places.take()
    ready_read, ready_write = os.pipe()
    worker = os.fork()
    if worker == 0:  # no assertion and no exit handler of the test's in here
        held = [places.take() for _ in range(2)]
        try:
            places.take()
        except Busy:
            os.write(ready_write, b"full" if len(held) == 2 else b"?")
        signal.pause()
    assert os.read(ready_read, 4) == b"full"
    with pytest.raises(Busy):
        places.take()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    rest = [places.take(), places.take()]
    with pytest.raises(Busy):
        places.take()
    for give_back in (mine, *rest):
        give_back()
    places.close()
    os.close(ready_read)
    os.close(ready_write)

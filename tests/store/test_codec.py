"""How a message lies in the store."""

import pytest

from tidegate_server.store.codec import Corrupt, decode


@pytest.mark.parametrize(
    "element",
    [
        b"",
        b"1 2 3 0 0 m1",
        b"1 2 3 0 m1\nbody",
        b"one 2 3 0 0 m1\nbody",
        b"1 2 3 0 0 \xff\nbody",
        b"-1 2 3 0 0 m1\nbody",
        b"1 99999999999999999999 3 0 0 m1\nbody",
    ],
)
def test_what_no_script_can_have_written_is_no_message(element: bytes):
    with pytest.raises(Corrupt):
        decode(element)

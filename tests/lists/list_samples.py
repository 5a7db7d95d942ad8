"""Values for lists, and the bytes of the standard library's lists."""

import itertools
import struct

VALUES = ["howdy", b"HoWdY", -273.154, 100, None, True, 42]
FORMAT = "8s8sdqxxxxxx?xxxxxxxx?q"


def remove(shm):
    shm.close()
    try:
        shm.unlink()
    except FileNotFoundError:
        pass


def standard_image(items, of_38=False):
    """The bytes of a standard list; items are (slot, format, code)."""
    sizes = [len(slot) for slot, _, _ in items]
    places = sizes if of_38 else [0] + list(itertools.accumulate(sizes))
    return b"".join(
        [struct.pack("q", len(items)), struct.pack("%dq" % len(places), *places)]
        + [slot for slot, _, _ in items]
        + [struct.pack("8s", form) for _, form, _ in items]
        + [bytes([code]) for _, _, code in items])

"""Between the Python modules and the families in ``_core``: what only Python knows.

- A family proves itself with a cookie. It is made from ``multiprocessing``'s secret
  key, which all processes that ``multiprocessing`` started have in common, however
  they were started; so nothing else has to be handed down.
- A program that was started in another way finds the family in the environment, once
  the family's tracker runs. That is a hint: if nobody is there, it has its own.
"""

import hashlib
import os
from multiprocessing import process
from multiprocessing import util

from . import _core
from . import _tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple  # noqa: F401

# <family>.<cookie>, 32 hexadecimal digits each.
_VARIABLE = "SHARED_NUMPY_FAMILY"

# What was last written into the environment.
_exported = None  # type: Optional[Tuple[bytes, bytes]]


def _cookie():
    key = bytes(process.current_process().authkey)
    return hashlib.sha256(b"shared_numpy family\0" + key).digest()[:16]


def _hint():
    """The family that the environment names, as (identity, cookie); None without one."""
    family, _, cookie = os.environ.get(_VARIABLE, "").partition(".")
    try:
        hint = bytes.fromhex(family), bytes.fromhex(cookie)
    except ValueError:
        return None
    return hint if len(hint[0]) == len(hint[1]) == 16 else None


def _configure(_=None):
    _core.configure_family(_tracker.executable(), _cookie(), _hint(), _tracker.parent_pid())


def export():
    """Leaves word of the family for programs that are started from now on."""
    global _exported
    address = _core.family_address()
    if address is not None and address != _exported:
        os.environ[_VARIABLE] = "{}.{}".format(address[0].hex(), address[1].hex())
        _exported = address


def open_array(handle, itemsize):
    """As ``_core.array_open``, from other families too.

    Raises
    ------
    StaleHandle
        The memory was given back.
    ForeignHandle
        The handle is of another host, or of a program that this process cannot reach.
    TrackerUnavailable
        The memory's owner is out of reach, and no tracker has it.
    ValueError
        The handle is none, or contradicts itself.
    """
    try:
        return _core.array_open(handle, itemsize)
    except _core.UnknownFamily:
        join(handle)
    return _core.array_open(handle, itemsize)


def join(handle):
    """Becomes a guest in the family of a handle; `ForeignHandle` when that cannot be."""
    # The key may have changed since it was told.
    _core.join_family(handle, _cookie())


_configure()
# A child of a fork server gets its program's key after this module was loaded.
util.register_after_fork(_configure, _configure)

"""What the standard library's private ``_posixshmem`` offers, for code that uses it."""

from ._core import shm_open, shm_unlink

__all__ = ["shm_open", "shm_unlink"]

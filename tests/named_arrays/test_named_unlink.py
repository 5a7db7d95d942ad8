"""Removing names: by anybody, any number of times, and only what is a named array; and who may do what with one."""

import os
import stat

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from shared_numpy import _core
from shared_numpy.shared_memory import SharedMemory
from array_samples import by_handle
from named_files import make, path_of


def test_unlink_by_anybody_any_number_of_times(name):
    made, opened = make(name), snp.attach(name)
    opened[:] = 8
    opened.unlink()
    made.unlink()
    made.close()
    opened.unlink()
    assert (made == 8).all()
    for call in (snp.attach, snp.unlink):
        with pytest.raises(FileNotFoundError):
            call(name)


def test_unlink_of_an_array_leaves_another_one_of_its_name(name):
    first = make(name)
    first.unlink()
    second = make(name)
    first.unlink()
    assert snp.attach(name).shape == second.shape
    snp.unlink(name)


def test_other_segments_are_left_alone(name):
    segment = SharedMemory(name, create=True, size=100)
    try:
        for call in (snp.attach, snp.unlink):
            with pytest.raises(ValueError) as refused:
                call(name)
            assert "SNPNAMED" in str(refused.value) and name in str(refused.value)
        assert os.path.exists(path_of(name))
    finally:
        segment.unlink()


@pytest.mark.parametrize("left", [b"", b"SNPMAKNG", b"SNPMAKNG" + bytes(4088)], ids=len)
def test_what_a_maker_killed_half_way_left(name, left):
    with open(path_of(name), "wb") as file:
        file.write(left)
    with pytest.raises(ValueError):
        snp.attach(name)
    with pytest.raises(FileExistsError):
        make(name)
    snp.unlink(name)
    make(name)


def test_a_failure_half_way_leaves_nothing(name, monkeypatch):
    def fail(*arguments):
        assert os.path.exists(path_of(name))
        raise KeyboardInterrupt

    monkeypatch.setattr(_core, "named_fill", fail)
    with pytest.raises(KeyboardInterrupt):
        make(name)
    assert not os.path.exists(path_of(name))


def test_a_read_only_array_cannot_be_written(name):
    made = make(name)
    opened = snp.attach(name, readonly=True)
    for a in (opened, opened[1:], opened.view("u1"), by_handle(opened)):
        assert not a.flags.writeable
        with pytest.raises(ValueError):
            a[...] = 1
        with pytest.raises(ValueError):
            a.flags.writeable = True
    made[:] = 9
    assert (opened == 9).all()


def test_permission_bits(name):
    before = os.umask(0o777)
    try:
        made = make(name)
        assert stat.S_IMODE(os.stat(path_of(name)).st_mode) == 0o600
        made.unlink()
        make(name, mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path_of(name)).st_mode) == 0o644
    for mode in (0o1600, -1):
        with pytest.raises(ValueError):
            make(name + "x", mode=mode)
    assert not os.path.exists(path_of(name + "x"))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
def test_another_users_array(name):
    make(name, persist=True, mode=0o666)
    os.chown(path_of(name), 12345, -1)
    for call in (snp.attach, snp.unlink):
        with pytest.raises(PermissionError) as refused:
            call(name)
        assert "owner=12345" in str(refused.value)
        with pytest.raises(PermissionError):
            call(name, owner=0)
    opened = snp.attach(name, owner=12345)
    assert opened.shape == by_handle(opened).shape, "the receiver of a handle trusts the sender"
    snp.unlink(name, owner=12345)
    assert not os.path.exists(path_of(name))


@needs_root
def test_roots_array_as_another_user(name):
    made = make(name, mode=0o644)
    told = []
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(54321)
            os.setuid(54321)
            opened = snp.attach(name, readonly=True)
            told.append(repr(opened.shape))
            for call in (snp.attach, snp.unlink):
                try:
                    call(name)
                except PermissionError:
                    told.append("no")
            os.write(writing, " ".join(told).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read().decode() == "{!r} no no".format(made.shape)
    os.waitpid(pid, 0)
    assert os.path.exists(path_of(name))


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files(name, kind):
    make(name + "x")
    try:
        if kind == "link":
            os.symlink(path_of(name + "x"), path_of(name))
        elif kind == "fifo":
            os.mkfifo(path_of(name))
        else:
            os.mkdir(path_of(name))
        for call in (snp.attach, snp.unlink):
            with pytest.raises(ValueError) as refused:
                call(name)
            assert "regular file" in str(refused.value)
    finally:
        if kind == "directory":
            os.rmdir(path_of(name))
        snp.unlink(name + "x")

"""Named arrays: what unrelated programs see of each other's, how long a name lives, what is refused."""

import errno
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core, named  # noqa: E402
from shared_numpy.shared_memory import SharedMemory  # noqa: E402
from test_array import SAMPLES, same  # noqa: E402

_numbers = itertools.count()


def path_of(name):
    return "/dev/shm/" + name


@pytest.fixture
def name():
    """A name of its own; whatever has it at the end goes."""
    name = "named_{}_{}".format(os.getpid(), next(_numbers))
    yield name
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        pass


def program(text, *arguments, **keywords):
    """Runs another program, unrelated to this one; its output."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("SHARED_NUMPY")}
    done = subprocess.run(
        [sys.executable, "-c", "import sys, os\nimport numpy as np, shared_numpy as snp\n"
         + textwrap.dedent(text)] + list(arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, env=env,
        timeout=60, **keywords)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


def gone_soon(name):
    """Whether a name goes, which the tracker may still have to do."""
    end = time.monotonic() + 20
    while os.path.exists(path_of(name)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def by_handle(a):
    return ForkingPickler.loads(ForkingPickler.dumps(a))


def make(name, shape=(2, 3), dtype="f8", **keywords):
    return snp.ndarray(shape, dtype, name=name, **keywords)


# -- making and opening -------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_every_kind(name, key):
    sample = SAMPLES[key]
    order = "F" if sample.flags.fnc else "C"
    made = snp.ndarray(sample.shape, sample.dtype, order, name=name)
    assert type(made) is snp.SharedNDArray and made.flags.writeable and made.flags.aligned
    assert not np.asarray(made).tobytes().strip(b"\0"), "zeros"
    made[...] = sample
    for opened in (snp.attach(name), snp.attach("/" + name, readonly=True)):
        assert type(opened) is snp.SharedNDArray
        assert same(opened, sample) and opened.strides == made.strides
        assert opened.dtype.fields == sample.dtype.fields
        assert opened.dtype.isalignedstruct == sample.dtype.isalignedstruct
        assert opened.ctypes.data % 64 == 0
    assert os.stat(path_of(name)).st_blocks * 512 >= made.nbytes, "committed"


@pytest.mark.parametrize("dtype", [
    {"names": ["a", "b"], "formats": ["u4", "u2"], "offsets": [0, 1], "itemsize": 16},  # overlapping
    {"names": ["a", "b"], "formats": ["u4", "u2"], "offsets": [8, 0]},  # not in order
    [("caf\u00e9 \"'\\\n", "U2"), ("\U0001f40d", ">M8[25s]")],
    [("a", [("b", [("c", [("d", "S3", (2, 1))])])])],
    np.dtype([("a", "i1"), ("b", [("c", "f8")], 2)], align=True),
], ids=repr)
def test_odd_structures(name, dtype):
    dtype = np.dtype(dtype)
    make(name, 3, dtype)
    opened = snp.attach(name)
    assert opened.dtype == dtype and opened.dtype.fields == dtype.fields
    assert opened.dtype.itemsize == dtype.itemsize


def test_many_fields_and_axes(name):
    dtype = np.dtype([("field {}".format(number), "u1") for number in range(5000)])
    make(name, (1,) * 32, dtype)
    opened = snp.attach(name)
    assert opened.dtype == dtype and opened.shape == (1,) * 32


def test_memory_is_one_and_views_are_shared(name):
    made, opened = make(name), snp.attach(name)
    made[:] = 7
    assert (opened == 7).all()
    opened.T[0] = 1
    assert (made[:, 0] == 1).all() and (made[:, 1] == 7).all()
    assert type(opened[1:]) is snp.SharedNDArray and type(opened + 1) is np.ndarray


@pytest.mark.parametrize("dtype", ["O", [("a", "O")], [("a", [("b", "O", 3)])]], ids=repr)
def test_objects_are_refused(name, dtype):
    with pytest.raises(TypeError):
        make(name, 3, dtype)
    assert not os.path.exists(path_of(name))


@pytest.mark.parametrize("shape, error", [
    ((2 ** 62, 8), ValueError), ((0, 2 ** 62, 2 ** 62), ValueError), ((-1,), ValueError),
    ((1,) * 65, ValueError), ("ab", TypeError), (2 ** 70, ValueError),
], ids=repr)
def test_impossible_shapes_leave_nothing(name, shape, error):
    with pytest.raises(error):
        make(name, shape)
    assert not os.path.exists(path_of(name))


def test_a_full_file_system_is_an_error_with_figures(name):
    with pytest.raises(OSError) as refused:
        make(name, 2 ** 55, "u1")
    assert refused.value.errno == errno.ENOSPC
    assert str(2 ** 55 + 4096) in str(refused.value), "with its header"
    assert not os.path.exists(path_of(name))


def test_a_name_is_taken_once(name):
    made = make(name)
    made[:] = 5
    with pytest.raises(FileExistsError) as refused:
        make(name, 100)
    assert "shared_numpy.unlink" in str(refused.value) and name in str(refused.value)
    assert (snp.attach(name) == 5).all()
    made.unlink()
    assert make(name, 100).shape == (100,)


@pytest.mark.parametrize("bad, error", [
    ("", ValueError), ("/", ValueError), ("a/b", ValueError), ("a\0b", ValueError), ("x" * 256, ValueError),
    (".", ValueError), (b"bytes", TypeError), (7, TypeError), ("snp_mine", ValueError), ("/snp_", ValueError),
], ids=repr)
def test_bad_names(bad, error):
    with pytest.raises(error):
        make(bad)
    if not str(bad).startswith(("snp_", "/snp_")):
        with pytest.raises(error):
            snp.attach(bad)
        with pytest.raises(error):
            snp.unlink(bad)


def test_options_without_a_name_are_an_error():
    with pytest.raises(ValueError):
        snp.ndarray(3, persist=True)
    with pytest.raises(ValueError):
        snp.ndarray(3, mode=0o640)


# -- two programs -------------------------------------------------------------------


def test_unrelated_programs_share(name):
    made = make(name, (3, 4), "i4,U5", order="F")
    made["f0"] = np.arange(12).reshape(3, 4)
    told = program("""
        a = snp.attach(sys.argv[1])
        print(a.shape, a.dtype.descr, a.flags.f_contiguous, a["f0"].tolist())
        a["f1"] = "hello"
        del a
        b = snp.attach(sys.argv[1], readonly=True)
        """, name)
    assert told == "{} {} True {}".format(made.shape, made.dtype.descr, made["f0"].tolist())
    assert (made["f1"] == "hello").all()
    assert os.path.exists(path_of(name)), "whoever opened it has no duty"


def test_the_name_goes_with_the_program_that_made_it(name):
    program("snp.ndarray(3, name=sys.argv[1])", name)
    assert gone_soon(name)


def test_a_persistent_name_stays(name):
    program("snp.ndarray(3, name=sys.argv[1], persist=True)[:] = 3", name)
    time.sleep(0.2)
    assert (snp.attach(name) == 3).all()
    program("snp.unlink(sys.argv[1])", name)
    assert not os.path.exists(path_of(name))


def test_dropping_it_removes_nothing(name):
    made = make(name)
    made[:] = 4
    made.close()
    del made
    gc.collect()
    assert (snp.attach(name) == 4).all()


@pytest.mark.parametrize("persist", [False, True])
def test_a_killed_maker(name, persist):
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys, time, shared_numpy as snp\n"
         "a = snp.ndarray(100, name=sys.argv[1], persist=bool(int(sys.argv[2])))\n"
         "a[:] = 6\nprint(flush=True)\ntime.sleep(60)", name, str(int(persist))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("SHARED_NUMPY")})
    with child:
        child.stdout.readline()
        reader = snp.attach(name)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if persist:
            time.sleep(0.2)
            assert os.path.exists(path_of(name))
        else:
            assert gone_soon(name)
        assert (reader == 6).all(), "readers keep it"
        assert child.stderr.read() == b"", "arrays are removed in silence"


def test_a_maker_killed_while_memory_is_reserved(name):
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys, os, signal, shared_numpy as snp\n"
         "from shared_numpy import _core\n"
         "def die(*arguments):\n"
         "    assert os.path.getsize('/dev/shm/' + sys.argv[1]) == 8\n"
         "    print('claimed', flush=True)\n"
         "    os.kill(os.getpid(), signal.SIGKILL)\n"
         "_core.named_fill = die\nsnp.ndarray(3, name=sys.argv[1])", name],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told, complaints = child.communicate(timeout=60)
    assert told == b"claimed\n" and not complaints and child.returncode == -signal.SIGKILL
    assert gone_soon(name)


def test_another_array_of_the_name_is_not_removed_by_the_tracker(name):
    program("""
        a = snp.ndarray(3, name=sys.argv[1])
        os.unlink("/dev/shm/" + sys.argv[1])
        b = snp.ndarray(5, name=sys.argv[1], persist=True)
        """, name)
    time.sleep(0.3)
    assert snp.attach(name).shape == (5,)


@pytest.mark.parametrize("first", ["named", "arrays", "reduction", "queue"])
def test_modules_can_be_imported_in_any_order(first):
    assert program("import importlib\nimportlib.import_module('shared_numpy.' + sys.argv[1])\n"
                   "print(snp.attach.__module__, snp.ndarray(3).shape)", first) == "shared_numpy.named (3,)"


def test_without_numpy_the_error_says_how_to_get_it():
    told = program("""
        for module in [name for name in sys.modules if name.partition(".")[0] in ("numpy", "shared_numpy")]:
            del sys.modules[module]
        sys.modules["numpy"] = None
        import shared_numpy
        try:
            shared_numpy.attach("camera0")
        except ImportError as error:
            print(error)
        """)
    assert "shared-numpy[arrays]" in told


# -- removing -----------------------------------------------------------------------


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


# -- who may ------------------------------------------------------------------------


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


# -- what is in the file ------------------------------------------------------------

FIELDS = ["magic", "version", "header_bytes", "data_offset", "data_bytes", "item_bytes",
          "order", "axes", "dtype_bytes", "checksum"]


def content(name):
    with open(path_of(name), "rb") as file:
        return file.read()


def put(name, data):
    with open(path_of(name), "wb") as file:
        file.write(data)


def with_checksum(header):
    """The header with the checksum that docs/named_arrays.md tells."""
    sum_ = 0xcbf29ce484222325
    for at, byte in enumerate(header):
        sum_ = ((sum_ ^ (0 if at < 8 or 72 <= at < 80 else byte)) * 0x100000001b3) % 2 ** 64
    return header[:72] + struct.pack("Q", sum_) + header[80:]


def written(shape, itemsize, text, **replaced):
    """A file as docs/named_arrays.md tells, with some words replaced."""
    nbytes = itemsize
    for length in shape:
        nbytes *= length
    size = 128 + 8 * len(shape) + len(text)
    start = -(-size // 64) * 64
    words = dict(zip(FIELDS, [0, 1, size, start, nbytes, itemsize, 0, len(shape), len(text), 0]))
    words["magic"] = struct.unpack("<Q", b"SNPNAMED")[0]
    words.update(replaced)
    header = struct.pack("10Q", *(words[field] for field in FIELDS)) + bytes(48)
    header += struct.pack("{}Q".format(len(shape)), *shape) + text
    return with_checksum(header) + bytes(start - size + min(nbytes, 4096))


def test_the_format_is_the_documented_one(name):
    put(name, written((2, 3), 4, b'"<f4"'))
    opened = snp.attach(name)
    assert opened.shape == (2, 3) and opened.dtype == "<f4" and opened.flags.c_contiguous
    opened[...] = 2.5
    assert content(name)[192:] == struct.pack("<6f", *[2.5] * 6)
    snp.unlink(name)
    make(name, (2, 3), "<f4")
    assert content(name) == written((2, 3), 4, b'"<f4"')


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, 1, 7, 64, 2 ** 31, 2 ** 40, 2 ** 63, 2 ** 64 - 1])
def test_garbage_in_a_word(name, field, value):
    good = written((2, 3), 4, b'"<f4"')
    at = 8 * FIELDS.index(field)
    if struct.unpack("Q", good[at:at + 8])[0] == value:
        return
    put(name, good[:at] + struct.pack("Q", value) + good[at + 8:])
    with pytest.raises(ValueError):
        snp.attach(name)
    # With a checksum that fits, only the other order can be meant.
    if field not in ("order", "checksum"):
        put(name, written((2, 3), 4, b'"<f4"', **{field: value}))
        with pytest.raises(ValueError) as refused:
            snp.attach(name)
        assert name in str(refused.value)


@pytest.mark.parametrize("shape, itemsize", [
    ((2 ** 40,), 4), ((2 ** 61,), 4), ((4097,), 1), ((2 ** 32, 2 ** 32), 1), ((2 ** 63,), 0)], ids=repr)
def test_claims_that_are_too_large(name, shape, itemsize):
    put(name, written(shape, itemsize, b'"|V0"', data_bytes=itemsize * shape[0] % 2 ** 64))
    with pytest.raises(ValueError):
        snp.attach(name)


@pytest.mark.parametrize("size", [1, 7, 8, 100, 127, 128, 148, 149, 191, 192, 215])
def test_truncated(name, size):
    put(name, written((2, 3), 4, b'"<f4"')[:size])
    with pytest.raises(ValueError) as refused:
        snp.attach(name)
    assert name in str(refused.value)


STRUCTURE = '{"names":["a"],"formats":["<f4"],"offsets":[0],"itemsize":4'


@pytest.mark.parametrize("text", [
    b"", b"\xff\xfe", b"<f4", b'"O"', b'"|O4"', b'"<f8"', b'"f4,f4"', b'"float32"', b'"<f4', b'"<i4\\n"', b'"|V99999999999"',
    b"null", b"4", b"{}", b"[]", b'["<f4"]', b'["<f4",[-1]]', b'["<f4",[1.5]]', b'["<f4",4]', b'["<f4",[true]]',
    b"[" * 1000, b"[" * 200000, b'["<f4",[2]]',
    (STRUCTURE + "}").replace('"<f4"', '"|O8"').encode(), (STRUCTURE + "}").replace("[0]", "[1]").encode(),
    (STRUCTURE + "}").replace("[0]", "[]").encode(), (STRUCTURE + "}").replace('"a"', "7").encode(),
    (STRUCTURE + "}").replace('"itemsize":4', '"itemsize":8').encode(), (STRUCTURE + ',"titles":[[]]}').encode(),
    (STRUCTURE + "}").replace('["a"]', '["a","a"]').encode(), b"__import__('os').abort()",
], ids=lambda text: repr(text[:30]))
def test_a_dtype_that_is_none(name, text):
    put(name, written((2, 3), 4, text))
    with pytest.raises(ValueError) as refused:
        snp.attach(name)
    assert name in str(refused.value)


def test_structures_too_deep(name):
    dtype = np.dtype("u1")
    for _ in range(40):
        dtype = np.dtype([("a", dtype)])
    with pytest.raises(ValueError):
        make(name, 1, dtype)
    assert not os.path.exists(path_of(name))


# -- handles ------------------------------------------------------------------------


def describe(queue, a):
    a += 1
    queue.put((type(a).__name__, a.shape, a.strides, a.tolist(), a.shm.name))


def test_it_travels_by_name(name, context):
    made = make(name, (4, 6), "i8")
    made[:] = np.arange(24).reshape(4, 6)
    view = made[::2, ::-3]
    queue = context.Queue()
    child = context.Process(target=describe, args=(queue, view))
    child.start()
    told = queue.get(timeout=60)
    child.join()
    assert told == ("SharedNDArray", view.shape, view.strides, view.tolist(), name)
    assert made[0, 5] == 6 and made[1, 5] == 11


def test_views_and_fields_travel_as_what_they_are(name):
    made = make(name, (2, 3), SAMPLES["nested"].dtype)
    for view in (made, made["a"], made["a"]["b"], made[1:], made.T, made[:0], made[0, 0, ...]):
        other = by_handle(view)
        assert type(other) is snp.SharedNDArray and other.shape == view.shape
        assert other.dtype == view.dtype and other.strides == view.strides
        assert other.__array_interface__["data"] == view.__array_interface__["data"], "mapped once"
    other = pickle.loads(pickle.dumps(made))
    assert type(other) is np.ndarray, "by value"


def test_a_queue_of_ours(name):
    made, queue = make(name), snp.Queue()
    queue.put({"frame": made})
    got = queue.get(timeout=60)["frame"]
    made[:] = 3
    assert (got == 3).all() and got.shm.name == name


class Derived(snp.SharedNDArray):
    pass


def test_derived_classes_keep_their_type(name):
    made = make(name).view(Derived)
    assert type(by_handle(made)) is Derived
    private = by_handle(made + 1)
    assert type(private) is np.ndarray and (private == 1).all(), "by value, as it has no name"


def test_a_handle_that_comes_too_late(name):
    made = make(name)
    handle = bytes(ForkingPickler.dumps(made))
    made.unlink()
    with pytest.raises(FileNotFoundError) as refused:
        ForkingPickler.loads(handle)
    assert "the named array is gone" in str(refused.value)
    other = make(name)  # the same name, another array
    with pytest.raises(FileNotFoundError):
        ForkingPickler.loads(handle)
    other.unlink()
    made[:] = 2
    copied = by_handle(made)
    assert (copied == 2).all() and not np.shares_memory(copied, made)
    copied.unlink()


def test_forged_handles_stay_inside(name):
    made = make(name, 10, "i8")
    segment = _core.named_place(made, 8)[0]
    good = (segment.name, segment.identity, 0, (10,), (8,), np.dtype("i8"), False, None)
    assert named._open(*good).shape == (10,)
    for at, value in [(2, 1), (2, -8), (2, -64), (3, (11,)), (4, (9,)), (4, (-8,)), (3, (10, 2)),
                      (3, (2 ** 62,)), (5, np.dtype("V9"))]:
        forged = good[:at] + (value,) + good[at + 1:]
        with pytest.raises(ValueError):
            named._open(*forged)
    with pytest.raises(TypeError):
        named._open(*(good[:5] + (np.dtype("O"),) + good[6:]))


def test_its_memory_as_a_segment(name):
    made = make(name, 5, "u1")
    made[:] = 3
    memory = made.shm
    assert memory.name == name and bytes(memory.buf) == b"\3" * 5 and memory.size == 5
    memory.close()
    with SharedMemory(name) as whole:
        assert bytes(whole.buf[:8]) == b"SNPNAMED"
    made.shm.unlink()
    assert not os.path.exists(path_of(name))


def test_names_of_arrays_without_one_are_told_apart():
    with pytest.raises(Exception) as refused:
        snp.attach("snp_0123456789abcdef")
    assert isinstance(refused.value, (ValueError, LookupError))
    assert "snp_0123456789abcdef" in str(refused.value)


def test_many_threads_make_one_name_once(name):
    import threading
    made = []

    def run():
        try:
            made.append(make(name))
        except FileExistsError:
            pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_an_inherited_array_goes_on_after_a_fork(name):
    made = make(name)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=describe, args=(queue, made))
    child.start()
    queue.get(timeout=60)
    child.join()
    assert (made == 1).all() and os.path.exists(path_of(name))

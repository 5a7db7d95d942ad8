"""`ShareableList`: exact values, refusals, both layouts, the standard library."""

import array
import collections.abc
import copy
import enum
import gc
import itertools
import math
import multiprocessing
import operator
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import weakref

import pytest

import shared_numpy._core as _core
from shared_numpy import shared_memory
from shared_numpy.shared_memory import ShareableList, SharedMemory

try:
    from multiprocessing import resource_tracker as standard_tracker
    from multiprocessing.shared_memory import ShareableList as Standard
except ImportError:
    Standard = None
else:
    if Standard is ShareableList:  # replaced by `install --replace`
        Standard = None

VALUES = ["howdy", b"HoWdY", -273.154, 100, None, True, 42]
FORMAT = "8s8sdqxxxxxx?xxxxxxxx?q"

needs_standard_39 = pytest.mark.skipif(
    Standard is None or sys.version_info < (3, 9),
    reason="the standard library writes the newer layout from 3.9 on")


@pytest.fixture
def make():
    """Makes lists; afterwards their memory is removed."""
    made = []

    def make_list(*args, cls=ShareableList, **keywords):
        made.append(cls(*args, **keywords))
        return made[-1]

    yield make_list
    for items in made:
        remove(items.shm)


def remove(shm):
    shm.close()
    try:
        shm.unlink()
    except FileNotFoundError:
        pass


@pytest.fixture
def segment():
    """Puts bytes into a new segment; afterwards it is removed."""
    made = []

    def make_segment(content):
        made.append(SharedMemory(create=True, size=len(content)))
        made[-1].buf[:len(content)] = content
        return made[-1]

    yield make_segment
    for shm in made:
        remove(shm)


def standard_image(items, of_38=False):
    """The bytes of a standard list; items are (slot, format, code)."""
    sizes = [len(slot) for slot, _, _ in items]
    places = sizes if of_38 else [0] + list(itertools.accumulate(sizes))
    return b"".join(
        [struct.pack("q", len(items)), struct.pack("%dq" % len(places), *places)]
        + [slot for slot, _, _ in items]
        + [struct.pack("8s", form) for _, form, _ in items]
        + [bytes([code]) for _, _, code in items])


class TestValues:
    EXACT = [
        "", "\0", "a\0", "\0\0\0\0\0\0\0\0", "12345678", "encodés", "日本語\0", "\U0001f600" * 5,
        b"", b"\0", b"12345678", b"1234567\0", b"a\0\0", bytes(range(256)), "x" * 1000, b"\0" * 1000,
        0, -1, 2 ** 63 - 1, -2 ** 63, 0.0, -0.0, math.inf, -math.inf, 5e-324, True, False, None,
    ]

    def check(self, got, value):
        assert got == value
        assert type(got) is type(value)
        if isinstance(value, float):
            assert math.copysign(1, got) == math.copysign(1, value)

    def test_come_back_exactly(self, make):
        items = make(self.EXACT)
        other = make(name=items.shm.name)
        for one in (items, other):
            assert len(one) == len(self.EXACT)
            for index, value in enumerate(self.EXACT):
                self.check(one[index], value)
        assert list(items) == self.EXACT

    def test_come_back_exactly_when_assigned(self, make):
        items = make(["x" * 1100] * 3)
        other = make(name=items.shm.name)
        for first, second in itertools.product(self.EXACT, repeat=2):
            items[1] = first
            self.check(other[1], first)
            other[1] = second
            self.check(items[1], second)
        assert items[0] == items[2] == "x" * 1100

    def test_nan_keeps_its_bits(self, make):
        nan = struct.unpack("d", struct.pack("Q", 0x7ff8000000001234))[0]
        items = make([nan])
        assert struct.pack("d", items[0]) == struct.pack("d", nan)

    def test_subclasses_come_back_plain(self, make):
        class Text(str):
            pass

        class Color(enum.IntEnum):
            RED = 5

        class Number(float):
            def __float__(self):
                raise AssertionError("nobody asks")

        values = [Text("a"), Color.RED, Number(1.5), type("B", (bytes,), {})(b"b")]
        items = make(values)
        assert items[:] == ["a", 5, 1.5, b"b"]
        assert [type(item) for item in items] == [str, int, float, bytes]
        items[0], items[1], items[2], items[3] = values
        assert items[:] == ["a", 5, 1.5, b"b"]

    def test_numpy_scalars(self, make):
        numpy = pytest.importorskip("numpy")
        assert make([numpy.float64(0.5), numpy.str_("a"), numpy.bytes_(b"b")])[:] == [0.5, "a", b"b"]
        with pytest.raises(TypeError, match="item 0.*int64"):
            ShareableList([numpy.int64(1)])

    @pytest.mark.parametrize("value, error, match", [
        (1j, TypeError, "complex"),
        ([], TypeError, "list"),
        (bytearray(b"x"), TypeError, "bytearray"),
        (object(), TypeError, "object"),
        (2 ** 63, OverflowError, "64 bits"),
        (-2 ** 63 - 1, OverflowError, "64 bits"),
        ("\ud800", UnicodeEncodeError, "surrogates not allowed"),
    ])
    def test_refusals_name_the_index_and_change_nothing(self, make, monkeypatch,
                                                        value, error, match):
        items = make(VALUES)
        before = bytes(items.shm.buf)
        with pytest.raises(error, match=match) as caught:
            items[-1] = value
        assert "item 6" in str(caught.value)
        with pytest.raises(error) as caught:
            items[0:7] = VALUES[:6] + [value]
        assert "item 6" in str(caught.value)
        assert bytes(items.shm.buf) == before

        def refuse(*args, **keywords):
            raise AssertionError("nothing may be created")

        monkeypatch.setattr(shared_memory, "SharedMemory", refuse)
        with pytest.raises(error, match=match) as caught:
            ShareableList([1, 2, value])
        assert "item 2" in str(caught.value)

    def test_too_large_to_describe(self):
        for value in ("x" * 10 ** 7, b"x" * 10 ** 7):
            with pytest.raises(ValueError, match="item 1: .* of 10000000 bytes"):
                ShareableList([1, value])

    def test_too_long(self, make):
        items = make(VALUES)
        items[0] = "encodés"
        assert items[0] == "encodés"
        before = bytes(items.shm.buf)
        for index, value in ((0, "encodées"), (1, b"123456789"), (3, "123456789"), (-1, "x" * 100)):
            with pytest.raises(ValueError, match="exceeds available storage") as caught:
                items[index] = value
            assert "item {} ".format(index % 7) in str(caught.value)
            assert "room for 8 bytes" in str(caught.value)
        assert bytes(items.shm.buf) == before


class TestInterface:
    def test_format(self, make):
        items = make(VALUES)
        assert items.format == FORMAT
        items[4] = "some"
        assert items.format == "8s8sdq8sxxxxxxx?q"
        assert items._get_packing_format(4) == items._get_packing_format(-3) == "8s"
        assert make().format == ""
        duplicate = make(items)
        assert duplicate.format == items.format
        assert list(duplicate) == list(items)
        assert duplicate.shm.name != items.shm.name

    def test_private_names(self, make):
        items = make(VALUES)
        assert items._get_back_transform(0)(b"a\0\0") == "a"
        assert items._get_back_transform(1)(b"a\0\0") == b"a\0\0"
        assert items._get_back_transform(3)(5) == 5
        assert items._get_back_transform(4)(False) is None
        assert items._list_len == 7
        assert items._offset_data_start == 72
        assert items._offset_packing_formats == 128
        assert items._offset_back_transform_codes == 184
        for function in (items._get_packing_format, items._get_back_transform):
            for position in (7, -8):
                with pytest.raises(IndexError):
                    function(position)

    @pytest.mark.parametrize("index", [7, -8, 2 ** 62, -2 ** 62, 2 ** 100, -2 ** 100])
    def test_out_of_range(self, make, index):
        items = make(VALUES)
        with pytest.raises(IndexError, match="index out of range"):
            items[index]
        with pytest.raises(IndexError, match="assignment index out of range"):
            items[index] = 1

    def test_keys(self, make):
        class Key:
            def __index__(self):
                return -1

        class Bad:
            def __index__(self):
                raise ZeroDivisionError

        items = make(VALUES)
        assert items[Key()] == items[6] == 42
        assert items[True] == b"HoWdY"
        items[Key()] = 43
        assert items[6] == 43
        with pytest.raises(ZeroDivisionError):
            items[Bad()]
        for key in (1.0, "1", None):
            with pytest.raises(TypeError, match="indices must be integers or slices"):
                items[key]
            with pytest.raises(TypeError, match="indices must be integers or slices"):
                items[key] = 1
        with pytest.raises(TypeError, match="fixed length"):
            del items[0]

    def test_slices_as_a_list_does_it(self, make):
        model = list(range(10))
        items = make(model)
        bounds = [None, 0, 1, 3, 9, 10, 11, -1, -10, -11, 10 ** 30, -10 ** 30]
        steps = [None, 1, 2, -1, -3, 10 ** 30, -10 ** 30]
        for start, stop, step in itertools.product(bounds, bounds, steps):
            key = slice(start, stop, step)
            assert items[key] == model[key]
            new = [random.randrange(100) for _ in model[key]]
            if step is not None or len(new) == len(model[key]):
                model[key] = new
                items[key] = iter(new)
                assert list(items) == model
        with pytest.raises(ValueError):
            items[::0]
        with pytest.raises(ValueError, match="size 1 to slice of size 2"):
            items[:2] = [1]
        with pytest.raises(TypeError):
            items[:2] = 5

    def test_a_slice_is_set_as_a_whole_or_not_at_all(self, make):
        items = make([1, 2, "abc"])
        before = bytes(items.shm.buf)
        with pytest.raises(ValueError, match="item 2 "):
            items[:] = [10, 20, "x" * 9]
        assert bytes(items.shm.buf) == before

    def test_searching(self, make):
        items = make(["a", b"b", 1, 2.5, None, True, "a"])
        assert "a" in items and 2.5 in items and "b" not in items
        assert items.count("a") == 2 and items.count(1) == 2 and items.count("zz") == 0
        assert items.index("a") == 0 and items.index("a", 1) == 6
        assert items.index("a", -1) == 6 and items.index(True, 3, 6) == 5
        with pytest.raises(ValueError, match="'zz' not in this container"):
            items.index("zz")
        with pytest.raises(ValueError):
            items.index("a", 1, 6)
        assert operator.indexOf(items, None) == 4

    def test_iteration(self, make):
        items = make(VALUES)
        assert list(reversed(items)) == VALUES[::-1]
        assert isinstance(items, collections.abc.Iterable)
        assert [*iter(items)] == VALUES
        assert list(make("howdy")) == list("howdy")
        assert list(make(iter([1, 2]))) == [1, 2]
        assert list(make({})) == list(make(())) == list(make()) == []

    def test_repr(self, make):
        items = make([1, "a"])
        assert repr(items) == str(items) == "ShareableList([1, 'a'], name={!r})".format(items.shm.name)

    def test_class_getitem(self):
        if sys.version_info >= (3, 9):
            import types
            alias = ShareableList[int]
            assert type(alias) is types.GenericAlias
            assert alias.__origin__ is ShareableList and alias.__args__ == (int,)
            assert pickle.loads(pickle.dumps(alias)) == alias
        elif sys.version_info >= (3, 7):
            assert ShareableList[int] is ShareableList

    def test_names(self, make):
        items = make([1], name="sn_list_{}".format(random.getrandbits(60)))
        assert make(name=items.shm.name)[0] == 1
        with pytest.raises(FileExistsError):
            ShareableList([2], name=items.shm.name)
        with pytest.raises(FileNotFoundError):
            ShareableList(name=items.shm.name + "x")
        with pytest.raises(ValueError, match="readonly"):
            ShareableList([1], readonly=True)

    def test_readonly(self, make):
        items = make(VALUES)
        reader = ShareableList(name=items.shm.name, readonly=True)
        assert list(reader) == VALUES
        for index, value in enumerate(VALUES):
            with pytest.raises(TypeError, match="read-only"):
                reader[index] = value
        with pytest.raises(TypeError, match="read-only"):
            reader[:] = VALUES
        items[3] = 101
        assert reader[3] == 101
        again = pickle.loads(pickle.dumps(reader))
        with pytest.raises(TypeError, match="read-only"):
            again[0] = 1

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, make, protocol):
        items = make(VALUES)
        again = pickle.loads(pickle.dumps(items, protocol))
        again[3] = -1
        assert items[3] == -1 and again.shm.name == items.shm.name
        assert type(again) is ShareableList
        large = make(range(400))
        assert len(pickle.dumps(large, protocol)) == len(pickle.dumps(items, protocol))
        gone = pickle.dumps(items, protocol)
        remove(items.shm)
        with pytest.raises(FileNotFoundError):
            pickle.loads(gone)

    def test_copy_is_another_view(self, make):
        items = make([1])
        copy.copy(items)[0] = 2
        assert items[0] == 2

    def test_pickle_keeps_track(self, make):
        items = make([1], track=False)
        assert pickle.loads(pickle.dumps(items)).shm._track is False


class TestLifetime:
    def test_closing_takes_nothing_away(self, make):
        items = make(VALUES)
        items.shm.close()
        assert list(items) == VALUES
        items[0] = "still"
        assert items[0] == "still"
        items.shm.unlink()
        assert items[0] == "still"

    def test_base_without_a_list(self):
        base = _core.ListBase()
        for function in (len, list, lambda it: it[0], lambda it: it[:],
                         lambda it: operator.setitem(it, 0, 1), _core.list_formats):
            with pytest.raises(ValueError, match="not initialised"):
                function(base)
        with pytest.raises(TypeError):
            _core.list_open(base, b"x" * 100)
        with pytest.raises(TypeError):
            _core.list_open(5, base)

    def test_initialising_again(self, make):
        items = make([1, 2, 3])
        other = make(["x"])
        shm = items.shm
        items.__init__(name=other.shm.name)
        assert list(items) == ["x"]
        remove(shm)

    def test_replaced_while_a_key_is_found_out(self, make):
        items, other = make(range(100)), make(["x"])
        shm = items.shm

        class Key:
            def __index__(self):
                items.__init__(name=other.shm.name)
                return 99

        with pytest.raises(IndexError):
            items[Key()]
        items.__init__(name=shm.name)
        with pytest.raises(IndexError):
            items[Key()] = 5
        remove(shm)

    @pytest.mark.parametrize("slots", [False, True])
    def test_nothing_leaks(self, slots):
        body = {"__slots__": ()} if slots else {}
        cls = type("Sub", (ShareableList,), body)
        shm = ShareableList([1, "a", 2.5, None]).shm
        objects = [shm]

        def use():
            items = cls(name=shm.name)
            items.myself = items  # a cycle: freed by the collector
            items[:] = items[:]
            items[0] = 10 ** 10
            with pytest.raises(IndexError):
                items[5]
            return weakref.ref(items)

        use()
        gc.collect()
        counted = [cls, ShareableList, _core.ListBase, None, *objects]
        before = [sys.getrefcount(it) for it in counted]
        alive = [use() for _ in range(100)]
        gc.collect()
        assert [it() for it in alive] == [None] * 100
        del alive
        after = [sys.getrefcount(it) for it in counted]
        remove(shm)
        # None is counted by others, too.
        assert max(abs(a - b) for a, b in zip(after, before)) < 50

    def test_instances_without_the_collector_do_not_leak(self):
        class Bare(_core.ListBase):
            __slots__ = ()

        class Barer(Bare):
            __slots__ = ()

        for cls in (_core.ListBase, Bare, Barer):
            cls()
            before = sys.getrefcount(cls), sys.getrefcount(_core.ListBase)
            for _ in range(100):
                cls()
            after = sys.getrefcount(cls), sys.getrefcount(_core.ListBase)
            assert after == before


class TestLayouts:
    ITEMS = [
        (b"howdy\0\0\0", b"8s", 1), (b"ab" + b"\0" * 14, b"16s", 2), (struct.pack("q", -7), b"q", 0),
        (struct.pack("d", 0.5), b"d", 0), (b"\0" * 8, b"xxxxxx?x", 3), (b"\0" * 7 + b"\1", b"xxxxxxx?", 0),
        (b"\0" * 16, b"16s", 1),
    ]
    VALUES = ["howdy", b"ab", -7, 0.5, None, True, ""]

    @pytest.mark.parametrize("of_38", [False, True])
    def test_both_are_read_and_written(self, segment, of_38):
        shm = segment(standard_image(self.ITEMS, of_38))
        items = ShareableList(name=shm.name)
        assert list(items) == self.VALUES
        items[1], items[2], items[6] = "x\0" * 8, None, b"\0" * 16
        again = ShareableList(name=shm.name)
        assert list(again) == ["howdy", "x\0" * 8, None, 0.5, None, True, b"\0" * 16]
        assert items.format == "8s16sxxxxxx?xdxxxxxx?xxxxxxxx?16s"

    def test_ours_byte_for_byte(self, make):
        items = make(["ab", b"ab", 3, None])
        assert bytes(items.shm.buf) == standard_image([
            (b"ab" + b"\0" * 6, b"2s ", 1), (b"ab" + b"\0" * 6, b"2s ", 0),
            (struct.pack("q", 3), b"q", 0), (b"\0" * 8, b"xxxxxx?x", 3)])
        assert bytes(make().shm.buf) == bytes(16)

    @pytest.mark.parametrize("content", [
        b"x", b"\xff" * 8, b"\xff" * 100, struct.pack("q", 1), struct.pack("q", 2 ** 60) + bytes(100),
        struct.pack("3q", 1, 0, 2 ** 62) + bytes(17), struct.pack("2q", 1, 9) + bytes(30),
        struct.pack("4q", 2, 0, 16, 8) + bytes(80), struct.pack("2q", 1, 2 ** 63 - 8) + bytes(100),
    ])
    def test_no_list(self, segment, content):
        with pytest.raises(ValueError, match="not a ShareableList, or a damaged one"):
            ShareableList(name=segment(content).name)

    @pytest.mark.parametrize("form, code", [
        (b"", 0), (b"z", 0), (b"9s", 1), (b"s", 1), (b"99999999", 0), (b"q", 1), (b"d", 3), (b"8s", 9),
        (b"8s x", 1), (b"xxxxxx?x", 0), (b"-1s", 1), (b"8S", 1),
    ])
    def test_damaged_items(self, segment, form, code):
        shm = segment(standard_image([(b"\0" * 8, b"q", 0), (b"\0" * 8, form, code)]))
        items = ShareableList(name=shm.name)
        assert items[0] == 0
        with pytest.raises(ValueError, match="item 1 .* damaged"):
            items[1]
        items[1] = "mended"
        assert list(items) == [0, "mended"]

    def test_text_that_is_not_utf8(self, segment):
        items = ShareableList(name=segment(standard_image([(b"\xff" * 8, b"8s", 1)])).name)
        with pytest.raises(UnicodeDecodeError):
            items[0]

    def test_random_bytes_are_exceptions(self, segment):
        numbers = random.Random(5)
        shm = segment(standard_image(self.ITEMS))
        whole = bytes(shm.buf)
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(numbers.randrange(1, 5)):
                damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
            shm.buf[:] = bytes(damaged)
            try:
                items = ShareableList(name=shm.name)
            except ValueError:
                continue
            for index in range(min(len(items), 20)):
                for action, args in ((items.__getitem__, ()), (items._get_back_transform, ()),
                                     (items.__setitem__, (b"12345",)), (items._get_packing_format, ())):
                    try:
                        action(index, *args)
                    except ValueError:
                        pass


class TestStandardLibrary:
    @pytest.fixture
    def standard(self):
        """Makes or attaches lists of the standard library; removes what it made."""
        made = []

        def make_standard(sequence=None, name=None):
            items = Standard(sequence, name=name)
            if name is None:
                made.append(items)
            elif getattr(items.shm, "_track", True):
                # Attaching registers, up to 3.12; the list is not its own to remove.
                standard_tracker.unregister(items.shm._name, "shared_memory")
            return items

        yield make_standard
        for items in made:
            items.shm.close()
            items.shm.unlink()

    @pytest.mark.skipif(Standard is None, reason="no shared_memory before 3.8")
    def test_we_read_and_write_theirs(self, standard):
        theirs = standard(VALUES)
        ours = ShareableList(name=theirs.shm.name)
        assert list(ours) == VALUES and ours.format == theirs.format == FORMAT
        theirs[0], theirs[4], theirs[6] = "ab", "some", 2.5
        assert list(ours) == list(theirs) == ["ab", b"HoWdY", -273.154, 100, "some", True, 2.5]
        ours[0], ours[1], ours[3], ours[6] = "é", b"\0\1\0", "text", None
        assert list(theirs) == ["é", b"\0\1\0", -273.154, "text", "some", True, None]
        theirs[0], theirs[1], theirs[3] = "12345678", b"", b"by"
        assert list(ours) == ["12345678", b"", -273.154, b"by", "some", True, None]

    @needs_standard_39
    def test_they_read_and_write_ours(self, make, standard):
        values = ["", "a", "12345678", "é" * 20, b"", b"a\0", b"\0" * 9, "x" * 5000, *VALUES]
        ours = make(values)
        theirs = standard(name=ours.shm.name)
        assert list(theirs) == values
        for turn in range(20):
            for value in ("t" * turn, b"t" * turn, turn, turn / 7, None, turn % 2 == 0):
                ours[7] = value
                assert theirs[7] == value
                theirs[7] = value
                assert ours[7] == value
        theirs[7] = "y" * 5007
        assert ours[7] == "y" * 5007
        struct.calcsize(theirs.format)

    @needs_standard_39
    def test_they_read_every_length(self, make, standard):
        longest = 70
        ours = make(["x" * longest])
        theirs = standard(name=ours.shm.name)
        for length in itertools.chain(range(longest + 1), range(longest, -1, -1)):
            ours[0] = "é" * (length // 2) + "x" * (length % 2)
            assert theirs[0] == ours[0]
            ours[0] = b"\0" * length
            assert theirs[0] == b"\0" * length
            theirs[0] = b"z" * length
            assert ours[0] == b"z" * length

    @needs_standard_39
    @pytest.mark.parametrize("length", [999999, 1000000, 1000007, 9999991])
    def test_large_items(self, make, standard, length):
        ours = make(["x" * length, b"x" * length])
        theirs = standard(name=ours.shm.name)
        assert theirs[0] == "x" * length and theirs[1] == b"x" * length
        theirs[0], theirs[1] = "y" * (length - 1), b"y" * (length - 3)
        assert ours[0] == "y" * (length - 1) and ours[1] == b"y" * (length - 3)
        ours[1] = b"z" * (length - 9) + b"\0"
        assert ours[1] == theirs[1] == b"z" * (length - 9) + b"\0"

    @needs_standard_39
    def test_they_overwrite_what_a_killed_writer_left(self, make, standard):
        ours = make([1])
        ours.shm.buf[ours._offset_packing_formats:][:8] = b"xxxxxxxx"
        theirs = standard(name=ours.shm.name)
        with pytest.raises(ValueError):
            theirs[0]
        with pytest.raises(ValueError, match="half written"):
            ours[0]
        theirs[0] = 5
        assert ours[0] == 5


def _double(items):
    items[0] *= 2
    items[1] += "é"


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_in_a_child(self, make, method):
        items = make([21, "é", "x" * 8])
        child = multiprocessing.get_context(method).Process(target=_double, args=(items,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert list(items) == [42, "éé", "x" * 8]

    def test_a_reader_sees_old_or_new(self, make):
        values = ["a" * 700, b"b" * 699, 5, "short", "c" * 700, None, 2.5]
        items = make([values[0]])
        code = textwrap.dedent("""
            import sys
            from shared_numpy.shared_memory import ShareableList
            items = ShareableList(name=sys.argv[1])
            values = ["a" * 700, b"b" * 699, 5, "short", "c" * 700, None, 2.5]
            for turn in range(30000):
                items[0] = values[turn % len(values)]
        """)
        writer = subprocess.Popen([sys.executable, "-c", code, items.shm.name])
        seen = set()
        while writer.poll() is None:
            try:
                seen.add(items[0])
            except ValueError as error:
                assert "half written" in str(error)
        assert writer.returncode == 0
        assert seen <= set(values)

    def test_array_of_bytes_is_refused_as_an_item(self):
        with pytest.raises(TypeError, match="item 0.*array"):
            ShareableList([array.array("b")])


@pytest.mark.parametrize("use", [
    "items[Slow()]", "items[Slow()] = 5", "items[Slow():]", "items[:2] = slow()"])
def test_a_thread_in_slow_python_code_at_exit(use):
    """CPython before 3.14 ends such a thread by unwinding its stack, ours included."""
    program = """
        import builtins, threading, time
        from shared_numpy.shared_memory import ShareableList

        items, entered = ShareableList([1, 2, 3]), threading.Event()
        items.shm.unlink()

        def slow():
            entered.set()
            while True:
                time.sleep(0.01)
                yield 1

        class Slow:
            def __index__(self):
                for _ in slow():
                    pass

        class Last:
            # Outlives the moment from which on other threads may not go on.
            sleep = staticmethod(time.sleep)
            def __del__(self):
                self.sleep(0.2)

        def work():
            {}

        builtins.last = Last()
        threading.Thread(target=work, daemon=True).start()
        entered.wait()
    """
    done = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program).format(use)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert done.communicate() == ("", "")
    assert done.returncode == 0

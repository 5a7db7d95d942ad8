"""Values come back from a list exactly as they were put in, or are refused with their index and nothing changed."""

import enum
import itertools
import math
import struct

import pytest

from shared_numpy import shared_memory
from shared_numpy.shared_memory import ShareableList
from list_samples import VALUES


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

"""Both historical layouts, byte for byte: damage is an exception, and the standard library and we read each other's lists."""

import itertools
import random
import struct

import pytest

from shared_numpy.shared_memory import ShareableList
from list_samples import FORMAT, VALUES, standard_image
from standard_library import Standard, needs_standard_39, standard_tracker


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

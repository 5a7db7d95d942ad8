"""A list is used as Python's own: keys, slices, searching, names, pickles; its private names are the standard one's."""

import collections.abc
import copy
import itertools
import operator
import pickle
import random
import sys

import pytest

from shared_numpy.shared_memory import ShareableList
from list_samples import FORMAT, VALUES, remove


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

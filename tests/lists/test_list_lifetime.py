"""How long a list and its memory live, in one process and in several; nothing leaks, and no thread is torn apart at the end."""

import array
import gc
import multiprocessing
import operator
import subprocess
import sys
import textwrap
import weakref

import pytest

import shared_numpy._core as _core
from shared_numpy.shared_memory import ShareableList
from list_samples import VALUES, remove


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

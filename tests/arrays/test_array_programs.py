"""Programs written for the package that this one replaces go on working as they are, silent on stderr."""

import multiprocessing

import pytest

pytest.importorskip("numpy")

from programs import needs_tracker, run


@needs_tracker  # without one its maker says so on stderr
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_close_after_put_and_unlink_after_get(tmp_path, method):
    out = run(tmp_path, """
        import multiprocessing, sys
        import numpy as np
        import shared_numpy as snp

        def produce(queue):
            for number in range(10):
                a = snp.array([number, 2, 3, 4, 5])
                queue.put(a)
                a.close()
                frame = snp.ndarray((300, 300), dtype=np.float32)
                frame[0, 0] = number
                queue.put(frame)
                frame.close()
            queue.put(None)

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            queue = snp.Queue()
            worker = context.Process(target=produce, args=(queue,))
            worker.start()
            got = 0
            while True:
                out = queue.get()
                if out is None:
                    break
                assert out.ravel()[0] == got // 2 and out.shape == ((5,), (300, 300))[got % 2]
                got += 1
                out.close()
                out.unlink()
            worker.join()
            b = snp.from_array(np.zeros((10, 10)))
            assert (b == 0).all() and type(b + 1) is np.ndarray
            memory = snp.SharedMemory(create=True, size=10)
            memory.close(), memory.unlink()
            items = snp.ShareableList([1, "two"])
            assert list(items) == [1, "two"]
            items.shm.close(), items.shm.unlink()
            print(got)
    """, method)
    assert out == "20\n"

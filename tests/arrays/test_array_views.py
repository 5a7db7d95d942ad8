"""What is shared, and what is not: views stay in shared memory, results of a computation are ordinary arrays."""

import copy
import gc
import pickle
import sys

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import SAMPLES, memory_of, name_of, same  # noqa: E402

VIEWS = """
    a[1:]  a[::-1]  a[1]  a[...,0]  a[None]  a[0,0,...]  a.T  a.swapaxes(0,1)  a.reshape(4,3)
    a.reshape(-1)  a.ravel()  a.view('i8')  a.view()  a.squeeze()  a.diagonal()  a.real
    a.astype(float,copy=False)  np.transpose(a)  np.reshape(a,-1)  np.split(a,2,axis=1)[1]
    np.broadcast_to(a,(2,3,4),subok=True)  np.asanyarray(a)  np.asarray(a).view(S)  np.rot90(a)
    np.flip(a,0)  np.atleast_3d(a)  np.add(a,1,out=a)  np.sum(a,axis=0,out=a[0])
    np.moveaxis(a,0,1)  np.expand_dims(a,0)  a[:,1:3][::-1]  a.getfield('f4',4)
""".split()

RESULTS = """
    a+1  a*a  -a  a==a  a@a.T  a.sum()  a.sum(axis=0)  a.mean()  a.mean(axis=1)  a.std(axis=0)  a.var()
    np.sum(a)  np.mean(a,axis=0)  a.max()  a.min(axis=0)  a.all()  a.any(axis=0)  a.argmax()
    a.argmax(axis=0)  a.argsort()  a.cumsum()  a.cumsum(axis=0)  a[[0,1]]  a[a>2]  a[0,0]  a.copy()
    a.flatten()  a.T.ravel()  a.T.reshape(-1)  a.astype('f4')  a.take([1])  a.repeat(2)  a.nonzero()[0]
    a.clip(0,1)  a.round()  a.byteswap()  a.trace()  a.dot(a.T)  a.imag  a.flat[1:3]  a.flat[[1]]
    a.compress([1,0,1],axis=0)  a[0].searchsorted([1.])  a[0]+a[1]  divmod(a,2)[0]
    np.dot(a,a.T)  np.inner(a,a)  np.outer(a,a)  np.tensordot(a,a.T,1)  np.einsum('ij,ij->i',a,a)
    np.copy(a)  np.array(a)  np.array(a,subok=True)  np.concatenate([a,a])  np.stack([a,a])
    np.where(a>1,a,a)  np.zeros_like(a)  np.ones_like(a)  np.full_like(a,3)
    np.sort(a)  np.unique(a)  np.tile(a,2)  np.pad(a,1,'constant')  np.round(a,1)  np.median(a)
    np.percentile(a,3,axis=0)  np.cov(a)  np.kron(a,a)  np.gradient(a[0])  np.interp(a[0],a[1],a[2])
    np.linalg.inv(a[:3,:3]+np.eye(3))  np.linalg.solve(a[:3,:3]+np.eye(3),a[:,0])  np.linalg.svd(a)[1]
    np.linalg.det(a[:3,:3])  np.linalg.norm(a)  np.fft.fft(a)  np.apply_along_axis(sum,0,a)
    np.apply_along_axis(np.sum,0,a[0])  np.apply_along_axis(len,0,a[0])  np.apply_over_axes(np.sum,a,[0,1])
    np.add(a[0,0,...],1,out=np.ones(()))  np.linalg.inv(a[:1,1:2])  np.linalg.det(a[1:2,1:2])
    np.vectorize(float)(a)  np.modf(a)[0]  np.frexp(a)[1]  np.add.reduce(a)  np.add.accumulate(a)
    np.add.outer(a,a)  np.add.reduceat(a,[0,1])  np.add(a[0,0,...],1)  np.asarray(a)  np.ma.array(a).data+0
    np.zeros(3).view(S)  copy.copy(a)  copy.deepcopy(a)  pickle.loads(pickle.dumps(a[::-1].T,4))
""".split()


def evaluate(expression, a, shared):
    return eval(expression, {"a": a, "np": np, "copy": copy, "pickle": pickle,
                             "S": shared, "sum": sum, "divmod": divmod})


def values(shared):
    a = np.arange(12.0).reshape(3, 4)
    return snp.array(a) if shared else a


@pytest.mark.parametrize("expression", VIEWS)
def test_views_are_shared(expression):
    a = values(True)
    view = evaluate(expression, a, snp.SharedNDArray)
    assert type(view) is snp.SharedNDArray
    assert memory_of(view) == memory_of(a)
    assert np.may_share_memory(view, a)
    assert same(view, evaluate(expression, values(False), np.ndarray))


@pytest.mark.parametrize("expression", RESULTS)
@pytest.mark.filterwarnings("ignore")
def test_results_are_ordinary(expression):
    ours = evaluate(expression, values(True), snp.SharedNDArray)
    numpys = evaluate(expression, values(False), np.ndarray)
    assert type(ours) is type(numpys)
    assert same(ours, numpys)


def test_fields_are_shared():
    a = snp.array(SAMPLES["nested"])
    for view in (a["a"], a["a"]["b"], a[["a", "d"]], a[0:1]["d"]):
        assert type(view) is snp.SharedNDArray and memory_of(view) == memory_of(a)
    assert type(a[0]) is np.void


def test_operators_in_place_stay_shared():
    a = values(True)
    b = a
    b += 1
    b[1:] *= 2
    assert b is a and type(a) is snp.SharedNDArray and name_of(b)
    assert a[2, 3] == 24


@pytest.mark.filterwarnings("ignore")
def test_mixing_with_other_array_classes():
    a = values(True)
    assert type(a + np.matrix(np.ones((3, 4)))) is np.matrix
    masked = np.ma.array(a, mask=a > 3)
    assert type(masked.data) is snp.SharedNDArray and type(masked + 1) is type(masked)
    assert isinstance((masked + 1).data, np.ndarray) and type((masked + 1).data) is np.ndarray


def test_many_results_do_not_wear_out_the_type():
    # Each result gave back one reference to the type; too many would free it.
    a = values(True)
    gc.collect()
    before = sys.getrefcount(snp.SharedNDArray)
    for _ in range(1000):
        a.copy(), a[1:], a[[0]], np.empty_like(a), a.T.ravel(), a.view()
    gc.collect()
    assert abs(sys.getrefcount(snp.SharedNDArray) - before) < 5


@pytest.mark.filterwarnings("ignore")
def test_shape_and_dtype_can_be_set():
    a = values(True)
    view = a[:]
    view.shape = (4, 3)
    view.dtype = "i8"
    assert type(view) is snp.SharedNDArray and memory_of(view) == memory_of(a)


class Derived(snp.SharedNDArray):
    def __array_finalize__(self, parent):
        super().__array_finalize__(parent)
        self.note = getattr(parent, "note", "new")


def test_classes_can_be_derived():
    a = snp.array([1, 2]).view(Derived)
    a.note = "mine"
    assert type(a[:1]) is Derived and a[:1].note == "mine"
    assert a.shm.name and a.close() is None
    a.unlink()
    assert type(Derived((2,), "i4")) is Derived
    assert pickle.loads(pickle.dumps(a)).tolist() == [1, 2]

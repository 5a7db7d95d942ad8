//! Arrays' memory: blocks of pools, taken, shown, sent and received.
//!
//! Guarantees: a block is held as long as an exporter of it lives; what is sent is
//! a view that lies inside its block, and so is what is received, whatever the
//! handle's bytes say. What is at hand is had without giving the interpreter up;
//! what takes time (committing, asking the tracker) lets other threads run and
//! runs signal handlers.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use shared_numpy_core::error::Error;
use shared_numpy_core::participation::{self, Handle, Hold};
use shared_numpy_core::view;

use crate::error::exception;
use crate::exporter;
use crate::gil;
use crate::handle::ViewHandle;
use crate::names::names;
use crate::ndarray;
use crate::segment;

/// From this size on other Python threads run while memory is set to zero.
const SLOW_TO_ZERO_BYTES: usize = 1 << 20;

/// Runs `work` with the interpreter held, which it can keep as long as it need not wait:
/// at the first time that `work` asks whether to go on it is stopped, and run again
/// with the interpreter given up.
///
/// `work` asks before it waits, and can be stopped without a trace.
pub(crate) fn at_hand_or_waiting<T>(
    py: Python<'_>,
    mut work: impl FnMut(&mut dyn FnMut() -> bool) -> Result<T, Error>,
) -> PyResult<T> {
    match work(&mut || false) {
        Err(Error::Interrupted) => segment::interruptible(py, usize::MAX, work),
        done => done.map_err(exception),
    }
}

/// A block of `nbytes` bytes, which are zero or whatever their last user left.
pub(crate) fn allocate(py: Python<'_>, nbytes: usize, is_zeroed: bool) -> PyResult<Hold> {
    let hold = at_hand_or_waiting(py, |keep_going| {
        participation::allocate(nbytes as u64, keep_going)
    })?;
    if is_zeroed {
        let zero = || hold.mapping().zero_bytes(hold.offset_bytes(), nbytes);
        if nbytes < SLOW_TO_ZERO_BYTES {
            zero()
        } else {
            gil::detached(py, |_| zero())
        }
        .map_err(exception)?;
    }
    Ok(hold)
}

/// A handle of a block, which holds it until somebody receives it.
fn send(py: Python<'_>, hold: &Hold) -> PyResult<Handle> {
    // Whether it arrives nobody will tell: it expires with its sender.
    let (handle, _) = at_hand_or_waiting(py, |keep_going| hold.send(keep_going))?;
    Ok(handle)
}

/// The same, as bytes, for objects that are all of their block.
pub(crate) fn send_whole<'py>(py: Python<'py>, hold: &Hold) -> PyResult<Bound<'py, PyBytes>> {
    Ok(whole(py, hold, send(py, hold)?))
}

/// A handle of all of a block that holds nothing: for who holds the block meanwhile.
pub(crate) fn name_whole<'py>(py: Python<'py>, hold: &Hold) -> PyResult<Bound<'py, PyBytes>> {
    Ok(whole(py, hold, hold.handle().map_err(exception)?))
}

fn whole<'py>(py: Python<'py>, hold: &Hold, handle: Handle) -> Bound<'py, PyBytes> {
    let view = ViewHandle {
        handle,
        len_bytes: hold.size_bytes() as u64,
        offset_bytes: 0,
        axes: Vec::new(),
        is_frozen: false,
    };
    PyBytes::new(py, &view.to_bytes())
}

/// The block that a handle leads to.
pub(crate) fn receive(py: Python<'_>, handle: &Handle) -> PyResult<Hold> {
    at_hand_or_waiting(py, |keep_going| participation::receive(handle, keep_going))
}

/// The first `nbytes` bytes of a block as a buffer that holds it.
pub(crate) fn export(py: Python<'_>, hold: Hold, nbytes: usize) -> PyResult<Bound<'_, PyAny>> {
    exporter::new_block(py, hold, nbytes)
}

/// Allocates a block of `nbytes` bytes, as a buffer that holds it.
#[pyfunction]
fn block_create(py: Python<'_>, nbytes: usize, zeroed: bool) -> PyResult<Bound<'_, PyAny>> {
    let hold = allocate(py, nbytes, zeroed)?;
    export(py, hold, nbytes)
}

/// An array that lies in a block.
struct Placed<'py> {
    exporter: Bound<'py, PyAny>,
    /// The element at index 0, from the beginning of the block, in bytes.
    offset: i64,
    axes: Vec<(i64, i64)>,
}

impl Placed<'_> {
    fn hold(&self) -> PyResult<(&Hold, usize)> {
        exporter::block_of(&self.exporter)
            .ok_or_else(|| PyTypeError::new_err("not the memory of a block"))
    }
}

/// Where `array` lies; `None` when that is no block.
fn place<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Placed<'py>>> {
    let Some((exporter, layout)) = ndarray::exporter_and_layout(array)? else {
        return Ok(None);
    };
    let Some((hold, _)) = exporter::block_of(&exporter) else {
        return Ok(None);
    };
    let start = hold.start().as_ptr() as usize;
    let offset = view::offset(start, layout.address, &layout.axes);
    Ok(Some(Placed {
        exporter,
        offset,
        axes: layout.axes,
    }))
}

fn outside(error: Error) -> PyErr {
    PyValueError::new_err(format!("view outside its memory: {error}"))
}

/// A handle of `array`, which holds its memory until somebody receives it; None when its
/// memory is not a block's.
#[pyfunction]
fn array_send<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let py = array.py();
    let Some(placed) = place(array)? else {
        return Ok(None);
    };
    let (hold, len) = placed.hold()?;
    let item_bytes: i64 = array.getattr(&names(py).itemsize)?.extract()?;
    view::check(len as u64, placed.offset, &placed.axes, item_bytes).map_err(outside)?;
    let handle = send(py, hold)?;
    let view = ViewHandle {
        handle,
        len_bytes: len as u64,
        offset_bytes: placed.offset,
        axes: placed.axes.clone(),
        is_frozen: exporter::is_read_only(&placed.exporter),
    };
    Ok(Some(PyBytes::new(py, &view.to_bytes())))
}

/// A name for `array`: text that `array_open` takes. It holds nothing. None when the memory
/// is not a block's.
#[pyfunction]
fn array_name(array: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let Some(placed) = place(array)? else {
        return Ok(None);
    };
    let (hold, len) = placed.hold()?;
    let view = ViewHandle {
        handle: hold.handle().map_err(exception)?,
        len_bytes: len as u64,
        offset_bytes: placed.offset,
        axes: placed.axes.clone(),
        is_frozen: exporter::is_read_only(&placed.exporter),
    };
    Ok(Some(view.to_name()))
}

/// Whether `array` lies in memory that `drop_inherited` has let go of.
#[pyfunction]
fn array_is_dropped(array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Some(placed) = place(array)? else {
        return Ok(false);
    };
    let (hold, _) = placed.hold()?;
    Ok(hold.is_dropped())
}

/// The exporter of the memory of `array`; None when that is not a block.
#[pyfunction]
fn array_memory<'py>(array: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(place(array)?.map(|placed| placed.exporter))
}

/// What a handle (bytes) or a name (text) says.
pub(crate) fn parse(handle: &Bound<'_, PyAny>) -> PyResult<ViewHandle> {
    let view = match handle.cast::<PyBytes>() {
        Ok(bytes) => ViewHandle::from_bytes(bytes.as_bytes()),
        Err(_) => ViewHandle::from_name(&handle.extract::<String>()?),
    };
    view.map_err(|error| match error {
        Error::Damaged(what) => PyValueError::new_err(what),
        error => exception(error),
    })
}

/// What a handle or a name leads to: a buffer over the memory, and offset, shape and strides
/// of the view, which lies inside it.
pub(crate) type Opened<'py> = (
    Bound<'py, PyAny>,
    i64,
    Bound<'py, PyTuple>,
    Bound<'py, PyTuple>,
);

pub(crate) fn opened<'py>(
    exporter: Bound<'py, PyAny>,
    offset: i64,
    axes: &[(i64, i64)],
) -> PyResult<Opened<'py>> {
    let py = exporter.py();
    let shape = PyTuple::new(py, axes.iter().map(|axis| axis.0))?;
    let strides = PyTuple::new(py, axes.iter().map(|axis| axis.1))?;
    Ok((exporter, offset, shape, strides))
}

/// Opens what a handle (bytes) or a name (text) leads to, for items of so many bytes.
#[pyfunction]
fn array_open<'py>(handle: &Bound<'py, PyAny>, itemsize: i64) -> PyResult<Opened<'py>> {
    let py = handle.py();
    let view = parse(handle)?;
    view::check(view.len_bytes, view.offset_bytes, &view.axes, itemsize).map_err(outside)?;
    let hold = receive(py, &view.handle)?;
    if view.len_bytes > hold.size_bytes() as u64 {
        return Err(PyValueError::new_err(
            "the handle of an array names more bytes than its memory has",
        ));
    }
    // As large as the block at most, which is mapped.
    let exporter = export(py, hold, view.len_bytes as usize)?;
    if view.is_frozen {
        exporter::make_read_only(&exporter);
    }
    opened(exporter, view.offset_bytes, &view.axes)
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(block_create, m)?)?;
    m.add_function(wrap_pyfunction!(array_send, m)?)?;
    m.add_function(wrap_pyfunction!(array_name, m)?)?;
    m.add_function(wrap_pyfunction!(array_is_dropped, m)?)?;
    m.add_function(wrap_pyfunction!(array_memory, m)?)?;
    m.add_function(wrap_pyfunction!(array_open, m)?)?;
    Ok(())
}

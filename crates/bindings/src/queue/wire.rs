//! What an item of a queue is made of: a body, and a tail that says what the body is.
//!
//! ```text
//! body                     | tail
//! pickle                   | PICKLE
//! pickle                   | for each buffer: hold, length | u32 length of those | BUFFERS
//! bytes                    | BYTES
//! plain data               | u32 length of its objects | PLAIN
//! an array's elements      | number, flags, lengths | u16 length of those | COPY
//! nothing                  | number, flags, hold, length of the memory, offset,
//!                          |   for each axis: length, stride | HELD
//! ```
//!
//! The body comes first because it is aligned then, in the ring or in a block, and
//! because who unpickles does not mind what follows. Numbers are written as in handles.
//! The number of an array is its dtype's; a hold is the index of one that came with the
//! item. Arrays inside other objects are written in the same two ways, into the pickle or
//! the plain data.
//!
//! Guarantee: bytes that were not written here are an error, or an array that lies inside
//! its memory.

#![allow(unsafe_code)]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use shared_numpy_core::error::Error;
use shared_numpy_core::view;

use crate::exporter;
use crate::gil;
use crate::handle::{fold, put, take, unfold};
use crate::names::names;
use crate::ndarray::{self, Kind, Seen};
use crate::numpy::{self, AXES_MAX, Api};

pub(super) const PICKLE: u8 = 0;
pub(super) const BUFFERS: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const COPY: u8 = 3;
pub(super) const HELD: u8 = 4;
pub(super) const PLAIN: u8 = 5;

/// The "number" of a dtype that is told in another way.
pub(super) const ANY_DTYPE: u8 = 255;

const FORTRAN: u8 = 1;
const READ_ONLY: u8 = 2;
const SHARED: u8 = 4;
/// Nobody is to write to the memory either.
const FROZEN: u8 = 8;

/// The number of an array's dtype and the size of its items, if it is one of plain numbers.
#[inline]
pub(super) fn number_of(api: &Api, py: Python<'_>, seen: &Seen<'_>) -> Option<(u8, usize)> {
    api.number_of(seen.descr)
        .or_else(|| number_of_twin(api, py, seen).ok().flatten())
}

/// The same for a dtype that is another object than NumPy's own, as unpickled ones are.
#[cold]
fn number_of_twin(api: &Api, py: Python<'_>, seen: &Seen<'_>) -> PyResult<Option<(u8, usize)>> {
    // SAFETY: an array keeps its dtype alive; adds a reference.
    let descr = unsafe { Bound::from_borrowed_ptr(py, seen.descr) };
    let Ok(number) = descr.getattr(&names(py).num)?.extract::<u8>() else {
        return Ok(None);
    };
    let is_plain = descr.getattr(&names(py).isnative)?.extract::<bool>()?
        && descr.getattr(&names(py).metadata)?.is_none()
        // Numbers may have fields as well: np.dtype((np.int32, [("low", "i2"), ("high", "i2")])).
        && descr.getattr(&names(py).names)?.is_none();
    let dtype = api.dtype_of_number(number).filter(|_| is_plain);
    Ok(dtype.map(|dtype| (number, dtype.item_bytes)))
}

/// The size of an array of these lengths; `None` if there is no such array.
#[inline]
pub(super) fn nbytes_of(lengths: &[ffi::Py_ssize_t], item_bytes: usize) -> Option<usize> {
    let product = lengths.iter().try_fold(item_bytes, |product, &length| {
        product.checked_mul(usize::try_from(length).ok()?)
    });
    // An axis of length 0 after a product that is too large: as in NumPy, no array.
    product.filter(|&nbytes| isize::try_from(nbytes).is_ok())
}

/// The tail of an array whose elements are the body: in Fortran's order if they lie in one
/// piece in that, else in C's.
pub(super) fn copy_tail(tail: &mut Vec<u8>, number: u8, seen: &Seen<'_>) {
    let start = tail.len();
    let is_fortran = seen.is_f_contiguous() && !seen.is_c_contiguous();
    tail.extend_from_slice(&[number, if is_fortran { FORTRAN } else { 0 }]);
    for &length in seen.lengths {
        put(tail, length as u64);
    }
    let len = (tail.len() - start) as u16; // at most 2 + 32 * 10
    tail.extend_from_slice(&len.to_le_bytes());
    tail.push(COPY);
}

/// What stands for an array in the block of this exporter, whose hold has this index.
pub(super) fn held(
    out: &mut Vec<u8>,
    number: u8,
    seen: &Seen<'_>,
    exporter: &Bound<'_, PyAny>,
    hold: usize,
    len_bytes: usize,
    offset: i64,
) {
    let read_only = if seen.is_writeable() { 0 } else { READ_ONLY };
    let shared = if seen.kind == Kind::Shared { SHARED } else { 0 };
    let is_frozen = exporter::is_read_only(exporter);
    let frozen = if is_frozen { FROZEN } else { 0 };
    out.extend_from_slice(&[number, read_only | shared | frozen]);
    put(out, hold as u64);
    put(out, len_bytes as u64);
    put(out, fold(offset));
    for (&length, &stride) in seen.lengths.iter().zip(seen.strides) {
        put(out, length as u64);
        put(out, fold(stride as i64));
    }
    out.push(HELD);
}

/// How an array whose elements are the body is laid out.
pub(super) struct CopyHead {
    number: u8,
    is_fortran: bool,
    lengths: [ffi::Py_ssize_t; AXES_MAX],
    axes: usize,
}

/// The length of an array's elements, and what is said of them, in bytes that end in
/// [`COPY`] and that `before` others precede.
pub(super) fn split_copy(bytes: &[u8], before: usize) -> PyResult<(usize, CopyHead)> {
    let (len, end) = split_last_u16(bytes).ok_or_else(damaged)?;
    let begin = end.checked_sub(len).ok_or_else(damaged)?;
    let mut head = bytes.get(begin..end).ok_or_else(damaged)?;
    let (&[number, flags], numbers) = head.split_first_chunk().ok_or_else(damaged)?;
    head = numbers;
    let mut lengths = [0; AXES_MAX];
    let mut axes = 0;
    while !head.is_empty() {
        let length = lengths.get_mut(axes).ok_or_else(damaged)?;
        *length = length_of(take(&mut head))?;
        axes += 1;
    }
    Ok((
        before + begin,
        CopyHead {
            number,
            is_fortran: flags & FORTRAN != 0,
            lengths,
            axes,
        },
    ))
}

/// The number before the last byte, and where it begins.
fn split_last_u16(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = bytes.len().checked_sub(3)?;
    let pair = bytes.get(at..at + 2)?;
    Some((usize::from(u16::from_le_bytes([pair[0], pair[1]])), at))
}

impl CopyHead {
    fn lengths(&self) -> &[ffi::Py_ssize_t] {
        &self.lengths[..self.axes]
    }

    fn check(&self, api: &Api, nbytes: usize) -> PyResult<numpy::Dtype> {
        let dtype = api.dtype_of_number(self.number).ok_or_else(damaged)?;
        if nbytes_of(self.lengths(), dtype.item_bytes) != Some(nbytes) {
            return Err(damaged());
        }
        Ok(dtype)
    }

    /// An ordinary array with a copy of these elements.
    pub(super) fn array_of<'py>(
        &self,
        py: Python<'py>,
        elements: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        let api = api(py)?;
        let dtype = self.check(api, elements.len())?;
        let array = api.array_new(py, self.lengths(), dtype, self.is_fortran)?;
        let data = ndarray::see(&array).ok_or_else(damaged)?.data;
        // SAFETY: the array is new and has exactly so many bytes, as was checked.
        unsafe { std::ptr::copy_nonoverlapping(elements.as_ptr(), data, elements.len()) };
        Ok(array)
    }

    /// An ordinary array over the first bytes of an exporter.
    pub(super) fn array_over<'py>(
        &self,
        exporter: Bound<'py, PyAny>,
        nbytes: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = exporter.py();
        let api = api(py)?;
        let dtype = self.check(api, nbytes)?;
        let (hold, len) = exporter::block_of(&exporter).ok_or_else(damaged)?;
        if nbytes > len {
            return Err(damaged());
        }
        let start = hold.start().as_ptr();
        let (lengths, is_fortran) = (self.lengths(), self.is_fortran);
        // SAFETY: the block has so many bytes from there, and blocks begin at multiples of 64.
        unsafe { api.array_over(exporter, start, lengths, dtype, is_fortran) }
    }
}

/// What [`held`] wrote: where an array lies in a hold.
pub(super) struct HeldHead {
    pub(super) number: u8,
    flags: u8,
    pub(super) hold: usize,
    pub(super) len_bytes: usize,
    pub(super) offset: i64,
    pub(super) axes: Vec<(i64, i64)>,
}

impl HeldHead {
    /// Reads bytes that end in [`HELD`].
    pub(super) fn read(bytes: &[u8]) -> PyResult<Self> {
        let (_, head) = bytes.split_last().ok_or_else(damaged)?;
        let (&[number, flags], mut rest) = head.split_first_chunk().ok_or_else(damaged)?;
        let rest = &mut rest;
        let hold = length_of(take(rest))? as usize;
        let len_bytes = length_of(take(rest))? as usize;
        let offset = unfold(take(rest).map_err(|_| damaged())?);
        let mut axes = Vec::new();
        while !rest.is_empty() {
            let length = length_of(take(rest))? as i64;
            axes.push((length, unfold(take(rest).map_err(|_| damaged())?)));
        }
        Ok(HeldHead {
            number,
            flags,
            hold,
            len_bytes,
            offset,
            axes,
        })
    }

    /// Refuses whoever wants to write to memory that is not to be written to.
    pub(super) fn protect(&self, exporter: &Bound<'_, PyAny>) {
        if self.flags & FROZEN != 0 {
            exporter::make_read_only(exporter);
        }
    }

    /// Checks that the array lies inside its memory.
    pub(super) fn check(&self, item_bytes: i64) -> PyResult<()> {
        view::check(self.len_bytes as u64, self.offset, &self.axes, item_bytes).map_err(outside)
    }

    /// The array over an exporter of the hold.
    pub(super) fn array_over<'py>(
        &self,
        exporter: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = exporter.py();
        let api = api(py)?;
        let dtype = api.dtype_of_number(self.number).ok_or_else(damaged)?;
        self.check(dtype.item_bytes as i64)?;
        let (hold, len) = exporter::block_of(&exporter).ok_or_else(damaged)?;
        if self.len_bytes > len || self.axes.len() > AXES_MAX {
            return Err(damaged());
        }
        self.protect(&exporter);
        let mut lengths = [0; AXES_MAX];
        let mut strides = [0; AXES_MAX];
        for (at, &(length, stride)) in self.axes.iter().enumerate() {
            lengths[at] = length as ffi::Py_ssize_t;
            strides[at] = stride as ffi::Py_ssize_t;
        }
        let axes = self.axes.len();
        let start = hold.start().as_ptr().wrapping_offset(self.offset as isize);
        // SAFETY: `check` found every item inside the exporter's bytes.
        let array = unsafe {
            api.array_strided(exporter, start, &lengths[..axes], &strides[..axes], dtype)
        }?;
        if self.flags & SHARED != 0 {
            // SAFETY: new, of NumPy's own type, and nobody else has seen it.
            unsafe { ndarray::adopt(array.as_ptr()) };
        }
        if self.flags & (READ_ONLY | FROZEN) != 0 {
            ndarray::freeze(&array);
        }
        Ok(array)
    }
}

/// NumPy's table, without which arrays are not written here.
pub(super) fn api(py: Python<'_>) -> PyResult<&Api> {
    if numpy::api(py).is_none() {
        // The first array that this process sees comes out of a queue.
        gil::import(names(py).arrays.bind(py))?;
    }
    numpy::api(py).ok_or_else(|| PyTypeError::new_err("an array came, and NumPy is not at hand"))
}

fn length_of(length: Result<u64, Error>) -> PyResult<ffi::Py_ssize_t> {
    let length = length.ok().and_then(|length| length.try_into().ok());
    length.ok_or_else(damaged)
}

pub(super) fn outside(error: Error) -> PyErr {
    PyValueError::new_err(format!("view outside its memory: {error}"))
}

pub(super) fn damaged() -> PyErr {
    PyValueError::new_err("an item of a queue that contradicts itself")
}

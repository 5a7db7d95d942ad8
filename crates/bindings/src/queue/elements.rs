//! Arrays of plain numbers, and their elements as bytes, whatever the strides.
//!
//! Guarantee: elements are in the order that [`wire::copy_tail`] tells; no Python code runs.

#![allow(unsafe_code)]

use std::ptr;

use pyo3::ffi::Py_ssize_t;
use pyo3::prelude::*;
use shared_numpy_core::queue::INLINE_MAX_BYTES;

use super::wire;
use crate::ndarray::{self, Kind, Seen};
use crate::numpy::{self, AXES_MAX};

/// What is seen now of an array of plain numbers, of NumPy's type or ours. Python code that
/// runs may change the array.
pub(super) struct Numbers<'a> {
    pub(super) seen: Seen<'a>,
    /// Of its dtype.
    pub(super) number: u8,
    pub(super) item_bytes: usize,
    /// Of all elements.
    pub(super) nbytes: usize,
}

impl<'a> Numbers<'a> {
    /// `None` for other objects. For no array of plain numbers Python code runs.
    #[inline]
    pub(super) fn of(array: &'a Bound<'_, PyAny>) -> Option<Self> {
        let (seen, api) = (ndarray::see(array)?, numpy::api(array.py())?);
        let (number, item_bytes) = wire::number_of(api, array.py(), &seen)?;
        let nbytes = wire::nbytes_of(seen.lengths, item_bytes)?;
        (seen.lengths.len() <= AXES_MAX).then_some(Numbers {
            seen,
            number,
            item_bytes,
            nbytes,
        })
    }

    pub(super) fn is_shared(&self) -> bool {
        self.seen.kind == Kind::Shared
    }

    pub(super) fn is_in_one_piece(&self) -> bool {
        self.seen.is_c_contiguous() || self.seen.is_f_contiguous()
    }

    /// Whether it is copied into items, whatever its strides.
    pub(super) fn is_small(&self) -> bool {
        !self.is_shared() && self.nbytes as u64 <= INLINE_MAX_BYTES
    }

    /// Appends its elements, and what is said of them.
    ///
    /// # Safety
    ///
    /// - No Python code has run since [`Numbers::of`].
    pub(super) unsafe fn append_to(&self, out: &mut Vec<u8>) {
        if self.nbytes > 0 {
            out.reserve(self.nbytes);
            let (from, seen) = (self.seen.data.cast_const(), &self.seen);
            let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            if self.is_in_one_piece() {
                // SAFETY: the array has so many bytes in one piece, and the vector room for
                // them, in memory of its own. Others may write to shared memory meanwhile, as
                // to the argument of any function of NumPy's: raw bytes, of which no reference
                // is made.
                unsafe { ptr::copy_nonoverlapping(from, to, self.nbytes) };
            } else {
                // SAFETY: as above, element for element: an array's lengths and strides lead
                // to its own elements, of which there are `nbytes` in all.
                unsafe { gather(from, seen.lengths, seen.strides, self.item_bytes, to) };
            }
            // SAFETY: so many more bytes are initialised now.
            unsafe { out.set_len(out.len() + self.nbytes) };
        }
        wire::copy_tail(out, self.number, &self.seen);
    }
}

/// Copies elements, the last axis quickest; where the next one would go.
///
/// # Safety
///
/// - From `from` the lengths and strides lead to readable items; `to` has room for all.
unsafe fn gather(
    from: *const u8,
    lengths: &[Py_ssize_t],
    strides: &[Py_ssize_t],
    item_bytes: usize,
    mut to: *mut u8,
) -> *mut u8 {
    let (Some((&length, lengths)), Some((&stride, strides))) =
        (lengths.split_first(), strides.split_first())
    else {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from, to, item_bytes) };
        return to.wrapping_add(item_bytes);
    };
    if lengths.is_empty() {
        let row = match item_bytes {
            1 => row::<1>,
            2 => row::<2>,
            4 => row::<4>,
            8 => row::<8>,
            16 => row::<16>,
            _ => row_of_any,
        };
        // SAFETY: the caller's promise.
        return unsafe { row(from, length, stride, item_bytes, to) };
    }
    for at in 0..length {
        // SAFETY: as above, for one place on this axis.
        to = unsafe {
            gather(
                from.wrapping_offset(at * stride),
                lengths,
                strides,
                item_bytes,
                to,
            )
        };
    }
    to
}

/// # Safety
///
/// - As [`gather`], for one axis; items have `N` bytes.
unsafe fn row<const N: usize>(
    from: *const u8,
    length: Py_ssize_t,
    stride: Py_ssize_t,
    _item_bytes: usize,
    mut to: *mut u8,
) -> *mut u8 {
    for at in 0..length {
        let from = from.wrapping_offset(at * stride).cast::<[u8; N]>();
        // SAFETY: the caller's promise; bytes have no alignment.
        let item = unsafe { from.read() };
        // SAFETY: as above.
        unsafe { to.cast::<[u8; N]>().write(item) };
        to = to.wrapping_add(N);
    }
    to
}

/// # Safety
///
/// - As [`gather`], for one axis.
unsafe fn row_of_any(
    from: *const u8,
    length: Py_ssize_t,
    stride: Py_ssize_t,
    item_bytes: usize,
    mut to: *mut u8,
) -> *mut u8 {
    for at in 0..length {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.wrapping_offset(at * stride), to, item_bytes) };
        to = to.wrapping_add(item_bytes);
    }
    to
}

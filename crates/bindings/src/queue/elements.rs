//! The elements of an ordinary array as bytes, whatever its strides.
//!
//! Guarantee: they are in the order that [`wire::copy_tail`] tells; no Python code runs.

#![allow(unsafe_code)]

use std::ptr;

use pyo3::ffi::Py_ssize_t;

use super::wire;
use crate::ndarray::Seen;

/// Appends the elements of an array, and what is said of them: the dtype's `number`, whose
/// items have `item_bytes`, and the axes. All elements have `nbytes`.
///
/// # Safety
///
/// - `seen` is what is seen now of an array of such items, with so many bytes of elements.
pub(super) unsafe fn append(
    out: &mut Vec<u8>,
    seen: &Seen<'_>,
    number: u8,
    item_bytes: usize,
    nbytes: usize,
) {
    if nbytes > 0 {
        out.reserve(nbytes);
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        if seen.is_c_contiguous() || seen.is_f_contiguous() {
            // SAFETY: the array has so many bytes in one piece, and the vector room for them,
            // in memory of its own. Others may write to shared memory meanwhile, as to the
            // argument of any function of NumPy's: raw bytes, of which no reference is made.
            unsafe { ptr::copy_nonoverlapping(seen.data.cast_const(), to, nbytes) };
        } else {
            // SAFETY: as above, element for element: an array's lengths and strides lead to
            // its own elements, of which there are `nbytes` in all.
            unsafe { gather(seen.data, seen.lengths, seen.strides, item_bytes, to) };
        }
        // SAFETY: so many more bytes are initialised now.
        unsafe { out.set_len(out.len() + nbytes) };
    }
    wire::copy_tail(out, number, seen);
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

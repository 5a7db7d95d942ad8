//! Plain data from bytes.

#![allow(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use shared_numpy_core::list::Item;

use super::super::{pickling, wire};
use super::{
    AGAIN, ARRAY, BYTES, DEPTH_MAX, DICT, FALSE, FLOAT, INT, LIST, NONE, TEXT, TRUE, TUPLE,
};
use crate::handle::{take, unfold};
use crate::list::object_of;

/// The object that [`super::write`] made these bytes of, so many of which are objects, and
/// whose holds are at hand (`with_arrived`).
pub(in super::super) fn read<'py>(
    py: Python<'py>,
    bytes: &[u8],
    objects_len: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (rest, arrays) = bytes
        .split_at_checked(objects_len)
        .ok_or_else(wire::damaged)?;
    let mut reader = Reader {
        py,
        rest,
        arrays,
        met: Vec::new(),
        depth: 0,
        in_key: false,
    };
    let object = reader.object()?;
    if !reader.rest.is_empty() || !reader.arrays.is_empty() {
        return Err(wire::damaged());
    }
    Ok(object)
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
    arrays: &'a [u8],
    /// What may be meant again; `None` for a tuple that is not complete.
    met: Vec<Option<Bound<'py, PyAny>>>,
    depth: usize,
    /// Whether a key is being read.
    in_key: bool,
}

impl<'py> Reader<'_, 'py> {
    fn object(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let (&tag, rest) = self.rest.split_first().ok_or_else(wire::damaged)?;
        self.rest = rest;
        match tag {
            NONE => scalar(py, Item::None),
            TRUE | FALSE => scalar(py, Item::Bool(tag == TRUE)),
            INT => {
                let number = number(&mut self.rest)?;
                scalar(py, Item::Int(unfold(number)))
            }
            FLOAT => {
                let (bits, rest) = self.rest.split_first_chunk().ok_or_else(wire::damaged)?;
                self.rest = rest;
                scalar(py, Item::Float(f64::from_bits(u64::from_le_bytes(*bits))))
            }
            TEXT | BYTES | ARRAY => {
                let object = match tag {
                    TEXT => scalar(py, Item::Str(bytes(&mut self.rest)?))?,
                    BYTES => scalar(py, Item::Bytes(bytes(&mut self.rest)?))?,
                    _ => pickling::array_at(py, bytes(&mut self.arrays)?)?,
                };
                self.met.push(Some(object.clone()));
                Ok(object)
            }
            TUPLE | LIST | DICT => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(wire::damaged());
                }
                let len = len(&mut self.rest)?;
                let object = match tag {
                    TUPLE => self.tuple(len)?,
                    LIST => self.list(len)?,
                    _ => self.dict(len)?,
                };
                self.depth -= 1;
                Ok(object)
            }
            AGAIN => {
                let number =
                    usize::try_from(number(&mut self.rest)?).map_err(|_| wire::damaged())?;
                let object = self.met.get(number).cloned().flatten();
                // Made of tuples that are met again, a short key takes for ever to hash.
                let object =
                    object.filter(|it| !(self.in_key && it.is_exact_instance_of::<PyTuple>()));
                object.ok_or_else(wire::damaged)
            }
            _ => Err(wire::damaged()),
        }
    }

    fn tuple(&mut self, len: usize) -> PyResult<Bound<'py, PyAny>> {
        let number = self.met.len();
        self.met.push(None);
        let objects = (0..len).map(|_| self.object());
        let objects = objects.collect::<PyResult<Vec<_>>>()?;
        let tuple = PyTuple::new(self.py, objects)?.into_any();
        self.met[number] = Some(tuple.clone());
        Ok(tuple)
    }

    fn list(&mut self, len: usize) -> PyResult<Bound<'py, PyAny>> {
        let list = PyList::empty(self.py);
        self.met.push(Some(list.clone().into_any()));
        for _ in 0..len {
            list.append(self.object()?)?;
        }
        Ok(list.into_any())
    }

    fn dict(&mut self, len: usize) -> PyResult<Bound<'py, PyAny>> {
        let dict = PyDict::new(self.py);
        self.met.push(Some(dict.clone().into_any()));
        for _ in 0..len {
            let was_in_key = std::mem::replace(&mut self.in_key, true);
            let key = self.object()?;
            self.in_key = was_in_key;
            dict.set_item(key, self.object()?)?;
        }
        Ok(dict.into_any())
    }
}

fn scalar<'py>(py: Python<'py>, item: Item<'_>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `py` proves that the lock is held.
    let object = unsafe { object_of(item) };
    // SAFETY: a new reference, or null and an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }
}

fn number(rest: &mut &[u8]) -> PyResult<u64> {
    take(rest).map_err(|_| wire::damaged())
}

/// A length, of which there are as many bytes at least.
fn len(rest: &mut &[u8]) -> PyResult<usize> {
    let len = usize::try_from(number(rest)?).ok();
    len.filter(|&len| len <= rest.len())
        .ok_or_else(wire::damaged)
}

fn bytes<'a>(rest: &mut &'a [u8]) -> PyResult<&'a [u8]> {
    let len = len(rest)?;
    let (bytes, after) = rest.split_at(len);
    *rest = after;
    Ok(bytes)
}

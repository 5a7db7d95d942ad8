//! Plain data as bytes.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use shared_numpy_core::list::Item;
use shared_numpy_core::queue::INLINE_MAX_BYTES;

use super::super::Tools;
use super::super::along::{self, ByAddress, Collected};
use super::super::elements::Numbers;
use super::{
    AGAIN, ARRAY, BYTES, DEPTH_MAX, DICT, FALSE, FLOAT, INT, LIST, NONE, OBJECTS_MAX, TEXT, TRUE,
    TUPLE, WITH_ARRAYS_MAX,
};
use crate::handle::{fold, put};
use crate::list::item_of;
use crate::ndarray;

/// Plain data, written.
pub(in super::super) struct Plain {
    pub(in super::super) bytes: Vec<u8>,
    /// How many of them are objects; arrays follow.
    pub(in super::super) objects_len: u32,
    pub(in super::super) along: Collected,
}

/// Writes plain data; `None` for other objects.
///
/// # Errors
///
/// What making a copy of a large array raises.
pub(in super::super) fn write(tools: &Tools, object: &Bound<'_, PyAny>) -> PyResult<Option<Plain>> {
    let mut writer = Writer {
        out: Vec::new(),
        left: WITH_ARRAYS_MAX,
        met: HashMap::default(),
        under_way: Vec::new(),
        in_key: false,
        arrays: Vec::new(),
    };
    if writer.object(object).is_none() {
        return Ok(None);
    }
    let Writer { out, arrays, .. } = writer;
    let mut plain = Plain {
        objects_len: out.len() as u32, // at most WITH_ARRAYS_MAX times a little above 16 KiB
        bytes: out,
        along: Collected::default(),
    };
    // Before anything is copied for nothing.
    let can_go = |array: &Bound<'_, PyAny>| {
        Numbers::of(array).is_some_and(|it| !it.is_shared() || along::is_in_block(array))
    };
    if !arrays.iter().all(can_go) {
        return Ok(None);
    }
    for array in &arrays {
        if !plain.add(tools, array)? {
            return Ok(None);
        }
    }
    Ok(Some(plain))
}

/// Goes through the objects. Its functions give `None` for what is not plain.
///
/// They make no Python objects, which could lead to a collection of garbage, and run no Python
/// code: nobody changes the objects meanwhile. The exception is text that is no Unicode, after
/// which there is nothing more to write; if a program has put a handler of its own for that in
/// the place of Python's, a dictionary or list that changes is not plain.
struct Writer<'py> {
    out: Vec<u8>,
    /// How many more objects there may be.
    left: usize,
    /// The numbers of those that may be met again, by address.
    met: HashMap<usize, usize, ByAddress>,
    /// Of the containers around the present object the numbers, and whether each is a tuple.
    under_way: Vec<(usize, bool)>,
    /// Whether a key is being written.
    in_key: bool,
    arrays: Vec<Bound<'py, PyAny>>,
}

impl<'py> Writer<'py> {
    fn object(&mut self, object: &Bound<'py, PyAny>) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        if self.left < WITH_ARRAYS_MAX - OBJECTS_MAX && self.arrays.is_empty() {
            return None;
        }
        let ty = object.get_type_ptr();
        if ty == &raw mut ffi::PyUnicode_Type || ty == &raw mut ffi::PyBytes_Type {
            return match self.is_first(object)? {
                true => self.scalar(object),
                false => Some(()),
            };
        }
        let is_number = ty == &raw mut ffi::PyLong_Type
            || ty == &raw mut ffi::PyFloat_Type
            || ty == &raw mut ffi::PyBool_Type;
        if is_number || object.is_none() {
            return self.scalar(object);
        }
        if !self.is_first(object)? {
            return Some(());
        }
        if let Ok(dict) = object.cast_exact::<PyDict>() {
            self.pairs(dict)?;
        } else if let Ok(list) = object.cast_exact::<PyList>() {
            let len = list.len();
            self.enter(LIST, len)?;
            for at in 0..len {
                self.object(&list.get_item(at).ok()?)?;
            }
            if list.len() != len {
                return None;
            }
        } else if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            self.enter(TUPLE, tuple.len())?;
            for object in tuple.iter() {
                self.object(&object)?;
            }
        } else {
            ndarray::see(object)?;
            self.arrays.push(object.clone());
            self.out.push(ARRAY);
            return Some(());
        }
        self.under_way.pop();
        Some(())
    }

    fn pairs(&mut self, dict: &Bound<'py, PyDict>) -> Option<()> {
        let (py, len) = (dict.py(), dict.len());
        self.enter(DICT, len)?;
        let mut at = 0;
        for _ in 0..len {
            let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: a dictionary, and places for what it says.
            let is_there = unsafe {
                ffi::PyDict_Next(dict.as_ptr(), &raw mut at, &raw mut key, &raw mut value)
            };
            if is_there == 0 {
                return None;
            }
            // SAFETY: the dictionary has them, and nothing has run since; adds a reference.
            let key = unsafe { Bound::from_borrowed_ptr(py, key) };
            // SAFETY: as above.
            let value = unsafe { Bound::from_borrowed_ptr(py, value) };
            let was_in_key = std::mem::replace(&mut self.in_key, true);
            self.object(&key)?;
            self.in_key = was_in_key;
            self.object(&value)?;
            if dict.len() != len {
                return None;
            }
        }
        Some(())
    }

    /// Whether an object is met for the first time; writes which one it is otherwise.
    fn is_first(&mut self, object: &Bound<'py, PyAny>) -> Option<bool> {
        let next = self.met.len();
        let number = *self.met.entry(object.as_ptr() as usize).or_insert(next);
        if number == next {
            return Some(true);
        }
        // A tuple is made after what is in it.
        if self.under_way.contains(&(number, true)) {
            return None;
        }
        if self.in_key && object.is_exact_instance_of::<PyTuple>() {
            return None;
        }
        self.out.push(AGAIN);
        put(&mut self.out, number as u64);
        Some(false)
    }

    /// Begins a container, the object that was met last.
    fn enter(&mut self, tag: u8, len: usize) -> Option<()> {
        if len > self.left || self.under_way.len() == DEPTH_MAX {
            return None;
        }
        self.under_way.push((self.met.len() - 1, tag == TUPLE));
        self.out.push(tag);
        put(&mut self.out, len as u64);
        Some(())
    }

    fn scalar(&mut self, object: &Bound<'py, PyAny>) -> Option<()> {
        // SAFETY: the lock is held, and the object alive for as long as the item is used.
        let Ok(item) = (unsafe { item_of(object.as_ptr()) }) else {
            // An int of more than 64 bits, or text that is not Unicode: pickle can.
            drop(PyErr::take(object.py()));
            return None;
        };
        let out = &mut self.out;
        match item {
            Item::None => out.push(NONE),
            Item::Bool(is) => out.push(if is { TRUE } else { FALSE }),
            Item::Int(number) => {
                out.push(INT);
                put(out, fold(number));
            }
            Item::Float(number) => {
                out.push(FLOAT);
                out.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Item::Str(bytes) | Item::Bytes(bytes) => {
                if bytes.len() as u64 > INLINE_MAX_BYTES {
                    return None;
                }
                let is_text = matches!(item, Item::Str(_));
                out.push(if is_text { TEXT } else { BYTES });
                put(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
        Some(())
    }
}

impl Plain {
    /// Adds an array; whether it is still one of plain numbers: a copy of another one may have
    /// let somebody change it.
    fn add(&mut self, tools: &Tools, array: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(numbers) = Numbers::of(array) else {
            return Ok(false);
        };
        let mut told = Vec::new();
        if numbers.is_small() {
            // SAFETY: nothing has run since.
            unsafe { numbers.append_to(&mut told) };
        } else if !along::hold(tools, array, &numbers, &mut told, &mut self.along)? {
            return Ok(false);
        }
        put(&mut self.bytes, told.len() as u64);
        self.bytes.extend_from_slice(&told);
        Ok(true)
    }
}

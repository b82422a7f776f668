//! What pickles of arrays consist of.

use std::cell::RefCell;
use std::rc::Rc;

/// What a pickle builds. Containers are shared, as in Python: later operations change what the memo holds too.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `None`, and whatever says nothing about arrays.
    Nothing,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    Bytes(Rc<[u8]>),
    Tuple(Rc<[Value]>),
    List(Rc<RefCell<Vec<Value>>>),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// `module name`
    Global(Rc<str>),
    Dtype(Rc<RefCell<Dtype>>),
    Array(Rc<RefCell<Array>>),
}

/// A type of numbers.
#[derive(Clone, Debug)]
pub(super) struct Dtype {
    /// As `f4`.
    pub name: String,
    /// `<`, `>`, `=` or `|`.
    pub order: char,
}

/// An array; empty until its state is known.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The first index runs fastest.
    pub fortran: bool,
    pub data: Rc<[u8]>,
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn bytes(&self) -> Option<Rc<[u8]>> {
        match self {
            Self::Bytes(bytes) => Some(Rc::clone(bytes)),
            // Python 2 has one type for text and bytes.
            Self::Text(text) => latin1(text),
            _ => None,
        }
    }

    pub fn shape(&self) -> Option<Vec<usize>> {
        let Self::Tuple(sides) = self else { return None };
        let side = |value: &Value| match value {
            Self::Int(side) => usize::try_from(*side).ok(),
            _ => None,
        };
        sides.iter().map(side).collect()
    }

    pub fn dtype(&self) -> Option<Dtype> {
        match self {
            Self::Dtype(dtype) => Some(dtype.borrow().clone()),
            _ => None,
        }
    }
}

/// The bytes of a text whose characters stand for bytes.
pub(super) fn latin1(text: &str) -> Option<Rc<[u8]>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

//! The pickle machine: a stack, a memo and the operations that arrays need.

use std::cell::RefCell;
use std::rc::Rc;

use super::value::{Array, Dtype, Value, latin1};

/// The object of a pickle of protocol 2 to 5.
///
/// # Errors
/// Says where the pickle breaks off or is wrong.
pub(super) fn run(bytes: &[u8]) -> Result<Value, String> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    loop {
        let (at, operation) = (machine.at, machine.byte()?);
        if operation == b'.' {
            return machine.pop();
        }
        machine.step(operation).map_err(|reason| format!("byte {at}: {reason}"))?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Value>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, operation: u8) -> Result<(), String> {
        match operation {
            // PROTO and FRAME change nothing.
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => self.stack.push(self.top()?.clone()),
            b'N' => self.stack.push(Value::Nothing),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                let length = usize::from(self.byte()?);
                self.long(length)?;
            }
            0x8b => {
                let length = self.length(4)?;
                self.long(length)?;
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Nothing);
            }
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.binary(1)?,
            b'B' => self.binary(4)?,
            0x8e | 0x96 => self.binary(8)?,
            b'U' => self.string(1)?,
            b'T' => self.string(4)?,
            b')' => self.stack.push(Value::Tuple([].into())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.above_mark()?;
                self.stack.push(Value::Tuple(items.into()));
            }
            b']' => self.stack.push(Value::List(Rc::default())),
            b'}' => self.stack.push(Value::Dict(Rc::default())),
            0x8f => self.stack.push(Value::Nothing),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            0x91 => {
                self.above_mark()?;
                self.stack.push(Value::Nothing);
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set(items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(format!("{module} {name}").into()));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let both = module.text().zip(name.text()).ok_or("a name is no text")?;
                self.stack.push(Value::Global(format!("{} {}", both.0, both.1).into()));
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.stack.push(call(&callable, &arguments)?);
            }
            0x92 => {
                self.pop()?;
                self.pop()?;
                self.pop()?;
                self.stack.push(Value::Nothing);
            }
            b'b' => {
                let state = self.pop()?;
                build(self.top()?, &state)?;
            }
            b'q' => {
                let index = usize::from(self.byte()?);
                self.put(index)?;
            }
            b'r' => {
                let index = self.length(4)?;
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len())?,
            b'h' => {
                let index = usize::from(self.byte()?);
                self.get(index)?;
            }
            b'j' => {
                let index = self.length(4)?;
                self.get(index)?;
            }
            // A tensor of PyTorch lies outside of the pickle.
            b'Q' => {
                self.pop()?;
                self.stack.push(Value::Nothing);
            }
            other => return Err(format!("operation {other:#04x} is not one of a pickle of arrays")),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("it ends at byte {}, in the middle", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "a number is cut".to_string())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of this many bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let bytes = self.take(bytes)?;
        let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).map_err(|_| format!("a length of {value}"))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = memchr::memchr(b'\n', rest).ok_or("a name does not end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name is not UTF-8".to_string())
    }

    /// A whole number of any size; those beyond 64 bits say nothing.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let start = if negative { -1i64 } else { 0 };
        let value = match length <= 8 {
            true => Value::Int(bytes.iter().rev().fold(start, |value, &byte| value << 8 | i64::from(byte))),
            false => Value::Nothing,
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.length(length_bytes)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn binary(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.length(length_bytes)?;
        let bytes = self.take(length)?;
        self.stack.push(Value::Bytes(bytes.into()));
        Ok(())
    }

    /// Python 2's string: text where it is ASCII, else bytes.
    fn string(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.length(length_bytes)?;
        let bytes = self.take(length)?;
        self.stack.push(match std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()) {
            Some(text) => Value::Text(text.into()),
            None => Value::Bytes(bytes.into()),
        });
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "the stack is empty".to_string())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "the stack is empty".to_string())
    }

    fn above_mark(&mut self) -> Result<Vec<Value>, String> {
        let height = self.marks.pop().filter(|&height| height <= self.stack.len());
        Ok(self.stack.split_off(height.ok_or("there is no mark")?))
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(count).ok_or("the stack is too short for a tuple")?;
        let items = self.stack.split_off(start);
        self.stack.push(Value::Tuple(items.into()));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::List(list) = self.top()? {
            list.borrow_mut().extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::Dict(dict) = self.top()? {
            let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            dict.borrow_mut().extend(pairs);
        }
        Ok(())
    }

    /// Numbers of the memo follow each other; a gap is filled as far as the file could fill it.
    fn put(&mut self, index: usize) -> Result<(), String> {
        let value = self.top()?.clone();
        if index > self.bytes.len() {
            return Err(format!("memo {index} is beyond what the file can hold"));
        }
        if index >= self.memo.len() {
            self.memo.resize(index + 1, Value::Nothing);
        }
        self.memo[index] = value;
        Ok(())
    }

    fn get(&mut self, index: usize) -> Result<(), String> {
        let value = self.memo.get(index).ok_or_else(|| format!("memo {index} is empty"))?;
        self.stack.push(value.clone());
        Ok(())
    }
}

/// What the callables that make arrays return; others say nothing.
fn call(callable: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(arguments)) = (callable, arguments) else {
        return Ok(Value::Nothing);
    };
    // numpy 2 has moved `core` to `_core`.
    let name = name.replace("numpy._core.", "numpy.core.");
    Ok(match (name.as_str(), &arguments[..]) {
        ("collections OrderedDict", []) => Value::Dict(Rc::default()),
        ("_codecs encode", [Value::Text(text), Value::Text(encoding)]) if &**encoding == "latin1" => {
            Value::Bytes(latin1(text).ok_or("bytes are written with characters beyond 255")?)
        }
        ("builtins bytes" | "__builtin__ bytes", []) => Value::Bytes([].into()),
        ("builtins bytearray" | "__builtin__ bytearray", [bytes]) => {
            bytes.bytes().map_or(Value::Nothing, Value::Bytes)
        }
        ("numpy dtype", [Value::Text(name), ..]) => {
            Value::Dtype(Rc::new(RefCell::new(Dtype { name: name.to_string(), order: '=' })))
        }
        ("numpy.core.multiarray _reconstruct", _) => {
            let dtype = Dtype { name: "f4".into(), order: '<' };
            array(Array { shape: vec![0], dtype, fortran: false, data: [].into() })
        }
        ("numpy.core.multiarray scalar", [dtype, bytes]) => match (dtype.dtype(), bytes.bytes()) {
            (Some(dtype), Some(data)) => array(Array { shape: Vec::new(), dtype, fortran: false, data }),
            _ => Value::Nothing,
        },
        ("numpy.core.numeric _frombuffer", [bytes, dtype, shape, Value::Text(order)]) => {
            match (bytes.bytes(), dtype.dtype(), shape.shape()) {
                (Some(data), Some(dtype), Some(shape)) => {
                    array(Array { shape, dtype, fortran: &**order == "F", data })
                }
                _ => Value::Nothing,
            }
        }
        _ => Value::Nothing,
    })
}

fn array(array: Array) -> Value {
    Value::Array(Rc::new(RefCell::new(array)))
}

/// Gives an array or a type its state.
fn build(target: &Value, state: &Value) -> Result<(), String> {
    let Value::Tuple(state) = state else { return Ok(()) };
    match (target, &state[..]) {
        (Value::Array(array), [_, shape, dtype, Value::Bool(fortran), data]) => {
            let parts = (shape.shape(), dtype.dtype(), data.bytes());
            let (Some(shape), Some(dtype), Some(data)) = parts else {
                return Err("the state of an array is not shape, type and bytes".into());
            };
            *array.borrow_mut() = Array { shape, dtype, fortran: *fortran, data };
        }
        (Value::Dtype(dtype), [_, Value::Text(order), ..]) => {
            dtype.borrow_mut().order = order.chars().next().unwrap_or('=');
        }
        _ => {}
    }
    Ok(())
}

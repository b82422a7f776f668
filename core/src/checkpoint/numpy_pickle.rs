//! Pickles of numpy arrays (`.pkl`), as the converters for detectron2 write them: read without executing anything, and
//! written so that detectron2 reads them.
//!
//! The reader is Python's pickle machine (PEP 3154, `pickletools` describes each operation) without its power: of all
//! callables it knows those that make arrays, types and dictionaries; whatever else a pickle asks for becomes a value that
//! says nothing.

mod machine;
mod value;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::DType;

use super::error::CheckpointError;
use super::safetensors::host_tensor;
use crate::models::parameters::TensorMap;
use value::{Array, Value};

pub(super) use write::encode;

/// The entry under which [`encode`] keeps metadata.
const METADATA: &str = "scrl";
/// Dictionaries inside each other that are looked into.
const DEEPEST: usize = 16;

/// Every array of a pickle, nested dictionaries giving dotted keys, and the metadata where the file is one of ours.
///
/// # Errors
/// When the content is no pickle, is damaged, or has no array.
pub(super) fn decode(
    bytes: &[u8],
    path: &Path,
) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let problem = |text: String| CheckpointError::format(path, text);
    let root = machine::run(bytes).map_err(|reason| problem(format!("its pickle is damaged: {reason}")))?;
    let (mut tensors, mut metadata) = (TensorMap::new(), BTreeMap::new());
    for (key, value) in entries(&root) {
        if let (METADATA, Value::Dict(_)) = (key.as_str(), &value) {
            let texts = entries(&value).into_iter();
            metadata.extend(texts.filter_map(|(key, value)| Some((key, value.text()?.to_string()))));
        } else {
            collect(key, &value, DEEPEST, &mut tensors).map_err(problem)?;
        }
    }
    if tensors.is_empty() {
        let reason = "it is a pickle without any tensor of PyTorch or array of numpy; save `model.state_dict()` with \
                      torch.save";
        return Err(problem(reason.to_string()));
    }
    Ok((tensors, metadata))
}

/// The entries of a dictionary whose keys are texts.
fn entries(value: &Value) -> Vec<(String, Value)> {
    let Value::Dict(dict) = value else { return Vec::new() };
    let dict = dict.borrow();
    dict.iter().filter_map(|(key, value)| Some((key.text()?.to_string(), value.clone()))).collect()
}

fn collect(key: String, value: &Value, depth: usize, tensors: &mut TensorMap) -> Result<(), String> {
    match value {
        Value::Array(array) => {
            let tensor = tensor(&array.borrow()).map_err(|reason| format!("array `{key}`: {reason}"))?;
            tensors.insert(key, tensor);
            Ok(())
        }
        Value::Dict(_) if depth > 0 => entries(value)
            .into_iter()
            .try_for_each(|(name, inner)| collect(format!("{key}.{name}"), &inner, depth - 1, tensors)),
        _ => Ok(()),
    }
}

fn tensor(array: &Array) -> Result<burn::tensor::TensorData, String> {
    let (name, order) = (array.dtype.name.as_str(), array.dtype.order);
    let dtype = match name {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" | "b1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        other => return Err(format!("numbers of the type `{other}` are not read")),
    };
    let size = dtype.size();
    let count = array.shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
    if count.and_then(|count| count.checked_mul(size)) != Some(array.data.len()) {
        return Err(format!("{} bytes are not a `{name}` array of {:?}", array.data.len(), array.shape));
    }
    let mut bytes = array.data.to_vec();
    if order == '>' {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if array.fortran && array.shape.len() > 1 {
        bytes = row_major(&bytes, &array.shape, size);
    }
    host_tensor(bytes, &array.shape, dtype)
}

/// From Fortran's order, the first index running fastest, to C's.
fn row_major(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..bytes.len() / size {
        let place = index.iter().zip(shape).rev().fold(0, |place, (i, side)| place * side + i);
        ordered.extend_from_slice(&bytes[place * size..][..size]);
        for (i, side) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *side {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

#[cfg(test)]
mod tests;

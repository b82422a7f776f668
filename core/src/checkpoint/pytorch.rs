//! PyTorch's own files (`.pth`, `.pt`), read without executing what they pickle.

use std::path::Path;

use burn::tensor::DType;
use burn_store::pytorch_reader::{self, PytorchReader};

use super::error::CheckpointError;
use super::safetensors::host_tensor;
use crate::models::parameters::TensorMap;

/// Every tensor of a state dict; nested dicts give dotted keys.
pub(super) fn read(path: &Path) -> Result<TensorMap, CheckpointError> {
    let reader = PytorchReader::new(path)
        .map_err(|error| CheckpointError::format(path, format!("it is no PyTorch state dict ({error})")))?;
    let mut tensors = TensorMap::new();
    for (name, tensor) in reader.into_tensors() {
        let bytes = tensor.read().map_err(CheckpointError::read(path))?;
        let data = dtype_of(tensor.dtype())
            .ok_or_else(|| format!("unsupported type {:?}", tensor.dtype()))
            .and_then(|dtype| host_tensor(bytes, tensor.shape(), dtype))
            .map_err(|problem| CheckpointError::format(path, format!("tensor `{name}`: {problem}")))?;
        tensors.insert(name, data);
    }
    Ok(tensors)
}

fn dtype_of(dtype: pytorch_reader::DType) -> Option<DType> {
    use pytorch_reader::DType as Source;
    Some(match dtype {
        Source::F64 => DType::F64,
        Source::F32 => DType::F32,
        Source::F16 => DType::F16,
        Source::BF16 => DType::BF16,
        Source::I64 => DType::I64,
        Source::I32 => DType::I32,
        Source::I16 => DType::I16,
        Source::I8 => DType::I8,
        Source::U8 => DType::U8,
        _ => return None,
    })
}

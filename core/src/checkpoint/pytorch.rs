//! PyTorch's own files (`.pth`, `.pt`), read without executing what they pickle.

use std::path::Path;

use burn::tensor::DType;
use burn_store::pytorch_reader::{self, PytorchReader};

use super::error::CheckpointError;
use super::safetensors::host_tensor;
use crate::models::parameters::TensorMap;

/// What to do about a file that cannot be read.
const FIX: &str = "if it was copied or downloaded, do so again; \
    if it holds a whole model, save `model.state_dict()` instead";

/// Every tensor of a state dict or of a pickled module; nested dicts give dotted keys. Empty where it holds none.
pub(super) fn read(path: &Path) -> Result<TensorMap, CheckpointError> {
    let problem = |text: String| CheckpointError::format(path, text);
    let reader = PytorchReader::new(path)
        .map_err(|error| problem(format!("it is not a PyTorch state dict ({error}); {FIX}")))?;
    let mut tensors = TensorMap::new();
    for (name, tensor) in reader.into_tensors() {
        let bytes = tensor.read().map_err(CheckpointError::read(path))?;
        let data = dtype_of(tensor.dtype())
            .ok_or_else(|| format!("unsupported type {:?}", tensor.dtype()))
            .and_then(|dtype| host_tensor(bytes, tensor.shape(), dtype))
            .map_err(|error| problem(format!("tensor `{name}`: {error}")))?;
        tensors.insert(state_dict_key(&name), data);
    }
    Ok(tensors)
}

/// The key that `state_dict()` would have given to a tensor of a pickled `torch.nn.Module`.
fn state_dict_key(name: &str) -> String {
    let parts = name.split('.').filter(|part| !matches!(*part, "_modules" | "_parameters" | "_buffers"));
    parts.collect::<Vec<_>>().join(".")
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

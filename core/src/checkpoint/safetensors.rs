//! The safetensors format: a header of JSON, then the tensors' bytes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use crate::models::parameters::TensorMap;

/// The bytes of a file of f32 tensors; equal input gives equal bytes (the `safetensors` crate orders metadata at
/// random).
pub(super) fn encode(tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_string(), json!(metadata));
    }
    let mut end = 0;
    for (name, data) in tensors {
        let start = end;
        end += 4 * data.num_elements();
        let entry = json!({"dtype": "F32", "shape": data.shape().to_vec(), "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Eight-byte alignment of the data is part of the format.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for data in tensors.values() {
        bytes.extend(data.iter::<f32>().flat_map(f32::to_le_bytes));
    }
    bytes
}

/// Tensors and metadata of a file's bytes. Floats of any width become f32; integers keep their type.
pub(super) fn decode(
    bytes: &[u8],
    path: &Path,
) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let problem = |error| {
        CheckpointError::format(
            path,
            format!("it is not a safetensors file ({error}); it may be cut off, copy or download it again"),
        )
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(problem)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = TensorMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(problem)?.tensors() {
        let dtype = dtype_of(view.dtype()).ok_or_else(|| {
            CheckpointError::format(
                path,
                format!("tensor `{name}` has the unsupported type {}", view.dtype()),
            )
        })?;
        let data = host_tensor(view.data().to_vec(), view.shape(), dtype)
            .map_err(|error| CheckpointError::format(path, format!("tensor `{name}`: {error}")))?;
        tensors.insert(name, data);
    }
    Ok((tensors, metadata))
}

/// A host tensor from little-endian bytes, floats as f32.
pub(super) fn host_tensor(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> Result<TensorData, String> {
    let data =
        TensorData::try_from_bytes_vec(bytes, shape.to_vec(), dtype).map_err(|error| error.to_string())?;
    if dtype.is_float() && dtype != DType::F32 { Ok(data.convert::<f32>()) } else { Ok(data) }
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> BTreeMap<String, String> {
        ["b", "a", "c"].map(|key| (key.to_string(), format!("value of {key}"))).into()
    }

    fn tensors() -> TensorMap {
        let bits = [0.1f32, -0.0, f32::MIN_POSITIVE / 8.0, f32::INFINITY, f32::from_bits(0x7fc0_1234), 6.0];
        let tensor = TensorData::new(bits.to_vec(), [2, 3]);
        [("layer1.0.weight".to_string(), tensor), ("bias".to_string(), TensorData::new(vec![1.5f32], [1]))]
            .into()
    }

    #[test]
    fn tensors_round_trip_to_the_bit() {
        let bytes = encode(&tensors(), &metadata());
        let (read, names) = decode(&bytes, Path::new("x")).unwrap();
        assert_eq!(names, metadata());
        for (name, data) in tensors() {
            assert_eq!(read[&name].as_bytes(), data.as_bytes(), "{name}");
            assert_eq!(read[&name].shape(), data.shape());
        }
    }

    #[test]
    fn equal_content_gives_equal_bytes() {
        assert_eq!(encode(&tensors(), &metadata()), encode(&tensors(), &metadata()));
    }

    #[test]
    fn the_crate_of_the_format_reads_what_is_written() {
        let bytes = encode(&tensors(), &BTreeMap::new());
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("bias").unwrap().data(), 1.5f32.to_le_bytes());
    }

    #[test]
    fn half_precision_is_widened_and_integers_stay() {
        let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"n":{"dtype":"I64","shape":[],"data_offsets":[4,12]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0x00, 0x3c, 0x00, 0xc0]);
        bytes.extend(7i64.to_le_bytes());
        let (read, _) = decode(&bytes, Path::new("x")).unwrap();
        assert_eq!(read["h"].try_to_vec::<f32>().unwrap(), [1.0, -2.0]);
        assert_eq!(read["n"].try_to_vec::<i64>().unwrap(), [7]);
    }

    #[test]
    fn a_file_of_another_kind_is_refused_by_name() {
        let error = decode(b"PK\x03\x04 not this", Path::new("w.zip")).unwrap_err().to_string();
        assert!(error.starts_with("cannot understand `w.zip`: it is not a safetensors file"), "{error}");
    }
}

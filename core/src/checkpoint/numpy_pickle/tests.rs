use burn::tensor::TensorData;

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/numpy_pickle");

fn read(bytes: &[u8]) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    decode(bytes, Path::new("w.pkl"))
}

#[test]
fn what_numpy_pickles_is_read_by_every_protocol() {
    let expected = std::fs::read(format!("{FOLDER}/expected.json")).unwrap();
    let expected: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&expected).unwrap();
    for protocol in 2..=5 {
        let bytes = std::fs::read(format!("{FOLDER}/protocol_{protocol}.pkl")).unwrap();
        let (tensors, metadata) = read(&bytes).unwrap();
        assert!(metadata.is_empty());
        assert_eq!(tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, expected) in &expected {
            let tensor = &tensors[name];
            let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
            assert_eq!(tensor.shape()[..], shape, "{name}");
            let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
            let found: Vec<f64> = tensor.iter::<f64>().collect();
            // Doubles are rounded to floats; everything else is exact.
            let rounded: Vec<f64> = values.iter().map(|&value| f64::from(value as f32)).collect();
            assert!(found == values || found == rounded, "{name} of protocol {protocol}: {found:?}");
        }
    }
}

#[test]
fn what_is_written_comes_back_with_its_metadata() {
    let tensor = |values: Vec<f32>, shape: &[usize]| TensorData::new(values, shape.to_vec());
    let tensors: TensorMap = [
        ("stem.conv1.weight".to_string(), tensor(vec![0.5, -1.0, 3.25, f32::MIN_POSITIVE], &[2, 2])),
        ("bias".to_string(), tensor(vec![1e-9], &[1])),
    ]
    .into();
    let metadata: BTreeMap<String, String> = [("scrl.arch".into(), "resnet18".into())].into();
    let (read, found) = read(&encode(&tensors, &metadata)).unwrap();
    assert_eq!(found, metadata);
    for (name, data) in &tensors {
        assert_eq!(&read[&format!("model.{name}")], data);
    }
}

#[test]
fn every_truncation_and_every_changed_byte_is_an_error_or_a_value_but_no_panic() {
    let bytes = std::fs::read(format!("{FOLDER}/protocol_4.pkl")).unwrap();
    for end in 0..bytes.len() {
        assert!(read(&bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        for value in [0, b'b', b'R', b'e', 0x94, 0xff, bytes[at] ^ 1] {
            let mut changed = bytes.clone();
            changed[at] = value;
            // Whatever it means now.
            let _ = read(&changed);
        }
    }
}

#[test]
fn nothing_is_executed_and_a_pickle_without_arrays_says_so() {
    // `os.system("touch …")` by REDUCE, the usual attack.
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("touched");
    let command = format!("touch {}", target.display());
    let mut bytes = b"\x80\x03cos\nsystem\nX".to_vec();
    bytes.extend((command.len() as u32).to_le_bytes());
    bytes.extend(command.as_bytes());
    bytes.extend(b"\x85R.");
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("without any tensor of PyTorch or array of numpy"), "{error}");
    assert!(!target.exists());
    // A dictionary that holds itself.
    let error = read(b"\x80\x03}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap_err().to_string();
    assert!(error.contains("without any tensor"), "{error}");
}

//! Writes a pickle of protocol 4, without a memo.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::METADATA;
use crate::models::parameters::TensorMap;

/// `{"model": {NAME: array}, "__author__": "scrl", "matching_heuristics": True, "scrl": metadata}`: what detectron2's
/// checkpointer takes from a `.pkl` file. Floats are written as little-endian f32.
pub(in crate::checkpoint) fn encode(tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut pickle = Pickle(vec![0x80, 4]);
    pickle.dict(|pickle| {
        pickle.text("model");
        pickle.dict(|pickle| {
            for (name, data) in tensors {
                pickle.text(name);
                pickle.array(data);
            }
        });
        pickle.text("__author__");
        pickle.text("scrl");
        pickle.text("matching_heuristics");
        pickle.boolean(true);
        pickle.text(METADATA);
        pickle.dict(|pickle| {
            for (key, value) in metadata {
                pickle.text(key);
                pickle.text(value);
            }
        });
    });
    pickle.0.push(b'.');
    pickle.0
}

struct Pickle(Vec<u8>);

impl Pickle {
    /// EMPTY_DICT MARK … SETITEMS
    fn dict(&mut self, items: impl FnOnce(&mut Self)) {
        self.0.extend(b"}(");
        items(self);
        self.0.push(b'u');
    }

    /// BINUNICODE8
    fn text(&mut self, text: &str) {
        self.0.push(0x8d);
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    /// NEWTRUE or NEWFALSE
    fn boolean(&mut self, value: bool) {
        self.0.push(if value { 0x88 } else { 0x89 });
    }

    /// LONG1 of eight bytes.
    fn int(&mut self, value: i64) {
        self.0.extend([0x8a, 8]);
        self.0.extend(value.to_le_bytes());
    }

    /// BINBYTES8
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.push(0x8e);
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
    }

    /// MARK … TUPLE
    fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.0.push(b'(');
        items(self);
        self.0.push(b't');
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    /// An empty array that its state then fills, as numpy pickles it.
    fn array(&mut self, data: &TensorData) {
        let values: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
        self.global("numpy.core.multiarray", "_reconstruct");
        self.tuple(|pickle| {
            pickle.global("numpy", "ndarray");
            pickle.tuple(|pickle| pickle.int(0));
            pickle.bytes(b"b");
        });
        self.0.push(b'R');
        self.tuple(|pickle| {
            pickle.int(1);
            pickle.tuple(|pickle| data.shape().iter().for_each(|&side| pickle.int(side as i64)));
            pickle.global("numpy", "dtype");
            pickle.tuple(|pickle| {
                pickle.text("f4");
                pickle.boolean(false);
                pickle.boolean(true);
            });
            pickle.0.push(b'R');
            pickle.tuple(|pickle| {
                pickle.int(3);
                pickle.text("<");
                pickle.0.extend(b"NNN");
                pickle.int(-1);
                pickle.int(-1);
                pickle.int(0);
            });
            pickle.0.push(b'b');
            pickle.boolean(false);
            pickle.bytes(&values);
        });
        self.0.push(b'b');
    }
}

//! What became of every key when a backbone was read.

/// A tensor whose shape is not the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// torchvision's key.
    pub key: String,
    /// Shape in the network.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}

/// Every key of a file, and every key that the network would have wanted, in exactly one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// The file's key and torchvision's, in the order of the latter.
    pub matched: Vec<(String, String)>,
    /// torchvision's keys of the network that the file does not have.
    pub missing: Vec<String>,
    /// Tensors of another shape.
    pub mismatched: Vec<ShapeMismatch>,
    /// Keys of the file, inside the network, that no tensor of a ResNet has.
    pub unused: Vec<String>,
    /// Keys of the file that are of a classifier or projection head (`fc.*`); a backbone has none.
    pub classifier: Vec<String>,
    /// PyTorch's counters of batches (`num_batches_tracked`); they do not change a result.
    pub counters: Vec<String>,
    /// Keys of the file outside the network: other networks, heads, optimizer state.
    pub outside: Vec<String>,
}

impl KeyReport {
    /// Whether every tensor of the network was found in its shape, and nothing in it was left over.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty() && self.unused.is_empty()
    }

    /// Counts of what does not fit, with up to five keys of each kind; empty for a complete report.
    pub fn problem(&self) -> String {
        let mismatched: Vec<String> = self.mismatched.iter().map(ToString::to_string).collect();
        [("missing", &self.missing), ("left over", &self.unused), ("of another shape", &mismatched)]
            .into_iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(title, keys)| {
                let more = if keys.len() > 5 { ", …" } else { "" };
                format!("{} {title} ({}{more})", keys.len(), keys[..keys.len().min(5)].join(", "))
            })
            .collect::<Vec<_>>()
            .join("; ")
    }
}

impl std::fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} instead of {:?}", self.key, self.found, self.expected)
    }
}

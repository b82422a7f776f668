//! What the tests with ONNX Runtime share.

use scrl_export::runtime::{RuntimeError, runtime};

/// Whether there is ONNX Runtime; says so where this machine has none and cannot download it. `SCRL_REQUIRE_ONNXRUNTIME`
/// makes that a failure.
pub fn has_runtime() -> bool {
    match runtime() {
        Ok(_) => true,
        Err(error @ RuntimeError::NotFound { .. })
            if std::env::var_os("SCRL_REQUIRE_ONNXRUNTIME").is_none() =>
        {
            eprintln!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

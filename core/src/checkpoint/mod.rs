//! Checkpoints and weight files.

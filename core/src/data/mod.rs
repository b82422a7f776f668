//! Datasets and the loader.

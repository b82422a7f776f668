//! Tests of the `scrl` binary.

mod bench;
mod benchmark;
mod cli;
#[cfg(feature = "cloud")]
mod cloud;
mod convert;
mod dataset;
mod evaluate;
mod export;
mod exported;
mod field_inputs;
mod inspect;
mod lengths;
#[cfg(feature = "mpi")]
mod mpi;
mod pack;
mod pipeline;
mod precision;
mod predict;
mod probe;
mod real_data;
mod recipes;
mod replay;
mod resume;
mod retinanet;
mod screens;
mod support;
mod transfer;
#[cfg(feature = "wgpu")]
mod wgpu;

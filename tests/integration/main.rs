//! Tests of the `scrl` binary.

mod bench;
mod cli;
mod pipeline;
mod real_data;
mod support;

//! Tests of the `scrl` binary.

mod cli;
mod pipeline;
mod real_data;
mod support;

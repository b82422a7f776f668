//! Tests of the `scrl` binary.

mod bench;
mod cli;
mod convert;
mod inspect;
mod pipeline;
mod probe;
mod real_data;
mod support;

//! Shared by pretraining and transfer: backbone, images, data, solver, checkpoints, run engine, config.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod draw;
pub mod engine;
pub mod models;
pub mod random;
pub mod solver;
pub mod structures;
pub mod transforms;

//! Configuration files: TOML with overrides, unknown keys refused by name.

//! Settings that are well formed and still cannot be used.

use std::fmt::Display;

use thiserror::Error;

/// A setting whose value no run can use.
///
/// Every crate's error has one inside, so that a program can tell a wrong configuration from a failed run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("setting `{key}` is {value}, but must be {expected}")]
pub struct SettingError {
    /// Dotted path of the setting.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub expected: String,
}

impl SettingError {
    /// The error of a setting that is one table of another.
    #[must_use]
    pub fn inside(self, table: &str) -> Self {
        Self { key: format!("{table}.{}", self.key), ..self }
    }
}

/// Refuses the value of a setting unless it is `valid`.
///
/// # Errors
/// Names the setting, its value and what is expected.
pub fn require(
    valid: bool,
    key: &str,
    value: impl Display,
    expected: impl Into<String>,
) -> Result<(), SettingError> {
    match valid {
        true => Ok(()),
        false => Err(SettingError { key: key.into(), value: value.to_string(), expected: expected.into() }),
    }
}

/// A finite number above zero.
///
/// # Errors
/// See [`require`].
pub fn positive(key: &str, value: f64) -> Result<(), SettingError> {
    require(value > 0.0 && value.is_finite(), key, value, "a number above 0")
}

/// A finite number that is not negative.
///
/// # Errors
/// See [`require`].
pub fn not_negative(key: &str, value: f64) -> Result<(), SettingError> {
    require(value >= 0.0 && value.is_finite(), key, value, "a number of 0 or more")
}

/// A share or probability: 0 to 1.
///
/// # Errors
/// See [`require`].
pub fn share(key: &str, value: f64) -> Result<(), SettingError> {
    require((0.0..=1.0).contains(&value), key, value, "between 0 and 1")
}

/// A count of one or more.
///
/// # Errors
/// See [`require`].
pub fn at_least_one(key: &str, value: impl TryInto<u64> + Display + Copy) -> Result<(), SettingError> {
    let valid = value.try_into().is_ok_and(|count| count >= 1);
    require(valid, key, value, "at least 1")
}

/// Two finite numbers above zero, the lower one first.
///
/// # Errors
/// See [`require`].
pub fn range(key: &str, (low, high): (f32, f32)) -> Result<(), SettingError> {
    let valid = low > 0.0 && low <= high && high.is_finite();
    require(valid, key, format!("[{low}, {high}]"), "a range of numbers above 0, the lower end first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_check_lets_nan_or_infinity_pass() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(positive("lr", value).is_err());
            assert!(not_negative("lr", value).is_err());
            assert!(share("lr", value).is_err());
            assert!(range("lr", (1.0, value as f32)).is_err());
            assert!(range("lr", (value as f32, 2.0)).is_err());
        }
        assert!(positive("lr", 0.0).is_err() && not_negative("lr", -0.1).is_err());
        assert!(at_least_one("n", 0usize).is_err() && at_least_one("n", 1u64).is_ok());
        assert!(range("r", (0.5, 0.5)).is_ok() && range("r", (0.5, 0.4)).is_err());
    }

    #[test]
    fn an_error_names_the_whole_path() {
        let error = share("positive_fraction", 2.0).unwrap_err().inside("rpn").inside("model");
        let expected = "setting `model.rpn.positive_fraction` is 2, but must be between 0 and 1";
        assert_eq!(error.to_string(), expected);
    }
}

//! Text and JSON as the tools of other people write them.

use std::borrow::Cow;
use std::path::Path;

use encoding_rs::{Encoding, UTF_8};
use scrl_core::data::DataError;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Characters shown on either side of a mistake in a file.
const EXCERPT: usize = 40;

/// Reads a text file as UTF-8; a byte order mark says otherwise and is taken off.
///
/// # Errors
/// When the file cannot be read or is not text of that encoding.
pub(crate) fn read(path: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(path).map_err(|reason| DataError::read(path, reason))?;
    decode(&bytes, None).map(Cow::into_owned).map_err(|reason| DataError::invalid(path, reason))
}

/// Text in the encoding of its byte order mark, else in the one that is `declared`, else in UTF-8.
pub(crate) fn decode<'a>(
    bytes: &'a [u8],
    declared: Option<&'static Encoding>,
) -> Result<Cow<'a, str>, String> {
    let (encoding, mark) = Encoding::for_bom(bytes).unwrap_or((declared.unwrap_or(UTF_8), 0));
    encoding.decode_without_bom_handling_and_without_replacement(&bytes[mark..]).ok_or_else(|| {
        let valid = Encoding::utf8_valid_up_to(bytes);
        match encoding == UTF_8 {
            true => format!("it is not UTF-8 at byte {valid}; save it as UTF-8"),
            false => {
                format!("it is not text in {}, which it claims to be; save it as UTF-8", encoding.name())
            }
        }
    })
}

/// Parses JSON, also with the `NaN` and `Infinity` that Python writes; they become `null`.
///
/// # Errors
/// Says where the text stops being JSON, with what stands there.
pub(crate) fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(&without_nan(text)).map_err(|error| {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        format!("{error}, near `{}`", excerpt(line, error.column().saturating_sub(1)))
    })
}

/// The characters around byte `at` of a line.
fn excerpt(line: &str, at: usize) -> &str {
    let start = line.floor_char_boundary(at.saturating_sub(EXCERPT));
    let end = line.ceil_char_boundary((at + EXCERPT).min(line.len()));
    line.get(start..end).unwrap_or_default().trim()
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside strings by `null`.
fn without_nan(text: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let mut inside = false;
    while let Some(next) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !inside && rest.starts_with(**word));
        let taken = match (word, next) {
            (Some(word), _) => {
                clean.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            // What is escaped ends no string.
            (None, '\\') if inside => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, '"') => {
                inside = !inside;
                1
            }
            (None, other) => other.len_utf8(),
        };
        clean.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Cow::Owned(clean)
}

/// The elements of a list that can be read. Each of the others adds a line to `faults` that names it, its field and what
/// is wrong.
pub(crate) fn elements<T: DeserializeOwned>(
    list: Vec<Value>,
    noun: &str,
    faults: &mut Vec<String>,
) -> Vec<T> {
    let read = |(index, element): (usize, Value)| {
        let name = name_of(noun, index, &element);
        serde_path_to_error::deserialize(element)
            .map_err(|error| {
                let field = error.path().to_string();
                let at = if field == "." { String::new() } else { format!("`{field}`: ") };
                faults.push(format!("{name}: {at}{}", in_words(&error.into_inner().to_string())));
            })
            .ok()
    };
    list.into_iter().enumerate().filter_map(read).collect()
}

/// What serde says of a value, for people.
fn in_words(reason: &str) -> String {
    if let Some(field) = reason.strip_prefix("missing field ") {
        return format!("{field} is missing");
    }
    let (found, expected) = reason.split_once(", expected ").unwrap_or((reason, ""));
    let found =
        found.strip_prefix("invalid type: ").or(found.strip_prefix("invalid value: ")).unwrap_or(found);
    let found = found.replace("map", "an object").replace("sequence", "a list").replace("unit value", "null");
    let expected = match expected {
        "" => return found,
        "f64" | "f32" | "u64" => "a number",
        "an array of length 4" => "four numbers",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("it is {found}; expected {expected}")
}

/// `annotation 17 of image 4`, or `result 3 of image 4` (the third) for one without an id.
fn name_of(noun: &str, index: usize, element: &Value) -> String {
    let part = |key: &str| element.get(key).filter(|value| value.is_number() || value.is_string());
    let own = part("id").map_or_else(|| format!("{noun} number {}", index + 1), |id| format!("{noun} {id}"));
    part("image_id").map_or(own.clone(), |image| format!("{own} of image {image}"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn byte_order_marks_and_declared_encodings_decide() {
        assert_eq!(decode("\u{feff}über".as_bytes(), None).unwrap(), "über");
        assert_eq!(decode(b"\xff\xfe\xfc\x00b\x00", None).unwrap(), "üb");
        // 猫 in GBK.
        assert_eq!(decode(b"\xc3\xa8", Encoding::for_label(b"gb2312")).unwrap(), "猫");
        let error = decode(b"ab\xc3\x28", None).unwrap_err();
        assert!(error.contains("not UTF-8 at byte 2"), "{error}");
    }

    #[test]
    fn nan_is_read_as_null_but_not_inside_strings() {
        let text = r#"{"NaN": [NaN, -Infinity, Infinity, "a \"NaN\" \\", NaN], "ü": 1}"#;
        let expected = json!({"NaN": [null, null, null, "a \"NaN\" \\", null], "ü": 1});
        assert_eq!(parse_json(text).unwrap(), expected);
        assert_eq!(parse_json("[1, 2.5]").unwrap(), json!([1, 2.5]));
    }

    #[test]
    fn a_mistake_is_shown_with_what_stands_around_it() {
        let error = parse_json(&format!("[{}nine, 8]", "7, ".repeat(500))).unwrap_err();
        assert!(error.contains("near `") && error.contains("7, nine, 8]`") && error.len() < 200, "{error}");
    }

    #[test]
    fn elements_that_cannot_be_read_are_named_with_their_field() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Row {
            score: f64,
        }
        let list = vec![
            json!({"id": 17, "image_id": 4, "score": "high"}),
            json!({"score": 0.5}),
            json!({"image_id": 9, "score": null}),
            json!(3),
        ];
        let mut faults = Vec::new();
        assert_eq!(elements::<Row>(list, "result", &mut faults), [Row { score: 0.5 }]);
        assert_eq!(faults.len(), 3);
        assert_eq!(faults[0], "result 17 of image 4: `score`: it is string \"high\"; expected a number");
        assert_eq!(faults[1], "result number 3 of image 9: `score`: it is null; expected a number");
        assert_eq!(faults[2], "result number 4: it is integer `3`; expected an object");
    }
}

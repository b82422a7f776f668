//! TensorBoard's event files: protobuf messages in TFRecord framing.
//!
//! The messages hold the fields used here of `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto`. A record is: length (u64, little endian), masked CRC-32C of the
//! length, the bytes, masked CRC-32C of the bytes (`tensorflow/core/lib/io/record_writer.cc`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

/// One event: a file's version, a session's start or a step's scalars.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum SessionStatus {
    Unspecified = 0,
    /// TensorBoard discards what it has at this event's step and later.
    Start = 1,
}

/// Appends events to one file.
#[derive(Debug)]
pub(crate) struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts a file in `dir` whose name sorts after every event file there, which is the order in which
    /// TensorBoard reads them.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let newest = newest_stamp(dir)?;
        let stamp = (now() as u64).max(newest.map_or(0, |stamp| stamp + 1));
        let path = dir.join(format!("events.out.tfevents.{stamp:010}.scrl"));
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        let mut writer = Self { file };
        writer.write(0, What::FileVersion("brain.Event:2".to_string()))?;
        Ok(writer)
    }

    /// Makes TensorBoard drop the points of earlier files at `step` and later.
    pub(crate) fn restart_at(&mut self, step: u64) -> io::Result<()> {
        self.write(step, What::SessionLog(SessionLog { status: SessionStatus::Start as i32 }))
    }

    /// Adds a step's scalars.
    pub(crate) fn scalars(&mut self, step: u64, scalars: Vec<(String, f64)>) -> io::Result<()> {
        let value =
            scalars.into_iter().map(|(tag, value)| Value { tag, simple_value: Some(value as f32) }).collect();
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time: now(), step, what: Some(what) };
        self.file.write_all(&frame(&event.encode_to_vec()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// The latest time stamp among the event files of a directory.
fn newest_stamp(dir: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let stamp = name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents."));
        let stamp = stamp.and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        newest = newest.max(stamp);
    }
    Ok(newest)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(payload.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(payload);
    record.extend(masked_crc(payload).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads a file back, checking lengths and checksums.
    pub(crate) fn read_events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(&rest[8..12]), crc32c::crc32c(&rest[..8]));
            let payload = &rest[12..12 + length];
            assert_eq!(unmask(&rest[12 + length..16 + length]), crc32c::crc32c(payload));
            events.push(Event::decode(payload).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    fn unmask(bytes: &[u8]) -> u32 {
        u32::from_le_bytes(bytes.try_into().unwrap()).wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    #[test]
    fn the_checksum_of_a_known_message_is_the_published_one() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(unmask(&masked_crc(&[0; 32]).to_le_bytes()), 0x8a91_36aa);
    }

    #[test]
    fn a_scalar_event_has_the_bytes_that_protobuf_prescribes() {
        let what = What::Summary(Summary { value: vec![Value { tag: "a".into(), simple_value: Some(0.0) }] });
        let event = Event { wall_time: 0.0, step: 3, what: Some(what) };
        // step = field 2 varint; summary = field 5; value = field 1; tag = field 1; simple_value = field 2,
        // present although it is zero.
        let expected = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0, 0];
        assert_eq!(event.encode_to_vec(), expected);
    }

    #[test]
    fn events_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.restart_at(5).unwrap();
        writer.scalars(6, vec![("train/loss".into(), 0.5), ("train/lr".into(), 0.25)]).unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let events = read_events(&path);
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".into())));
        assert_eq!((events[1].step, &events[1].what), (5, &Some(What::SessionLog(SessionLog { status: 1 }))));
        let Some(What::Summary(summary)) = &events[2].what else { panic!("the third event holds scalars") };
        assert_eq!(events[2].step, 6);
        assert!(events[2].wall_time > 1.6e9);
        assert_eq!(summary.value[1], Value { tag: "train/lr".into(), simple_value: Some(0.25) });
    }

    #[test]
    fn a_later_file_sorts_after_an_earlier_one_even_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            EventWriter::create(dir.path()).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}

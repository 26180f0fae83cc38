//! Where a watch stands: a position in one partition of the log, and its text form.

use std::fmt;

use crate::Invalid;

/// How many partitions the log has. Devices are spread over them by a stable hash of their id, so
/// this number and that hash are part of the stored data.
pub const PARTITIONS: u16 = 32;

/// One part of the log. Positions in it become visible in commit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// The partition of a device, by 64-bit FNV-1a of its id.
    pub(crate) fn of(id: &[u8]) -> Self {
        let hash = id.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let folded = (hash ^ (hash >> 32)) % u64::from(PARTITIONS);
        Self(u16::try_from(folded).expect("a remainder of PARTITIONS fits"))
    }

    /// The partition with this number, if there is one.
    pub fn new(number: u16) -> Option<Self> {
        (number < PARTITIONS).then_some(Self(number))
    }

    /// Its number, below [`PARTITIONS`].
    pub fn number(self) -> u16 {
        self.0
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }
}

/// A position in the log, exclusive: what comes after it has not been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The part of the log.
    pub partition: Partition,
    /// The position of the last event seen; 0 before the first.
    pub position: i64,
}

impl Cursor {
    /// Reads the text form for a watch of a device in `partition`.
    pub fn parse(text: &str, partition: Partition) -> Result<Self, Invalid> {
        let invalid = |reason: &str| Invalid::new("after_cursor", reason);
        let malformed = || invalid("is not a cursor: pass one that a watch response carried, or 0");
        let (number, position) = text.split_once('-').ok_or_else(malformed)?;
        let number = number.parse().ok().and_then(Partition::new).ok_or_else(malformed)?;
        let position =
            position.parse().ok().filter(|position| *position >= 0).ok_or_else(malformed)?;
        if number != partition {
            return Err(invalid("belongs to another device"));
        }
        Ok(Self { partition, position })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition.0, self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceId;

    #[test]
    fn partitions_never_change() {
        // Stored data depends on these: a failure here is a bug in the code, never in the test.
        let number = |id| DeviceId::parse(id).unwrap().partition().number();
        assert_eq!([number("fern-1"), number("abc123"), number("esp32-0042")], [19, 4, 15]);
    }

    #[test]
    fn devices_spread_evenly() {
        let mut counts = [0_usize; PARTITIONS as usize];
        for n in 0..32_000 {
            let id = DeviceId::parse(&format!("device-{n}")).unwrap();
            counts[usize::from(id.partition().number())] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn text_form_round_trips_and_refuses_the_rest() {
        let partition = Partition::new(7).unwrap();
        let cursor = Cursor { partition, position: 1042 };
        assert_eq!(Cursor::parse(&cursor.to_string(), partition).unwrap(), cursor);
        for text in
            ["", "0", "7", "7-", "-7", "7--1", "x-1", "8-1042", "32-1", "7-99999999999999999999"]
        {
            let error = Cursor::parse(text, partition).unwrap_err();
            assert_eq!(error.field, "after_cursor", "{text:?}");
        }
    }
}

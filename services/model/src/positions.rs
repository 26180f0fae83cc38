//! Where a watch of several devices stands: a position in each part of the log, and its text form.

use std::fmt;

use crate::{Invalid, PARTITIONS, Partition};

/// A position in each partition, exclusive: what comes after it has not been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions(Box<[i64; PARTITIONS as usize]>);

impl Positions {
    /// Before the first event there ever was.
    pub fn start() -> Self {
        Self(Box::new([0; PARTITIONS as usize]))
    }

    /// The position in a partition.
    pub fn get(&self, partition: Partition) -> i64 {
        self.0.get(usize::from(partition.number())).copied().unwrap_or(0)
    }

    /// Moves on in a partition; never back.
    pub fn advance(&mut self, partition: Partition, position: i64) {
        if let Some(own) = self.0.get_mut(usize::from(partition.number())) {
            *own = position.max(*own);
        }
    }

    /// Reads the text form; the field of the error is `after_cursor`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut positions = Self::start();
        let mut words = text.split('.');
        let read = positions.0.iter_mut().try_for_each(|position| {
            // Without a sign, which the parser would take.
            let word =
                words.next().filter(|word| word.starts_with(|c: char| c.is_alphanumeric()))?;
            *position = i64::from_str_radix(word, 16).ok()?;
            Some(())
        });
        match (read, words.next()) {
            (Some(()), None) => Ok(positions),
            _ => Err(Invalid::new(
                "after_cursor",
                "is not a cursor: pass one that a response of this call carried, or 0",
            )),
        }
    }
}

impl FromIterator<(Partition, i64)> for Positions {
    fn from_iter<T: IntoIterator<Item = (Partition, i64)>>(positions: T) -> Self {
        let mut all = Self::start();
        positions.into_iter().for_each(|(partition, position)| all.advance(partition, position));
        all
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, position) in self.0.iter().enumerate() {
            write!(f, "{}{position:x}", if n == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_the_rest() {
        let positions: Positions =
            Partition::all().map(|p| (p, i64::from(p.number()) * 1_000_003)).collect();
        assert_eq!(Positions::parse(&positions.to_string()).unwrap(), positions);
        let zeros = Positions::start().to_string();
        for text in [
            String::new(),
            "0".to_owned(),
            "19-7".to_owned(),
            format!("{zeros}.0"),
            zeros.replacen('0', "-1", 1),
            zeros.replacen('0', "+1", 1),
            zeros.replacen('0', "", 1),
            zeros.replacen('0', "ffffffffffffffff", 1),
            zeros.replacen('0', "x", 1),
        ] {
            assert_eq!(Positions::parse(&text).unwrap_err().field, "after_cursor", "{text:?}");
        }
    }

    #[test]
    fn moves_on_only() {
        let partition = Partition::new(3).unwrap();
        let mut positions = Positions::start();
        positions.advance(partition, 5);
        positions.advance(partition, 4);
        assert_eq!(positions.get(partition), 5);
        assert_eq!(positions.get(Partition::new(4).unwrap()), 0);
    }
}

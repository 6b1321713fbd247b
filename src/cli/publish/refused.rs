//! The lines of a file that are no events, or that the server refused.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::super::output::printable;

/// Lines that are told with what is wrong with them; more help nobody.
const TOLD_MAX: usize = 20;

/// Counts them all, and keeps the first.
#[derive(Debug)]
pub(super) struct Refused {
    /// The file, for messages.
    name: String,
    count: usize,
    /// In the order of the file, whatever order the batches were answered in.
    first: BTreeMap<u64, String>,
}

impl Refused {
    /// None yet of the file `name`.
    pub(super) fn new(name: String) -> Refused {
        Refused { name, count: 0, first: BTreeMap::new() }
    }

    /// Adds lines, each with what is wrong with it.
    pub(super) fn extend(&mut self, lines: impl IntoIterator<Item = (u64, String)>) {
        for (number, fault) in lines {
            self.count += 1;
            self.first.insert(number, fault);
            if self.first.len() > TOLD_MAX {
                self.first.pop_last();
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (number, fault)) in self.first.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{}:{number}: {}", self.name, printable(fault))?;
        }
        match self.count - self.first.len() {
            0 => Ok(()),
            1 => f.write_str("\n… and 1 line more"),
            more => write!(f, "\n… and {more} lines more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_the_file_are_told_and_the_others_counted() {
        let mut refused = Refused::new("f".to_owned());
        refused.extend((30..60).map(|number| (number, "late".to_owned())));
        refused.extend([(7, "early".to_owned())]);
        let told = refused.to_string();
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(refused.count(), 31);
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert_eq!((told[0], told[1]), ("f:7: early", "f:30: late"));
        assert_eq!(told[TOLD_MAX], "… and 11 lines more");
    }
}

//! Statements over many rows: the text for a number of rows, and how to cut rows into a few sizes.

use std::fmt::Write as _;

use crate::Dialect;

/// Sizes that bulk statements come in. A handful of texts stay prepared; any other number of rows
/// is a sum of these.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// Cuts `rows` into slices of those sizes.
pub fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

/// `($1, $2), ($3, $4)`: placeholders for `rows` rows of `columns` columns, which are all that the
/// statement binds. On SQLite `(?, ?), (?, ?)`: it looks named ones up in a list, one by one, which
/// takes most of the time of a statement with thousands of them.
#[must_use]
pub fn rows(dialect: Dialect, rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        match dialect {
            Dialect::Sqlite => text.push_str(&vec!["?"; columns].join(", ")),
            Dialect::Postgres => text.push_str(&list(1 + row * columns, columns)),
        }
        text.push(')');
    }
    text
}

/// `$1, $2, $3`: `count` placeholders from `$first` on.
#[must_use]
pub fn list(first: usize, count: usize) -> String {
    let mut text = String::with_capacity(count * 5);
    for index in first..first + count {
        let comma = if index == first { "" } else { ", " };
        let _ = write!(text, "{comma}${index}");
    }
    text
}

/// `when $1 then $2 when $3 then $4`: the arms of a `case`, from `$first` on.
#[must_use]
pub fn arms(first: usize, count: usize) -> String {
    let mut text = String::new();
    for arm in 0..count {
        let _ = write!(text, "when ${} then ${} ", first + arm * 2, first + arm * 2 + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_exactly_one_chunk() {
        let numbers: Vec<usize> = (0..341).collect();
        let sizes: Vec<usize> = chunks(&numbers).map(<[usize]>::len).collect();
        assert_eq!(sizes, [256, 64, 16, 4, 1]);
        assert_eq!(chunks(&numbers).flatten().copied().collect::<Vec<_>>(), numbers);
    }

    #[test]
    fn placeholders_count_on_from_the_first() {
        assert_eq!(rows(Dialect::Postgres, 2, 2), "($1, $2), ($3, $4)");
        assert_eq!(rows(Dialect::Sqlite, 2, 2), "(?, ?), (?, ?)");
        assert_eq!(arms(1, 2), "when $1 then $2 when $3 then $4 ");
    }
}

//! Statements over many rows: the text for a number of rows, and how to cut rows into a few sizes.

use std::fmt::Write as _;

use crate::Dialect;

/// Sizes that bulk statements come in: a handful of texts stay prepared. Any other number of rows is a
/// sum of these.
const SIZES: [usize; 8] = [1_024, 256, 64, 16, 8, 4, 2, 1];
/// The same for lists, which can be filled up.
const LIST_SIZES: [usize; 5] = [1, 4, 16, 64, 256];

/// Cuts `rows` into slices of those sizes, up to 256.
pub fn chunks<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    cut(rows, &SIZES[1..])
}

/// The same up to 1,024, for inserts of up to 31 columns (SQLite takes 32,766 values). It keeps what it
/// would need to take back a statement that fails half-way, page by page, and anew for each statement.
pub fn large_chunks<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    cut(rows, &SIZES)
}

fn cut<'a, T>(mut rows: &'a [T], sizes: &'static [usize]) -> impl Iterator<Item = &'a [T]> {
    std::iter::from_fn(move || {
        let size = *sizes.iter().find(|size| **size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

/// The keys of a list, or the rows of a [`table`], in slices of those sizes. The last is filled up by
/// naming its last key again, which changes nothing there: one statement instead of several.
pub fn lists<T>(keys: &[T]) -> impl Iterator<Item = Vec<&T>> {
    let most = LIST_SIZES[LIST_SIZES.len() - 1];
    keys.chunks(most).map(move |keys| {
        let size = LIST_SIZES.into_iter().find(|size| *size >= keys.len()).unwrap_or(most);
        keys.iter().chain(std::iter::repeat(&keys[keys.len() - 1])).take(size).collect()
    })
}

/// `($1, $2), ($3, $4)`: placeholders for `rows` rows of `columns` columns, which are the first that the
/// statement binds. On SQLite `(?, ?), (?, ?)`: it looks named ones up in a list, one by one, which
/// takes most of the time of a statement with thousands of them.
#[must_use]
pub fn rows(dialect: Dialect, rows: usize, columns: usize) -> String {
    if dialect == Dialect::Sqlite {
        let row = format!("({})", vec!["?"; columns].join(", "));
        return vec![row.as_str(); rows].join(", ");
    }
    let row = |row| format!("({})", list(1 + row * columns, columns));
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
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

/// `(values ($1, $2), ($3, $4)) v`: what to set in many rows at once, for `update … from`, as a table of
/// `column1`, `column2` and so on. What else the statement binds comes after those.
#[must_use]
pub fn table(dialect: Dialect, rows: usize, columns: usize) -> String {
    format!("(values {}) v", self::rows(dialect, rows, columns))
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
        let numbers: Vec<usize> = (0..1_281).collect();
        let sizes: Vec<usize> = large_chunks(&numbers).map(<[usize]>::len).collect();
        assert_eq!(sizes, [1_024, 256, 1]);
        assert_eq!(chunks(&numbers).map(<[usize]>::len).max(), Some(256));
    }

    #[test]
    fn a_list_names_every_key_and_none_else() {
        let keys: Vec<usize> = (0..261).collect();
        let lists: Vec<Vec<&usize>> = lists(&keys).collect();
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [256, 16]);
        assert_eq!(lists[1][4..], [&260; 12]);
        assert_eq!(lists.concat()[..261], keys.iter().collect::<Vec<_>>());
        assert_eq!(super::lists::<usize>(&[]).count(), 0);
    }

    #[test]
    fn placeholders_count_on_from_the_first() {
        assert_eq!(rows(Dialect::Postgres, 2, 2), "($1, $2), ($3, $4)");
        assert_eq!(rows(Dialect::Sqlite, 2, 2), "(?, ?), (?, ?)");
        assert_eq!(table(Dialect::Sqlite, 1, 3), "(values (?, ?, ?)) v");
    }
}

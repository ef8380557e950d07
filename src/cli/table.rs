//! Tables of plain text with aligned columns.

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A table whose columns are two spaces apart and as wide as their widest cell, counted in characters. Lines have no
/// trailing spaces.
#[derive(Debug)]
pub(super) struct TextTable {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// Creates a table with a heading for each column.
    pub(super) fn new(head: &[(&str, Align)]) -> Self {
        Self {
            columns: head.iter().map(|(_, align)| *align).collect(),
            rows: vec![head.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row. Missing cells are empty.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for TextTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
        let width = |at| {
            let rows = self.rows.iter();
            rows.map(|row| cell(row, at).chars().count()).max()
        };
        let widths: Vec<_> = (0..self.columns.len()).filter_map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (at, (align, width)) in self.columns.iter().zip(&widths).enumerate() {
                let gap = if at == 0 { "" } else { "  " };
                let cell = cell(row, at);
                line += &match align {
                    Align::Left => format!("{gap}{cell:<width$}"),
                    Align::Right => format!("{gap}{cell:>width$}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = TextTable::new(&[
            ("NAME", Align::Left),
            ("RATE", Align::Right),
            ("X", Align::Left),
        ]);
        table.row(["blue".into(), "9".into(), "a".into()]);
        table.row(["größer".into(), "1234.5".into()]);
        let expected = "NAME      RATE  X\nblue         9  a\ngrößer  1234.5\n";
        assert_eq!(table.to_string(), expected);
    }
}

//! Tables, on the terminal and in `benches/RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::stats::Spread;
use crate::{Result, peers};

/// What one case came to.
#[derive(Debug, Default)]
pub struct Table {
    /// Name of the case.
    pub case: String,
    /// What was asked.
    pub title: String,
    /// Column names; the first column names the proxy.
    pub head: Vec<String>,
    /// One row for each proxy.
    pub rows: Vec<Vec<String>>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Proxy and its ratio to nginx, for the summary.
    pub ratios: Vec<(String, Spread)>,
}

/// `1.23 (1.20–1.27)`
pub fn with_range(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |s| format!("{:.2} ({:.2}–{:.2})", s.median, s.min, s.max),
    )
}

impl Table {
    /// The table with its heading and notes, as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}: {}\n\n", self.case, self.title);
        text.push_str(&grid(&self.head, &self.rows));
        for note in &self.notes {
            let _ = write!(text, "\n- {note}");
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        text
    }
}

fn grid(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        std::iter::once(head)
            .chain(rows.iter().map(Vec::as_slice))
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let mut line = "|".to_owned();
        for (at, width) in widths.iter().enumerate() {
            let cell = row.get(at).map_or("", String::as_str);
            let _ = if at == 0 {
                write!(line, " {cell:width$} |")
            } else {
                write!(line, " {cell:>width$} |")
            };
        }
        line.push('\n');
        line
    };
    let mut text = line(head);
    text.push('|');
    for (at, width) in widths.iter().enumerate() {
        let _ = if at == 0 {
            write!(text, "{:-<1$}|", "", width + 2)
        } else {
            write!(text, "{:->1$}:|", "", width + 1)
        };
    }
    text.push('\n');
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

/// The ratios of all cases side by side.
pub fn summary(tables: &[Table]) -> String {
    let mut proxies: Vec<String> = Vec::new();
    for (name, _) in tables.iter().flat_map(|t| &t.ratios) {
        if name != "nginx" && !proxies.contains(name) {
            proxies.push(name.clone());
        }
    }
    let mut head = vec!["case".to_owned()];
    head.extend(proxies.iter().cloned());
    let rows: Vec<Vec<String>> = tables
        .iter()
        .filter(|table| !table.ratios.is_empty())
        .map(|table| {
            let mut row = vec![table.case.clone()];
            row.extend(proxies.iter().map(|proxy| {
                let found = table.ratios.iter().find(|(name, _)| name == proxy);
                with_range(found.map(|(_, spread)| *spread))
            }));
            row
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "nginx's figure over theirs, median (least–greatest of the rounds); above 1 = less than nginx: CPU time per request, or latency.\n\n{}",
        grid(&head, &rows)
    )
}

/// Machine, versions and commit, one line each.
pub fn circumstances(top: &Path) -> Vec<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    let congestion = congestion.unwrap_or_default();
    let top = top.display().to_string();
    let mut commit = first_line("git", &["-C", &top, "rev-parse", "--short", "HEAD"]);
    if !first_line("git", &["-C", &top, "status", "--porcelain", "-uno"]).is_empty() {
        commit.push_str(" with uncommitted changes");
    }
    vec![
        format!("commit {commit}"),
        format!(
            "date {}",
            first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"])
        ),
        format!(
            "machine {model}, {cores} cores, Linux {}, congestion control {}",
            kernel.trim(),
            congestion.trim()
        ),
        first_line("nginx", &["-v"]),
        first_line("haproxy", &["-v"]),
        first_line("rustc", &["--version"]),
    ]
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let Some(found) = peers::installed(program) else {
        return format!("no {program}");
    };
    let Ok(output) = Command::new(found).args(arguments).output() else {
        return format!("no {program}");
    };
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Writes `benches/RESULTS.md`.
pub fn write(top: &Path, circumstances: &[String], tables: &[Table]) -> Result<()> {
    let mut text = "# Results of the end-to-end bench\n\nWritten by `just bench`; see [README.md](README.md) for what is measured and how.\n\n".to_owned();
    for line in circumstances {
        let _ = writeln!(text, "- {line}");
    }
    let _ = write!(text, "\n## Summary\n\n{}\n## Cases\n", summary(tables));
    for table in tables {
        let _ = write!(text, "\n{}", table.markdown());
    }
    let path = top.join("benches/RESULTS.md");
    fs::write(&path, text).map_err(|e| format!("can't write {}: {e}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

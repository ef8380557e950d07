//! The budgets that stand in the docs of the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every budget under `dir`, by its step.
pub fn read(dir: &Path) -> Result<BTreeMap<String, f64>, String> {
    let mut budgets = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            for (step, budget) in text.lines().filter_map(budget) {
                if budgets.insert(step.clone(), budget).is_some() {
                    return Err(format!(
                        "two budgets for `{step}`, one in {}",
                        path.display()
                    ));
                }
            }
        }
    }
    Ok(budgets)
}

/// "Budget: 900 instructions (`just instructions`: parse_request)"
fn budget(line: &str) -> Option<(String, f64)> {
    let (_, rest) = line.split_once("Budget: ")?;
    let (number, rest) = rest.split_once(" instructions (`just instructions`: ")?;
    let (step, _) = rest.split_once(')')?;
    Some((step.to_owned(), number.replace(',', "").parse().ok()?))
}

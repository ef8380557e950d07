//! Which file of `src` uses which other one, and the circles among them.
//!
//! A module and the files below it count as one story: a file may use what the module above it declares. Everything else that
//! leads back is a circle.

use std::collections::{BTreeMap, BTreeSet};

/// A module's path: `src/proxy/exchange/ask.rs` is `[proxy, exchange, ask]`.
type Path = Vec<String>;

/// Reads the files (path inside `src`, code without comments and tests).
pub struct FileGraph {
    files: BTreeMap<Path, String>,
    code: BTreeMap<Path, String>,
}

impl FileGraph {
    pub fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let (mut names, mut code) = (BTreeMap::new(), BTreeMap::new());
        for (file, text) in files {
            let module = module_of(&file);
            names.insert(module.clone(), file);
            code.insert(module, text);
        }
        Self { files: names, code }
    }

    /// Each circle, as the files in it.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let edges: BTreeMap<&Path, BTreeSet<&Path>> =
            self.code.keys().map(|m| (m, self.used_by(m))).collect();
        let reached: BTreeMap<&Path, BTreeSet<&Path>> =
            edges.keys().map(|m| (*m, reachable(m, &edges))).collect();
        let mut circles = BTreeSet::new();
        for (module, targets) in &reached {
            let together = targets.iter().filter(|t| reached[**t].contains(module));
            let circle: Vec<String> = together.map(|m| self.files[*m].clone()).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// The modules that this one uses, or declares below itself.
    fn used_by(&self, module: &Path) -> BTreeSet<&Path> {
        let children = self
            .code
            .keys()
            .filter(|m| m.len() == module.len() + 1 && m.starts_with(module) && !module.is_empty());
        let paths = paths_in(&self.code[module], module);
        let used = paths.iter().filter_map(|path| self.find(path, 0));
        let is_above = |m: &&Path| module.starts_with(m);
        used.filter(|m| !is_above(m)).chain(children).collect()
    }

    /// The file that a path leads to, through re-exports.
    fn find(&self, path: &[String], depth: usize) -> Option<&Path> {
        let longest = (1..=path.len())
            .rev()
            .find(|n| self.code.contains_key(&path[..*n]))?;
        let (module, code) = self.code.get_key_value(&path[..longest])?;
        let Some(name) = path.get(longest).filter(|_| depth < 4) else {
            return Some(module);
        };
        let reexported = code.split("pub").skip(1).filter_map(|after| {
            let after = after
                .strip_prefix("(crate)")
                .or(after.strip_prefix("(super)"))
                .unwrap_or(after);
            after.trim_start().strip_prefix("use ")?.split(';').next()
        });
        for tree in reexported {
            let mut found = Vec::new();
            super::open_braces(tree, "", &mut found);
            for exported in found {
                let words: Path = exported.split("::").map(str::to_owned).collect();
                if words.last() == Some(name) && words.len() > 1 {
                    let target = absolute(&words, module);
                    return self.find(&target, depth + 1).or(Some(module));
                }
            }
        }
        Some(module)
    }
}

/// What is used by `from`, and by what it uses.
fn reachable<'m>(
    from: &'m Path,
    edges: &BTreeMap<&'m Path, BTreeSet<&'m Path>>,
) -> BTreeSet<&'m Path> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        next.extend(edges[module].iter().filter(|m| seen.insert(**m)));
    }
    seen
}

fn module_of(file: &str) -> Path {
    let path = file.strip_suffix(".rs").expect("a source file");
    let mut words: Path = path.split('/').map(str::to_owned).collect();
    if words.last().is_some_and(|last| last == "mod") {
        words.pop();
    }
    words
}

/// Every path in the code that begins with `crate`, `super`, `self`, or in a `use` with the name of a module below.
fn paths_in(code: &str, module: &Path) -> Vec<Path> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            // `super::super::` is found at its first word.
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            super::open_braces(&code[at..], "", &mut found);
        }
    }
    let words = |path: &String| path.split("::").map(str::to_owned).collect::<Path>();
    found.iter().map(|p| absolute(&words(p), module)).collect()
}

/// A path from the root of the crate.
fn absolute(path: &[String], module: &Path) -> Path {
    match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [module, &path[1..]].concat(),
        "super" => {
            let ups = path.iter().take_while(|word| *word == "super").count();
            let base = &module[..module.len().saturating_sub(ups)];
            [base, &path[ups..]].concat()
        }
        _ => [module, path].concat(),
    }
}

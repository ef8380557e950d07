//! Takes tables out of the text of a configuration file, with their comments and layout.

use toml::de::DeTable;

/// The parts of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// The text of the tables.
    pub taken: String,
    /// The rest of the text.
    pub rest: String,
    /// The headers of the tables, each with its line, from 1.
    pub headers: Vec<(usize, String)>,
}

/// Takes the tables with these names, and the tables in them, out of a valid text. Comments directly above a header belong to it.
///
/// # Errors
/// One of the tables is written without a header of its own, such as `service.shop = { … }`. Contains the name of that table.
pub fn take(text: &str, names: &[&str]) -> Result<Sections, String> {
    let mut sections = Sections::default();
    let mut is_taken = false;
    // Comments belong to the entry that follows them.
    let mut comments = String::new();
    let mut start = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let bare = line.trim();
        match bare.starts_with('[') && is_whole(&text[..start]) {
            true => {
                let name = first_key(bare);
                is_taken = name.is_some_and(|name| names.contains(&&*name));
                if is_taken {
                    sections.headers.push((number, bare.to_owned()));
                }
            }
            false if bare.starts_with('#') => {
                comments.push_str(line);
                start += line.len();
                continue;
            }
            false => {}
        }
        let into = match is_taken {
            true => &mut sections.taken,
            false => &mut sections.rest,
        };
        into.push_str(&std::mem::take(&mut comments));
        into.push_str(line);
        start += line.len();
    }
    sections.rest.push_str(&comments);
    let (left, _) = DeTable::parse_recoverable(&sections.rest);
    match names
        .iter()
        .find(|name| left.get_ref().contains_key(**name))
    {
        Some(name) => Err((*name).to_owned()),
        None => Ok(sections),
    }
}

/// Whether a text ends between two entries, and not within a value of several lines.
fn is_whole(text: &str) -> bool {
    let (_, errors) = DeTable::parse_recoverable(text);
    errors.is_empty()
}

/// The first key of a header: `service` of `[[service.shop.match]]`.
fn first_key(header: &str) -> Option<String> {
    let (table, _) = DeTable::parse_recoverable(header);
    table
        .get_ref()
        .keys()
        .next()
        .map(|key| key.get_ref().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
listen = ':80'   # all

# For all.
[defaults.timeouts]
connect = '2s'

[limits]
connections = 10
# The shop.
[service.shop]
hosts = [
  'a.test',
]
[[ 'service'.shop.match ]]
to = 'b'
# Last.
";

    #[test]
    fn tables_are_taken_with_their_comments() {
        let taken = take(FILE, &["service", "defaults"]).unwrap();
        assert_eq!(
            taken.rest,
            "listen = ':80'   # all\n\n[limits]\nconnections = 10\n# Last.\n"
        );
        assert!(
            taken.taken.starts_with("# For all.\n[defaults.timeouts]\n"),
            "{}",
            taken.taken
        );
        assert!(taken.taken.contains(
            "\n# The shop.\n[service.shop]\nhosts = [\n  'a.test',\n]\n[[ 'service'.shop.match ]]\n"
        ));
        let lines: Vec<usize> = taken.headers.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [4, 10, 14]);
        let services = take(FILE, &["service"]).unwrap();
        assert!(services.rest.contains("[defaults.timeouts]"));
    }

    #[test]
    fn brackets_within_values_are_no_headers() {
        let file = "[service.shop]\nsteps = [\n['a'],\n]\ntext = '''\n[limits]\n'''\n[limits]\n";
        let taken = take(file, &["service"]).unwrap();
        assert_eq!(taken.rest, "[limits]\n");
        assert_eq!(taken.headers.len(), 1);
    }

    #[test]
    fn a_table_without_a_header_is_named() {
        assert_eq!(
            take("service.shop = { hosts = 'a' }\n", &["service"]),
            Err("service".to_owned())
        );
        assert_eq!(take("x = 1\n", &["service"]).unwrap().taken, "");
    }
}

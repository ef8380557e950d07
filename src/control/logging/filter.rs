//! The log filter in `CUTOVER_LOG`.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Level of the proxy's own lines if the filter names none.
const DEFAULT: LevelFilter = LevelFilter::INFO;
/// Tracing target of the proxy's own lines.
const OWN: &str = "cutover";
/// The same for lines of the data plane, which is a crate of its own. It begins with [`OWN`], so that a level for that is for both.
const DATA_PLANE: &str = "cutover_data_plane";

/// The filter for an absent or empty `CUTOVER_LOG`.
pub(super) fn default() -> Targets {
    Targets::new().with_target(OWN, DEFAULT)
}

/// Parses a filter: a level for the proxy's own lines (`debug`), and levels for modules and libraries by name
/// (`h2=debug`), separated by commas.
///
/// Libraries that aren't named log nothing, at any level: remote peers control how often h2 or rustls logs, and must not be able
/// to fill the log.
///
/// # Errors
/// Describes the first part that isn't valid, and what would be.
pub(super) fn parse(text: &str) -> Result<Targets, String> {
    let mut parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.try_fold(default(), |filter, part| {
        let (target, level) = part.split_once('=').unwrap_or((OWN, part));
        let (target, level) = (target.trim(), level.trim());
        if target.is_empty() {
            return Err(format!("`{part}` names no module or library"));
        }
        match level.parse::<LevelFilter>() {
            // tracing parses an empty level as `error`.
            Ok(parsed) if !level.is_empty() => Ok(with_module(filter, target, parsed)),
            _ => Err(not_a_level(part, level)),
        }
    })
}

/// The filter with this level for a module or library. One of ours, `cutover::edge`, is found in whichever of our crates has it.
fn with_module(filter: Targets, target: &str, level: LevelFilter) -> Targets {
    let filter = match target.strip_prefix("cutover::") {
        Some(module) => filter.with_target(format!("{DATA_PLANE}::{module}"), level),
        None => filter,
    };
    filter.with_target(target, level)
}

fn not_a_level(part: &str, level: &str) -> String {
    let advice = match part.contains('=') {
        true => format!("`{level}` is not a level"),
        false => format!("`{part}` is not a level; for one module or library write `{part}=debug`"),
    };
    format!("{advice}; levels are error, warn, info, debug, trace and off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn logs(filter: &str, target: &str, level: Level) -> bool {
        parse(filter).unwrap().would_enable(target, &level)
    }

    #[test]
    fn a_level_is_for_the_proxys_own_lines_only() {
        for filter in ["debug", "DEBUG", " debug ", "debug,"] {
            assert!(logs(filter, "cutover::edge::reload", Level::DEBUG));
            for library in ["h2::codec", "rustls::server", "hyper", "notify::inotify"] {
                assert!(!logs(filter, library, Level::ERROR), "{library}");
            }
        }
        assert!(logs("", "cutover", Level::INFO) && !logs("", "cutover", Level::DEBUG));
        assert!(!logs("warn", "cutover::edge", Level::INFO));
        assert!(!logs("off", "cutover::edge", Level::ERROR));
    }

    #[test]
    fn names_are_added_to_the_level() {
        assert!(logs("debug,h2=debug", "h2::proto", Level::DEBUG));
        assert!(logs("debug,h2=debug", "cutover::proxy", Level::DEBUG));
        assert!(!logs("debug,h2=debug", "rustls", Level::ERROR));
        assert!(logs("h2=warn", "cutover::edge", Level::INFO));
        let narrow = "cutover::edge=debug";
        assert!(logs(narrow, "cutover::edge::tls", Level::DEBUG));
        assert!(logs(narrow, "cutover::proxy", Level::INFO));
        assert!(!logs(narrow, "cutover::proxy", Level::DEBUG));
        assert!(!logs("cutover=warn", "cutover::proxy", Level::INFO));
    }

    #[test]
    fn modules_of_the_data_plane_are_named_like_all_others() {
        // The path of a type of that crate begins like the targets of its lines.
        let path = std::any::type_name::<crate::edge::workers::Workers>();
        let target = &path[..path.rfind("::").unwrap()];
        assert!(logs("cutover::edge=debug", target, Level::DEBUG));
        assert!(!logs("cutover::proxy=debug", target, Level::DEBUG));
        assert!(logs("debug", target, Level::DEBUG));
        assert!(!logs("warn", target, Level::INFO));
    }

    #[test]
    fn what_is_no_filter_is_explained() {
        for (filter, advice) in [
            ("bogus", "for one module or library write `bogus=debug`"),
            ("info,h2=loud", "`loud` is not a level"),
            ("=debug", "`=debug` names no module"),
            ("h2=", "`` is not a level"),
        ] {
            let error = parse(filter).unwrap_err();
            assert!(error.contains(advice), "{error}");
        }
    }
}

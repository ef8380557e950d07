//! The process metrics `process_*`, read from `/proc` with each scrape.

use std::fs;

/// Process metrics at one moment; `None` for those that the system does not provide.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// User and system CPU time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<f64>,
    /// Virtual memory in bytes.
    pub virtual_bytes: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// Soft limit on file descriptors; `None` if unlimited.
    pub max_fds: Option<f64>,
    /// Start time in seconds since the Unix epoch.
    pub start_seconds: Option<f64>,
    /// Number of threads.
    pub threads: Option<f64>,
}

impl Process {
    /// Reads `/proc/self`.
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let mut process = Self::of_stat(&stat, boot_seconds());
        process.open_fds = fs::read_dir("/proc/self/fd")
            .ok()
            // One of them is the descriptor that reads the directory.
            .map(|fds| fds.count().saturating_sub(1) as f64);
        process.max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .map(|n| n as f64);
        process
    }

    /// Parses `/proc/PID/stat`, see proc_pid_stat(5).
    ///
    /// The second field, the command in parentheses, may itself contain spaces and parentheses, so the fixed fields are
    /// counted from the last `)`.
    fn of_stat(stat: &str, boot_seconds: Option<f64>) -> Self {
        let Some((_, rest)) = stat.rsplit_once(')') else {
            return Self::default();
        };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The manual numbers fields from 1, and the first one after the command is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(u, s)| (u + s) / ticks),
            threads: field(20),
            start_seconds: field(22).zip(boot_seconds).map(|(s, b)| b + s / ticks),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page),
            ..Self::default()
        }
    }
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|l| l.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4 5 0 0 0 200 50 0 0 20 0 9 0 1000 4096000 10 99";
        let process = Process::of_stat(stat, Some(1_000_000.0));
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(process.cpu_seconds, Some(250.0 / ticks));
        assert_eq!(process.threads, Some(9.0));
        assert_eq!(process.start_seconds, Some(1_000_000.0 + 1_000.0 / ticks));
        assert_eq!(process.virtual_bytes, Some(4_096_000.0));
        let page = rustix::param::page_size() as f64;
        assert_eq!(process.resident_bytes, Some(10.0 * page));
        assert_eq!(Process::of_stat("", None), Process::default());
    }

    #[test]
    fn this_process_has_plausible_values() {
        let process = Process::read();
        assert!(process.resident_bytes > Some(100_000.0), "{process:?}");
        assert!(process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds >= Some(3.0) && process.open_fds < process.max_fds);
        assert!(process.threads >= Some(1.0) && process.cpu_seconds >= Some(0.0));
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs_f64();
        assert!(
            process
                .start_seconds
                .is_some_and(|s| s <= now + 2.0 && s > now - 86_400.0)
        );
    }
}

//! The process's file descriptors: their limit, and the kernel's table of them.

use std::io;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Most descriptors that the table has room for from the start. An entry takes 8 bytes and two bits of kernel memory, half a MiB
/// in all.
const RESERVED_MOST: usize = 65_536;

/// Raises the soft limit of open files to the hard limit, and returns the resulting limit; `None` if there is none.
pub fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let former = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(limit = ?former, %error, "can't raise the limit of open files");
            limit.current = former;
        }
    }
    limit.current.and_then(|n| usize::try_from(n).ok())
}

/// Makes the kernel's table of descriptors large enough for this many, at most [`RESERVED_MOST`]. To be called before the workers
/// start.
///
/// A table that is full grows to twice its size within the call that needs a descriptor, such as `accept(2)`. In a process with
/// several threads the kernel waits there until no thread can be reading the old table (`synchronize_rcu` in `expand_fdtable`),
/// which takes 6 to 16 ms, during which the worker serves no request. It would happen at 64, 128, 256 descriptors and so on, just
/// while clients arrive. A table never shrinks.
pub fn reserve_descriptors(limit: Option<usize>) {
    let highest = highest_reserved(limit);
    // The smallest number that the duplicate may get, for which the table has to be that large.
    let reserved = i32::try_from(highest)
        .map_err(io::Error::other)
        .and_then(|highest| Ok(fcntl_dupfd_cloexec(io::stderr(), highest)?));
    if let Err(error) = reserved {
        // The table only affects latency, so a failure is not reported louder.
        tracing::debug!(highest, %error, "can't reserve file descriptors");
    }
}

/// The highest descriptor for which the table needs room if this many may be open.
fn highest_reserved(limit: Option<usize>) -> usize {
    limit
        .unwrap_or(RESERVED_MOST)
        .min(RESERVED_MOST)
        .saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_reserved_up_to_the_limit() {
        assert_eq!(highest_reserved(Some(1024)), 1023);
        assert_eq!(highest_reserved(Some(1 << 20)), RESERVED_MOST - 1);
        assert_eq!(highest_reserved(None), RESERVED_MOST - 1);
        assert_eq!(highest_reserved(Some(0)), 0);
    }
}

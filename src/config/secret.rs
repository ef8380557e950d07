//! Files that hold secrets. One that other users of the machine may read or write is refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The mode bits that let every user of the machine in. The owner's group may read: that is how secrets are mounted.
const OTHERS: u32 = 0o006;

/// Most bytes of a secret: a larger file was named by mistake.
pub(crate) const MOST: u64 = 4096;

/// Reads the secret in `file`, at most one byte more than [`MOST`]. `what` is its name in messages, `risk` what somebody
/// who knows it can do.
///
/// # Errors
/// The file can't be read, or others may read or write it; with what to do.
pub(crate) fn read(file: &Path, what: &str, risk: &str) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let fault = |e: io::Error| format!("{what} {shown}: {e}");
    // The mode of what was opened: the path may lead elsewhere a moment later.
    let open = File::open(file).map_err(fault)?;
    let mode = open.metadata().map_err(fault)?.mode();
    if mode & OTHERS != 0 {
        return Err(format!(
            "{what} {shown}: every user of this machine may read or write it (mode {:04o}), and who knows it can {risk}. \
             Run `chmod o-rw {shown}`",
            mode & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    open.take(MOST + 1).read_to_end(&mut bytes).map_err(fault)?;
    Ok(bytes)
}

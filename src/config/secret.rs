//! Reads files with secrets, and refuses those that every user of the machine can read or write.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mode bits that give access to everyone. The group isn't among them, because Kubernetes mounts secrets group-readable.
const OTHERS: u32 = 0o006;

/// The maximum size of a secret in bytes. A larger file was probably named by mistake.
pub const MOST: u64 = 4096;

/// Reads a secret, up to one byte more than [`MOST`], so that the caller can tell if it is too large.
///
/// In messages, `what` names the secret and `risk` says what someone who knows it can do.
///
/// # Errors
/// Fails if the file can't be read, or if everyone can read or write it; the message says what to do.
pub fn read(file: &Path, what: &str, risk: &str) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let fault = |e: io::Error| format!("{what} {shown}: {e}");
    // Check the mode of the open file, since the path may lead to another file by now.
    let open = File::open(file).map_err(fault)?;
    let mode = open.metadata().map_err(fault)?.mode();
    if mode & OTHERS != 0 {
        return Err(format!(
            "{what} {shown}: accessible to every user of this machine (mode {:04o}), and anyone who knows it can {risk}. \
             Run `chmod o-rw {shown}`",
            mode & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    open.take(MOST + 1).read_to_end(&mut bytes).map_err(fault)?;
    Ok(bytes)
}

//! Finds the process that listens on a port, to name it in an "address already in use" error. Linux only: reads /proc.

use std::fs;

/// The process that listens on `port`, as `nginx (pid 123)`. `None` if it isn't visible: it belongs to another user, or there is
/// no /proc.
pub(super) fn of_port(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| listening(&text, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut links = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = links.any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|to| inodes.iter().any(|i| to.as_os_str() == i.as_str()))
        });
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        holds.then(|| format!("{} (pid {pid})", name.trim()))
    })
}

/// Inodes of the sockets that listen on `port`, from the text of `/proc/net/tcp` or `tcp6` (`proc_net_tcp(5)`).
fn listening(table: &str, port: u16) -> Vec<String> {
    // TCP_LISTEN in the kernel's `include/net/tcp_states.h`.
    const LISTEN: &str = "0A";
    let hex = format!("{port:04X}");
    let inode = |line: &str| {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        let inode = columns.nth(5)?;
        (state == LISTEN && local.rsplit_once(':')?.1 == hex).then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n   \
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0\n   \
            2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listening(table, 8080), ["4711"]);
        assert_eq!(listening(table, 22), ["4713"]);
        assert!(listening(table, 23).is_empty());
    }

    #[test]
    fn this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = of_port(listener.local_addr().unwrap().port()).unwrap();
        assert!(
            owner.ends_with(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
    }
}

//! Listeners on Unix sockets: who may connect.

use std::os::unix::fs::MetadataExt;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command, single};
use crate::support::until;

fn text(access: &str, origin: &Origin) -> String {
    format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\nlisten.web.bind = \"127.0.0.1:$PORT\"\n\
         [listen.local]\nbind = \"unix:$DIR/front.sock\"\n{access}\n{}",
        single(&origin.at(), "")
    )
}

/// Permission bits and group of the socket.
fn access(proxy: &Proxy) -> (u32, u32) {
    let found = proxy.dir().join("front.sock").metadata().expect("a socket");
    (found.mode() & 0o777, found.gid())
}

#[test]
fn a_socket_has_the_mode_and_group_of_its_listener_also_after_a_reload() {
    let origin = Origin::named("v1");
    // The one group that every user may choose.
    let own = rustix::process::getgid().as_raw();
    let proxy = Builder::new(&text(
        &format!("mode = \"0660\"\ngroup = \"{own}\""),
        &origin,
    ))
    .start();
    assert_eq!(access(&proxy), (0o660, own));
    edit(&proxy, &text("mode = \"0600\"", &origin));
    until("the reload sets the mode", || {
        (access(&proxy).0 == 0o600).then_some(())
    });
    edit(
        &proxy,
        &text("mode = \"0666\"\ngroup = \"no-such-group\"", &origin),
    );
    until("the group is refused", || {
        proxy
            .log()
            .contains("this machine has no group no-such-group")
            .then_some(())
    });
    assert_eq!(access(&proxy).0, 0o600);
}

/// Replaces the whole file.
fn edit(proxy: &Proxy, text: &str) {
    let fresh = proxy.dir().join("fresh.toml");
    std::fs::write(&fresh, proxy.filled(text)).expect("write");
    std::fs::rename(&fresh, proxy.file()).expect("replace");
}

#[test]
fn check_refuses_a_group_that_does_not_exist() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cutover.toml");
    let text = "[listen.a]\nbind = \"unix:/run/a.sock\"\ngroup = \"no-such-group\"\n[service.s]\nversions.v1 = [\"a:1\"]\n";
    std::fs::write(&file, text).expect("write");
    let path = file.to_str().expect("a path");
    let checked = command(&["check", path], dir.path());
    assert_eq!(checked.code, 1);
    let said = &checked.stderr;
    assert!(said.contains("no group no-such-group"), "{said}");
    assert!(said.contains("cutover.toml:3"), "{said}");
}

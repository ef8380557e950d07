//! The files under `config/migration`, in front of scripted origins: each does what the file of the other proxy does that
//! `docs/migration` shows beside it.
//!
//! A file is loaded as it stands, except for addresses, ports and directories, which are those of the test.

mod haproxy;
mod kamal;
mod nginx;
mod originals;
mod traefik;

use std::path::Path;

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command};
use crate::support::tls::Authority;
use crate::support::wire::Message;

/// What every file says about its surroundings, and what it is here.
const SURROUNDINGS: [(&str, &str); 5] = [
    ("\"127.0.0.1:9900\"", "\"127.0.0.1:$ADMIN\""),
    ("\"/var/lib/cutover\"", "\"$DIR/state\""),
    ("\":80\"", "\"127.0.0.1:$PORT\""),
    ("\":443\"", "\"127.0.0.1:$PORT2\""),
    ("\"/etc/cutover/", "\"$DIR/"),
];

/// A file of `config/migration` whose addresses are being replaced.
struct FrontDoor {
    builder: Builder,
    text: String,
}

impl FrontDoor {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("config/migration").join(name);
        let mut text = std::fs::read_to_string(&file).expect("the file");
        for (written, here) in SURROUNDINGS {
            text = text.replace(written, here);
        }
        Self {
            builder: Builder::new(""),
            text,
        }
    }

    /// With this address or text, which the file must hold, replaced.
    #[track_caller]
    fn with(mut self, written: &str, here: &str) -> Self {
        assert!(self.text.contains(written), "no {written} in {}", self.text);
        self.text = self.text.replace(written, here);
        self
    }

    /// With origins in place of these endpoints.
    #[track_caller]
    fn before<const N: usize>(self, origins: [(&str, &Origin); N]) -> Self {
        origins.into_iter().fold(self, |this, (written, origin)| {
            this.with(&format!("\"{written}"), &format!("\"{}", origin.at()))
        })
    }

    /// With a certificate for these names in the place where the file expects it.
    fn certified(self, name: &str, authority: &Authority, names: &[&str]) -> Self {
        let directory = self.builder.dir().join("tls");
        std::fs::create_dir_all(&directory).expect("a directory");
        authority.issue(names).save(&directory, name);
        self
    }

    /// Starts it; `cutover check` accepts the file too, without a warning.
    #[track_caller]
    fn open(self) -> Proxy {
        let proxy = self.builder.text(&self.text).start();
        let file = proxy.file();
        let checked = command(&["check", file.to_str().expect("UTF-8")], proxy.dir());
        assert_eq!(checked.code, 0, "{checked:?}");
        assert!(!checked.stderr.contains("warning"), "{checked:?}");
        proxy
    }
}

/// A request with these header lines, each ended, on a connection of its own.
#[track_caller]
fn ask(proxy: &Proxy, method: &str, url: &str, lines: &str) -> Message {
    proxy.client().ask(&request(method, url, lines))
}

/// As [`ask`], over TLS.
#[track_caller]
fn ask_tls(proxy: &Proxy, authority: &Authority, url: &str, lines: &str) -> Message {
    let (host, _) = split(url);
    let stream = authority.connect(proxy.port2, host, &["http/1.1"]);
    Client::over(stream.expect("a handshake")).ask(&request("GET", url, lines))
}

/// `url` without its scheme, as host and path.
fn split(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').expect("a path"))
}

fn request(method: &str, url: &str, lines: &str) -> String {
    let (host, path) = split(url);
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n")
}

/// A field of a response that it has once.
#[track_caller]
fn field(message: &Message, name: &str) -> String {
    let value = message.field(name);
    value.unwrap_or_else(|| panic!("no {name} in {}", String::from_utf8_lossy(&message.head)))
}

#[test]
fn every_file_is_driven_by_a_test() {
    let tests = [
        include_str!("haproxy.rs"),
        include_str!("kamal.rs"),
        include_str!("nginx.rs"),
        include_str!("traefik.rs"),
    ];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/migration");
    let files = std::fs::read_dir(directory).expect("config/migration");
    let mut count = 0;
    for file in files.map(|file| file.expect("an entry").file_name()) {
        let name = format!("FrontDoor::new({file:?})");
        assert!(tests.iter().any(|text| text.contains(&name)), "{file:?}");
        count += 1;
    }
    assert_eq!(count, 10);
}

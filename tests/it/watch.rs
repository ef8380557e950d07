//! `cutover status -w` on a terminal: what is shown, what keys do, and that the terminal is as before afterwards, however it ends.
//!
//! `script` (util-linux) provides the terminal, of 80x24.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Proxy, serve};
use crate::support::until;

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";

/// A running view; killed when dropped.
struct View {
    child: Child,
    keys: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
}

impl View {
    fn of(proxy: &Proxy) -> Self {
        // The settings of the terminal are printed before and after.
        let shell = format!(
            "stty -g; sh -c 'echo pid=$$; exec {BINARY} status -w -c {}'; echo code=$?; stty -g",
            proxy.file().display()
        );
        let mut child = Command::new("script")
            .args(["-qefc", &shell, "/dev/null"])
            .envs([("TERM", "xterm"), ("LC_ALL", "C.UTF-8"), ("NO_COLOR", "1")])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start script");
        let keys = child.stdin.take().unwrap();
        let mut shown = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let into = output.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                into.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let view = Self {
            child,
            keys,
            output,
        };
        view.shows("quit");
        view
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until this is on the screen, or has been written.
    #[track_caller]
    fn shows(&self, what: &str) {
        until(what, || {
            let text = self.text();
            (text.contains(what) || screen(&text).contains(what)).then_some(())
        });
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn pid(&self) -> Pid {
        let text = self.text();
        let pid = text.split("pid=").nth(1).unwrap();
        let digits: String = pid.chars().take_while(char::is_ascii_digit).collect();
        Pid::from_raw(digits.parse().unwrap()).unwrap()
    }

    /// Waits for its end: the exit code is this, and the terminal as before.
    #[track_caller]
    fn ended(mut self, code: u8) {
        until("it ends", || self.child.try_wait().unwrap());
        self.shows("code=");
        // What `script` has written may still be on its way through the pipe.
        let after = until("the settings afterwards", || {
            let text = self.text();
            let (_, after) = text.split_once("code=")?;
            (after.lines().count() >= 2).then(|| after.to_owned())
        });
        let text = self.text();
        let before = text.lines().next().unwrap();
        let after: Vec<&str> = after.lines().collect();
        assert_eq!(after[..2], [code.to_string().as_str(), before], "{text:?}");
        assert_eq!(text.matches(ENTERED).count(), text.matches(LEFT).count());
        let screen = text.rfind(LEFT).expect("it has left its screen");
        assert!(text[screen..].contains("code="), "{text:?}");
    }
}

/// The screen of 80x24 after these bytes. Only cells that change are drawn, so that the bytes have no whole lines.
fn screen(bytes: &str) -> String {
    let mut grid = vec![vec![' '; 80]; 24];
    let (mut x, mut y) = (0, 0);
    for (at, part) in bytes.split("\x1b[").enumerate() {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        // What comes before the first sequence has none.
        let Some(end) = end.filter(|_| at > 0) else {
            continue;
        };
        let (parameters, rest) = part.split_at(end);
        let mut rest = rest.chars();
        match rest.next() {
            Some('H') => {
                let mut numbers = parameters.split(';').map(|n| n.parse().unwrap_or(1));
                y = numbers.next().unwrap_or(1_usize) - 1;
                x = numbers.next().unwrap_or(1_usize) - 1;
            }
            Some('J') => grid.iter_mut().for_each(|row| row.fill(' ')),
            _ => {}
        }
        for c in rest {
            // After the end there is other output, which wraps.
            if let Some(cell) = grid.get_mut(y).and_then(|row| row.get_mut(x)) {
                *cell = c;
            }
            x += 1;
        }
    }
    let rows = grid.into_iter().map(String::from_iter);
    rows.collect::<Vec<String>>().join("\n")
}

impl Drop for View {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

fn shop() -> (Origin, Proxy) {
    let origin = Origin::named("shop");
    let at = origin.at();
    let proxy = serve(&format!(
        "[service.shop]\nstable = \"v1\"\nsplit = {{ v2 = \"5%\" }}\n\
         [service.shop.versions]\nv1 = [\"{at}\"]\nv2 = [\"{at}\"]\n"
    ));
    (origin, proxy)
}

#[test]
fn keys_shift_a_version_after_a_question() {
    let (_origin, proxy) = shop();
    let mut view = View::of(&proxy);
    view.press("\r");
    view.shows("ENDPOINTS");
    view.press("s");
    view.shows("share of v2, now 5%");
    view.press("25\r");
    view.shows("from 5% to 25%?");
    view.shows("v2 5% -> 25%");
    assert!(proxy.text().contains("\"5%\""), "nothing without a yes");
    view.press("y");
    until("the file has the share", || {
        proxy.text().contains("\"25%\"").then_some(())
    });
    view.shows("v2 25% (generation");
    view.press("q");
    view.ended(0);
}

#[test]
fn the_log_is_shown_and_a_proxy_that_has_gone_is_no_end() {
    let (_origin, proxy) = shop();
    let mut view = View::of(&proxy);
    view.press("\t");
    view.shows("requests to all services");
    until("a line", || {
        proxy.get("/%1b[2Jx");
        screen(&view.text()).contains("/%1b[2Jx").then_some(())
    });
    drop(proxy);
    view.shows("connection lost since");
    view.press("q");
    view.ended(0);
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let (_origin, proxy) = shop();
    let view = View::of(&proxy);
    kill_process(view.pid(), Signal::TERM).unwrap();
    view.ended(143);
    let mut view = View::of(&proxy);
    view.press("\x03");
    view.ended(0);
}

#[test]
fn a_stopped_view_gives_the_terminal_back_and_continues() {
    let (_origin, proxy) = shop();
    let mut view = View::of(&proxy);
    let pid = view.pid();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    kill_process(pid, Signal::TSTP).unwrap();
    until("it stops", || state().contains(") T ").then_some(()));
    view.shows(LEFT);
    kill_process(pid, Signal::CONT).unwrap();
    until("it draws again", || {
        let text = view.text();
        let (_, again) = text.split_once(LEFT)?;
        (again.contains(ENTERED) && screen(again).contains("quit")).then_some(())
    });
    view.press("q");
    view.ended(0);
}

#[test]
fn without_a_terminal_it_is_text() {
    let (_origin, proxy) = shop();
    let mut child = proxy.start_local(&["status", "-w"]);
    let mut stdout = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while text.matches("SERVICE").count() < 2 {
        let count = stdout.read(&mut bytes).unwrap();
        assert!(count > 0, "{text}");
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    let _killed = child.kill();
    let _reaped = child.wait();
    assert!(!text.contains('\x1b'), "{text:?}");
}

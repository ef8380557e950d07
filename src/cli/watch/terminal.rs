//! The terminal: raw mode and the alternate screen, which are left again however the command ends, and the screen that is shown
//! there.

use std::io::{self, Write as _};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use rustix::time::Timespec;
use tokio::sync::mpsc;

use super::key::{KeyParser, TerminalKey};
use super::screen::{ScreenBuffer, TerminalAbilities};

/// Alternate screen, hidden cursor, no automatic line wrap.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";

/// The opposites of [`ENTER`], in reverse order.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Size of a terminal that doesn't report its size, in columns and rows.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// Longest time between two bytes of one key's sequence.
const SEQUENCE_GAP: Duration = Duration::from_millis(30);

/// The previous settings of the terminal, while it is in raw mode.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in raw mode. Dropping it restores the previous mode.
pub(super) struct TerminalSession {
    can: TerminalAbilities,
    /// The screen that the terminal shows; `None` if it isn't known.
    shown: Option<ScreenBuffer>,
}

impl TerminalSession {
    /// Takes the terminal of stdin and stdout.
    ///
    /// # Errors
    /// The terminal can't be switched to raw mode.
    pub(super) fn begin(can: TerminalAbilities) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let former = std::panic::take_hook();
            // The message of a panic belongs on the screen that stays.
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                former(panic);
            }));
        });
        enter()?;
        Ok(Self { can, shown: None })
    }

    /// Returns the number of columns and rows.
    pub(super) fn size() -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => USUAL_SIZE,
        }
    }

    /// Shows a screen.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn show(&mut self, screen: ScreenBuffer) -> io::Result<()> {
        let painted = screen.painted(self.shown.as_ref(), self.can);
        if !painted.is_empty() {
            let mut out = io::stdout().lock();
            out.write_all(painted.as_bytes())?;
            out.flush()?;
        }
        self.shown = Some(screen);
        Ok(())
    }

    /// Makes the next screen be drawn in full: the terminal has another size, or other programs have written to it.
    pub(super) fn forget(&mut self) {
        self.shown = None;
    }

    /// Stops the process, as Ctrl-Z does, and returns when it runs again in the foreground.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        // Sends SIGSTOP, because the handler of SIGTSTP has replaced the default action.
        kill_process(getpid(), Signal::STOP)?;
        self.forget();
        enter()
    }
}

impl Drop for TerminalSession {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    let before = tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    let mut out = io::stdout().lock();
    out.write_all(ENTER)?;
    out.flush()
}

/// Undoes [`enter`], once.
fn leave() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(before) = before else { return };
    // A terminal that is gone needs nothing.
    let mut out = io::stdout().lock();
    let _ = out.write_all(LEAVE).and_then(|()| out.flush());
    let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
}

/// Reads keys on a thread of its own until the terminal or the receiver is gone. `None` tells that the terminal is gone.
///
/// # Errors
/// The thread can't be started.
pub(super) fn read_keys(keys: mpsc::Sender<Option<TerminalKey>>) -> io::Result<()> {
    let read = move || {
        let mut parser = KeyParser::default();
        let mut bytes = [0; 256];
        loop {
            // Read without the lock of `Stdin` and its buffer, whose bytes `poll` wouldn't see.
            let found = match parser.is_waiting() && !follows() {
                true => parser.flush(),
                false => match rustix::io::read(io::stdin(), &mut bytes) {
                    Ok(0) => break,
                    Ok(count) => parser.feed(&bytes[..count]),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => break,
                },
            };
            for key in found {
                if keys.blocking_send(Some(key)).is_err() {
                    return;
                }
            }
        }
        // The receiver may have gone as well.
        let _ = keys.blocking_send(None);
    };
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(read)
        .map(drop)
}

/// Whether more bytes come within [`SEQUENCE_GAP`].
fn follows() -> bool {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: SEQUENCE_GAP.subsec_nanos().into(),
    };
    // The next read finds an error again.
    !matches!(poll(&mut watched, Some(&limit)), Ok(0))
}

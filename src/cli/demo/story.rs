//! The fixed story of `--for`: blue, 5 %, 50 %, green, and back, each told by an edit of the file.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::stage::{DemoProxy, SERVICE};
use super::tally::{Tally, shown};
use super::view::Voice;
use crate::cli::fault::CommandError;
use crate::cli::shift::locked;
use crate::config::edit;
use crate::config::spec::Share;

/// What green gets, in order, and what is said of it.
const ACTS: [(u32, &str); 5] = [
    (0, "everything goes to blue"),
    (5_000, "green gets its first 5%"),
    (50_000, "half and half"),
    (100_000, "green has taken over"),
    (0, "and back to blue, by the same line"),
];

/// Longest time until an edit is live.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the story in this time.
///
/// # Errors
/// An edit is refused, or not live in time.
pub(super) async fn tell(
    stage: &DemoProxy,
    tally: &Rc<RefCell<Tally>>,
    voice: Voice,
    time: Duration,
) -> Result<(), CommandError> {
    let begun = Instant::now();
    let act = time / u32::try_from(ACTS.len()).unwrap_or(1);
    for (number, (share, said)) in (1..).zip(ACTS) {
        let before = tally.borrow().by_version();
        if number == 1 {
            voice.say(said);
        } else {
            let after = shift(stage, Share(share)).await?;
            tally.borrow_mut().adopted(after);
            let line = stage.line().map(|(_, line)| line).unwrap_or_default();
            let line = line.split('#').next().unwrap_or("").trim().to_owned();
            let after = shown(after);
            voice.say(&format!("wrote `{line}`, live after {after}: {said}"));
        }
        sleep_until(begun + act * number).await;
        let now = tally.borrow().by_version();
        let [blue, green] = [now[0] - before[0], now[1] - before[1]];
        voice.say(&format!(
            "  of {} requests {green} went to green",
            blue + green
        ));
    }
    Ok(())
}

/// Edits the file; returns once every worker has taken it up, with the time since the save.
async fn shift(stage: &DemoProxy, share: Share) -> Result<Duration, CommandError> {
    let before = stage.proxy.status().await?.generation;
    let mut locked = locked(&stage.file).await?;
    let text = locked
        .read()
        .map_err(|e| CommandError::new(format!("the file can't be read: {e}")))?;
    let text = edit::shift(&text, SERVICE, &[("green", share)])
        .map_err(|e| CommandError::new(e.to_string()))?;
    let saved = Instant::now();
    locked
        .replace(&text)
        .map_err(|e| CommandError::new(format!("the file can't be written: {e}")))?;
    drop(locked);
    loop {
        let status = stage.proxy.status().await?;
        if status.adopted > before {
            return Ok(saved.elapsed());
        }
        if let Some(error) = status.config.error {
            return Err(CommandError::new(format!("the edit was refused\n{error}")));
        }
        if saved.elapsed() > PATIENCE {
            return Err(CommandError::new(format!(
                "the edit is not live after {PATIENCE:?}"
            )));
        }
        sleep(Duration::from_millis(1)).await;
    }
}

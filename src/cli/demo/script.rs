//! The script of `--for`: shifts green to 5 %, 50 %, 100 % and back to 0 % by editing the configuration file.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::demo_proxy::DemoProxy;
use super::messages::Messages;
use super::scene::SERVICE;
use super::tally::{Tally, shown};
use crate::cli::edit::locked;
use crate::cli::error::CommandError;
use crate::config::edit;
use crate::config::spec::Share;

/// The share of green in each step, and the line that is printed about it.
const STEPS: [(u32, &str); 5] = [
    (0, "blue gets all traffic"),
    (5_000, "green gets its first 5%"),
    (50_000, "half and half"),
    (100_000, "green gets all traffic"),
    (0, "back to blue, with the same line"),
];

/// Time limit for an edit to be live.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Plays the script in `length`, with steps of equal length.
///
/// # Errors
/// The proxy refuses an edit, or does not adopt it in time.
pub(super) async fn play(
    proxy: &DemoProxy,
    tally: &Rc<RefCell<Tally>>,
    messages: Messages,
    length: Duration,
) -> Result<(), CommandError> {
    let begun = Instant::now();
    let step = length / u32::try_from(STEPS.len()).unwrap_or(1);
    for (number, (share, effect)) in (1..).zip(STEPS) {
        let before = tally.borrow().by_version();
        if number == 1 {
            messages.push(effect);
        } else {
            let after = shift(proxy, Share(share)).await?;
            tally.borrow_mut().adopted(after);
            let line = proxy
                .line_of("split")
                .map(|(_, line)| line)
                .unwrap_or_default();
            let line = line.split('#').next().unwrap_or("").trim().to_owned();
            let after = shown(after);
            messages.push(&format!("wrote `{line}`"));
            messages.push(&format!("  live after {after}: {effect}"));
        }
        sleep_until(begun + step * number).await;
        let now = tally.borrow().by_version();
        let [blue, green] = [now[0] - before[0], now[1] - before[1]];
        let all = blue + green;
        messages.push(&format!("  {green} of {all} requests went to green"));
    }
    Ok(())
}

/// Edits the file and waits until every worker has adopted the edit. Returns the time from the save to the adoption.
async fn shift(proxy: &DemoProxy, share: Share) -> Result<Duration, CommandError> {
    let before = proxy.admin.status().await?.generation;
    let mut locked = locked(&proxy.file).await?;
    let before_edit = locked
        .read()
        .map_err(|e| CommandError::new(format!("can't read the configuration: {e}")))?;
    let text = edit::shift(&before_edit, SERVICE, &[("green", share)])
        .map_err(|e| CommandError::new(e.to_string()))?;
    let saved = Instant::now();
    locked
        .replace(&before_edit, &text)
        .map_err(|e| CommandError::new(format!("can't write the configuration: {e}")))?;
    drop(locked);
    loop {
        let status = proxy.admin.status().await?;
        if status.adopted > before {
            return Ok(saved.elapsed());
        }
        if let Some(error) = status.config.error {
            return Err(CommandError::new(format!(
                "the proxy refuses the edit\n{error}"
            )));
        }
        if saved.elapsed() > TIMEOUT {
            return Err(CommandError::new(format!(
                "the edit is not live after {TIMEOUT:?}"
            )));
        }
        sleep(Duration::from_millis(1)).await;
    }
}

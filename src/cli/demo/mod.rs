//! `cutover demo`: two origins, a file, the proxy, traffic, a live view. Nothing else is needed.
//!
//! The proxy is this program again, as a child with `run -c FILE`: exactly what somebody would start by hand.
//!
//! * [`origin`]: blue and green. [`port`]: where the proxy listens. [`stage`]: the file, the child, the directory that goes
//!   away.
//! * [`traffic`]: the users. [`tally`]: what they saw. [`view`]: how it is shown. [`story`]: the fixed one of `--for`.

mod name;
mod origin;
mod port;
mod stage;
mod story;
mod tally;
mod traffic;
mod view;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::fault::CommandError;
use super::{CommandResult, block_on};
use stage::DemoProxy;
use tally::Tally;
use view::DemoView;

/// The versions, in the order of the file, with the time that each takes for an answer.
const VERSIONS: [(&str, Duration); 2] = [
    ("blue", Duration::from_millis(4)),
    ("green", Duration::from_millis(2)),
];

/// Watch live traffic move between two versions.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 no request failed, 1 some did or the demo could not run.")]
pub(super) struct Demo {
    /// Tell a fixed story in this time (blue, 5 %, 50 %, green, back) and end
    #[arg(long = "for", value_name = "TIME", value_parser = story_time)]
    story: Option<Duration>,
    /// Port of the proxy on 127.0.0.1 [default: 8080, or a free one]
    #[arg(long)]
    port: Option<u16>,
}

fn story_time(text: &str) -> Result<Duration, String> {
    let time = super::time(text)?;
    match time {
        time if time < Duration::from_secs(5) => Err("the story takes 5s at least".to_owned()),
        time if time > Duration::from_secs(3600) => Err("the story takes 1h at most".to_owned()),
        time => Ok(time),
    }
}

impl Demo {
    pub(super) fn run(&self) -> CommandResult {
        block_on(self.play())?
    }

    async fn play(&self) -> CommandResult {
        let mut origins = Vec::new();
        for (name, latency) in VERSIONS {
            origins.push((name, origin::start(name, latency).await?));
        }
        let mut stage = DemoProxy::set(&origins, self.port)?;
        let tally = Rc::new(RefCell::new(Tally::new(VERSIONS.map(|(name, _)| name))));
        let mut view = DemoView::new(&stage, tally.clone());
        let mut interrupted = std::pin::pin!(interrupted());
        let ended = tokio::select! {
            ended = self.act(&mut stage, &tally, &mut view) => ended,
            () = &mut interrupted => Ok(()),
        };
        view.close();
        let stopped = stage.strike().await;
        ended?;
        stopped?;
        let tally = tally.borrow();
        let summary = tally.summary();
        anstream::println!("{summary}");
        Ok(u8::from(tally.failures() > 0))
    }

    async fn act(
        &self,
        stage: &mut DemoProxy,
        tally: &Rc<RefCell<Tally>>,
        view: &mut DemoView,
    ) -> Result<(), CommandError> {
        stage.ready().await?;
        let begun = Instant::now();
        let _users = traffic::start(stage.address, tally.clone());
        view.open(stage);
        let story = async {
            match self.story {
                Some(time) => story::tell(stage, tally, view.voice(), time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = story => told,
            failed = view.live(stage, begun) => failed,
        }
    }
}

/// SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

//! `cutover demo`: shows live traffic moving between two versions, without any setup.
//!
//! The proxy is a child process running `cutover run -c FILE`, exactly as a user would start it. The origins, the clients
//! and the display run in this process, on one thread.
//!
//! * [`scene`] is the set-up of a demo; [`origin`] serves the versions; [`demo_proxy`] owns the configuration file and
//!   the child process; [`port`] reserves the proxy's port.
//! * [`demo_etcd`] runs the etcd of `--fleet`, and [`members`] watches how its proxies move together.
//! * [`traffic`] sends the requests of [`users`]; [`tally`] counts the responses; [`view`] shows them, below
//!   the [`messages`] that the demo tells. [`layout`] fits both into the terminal.
//! * Without a story the user edits the file, or [`script`] plays the shifts of `--for`. A [`story`] is played on a
//!   [`stage`]. [`name`] is how this program is called in the commands that the demo prints.

mod demo_etcd;
mod demo_proxy;
mod layout;
mod members;
mod messages;
mod name;
mod origin;
mod port;
mod scene;
mod script;
mod stage;
mod story;
mod tally;
mod traffic;
mod users;
mod view;

use std::cell::RefCell;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::error::CommandError;
use super::{CommandResult, block_on};
use demo_etcd::DemoEtcd;
use demo_proxy::DemoProxy;
use origin::DemoOrigin;
use scene::{Scene, SceneAddresses};
use stage::StoryStage;
use story::Story;
use tally::Tally;
use users::Users;
use view::DemoView;

/// Runs the demo.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  no request failed, and the story ended as it should\n  1  a request failed, the story ended otherwise, or the demo could not run"
)]
pub(super) struct DemoArgs {
    /// Play a deployment from beginning to end, by the commands that it prints, and exit; takes about 15s
    #[arg(long)]
    story: Option<Story>,
    /// End after this time, from 5s to 1h. Without a story, play a script of this length: blue, 5%, 50%, green, back to blue. A
    /// story that has ended earlier keeps running until then, so that commands can be tried on it
    #[arg(long = "for", value_name = "TIME", value_parser = script_time)]
    length: Option<Duration>,
    /// Port of the proxy on 127.0.0.1 [default: 8080, or a free one if that is taken]
    #[arg(long)]
    port: Option<u16>,
    /// Play the story on a fleet: this number of proxies, from 2 to 5, that share the rollout through the etcd that is installed
    /// [story: bad-canary, or good-canary]
    #[arg(long, value_name = "PROXIES", value_parser = clap::value_parser!(u8).range(2..=5))]
    fleet: Option<u8>,
    /// Become etcd, with these arguments; for the demo itself
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    become_etcd: Option<Vec<OsString>>,
}

/// Parses the length of the demo.
fn script_time(text: &str) -> Result<Duration, String> {
    const RANGE: &str = "the demo takes from 5s to 1h";
    let within =
        |time: &Duration| (Duration::from_secs(5)..=Duration::from_secs(3600)).contains(time);
    match super::time(text) {
        Ok(time) if within(&time) => Ok(time),
        Ok(_) => Err(RANGE.to_owned()),
        // The value that a number without a unit probably means may be out of range itself.
        Err(error) => match super::time(&format!("{text}s")) {
            Ok(time) if !within(&time) => Err(format!(
                "no unit, and {text}s is out of range: {RANGE}, such as `10s`"
            )),
            _ => Err(error),
        },
    }
}

/// The parts of a running demo. They are dropped in this order.
struct RunningDemo {
    proxy: DemoProxy,
    /// The other members of the fleet.
    others: Vec<DemoProxy>,
    etcd: Option<DemoEtcd>,
    origins: Vec<Rc<DemoOrigin>>,
    tally: Rc<RefCell<Tally>>,
    users: Rc<RefCell<Users>>,
}

impl DemoArgs {
    pub(super) fn run(&self) -> CommandResult {
        if let Some(arguments) = &self.become_etcd {
            return Err(demo_etcd::become_etcd(arguments));
        }
        block_on(self.demo())?
    }

    /// The story to play, if there is one. Without a story, a fleet has a bad canary.
    fn story(&self) -> Result<Option<Story>, CommandError> {
        match (self.story, self.fleet) {
            (None, Some(_)) => Ok(Some(Story::BadCanary)),
            (Some(story), Some(_)) if !story.is_canary() => {
                let refused = format!("the story {} has no rollout to share", story.name());
                let fault = CommandError::new(refused);
                Err(fault.with("--fleet plays bad-canary or good-canary"))
            }
            (story, _) => Ok(story),
        }
    }

    async fn demo(&self) -> CommandResult {
        let story = self.story()?;
        let scene = story.map_or_else(Scene::free, Story::scene);
        let scene = match self.fleet {
            Some(members) => scene.on_fleet(members),
            None => scene,
        };
        let mut interrupted = std::pin::pin!(interrupted());
        let mut demo = tokio::select! {
            started = self.start(&scene) => started?,
            () = &mut interrupted => return Ok(0),
        };
        let mut view = DemoView::new(&scene, &demo.proxy, demo.tally.clone());
        let ended = tokio::select! {
            ended = self.run_until_ended((&scene, story), &mut demo, &mut view) => ended,
            () = &mut interrupted => Ok(DemoEnd::Stopped),
        };
        view.close();
        // The proxies are stopped even if the demo has failed, and the first error is reported.
        let mut stopped = demo.proxy.shutdown().await;
        for other in demo.others {
            stopped = stopped.and(other.shutdown().await);
        }
        drop(demo.etcd);
        let ended = ended?;
        stopped?;
        let tally = demo.tally.borrow();
        let is_wrong = match ended {
            DemoEnd::Stopped => {
                let summary = tally.summary();
                anstream::println!("{summary}");
                false
            }
            DemoEnd::Story { is_right } => !is_right,
        };
        Ok(u8::from(tally.failures() > 0 || is_wrong))
    }

    /// Starts the origins, etcd if there is a fleet, and the proxies.
    async fn start(&self, scene: &Scene) -> Result<RunningDemo, CommandError> {
        let etcd = match self.fleet {
            Some(_) => {
                let mut etcd = DemoEtcd::start()?;
                etcd.ready().await?;
                Some(etcd)
            }
            None => None,
        };
        let mut origins = Vec::new();
        for plan in &scene.origins {
            origins.push(origin::start(*plan).await?);
        }
        let addresses: Vec<_> = origins.iter().map(|o| (o.version, o.address)).collect();
        let proxy = |member: usize, port: Option<u16>| {
            let member = etcd
                .as_ref()
                .map(|etcd| (etcd.url(), members::name(member)));
            DemoProxy::start(
                |directory, listener| {
                    let addresses = SceneAddresses {
                        origins: &addresses,
                        listener,
                        member: member.as_ref().map(|(etcd, name)| (&**etcd, &**name)),
                    };
                    scene.configuration(directory, &addresses)
                },
                port,
            )
        };
        let first = proxy(0, self.port)?;
        let others = 1..self.fleet.map_or(1, usize::from);
        let others = others.map(|member| proxy(member, Some(0)));
        let others = others.collect::<Result<_, _>>()?;
        Ok(RunningDemo {
            proxy: first,
            others,
            etcd,
            origins,
            tally: Rc::new(RefCell::new(Tally::new(scene.versions))),
            users: Rc::new(RefCell::new(Users::new(scene.users))),
        })
    }

    /// Runs the traffic and the view until the script or the story ends, or the proxy fails.
    async fn run_until_ended(
        &self,
        (scene, story): (&Scene, Option<Story>),
        demo: &mut RunningDemo,
        view: &mut DemoView,
    ) -> Result<DemoEnd, CommandError> {
        demo.proxy.ready().await?;
        for other in &mut demo.others {
            other.ready().await?;
        }
        let begun = Instant::now();
        let proxies = std::iter::once(&demo.proxy).chain(&demo.others);
        let addresses: Vec<_> = proxies.map(|proxy| proxy.address).collect();
        let _clients = traffic::start(&addresses, scene.clients, &demo.tally, &demo.users);
        view.open(&demo.proxy, &demo.others);
        let played = async {
            match (story, self.length) {
                (Some(story), length) => {
                    let deadline = length.map(|length| begun + length);
                    play_story(story, demo, view, deadline).await
                }
                (None, Some(length)) => {
                    let messages = view.messages();
                    script::play(&demo.proxy, &demo.tally, messages, length).await?;
                    Ok(DemoEnd::Stopped)
                }
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = played => ended,
            failed = view.live(&demo.proxy, &demo.others, begun) => failed.map(|()| DemoEnd::Stopped),
        }
    }
}

/// How a demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DemoEnd {
    /// The demo ended by its time limit, by the user, or with its script.
    Stopped,
    /// The demo ended with its story, which has reported its figures.
    Story {
        /// Whether the story ended as it should.
        is_right: bool,
    },
}

/// Plays a story, and keeps the demo running until the deadline, if there is one.
async fn play_story(
    story: Story,
    demo: &RunningDemo,
    view: &DemoView,
    deadline: Option<Instant>,
) -> Result<DemoEnd, CommandError> {
    let stage = StoryStage {
        proxy: &demo.proxy,
        others: &demo.others,
        origins: &demo.origins,
        tally: demo.tally.clone(),
        users: demo.users.clone(),
        messages: view.messages(),
    };
    let play = story.play(&stage);
    let played = match deadline {
        Some(deadline) => timeout_at(deadline, play).await,
        None => Ok(play.await),
    };
    let Ok(end) = played else {
        stage.say("the time of --for is over before the end of the story");
        return Ok(DemoEnd::Stopped);
    };
    let end = end?;
    story.tell_end(&end, &stage, deadline.is_some());
    if let Some(deadline) = deadline {
        sleep_until(deadline).await;
    }
    let is_right = end.wrong.is_empty();
    Ok(DemoEnd::Story { is_right })
}

/// Completes on SIGINT, SIGTERM or SIGHUP, which comes when the terminal is closed.
async fn interrupted() {
    let arrived = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = arrived(SignalKind::interrupt()) => {}
        () = arrived(SignalKind::terminate()) => {}
        () = arrived(SignalKind::hangup()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggested_length_is_one_that_would_be_accepted() {
        assert_eq!(script_time("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["4s", "61m"] {
            let error = script_time(wrong).unwrap_err();
            assert_eq!(error, "the demo takes from 5s to 1h");
        }
        let error = script_time("2").unwrap_err();
        assert_eq!(
            error,
            "no unit, and 2s is out of range: the demo takes from 5s to 1h, such as `10s`"
        );
        assert!(script_time("10").unwrap_err().ends_with("`10s`?"));
    }
}

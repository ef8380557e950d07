//! The set-up of a demo: the versions behind the proxy, its configuration, and the users that send requests.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::origin::OriginPlan;
use super::users::UserPlan;

/// The name of the demo's service.
pub(super) const SERVICE: &str = "shop";

/// The set-up of a demo.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// The command in its short form.
    pub title: String,
    /// Sentences about the events to come. Empty where the user is to edit the file.
    pub about: &'static [&'static str],
    /// The versions, in the order of the configuration file.
    pub versions: [&'static str; 2],
    /// The origins of the versions.
    pub origins: Vec<OriginPlan>,
    /// The first line of the configuration file.
    pub comment: &'static str,
    /// The service in the configuration file, without its heading and its versions.
    pub service: String,
    /// The key in the file whose line is always on display.
    pub marked: &'static str,
    /// Number of connections of the clients.
    pub clients: u32,
    /// The users behind the requests.
    pub users: UserPlan,
}

/// The addresses that a configuration file names.
#[derive(Clone, Copy, Debug)]
pub(super) struct SceneAddresses<'a> {
    /// Origins, with the names of their versions.
    pub origins: &'a [(&'a str, SocketAddr)],
    /// The proxy's listener.
    pub listener: SocketAddr,
    /// The URL of etcd and the name of the member, in a fleet.
    pub member: Option<(&'a str, &'a str)>,
}

impl Scene {
    /// The scene in which the user moves traffic from blue to green.
    pub(super) fn free() -> Self {
        Self {
            title: "cutover demo".to_owned(),
            about: &[],
            versions: ["blue", "green"],
            origins: vec![
                OriginPlan::new("blue", Duration::from_millis(4)),
                OriginPlan::new("green", Duration::from_millis(2)),
            ],
            comment: "# The configuration of `cutover demo`. Edit the marked line, save, and watch the traffic.",
            service: "stable = \"blue\"\n\
                      split = { green = \"0%\" }   # <- edit: \"5%\", \"50%\", \"100%\", back to \"0%\"\n"
                .to_owned(),
            marked: "split",
            clients: 8,
            // There is one for each client, so that none waits for another.
            users: UserPlan {
                count: 8,
                visit: None,
                has_name: false,
            },
        }
    }

    /// The scene on a fleet of `members` proxies.
    pub(super) fn on_fleet(self, members: u8) -> Self {
        Self {
            title: format!("{} --fleet {members}", self.title),
            ..self
        }
    }

    /// The text of the configuration file.
    pub(super) fn configuration(&self, directory: &Path, addresses: &SceneAddresses<'_>) -> String {
        let state = toml::Value::from(directory.display().to_string());
        let Self {
            comment, service, ..
        } = self;
        let listener = addresses.listener;
        let fleet = addresses.member.map(|(etcd, name)| {
            format!("[fleet]\netcd   = \"{etcd}\"\nname   = \"demo\"\nmember = \"{name}\"\n\n")
        });
        let fleet = fleet.unwrap_or_default();
        let mut text = format!(
            "{comment}\n\nlisten    = \"{listener}\"\nstate_dir = {state}\n\n{fleet}[service.{SERVICE}]\n{service}\n\
             [service.{SERVICE}.versions]\n"
        );
        let width = self.versions.map(str::len).into_iter().max().unwrap_or(0);
        for version in self.versions {
            let own = addresses
                .origins
                .iter()
                .filter(|(name, _)| *name == version);
            let own: Vec<String> = own.map(|(_, origin)| format!("\"{origin}\"")).collect();
            text += &format!("{version:<width$} = [{}]\n", own.join(", "));
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Spec;

    /// The configuration of a scene, parsed.
    pub(in crate::cli::demo) fn parsed(scene: &Scene, member: Option<(&str, &str)>) -> Spec {
        let origins: Vec<(&str, SocketAddr)> = (1..)
            .zip(&scene.origins)
            .map(|(port, origin)| (origin.version, SocketAddr::from(([127, 0, 0, 1], port))))
            .collect();
        let addresses = SceneAddresses {
            origins: &origins,
            listener: SocketAddr::from(([127, 0, 0, 1], 8080)),
            member,
        };
        let directory = Path::new("/tmp/with \"quotes\"");
        let text = scene.configuration(directory, &addresses);
        crate::config::parse(&text, "demo").expect(&text)
    }

    #[test]
    fn the_file_is_valid_and_names_both_origins() {
        let spec = parsed(&Scene::free(), None);
        assert_eq!(spec.state_dir.unwrap(), Path::new("/tmp/with \"quotes\""));
        let names = spec.services[0].versions.iter().map(|v| v.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["blue", "green"]);
        assert!(spec.fleet.is_none());
    }

    #[test]
    fn the_file_of_a_member_names_it_and_its_etcd() {
        let member = Some(("http://127.0.0.1:2379", "b"));
        let fleet = parsed(&Scene::free(), member).fleet.expect("a fleet");
        assert_eq!(fleet.member.as_deref(), Some("b"));
    }
}

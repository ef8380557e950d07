//! The sockets of the admin API, the control socket by which commands on this machine find the proxy, and the one by which
//! the next process finds it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;

use crate::admin::{self, AdminListener};
use crate::config::spec::Bind;
use crate::config::{Spec, paths};
use crate::edge::inherit::{Inherited, Label, Purpose};
use crate::edge::listener::bind::written;
use crate::net::SocketFile;

/// All of them.
#[derive(Debug)]
pub(super) struct AdminSockets {
    /// The API's, until they are served.
    pub listeners: Vec<AdminListener>,
    /// TCP addresses of the API.
    pub addresses: Vec<SocketAddr>,
    /// Who waits for the next process, until it is served.
    pub handover: Option<UnixListener>,
    /// The files of all Unix sockets, with their addresses.
    files: Vec<(String, Arc<SocketFile>)>,
    held: Vec<(Label, OwnedFd)>,
}

impl AdminSockets {
    /// Opens what is not inherited.
    ///
    /// # Errors
    /// An address of the configuration can't be bound. Without control or handover socket the proxy works, and says so.
    pub(super) async fn open(
        spec: &Spec,
        config: &Path,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let mut desk = Self {
            listeners: Vec::new(),
            addresses: Vec::new(),
            handover: None,
            files: Vec::new(),
            held: Vec::new(),
        };
        for bind in spec.admin.iter().flat_map(|admin| &admin.listen) {
            let listener = desk.one(Purpose::Admin, bind, inherited).await?;
            desk.addresses.extend(listener.local_addr());
            desk.listeners.push(listener);
        }
        let state = paths::state_dir(spec.state_dir.as_deref());
        let control = desk.local(
            Purpose::Control,
            paths::control_socket(&state, config),
            inherited,
        );
        match control.await {
            Ok(listener) => desk.listeners.push(listener),
            Err(error) => tracing::warn!(
                directory = %state.display(), %error,
                "no control socket: commands reach this proxy by --admin ADDRESS only; `state_dir` names another directory"
            ),
        }
        let handover = desk.local(
            Purpose::Handover,
            paths::handover_socket(&state, config),
            inherited,
        );
        match handover.await {
            Ok(AdminListener::Unix(listener, _)) => desk.handover = Some(listener),
            Ok(AdminListener::Tcp(_)) => {}
            Err(error) => tracing::warn!(
                directory = %state.display(), %error,
                "no handover socket: no process can take over from this one"
            ),
        }
        for address in &desk.addresses {
            tracing::info!(%address, "admin API listening");
        }
        Ok(desk)
    }

    async fn local(
        &mut self,
        purpose: Purpose,
        path: io::Result<std::path::PathBuf>,
        inherited: &mut Inherited,
    ) -> io::Result<AdminListener> {
        self.one(purpose, &Bind::Unix(path?), inherited).await
    }

    async fn one(
        &mut self,
        purpose: Purpose,
        bind: &Bind,
        inherited: &mut Inherited,
    ) -> io::Result<AdminListener> {
        let listener = match inherited.one(purpose, bind) {
            Some(socket) => AdminListener::adopt(bind, socket)?,
            None => admin::bind(bind).await?,
        };
        let label = Label {
            purpose,
            name: String::new(),
            bind: Some(written(bind)),
        };
        self.held.push((label, listener.duplicate()?));
        let file = listener.file().map(|file| (written(bind), file.clone()));
        self.files.extend(file);
        Ok(listener)
    }

    /// Every socket, with what it is, for the next process.
    pub(super) fn held(&self) -> impl Iterator<Item = (Label, &OwnedFd)> {
        self.held.iter().map(|(label, fd)| (label.clone(), fd))
    }

    /// The process that the sockets came from has given them up: their files are this process's.
    pub(crate) fn claim_files(&self) {
        self.files.iter().for_each(|(_, file)| file.claim());
    }

    /// The next process has them now.
    pub(crate) fn leave(&mut self) {
        self.held.clear();
        self.files.iter().for_each(|(_, file)| file.leave());
    }

    /// The files of sockets that the next process doesn't want go with this one. Only once nothing answers there any more.
    pub(crate) fn reclaim(&self, unwanted: &[String]) {
        let files = self.files.iter().filter(|(at, _)| unwanted.contains(at));
        files.for_each(|(_, file)| file.claim());
    }

    /// No process can take over any more: one that asks finds nobody, instead of waiting for an answer.
    pub(crate) fn close_handover(&mut self) {
        self.handover = None;
        self.held
            .retain(|(label, _)| label.purpose != Purpose::Handover);
    }
}

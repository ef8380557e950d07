//! The sockets of the control plane: the addresses of the admin API, the control socket and the handover socket.
//!
//! Commands on the same machine reach the admin API through the control socket, without configuration; a successor reaches the
//! running process through the handover socket. Both are Unix sockets in the state directory, named by a hash of the
//! configuration file's path. All of them can be inherited and handed over like listeners.

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

/// All sockets of the control plane.
#[derive(Debug)]
pub(super) struct AdminSockets {
    /// Listeners of the admin API, the control socket included, until they are served.
    pub listeners: Vec<AdminListener>,
    /// TCP addresses of the admin API.
    pub addresses: Vec<SocketAddr>,
    /// The handover socket, until it is served.
    pub handover: Option<UnixListener>,
    /// Addresses and files of all Unix sockets.
    files: Vec<(String, Arc<SocketFile>)>,
    /// Duplicates of all sockets, for a successor.
    held: Vec<(Label, OwnedFd)>,
}

impl AdminSockets {
    /// Opens the sockets that are not inherited.
    ///
    /// # Errors
    /// An address in the configuration can't be bound. A missing control or handover socket is only logged, because the proxy
    /// serves traffic without it.
    pub(super) async fn open(
        spec: &Spec,
        config: &Path,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let mut sockets = Self {
            listeners: Vec::new(),
            addresses: Vec::new(),
            handover: None,
            files: Vec::new(),
            held: Vec::new(),
        };
        for bind in spec.admin.iter().flat_map(|admin| &admin.listen) {
            let listener = sockets.open_one(Purpose::Admin, bind, inherited).await?;
            sockets.addresses.extend(listener.local_addr());
            sockets.listeners.push(listener);
        }
        let state = paths::state_dir(spec.state_dir.as_deref());
        let control = sockets.open_local(
            Purpose::Control,
            paths::control_socket(&state, config),
            inherited,
        );
        match control.await {
            Ok(listener) => sockets.listeners.push(listener),
            Err(error) => tracing::warn!(
                directory = %state.display(), %error,
                "no control socket: commands need --admin ADDRESS; set `state_dir` to a directory that the proxy may write to"
            ),
        }
        let handover = sockets.open_local(
            Purpose::Handover,
            paths::handover_socket(&state, config),
            inherited,
        );
        match handover.await {
            Ok(AdminListener::Unix(listener, _)) => sockets.handover = Some(listener),
            Ok(AdminListener::Tcp(_)) => {}
            Err(error) => tracing::warn!(
                directory = %state.display(), %error,
                "no handover socket: no process can take over from this one"
            ),
        }
        for address in &sockets.addresses {
            tracing::info!(%address, "admin API listening");
        }
        Ok(sockets)
    }

    async fn open_local(
        &mut self,
        purpose: Purpose,
        path: io::Result<std::path::PathBuf>,
        inherited: &mut Inherited,
    ) -> io::Result<AdminListener> {
        self.open_one(purpose, &Bind::Unix(path?), inherited).await
    }

    async fn open_one(
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

    /// All sockets with their labels, to be handed to a successor.
    pub(super) fn held(&self) -> impl Iterator<Item = (Label, &OwnedFd)> {
        self.held.iter().map(|(label, fd)| (label.clone(), fd))
    }

    /// Takes ownership of the socket files after the predecessor has released them: this process removes them when it stops.
    pub(crate) fn claim_files(&self) {
        self.files.iter().for_each(|(_, file)| file.claim());
    }

    /// Gives the sockets and the ownership of their files to a successor.
    pub(crate) fn leave(&mut self) {
        self.held.clear();
        self.files.iter().for_each(|(_, file)| file.leave());
    }

    /// Takes back the files of sockets that the successor doesn't want, so that they are removed with this process. Must be called
    /// when this process serves them no longer.
    pub(crate) fn reclaim(&self, unwanted: &[String]) {
        let files = self.files.iter().filter(|(at, _)| unwanted.contains(at));
        files.for_each(|(_, file)| file.claim());
    }

    /// Closes the handover socket, so that a process that wants to take over finds no predecessor instead of waiting for one that
    /// is stopping.
    pub(crate) fn close_handover(&mut self) {
        self.handover = None;
        self.held
            .retain(|(label, _)| label.purpose != Purpose::Handover);
    }
}

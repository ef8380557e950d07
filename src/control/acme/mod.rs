//! Certificates that the proxy obtains itself, by ACME (RFC 8555).
//!
//! A thread of its own talks to the authority and writes the files: neither requests nor the control thread wait for it. [`plan`]
//! decides its next step; [`order`] places one order, [`renewal_info`] asks when to renew, and [`store`] keeps the account and
//! the certificates. The control thread takes new certificates up like other certificate files that have changed.
//!
//! In a fleet with `seal_key_file`, one member orders for all of them: [`seal`], [`sharing`] and [`shared`].
//!
//! Of several processes with the same state directory, such as the two of a takeover, one has the lock of the store and places
//! orders; another one waits for it.

mod order;
mod plan;
mod renewal_info;
mod seal;
mod shared;
mod sharing;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::outcall::acme_http::AcmeHttp;
use crate::config::acme::AcmeSpec;
use crate::config::fleet::FleetSpec;
use crate::config::secret;
use crate::edge::acme::AcmeAnswers;
use crate::telemetry::orders::count_order;
use crate::telemetry::record::OrderOutcome;
use order::{Issued, OrderError};
use plan::{AcmeAction, AcmeEvent, OrderFailure, Period, RenewalPlan, UnixSeconds};
use seal::Seal;
use sharing::Sharing;
use store::{AcmeStore, StoreLock};

/// Interval at which another process's lock is tried.
const LOCK_EVERY: Duration = Duration::from_secs(2);
/// Interval at which a store that can't be used is tried again.
const STORE_EVERY: Duration = Duration::from_secs(60);
/// Longest sleep: the clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// For each name, the reason why its certificate is missing or was not renewed, and the time since which that is so.
pub(super) type OrderErrors = BTreeMap<String, (String, SystemTime)>;

/// The control thread's end: passes the configuration on, and receives news.
pub(super) struct Acme {
    answers: Arc<AcmeAnswers>,
    errors: Arc<Mutex<OrderErrors>>,
    specs: Option<watch::Sender<Option<Wanted>>>,
    /// Names this process among those that compete for the right to order.
    instance: String,
    news: mpsc::UnboundedReceiver<()>,
    /// Kept for a thread that is started later, and so that `news` doesn't end.
    sender: mpsc::UnboundedSender<()>,
}

impl Acme {
    /// Creates the state without a thread.
    pub(super) fn new(answers: Arc<AcmeAnswers>) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self {
            answers,
            errors: Arc::default(),
            specs: None,
            instance: format!("{:016x}", fastrand::u64(..)),
            news,
            sender,
        }
    }

    /// Obtains the certificates of a configuration from now on. Starts the thread if this is the first one that has any.
    pub(super) fn adopt(&mut self, acme: Option<&AcmeSpec>, fleet: Option<&FleetSpec>) {
        let wanted = acme.map(|acme| Wanted {
            fleet: fleet.filter(|_| acme.seal_key_file.is_some()).cloned(),
            acme: acme.clone(),
        });
        if let Some(specs) = &self.specs {
            specs.send_if_modified(|known| {
                let is_new = *known != wanted;
                *known = wanted;
                is_new
            });
            return;
        }
        if wanted.is_none() {
            return;
        }
        let (specs, received) = watch::channel(wanted);
        match self.start(received) {
            Ok(()) => self.specs = Some(specs),
            Err(error) => {
                tracing::error!(%error, "no certificates can be obtained: no thread can be started")
            }
        }
    }

    /// Ends the thread: an order under way is given up, and another process may place orders.
    pub(super) fn stop(&mut self) {
        self.specs = None;
    }

    /// Waits until a certificate was stored, or an order has failed. Cancellation safe.
    pub(super) async fn news(&mut self) {
        // Never `None`, because this value holds a sender itself.
        self.news.recv().await;
    }

    /// The reasons why certificates are missing or were not renewed.
    pub(super) fn errors(&self) -> OrderErrors {
        // The lock is not poisoned: nothing panics while it is held.
        self.errors.lock().expect("errors lock").clone()
    }

    fn start(&self, mut specs: watch::Receiver<Option<Wanted>>) -> io::Result<()> {
        let shared = Shared {
            answers: self.answers.clone(),
            errors: self.errors.clone(),
            news: self.sender.clone(),
            instance: self.instance.clone(),
        };
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all();
        // Made on the thread: the client of etcd can't be moved to another one.
        let mut work = async move || {
            loop {
                let wanted = specs.borrow_and_update().clone();
                let certificates = async {
                    match wanted {
                        Some(wanted) => Certificates::new(wanted, &shared).run().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = specs.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = certificates => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("acme".into());
        thread.spawn(move || match runtime.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(work()),
            Err(error) => tracing::error!(%error, "no certificates can be obtained"),
        })?;
        Ok(())
    }
}

/// The certificates that a configuration asks for.
#[derive(Clone, PartialEq)]
struct Wanted {
    acme: AcmeSpec,
    /// The fleet that shares the certificates, if one does.
    fleet: Option<FleetSpec>,
}

/// The state that the thread shares with others.
struct Shared {
    answers: Arc<AcmeAnswers>,
    errors: Arc<Mutex<OrderErrors>>,
    news: mpsc::UnboundedSender<()>,
    instance: String,
}

/// The certificates of one configuration.
///
/// Made on the thread of the certificates for each configuration, and dropped with the next one, at any await: files are written as
/// a whole, so an order that is cut off leaves nothing half done.
struct Certificates<'a> {
    spec: AcmeSpec,
    shared: &'a Shared,
    store: AcmeStore,
    plan: RenewalPlan,
    account: Option<(Account, AcmeHttp)>,
    /// The fleet that shares the certificates, if one does.
    fleet: Option<FleetSpec>,
    sharing: Option<Sharing>,
    /// Whether etcd has a value that this member's key doesn't open.
    is_apart: bool,
}

impl<'a> Certificates<'a> {
    fn new(wanted: Wanted, shared: &'a Shared) -> Self {
        let spec = wanted.acme;
        Self {
            store: AcmeStore::new(&spec.store),
            plan: RenewalPlan::new(&spec.names, now()),
            account: None,
            fleet: wanted.fleet,
            sharing: None,
            is_apart: false,
            spec,
            shared,
        }
    }

    /// Obtains and renews certificates. Never returns; safe to cancel.
    async fn run(&mut self) {
        // Held until this future is dropped.
        let _lock = self.lock().await;
        self.read_stored();
        // Another process may have stored certificates since the configuration was read.
        self.tell();
        self.join().await;
        loop {
            let is_all_shared = self.share().await;
            match self.plan.next(now()) {
                AcmeAction::Wait(time) => self.wait(time, is_all_shared).await,
                // Another member places the orders.
                _ if !self.may_order() => self.wait(LONGEST_WAIT, is_all_shared).await,
                AcmeAction::Order(name) => self.order(&name).await,
                AcmeAction::AskWindow(name) => self.ask_window(&name).await,
            }
        }
    }

    /// Waits for the right to place orders.
    async fn lock(&self) -> StoreLock {
        let mut is_told = false;
        loop {
            let pause = match self.store.lock() {
                Ok(Some(lock)) => return lock,
                Ok(None) => {
                    if !is_told {
                        tracing::info!("another process obtains the certificates");
                        is_told = true;
                    }
                    LOCK_EVERY
                }
                Err(error) => {
                    let directory = self.spec.store.display();
                    let why = format!(
                        "{directory}: {error}. Set `state_dir` to a directory that the proxy may write to"
                    );
                    for name in &self.spec.names {
                        self.note_error(name, &why);
                    }
                    tracing::error!(reason = why, "no certificates can be obtained");
                    self.tell();
                    STORE_EVERY
                }
            };
            sleep(pause).await;
        }
    }

    fn read_stored(&mut self) {
        for name in &self.spec.names {
            if let Some(stored) = self.store.certificate(name) {
                let event = AcmeEvent::Stored(stored.validity);
                self.plan.on(name, event, now(), fastrand::f64());
            }
        }
    }

    async fn order(&mut self, name: &str) {
        tracing::info!(
            name,
            directory = self.spec.directory,
            "ordering a certificate"
        );
        let failure = match self.issue(name).await {
            Ok(validity) => {
                count_order(OrderOutcome::Issued);
                self.plan
                    .on(name, AcmeEvent::Issued(validity), now(), fastrand::f64());
                // The lock is not poisoned; see `Acme::errors`.
                self.shared.errors.lock().expect("errors lock").remove(name);
                tracing::info!(
                    name,
                    expires = %crate::certificates::date(validity.end),
                    renewal = %self.due(name),
                    "certificate obtained"
                );
                return self.tell();
            }
            Err(failure) => failure,
        };
        count_order(OrderOutcome::Failed);
        let (why, how) = failure;
        self.plan
            .on(name, AcmeEvent::Failed(how), now(), fastrand::f64());
        self.note_error(name, &why);
        tracing::error!(name, reason = why, next_attempt = %self.due(name), "no certificate obtained");
        self.tell();
    }

    /// Obtains and stores a certificate.
    async fn issue(&mut self, name: &str) -> Result<Period, (String, OrderFailure)> {
        let (account, http) = self.account().await?;
        self.share_account(&account).await?;
        let ordered = order::obtain(&account, name, self.spec.challenge, &self.shared.answers);
        let Issued { chain, key } = ordered.await.map_err(|error| {
            let of_account = matches!(&error, OrderError::Acme(e) if is_limit(e));
            let failure = OrderFailure {
                of_account,
                retry_after: http.take_pause(),
            };
            (plain(&error.to_string()), failure)
        })?;
        let unstored = |why: String| (why, OrderFailure::default());
        let saved = self.store.save_certificate(name, &key, &chain);
        saved.map_err(|e| unstored(format!("{}: {e}", self.spec.store.display())))?;
        let stored = self.store.certificate(name);
        let stored = stored.ok_or_else(|| {
            unstored("the authority issued no certificate that can be read".to_owned())
        })?;
        Ok(stored.validity)
    }

    /// The account: the one in use, else the stored one, else a new one.
    async fn account(&mut self) -> Result<(Account, AcmeHttp), (String, OrderFailure)> {
        if let Some((account, http)) = &self.account {
            return Ok((account.clone(), http.clone()));
        }
        // A missing file or a directory that can't be reached concerns all names.
        let failed = |why: String| {
            let failure = OrderFailure::default();
            (plain(&why), failure)
        };
        let http = AcmeHttp::new(self.spec.ca.as_deref()).map_err(failed)?;
        let stored = self.store.account().map_err(|e| failed(e.to_string()))?;
        let builder = Account::builder_with_http(Box::new(http.clone()));
        let account = match stored {
            Some(text) => {
                let credentials: AccountCredentials = serde_json::from_str(&text).map_err(|e| {
                    failed(format!(
                        "{}: the stored account can't be read: {e}",
                        self.spec.store.display()
                    ))
                })?;
                let known = builder.from_credentials(credentials).await;
                known.map_err(|e| failed(e.to_string()))?
            }
            None => {
                let external = external_key(&self.spec).map_err(failed)?;
                let contact = self
                    .spec
                    .email
                    .as_ref()
                    .map(|email| format!("mailto:{email}"));
                let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
                let new = NewAccount {
                    contact: &contact,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let created = builder.create(&new, self.spec.directory.clone(), external.as_ref());
                let (account, credentials) = created.await.map_err(|e| {
                    let failure = OrderFailure {
                        of_account: true,
                        retry_after: http.take_pause(),
                    };
                    (plain(&format!("no account: {e}")), failure)
                })?;
                let text =
                    serde_json::to_string(&credentials).map_err(|e| failed(e.to_string()))?;
                self.store
                    .save_account(&text)
                    .map_err(|e| failed(e.to_string()))?;
                tracing::info!(
                    directory = self.spec.directory,
                    "account created, its terms of service are agreed to"
                );
                account
            }
        };
        self.shared.answers.set_thumbprint(account.key_thumbprint());
        self.account = Some((account.clone(), http.clone()));
        Ok((account, http))
    }

    /// Asks the authority when to renew the certificate of a name. It is no failure if the authority can't tell.
    async fn ask_window(&mut self, name: &str) {
        let suggested = async {
            let stored = self.store.certificate(name)?;
            let http = AcmeHttp::new(self.spec.ca.as_deref()).ok()?;
            renewal_info::suggested(&http, &self.spec.directory, &stored).await
        };
        let event = match suggested.await {
            Some((window, again)) => AcmeEvent::Suggested(Some(window), again),
            None => AcmeEvent::Suggested(None, None),
        };
        self.plan.on(name, event, now(), fastrand::f64());
        tracing::debug!(name, renewal = %self.due(name), "renewal planned");
    }

    fn due(&self, name: &str) -> String {
        crate::certificates::date(self.plan.order_at(name).unwrap_or_default())
    }

    fn note_error(&self, name: &str, why: &str) {
        // The lock is not poisoned; see `Acme::errors`.
        let mut errors = self.shared.errors.lock().expect("errors lock");
        let since = match errors.get(name) {
            Some((_, since)) => *since,
            None => SystemTime::now(),
        };
        errors.insert(name.to_owned(), (why.to_owned(), since));
    }

    /// Makes the control thread check the files and the errors.
    fn tell(&self) {
        // The receiver is dropped only together with the process.
        let _ = self.shared.news.send(());
    }
}

/// The files of a configuration that can't be used, each with its key and the problem.
pub(super) fn unusable(spec: &AcmeSpec) -> Vec<(&'static str, String)> {
    let ca = AcmeHttp::new(spec.ca.as_deref()).err();
    let key = external_key(spec).err();
    let seal = { spec.seal_key_file.as_ref() }.and_then(|file| Seal::read(file).err());
    let found = [
        ca.map(|why| ("ca", why)),
        seal.map(|why| ("seal_key_file", why)),
        key.map(|why| ("eab_hmac_file", why)),
    ];
    found.into_iter().flatten().collect()
}

/// Reads the key of the external account, if there is one.
fn external_key(spec: &AcmeSpec) -> Result<Option<ExternalAccountKey>, String> {
    let Some(external) = &spec.external_account else {
        return Ok(None);
    };
    let file = &external.hmac_file;
    let bytes = secret::read(file, "external account key", "create accounts in your name")?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim().trim_end_matches('=');
    let key = URL_SAFE_NO_PAD.decode(text.replace('+', "-").replace('/', "_"));
    let shown = file.display();
    let key = key.map_err(|_| {
        format!(
            "external account key {shown}: it isn't base64url. Write it as the authority gave it"
        )
    })?;
    Ok(Some(ExternalAccountKey::new(external.kid.clone(), &key)))
}

/// Whether the authority refuses orders for a while (RFC 8555 section 6.6), or can't take any.
fn is_limit(error: &Error) -> bool {
    match error {
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            kind.ends_with(":rateLimited") || problem.status == Some(503)
        }
        _ => false,
    }
}

/// A text of the authority, fit for a log line.
fn plain(text: &str) -> String {
    let text: String = text.chars().take(500).collect();
    text.escape_debug().to_string()
}

fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

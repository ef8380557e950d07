//! Adopts and edits the fleet's tables in a running member.

use std::path::Path;

use tokio::sync::oneshot;

use super::etcd::{CasOutcome, Revision};
use super::events::Control;
use super::publisher::reload::ReloadOutcome;
use super::shared_config::{ConfigNews, SharedDocument, copy, log_unstored};
use crate::admin::blocking::on_thread;
use crate::admin::history::{Announcement, ChangeCause};
use crate::admin::shared_edit::{ShareRefused, SharedChange};
use crate::config::load;

/// Name of the threads that write the copy.
const THREAD: &str = "fleet-config";

impl Control {
    /// Takes news about the fleet's tables.
    pub(super) async fn on_shared_config(&mut self, news: ConfigNews) {
        match news {
            ConfigNews::Found(revision, Ok(document)) if self.keeps_newer(revision, &document) => {
                self.store_age().await;
            }
            ConfigNews::Found(revision, Ok(document)) => {
                let adopted = self.adopt_tables(revision, document.clone()).await;
                if let (Err(why), Some(following)) = (adopted, &mut self.shared.following) {
                    following.refuse(Some((revision, document)), why);
                }
            }
            ConfigNews::Found(revision, Err(why)) => {
                if let Some(following) = &mut self.shared.following {
                    following.record_seen(revision, None);
                    following.refuse(None, why);
                }
            }
            ConfigNews::Absent => {
                if let Some(following) = &mut self.shared.following {
                    following.record_absence();
                }
                self.store_age().await;
            }
            ConfigNews::Written {
                document,
                result,
                answer,
            } => {
                let outcome = match result {
                    Ok(CasOutcome::Done(revision)) => self.on_edited(revision, document).await,
                    Ok(CasOutcome::Conflict(_)) => Err(ShareRefused::Overtaken),
                    Err(error) => Err(ShareRefused::Failed(error.to_string())),
                };
                self.shared.show();
                // Fails if the client has disconnected, which doesn't matter here.
                let _ = answer.send(outcome);
            }
        }
        self.shared.show();
    }

    /// Whether tables that were found are older than those in use, which are kept.
    fn keeps_newer(&mut self, revision: Revision, document: &SharedDocument) -> bool {
        let following = self.shared.following.as_mut();
        following.is_some_and(|following| {
            // An edit is a change of these tables.
            following.record_seen(revision, Some(document));
            following.keeps_newer(revision, document)
        })
    }

    /// Stores how old the tables in use are, for the next start.
    async fn store_age(&self) {
        let Some(following) = &self.shared.following else {
            return;
        };
        let (age, main) = (
            following.age.clone(),
            self.publisher.live().source().path.clone(),
        );
        let stored = on_thread(THREAD, move || age.store(&main)).await;
        log_unstored(stored.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))));
    }

    /// Adopts an edit of this member, or takes it back.
    async fn on_edited(
        &mut self,
        revision: Revision,
        document: SharedDocument,
    ) -> Result<u64, ShareRefused> {
        let before = { self.shared.following.as_ref() }.and_then(|f| f.tables.clone());
        let adopted = self.adopt_tables(revision, document).await;
        adopted.map_err(|why| {
            if let (Some(following), Some(before)) = (&self.shared.following, before) {
                following.write_back(before, revision);
            }
            ShareRefused::Refused(why)
        })
    }

    /// Makes a change of the fleet's tables.
    pub(super) fn share_tables(
        &self,
        change: SharedChange,
        answer: oneshot::Sender<Result<u64, ShareRefused>>,
    ) {
        let SharedChange { before, after, by } = change;
        let refused = match &self.shared.following {
            None => ShareRefused::Failed("this proxy shares no tables".to_owned()),
            Some(following) if following.tables.as_deref() != Some(&*before) => {
                ShareRefused::Overtaken
            }
            Some(following) if !following.etcd.is_connected() => {
                ShareRefused::Failed("etcd doesn't answer".to_owned())
            }
            Some(following) => {
                return following.write(after, by, answer);
            }
        };
        // Fails if the client has disconnected, which doesn't matter here.
        let _ = answer.send(Err(refused));
    }

    /// Tries tables again that were refused, because the file has changed. Returns the generation if they were adopted.
    pub(super) async fn adopt_refused_tables(&mut self) -> Option<u64> {
        let following = self.shared.following.as_ref();
        let (revision, document) = following.and_then(|f| f.refused.clone())?;
        let adopted = self.adopt_tables(revision, document.clone()).await;
        if let (Err(why), Some(following)) = (&adopted, &mut self.shared.following) {
            following.refuse(Some((revision, document)), why.clone());
        }
        self.shared.show();
        adopted.ok()
    }

    /// Adopts tables with this revision. Returns the generation that runs them.
    ///
    /// # Errors
    /// The reason why the tables can't be used.
    async fn adopt_tables(
        &mut self,
        revision: Revision,
        document: SharedDocument,
    ) -> Result<u64, String> {
        let running = self.publisher.live().current().generation;
        let Some(following) = &mut self.shared.following else {
            return Ok(running);
        };
        following.record_seen(revision, Some(&document));
        if following.tables.as_ref() == Some(&document.text) {
            (following.refused, following.error) = (None, None);
            following.by = Some(document.by);
            following.age.adopted(revision, document.timeline);
            self.store_age().await;
            return Ok(running);
        }
        let main = self.publisher.live().source().path;
        let (file, tables) = (main.clone(), document.text.clone());
        let former = on_thread(THREAD, move || copy::replace_by(&file, &tables, false)).await??;
        self.announce(&main, &document.by).await;
        match self.reload().await {
            ReloadOutcome::Adopted(generation) | ReloadOutcome::Unchanged(generation) => {
                // The configuration may have left the fleet.
                if let Some(following) = &mut self.shared.following {
                    (following.refused, following.error) = (None, None);
                    (following.tables, following.by) = (Some(document.text), Some(document.by));
                    following.age.adopted(revision, document.timeline);
                }
                self.store_age().await;
                Ok(generation)
            }
            ReloadOutcome::Refused(why) => {
                let put_back = on_thread(THREAD, move || copy::put_back(&main, &former)).await?;
                put_back.map_err(|error| format!("{why}\nthe copy can't be put back: {error}"))?;
                // Clears the error of the file, which is as it was.
                self.reload().await;
                Err(why)
            }
        }
    }

    /// Announces the author of tables that are about to be adopted to the history.
    async fn announce(&self, main: &Path, by: &str) {
        let main = main.to_owned();
        let hash = on_thread(THREAD, move || load::hash_of(&main)).await;
        if let Ok(Some(hash)) = hash
            && !by.is_empty()
        {
            let by = by.to_owned();
            let announcement = Announcement { hash, by };
            // A name that can't be shown is not used.
            let _ = self
                .context
                .history
                .announce(announcement, ChangeCause::Fleet);
        }
    }
}

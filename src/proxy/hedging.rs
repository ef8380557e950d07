//! `hedge`: a request that has no response head after a delay gets a second try on another endpoint of its version. The first
//! head is used, and the other try is cancelled.
//!
//! Both tries run in the task of the request. The first one is the usual one, in [`super::attempt`], and may become the response
//! at any moment. The second one, [`super::second_try`], ends with the head of a response. Cancelling a try says nothing about its
//! endpoint, so that it doesn't count as a failure. A response that the service retries doesn't end the race: it is only used if
//! the other try has no better one.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::active::InFlight;
use super::body::Upload;
use super::buffering::BUFFERED_BYTES;
use super::context::RequestContext;
use super::edit::EditFacts;
use super::error::ExchangeError;
use super::exchange::Remainder;
use super::headers::Fields;
use super::outcome::{Served, Tried, TryError};
use super::second_try::{Race, Second, SecondAnswer, SecondConnection, SecondTry};
use super::tries::Tries;
use super::wire::{BodyPiece, Downstream};
use crate::config::policy::Hedge;
use crate::http1::Framing;
use crate::upstream::limits::ActiveGuard;

/// Added to the timeouts of a second try that is awaited, so that its own error comes first.
const SLACK: Duration = Duration::from_millis(250);

/// The end of a race.
enum RaceEnd<'a> {
    First(Result<Tried<Remainder>, TryError>),
    Second(Box<SecondAnswer<'a>>),
}

impl<'a, F: Fields> Tries<'a, '_, F> {
    /// The delay after which this try is hedged; `None` if it isn't.
    #[inline]
    pub(super) fn hedge_delay(&self) -> Option<Duration> {
        let hedge = self.cx.service.policies.hedge.as_ref()?;
        self.delay_of(*hedge)
    }

    #[cold]
    fn delay_of(&self, hedge: Hedge) -> Option<Duration> {
        let request = self.cx.request;
        // The state of a session may be on its endpoint only.
        let may_move = self.placed.aim.endpoint.is_none();
        let is_first = self.count == 1 && !self.shielded;
        if !is_first || !may_move || !request.method.is_idempotent() || request.upgrade.is_some() {
            return None;
        }
        match hedge {
            Hedge::After(delay) => Some(delay),
            Hedge::Quantile(_) => self.version().load.hedge_delay(),
        }
    }

    /// Runs the first try, and a second one if it takes longer than `delay`.
    pub(super) async fn hedged<D: Downstream>(
        &mut self,
        delay: Duration,
        slot: ActiveGuard<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Tried<Remainder>, TryError> {
        let held = hold_body(self.cx, upload, down).await;
        let copy = held.then(|| upload.held_copy(down.body_budget())).flatten();
        let Some(copy) = copy else {
            return self.attempt(slot, upload, down).await;
        };
        let race = Rc::new(Race::default());
        self.race = Some(race.clone());
        let second = SecondTry {
            cx: self.cx,
            version: self.version,
            first: self.member,
            key: self.placed.aim.key,
            delay,
            first_byte: self.first_byte(),
            upload: copy,
            budget: down.body_budget(),
            facts: EditFacts::of_second(self.recording),
            race: race.clone(),
        };
        let mut second = Some(Second::Running(second.start()));
        let is_shieldable = self.cx.service.policies.shield && self.may_leave();
        let ended = self
            .race_to_head(&race, is_shieldable, &mut second, (slot, upload, down))
            .await;
        match ended {
            RaceEnd::Second(answer) => self.serve_winner(answer, &race, upload, down).await,
            RaceEnd::First(Err(error)) => {
                match race.is_open() {
                    true => self.second = second,
                    false => self.settle(&race),
                }
                Err(error)
            }
            RaceEnd::First(served) => {
                self.race = None;
                served
            }
        }
    }

    /// Polls both tries until one has ended the race.
    async fn race_to_head<D: Downstream>(
        &mut self,
        race: &Race,
        is_shieldable: bool,
        second: &mut Option<Second<'a>>,
        (slot, upload, down): (ActiveGuard<'a>, &mut Upload, &mut D),
    ) -> RaceEnd<'a> {
        let retried = &self.cx.service.policies.retry.on.statuses;
        let mut first = pin!(self.attempt(slot, upload, down));
        poll_fn(|task| {
            if let Poll::Ready(first) = first.as_mut().poll(task) {
                return Poll::Ready(RaceEnd::First(first));
            }
            // The first try relays its response within its own future; this is how the second one is cancelled then.
            if race.is_decided() {
                *second = None;
            }
            let Some(Second::Running(running)) = second else {
                return Poll::Pending;
            };
            match running.as_mut().poll(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    race.fail(error);
                    *second = None;
                }
                Poll::Ready(Ok(answer)) => {
                    let status = answer.head.status;
                    let is_poor = status >= 500 && (is_shieldable || retried.contains(&status));
                    if !is_poor {
                        return Poll::Ready(RaceEnd::Second(answer));
                    }
                    race.keep_in_reserve(status);
                    *second = Some(Second::Answered(answer));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Relays the response of the second try, which came first: the first try has been cancelled.
    async fn serve_winner<D: Downstream>(
        &mut self,
        answer: Box<SecondAnswer<'a>>,
        race: &Race,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Tried<Remainder>, TryError> {
        // The cancelled try may have set this.
        self.cx.watch.set_behind(None);
        self.recording.cancel_try();
        let shard = self.version().metrics.shard(self.cx.worker.id);
        shard.hedge_won();
        self.enter_second(race);
        self.serve_second(answer, upload, down).await
    }

    /// Waits for the second try after the first one has failed, and serves its response.
    pub(super) async fn await_second<D: Downstream>(
        &mut self,
        second: Second<'a>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Served, TryError> {
        if let Some(race) = self.race.clone() {
            self.enter_second(&race);
        }
        let answered = match second {
            Second::Answered(answer) => Ok(answer),
            Second::Running(mut running) => {
                let longest = self.cx.service.timeouts.connect + self.first_byte() + SLACK;
                let on_timeout = || ExchangeError::FirstByteTimeout;
                self.cx
                    .while_wanted(down, longest, on_timeout, |task| {
                        running.as_mut().poll(task)
                    })
                    .await
            }
        };
        match answered {
            Ok(answer) => {
                let shard = self.version().metrics.shard(self.cx.worker.id);
                let _in_flight = InFlight::enter(shard);
                let tried = self.serve_second(answer, upload, down).await;
                self.conclude(tried, down).await
            }
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Relays the response of the second try.
    async fn serve_second<D: Downstream>(
        &mut self,
        answer: Box<SecondAnswer<'a>>,
        upload: &mut Upload,
        down: &mut D,
    ) -> Result<Tried<Remainder>, TryError> {
        let SecondAnswer {
            head,
            mut active,
            upload: copy,
            connection,
        } = *answer;
        *upload = copy;
        active.show();
        match connection {
            SecondConnection::H1 {
                mut up,
                slot,
                used,
                transport,
                open,
            } => {
                let result = self.relay(head, &mut active, upload, down, &mut *up).await;
                self.close_h1(active.endpoint, *up, result, (slot, used, transport, open))
            }
            SecondConnection::H2(mut up) => {
                let result = self.relay(head, &mut active, upload, down, &mut *up).await;
                result.map(|tried| tried.with_remainder(|| Remainder::H2(up)))
            }
        }
    }

    /// Makes the second try the one that serves the request.
    fn enter_second(&mut self, race: &Race) {
        self.race = None;
        if let Some((began, member)) = race.started() {
            self.enter_member(member);
            self.recording.begin_second(self.version, member, began);
        }
    }

    /// Records that the response of the current try is used, and cancels the other one.
    #[inline]
    pub(super) fn decide_race(&mut self) {
        if let Some(race) = &self.race {
            race.decide();
            self.record_second();
        }
    }

    /// Records that both tries have failed, the second one first.
    fn settle(&mut self, race: &Race) {
        if self.race.is_some()
            && let Some((_, member)) = race.started()
        {
            self.mark_tried(member);
        }
        self.record_second();
    }

    /// Records a second try that doesn't serve the request, if there was one.
    pub(super) fn record_second(&mut self) {
        let Some(race) = self.race.take() else {
            return;
        };
        if let Some((began, member)) = race.started() {
            let error = race.take_failure();
            self.recording
                .lost_second(self.version, (member, began), error.as_ref());
        }
    }
}

/// Reads a short body to its end if it has arrived. Returns whether all of it is in memory, so that it can be sent twice.
async fn hold_body<F: Fields, D: Downstream>(
    cx: &RequestContext<'_, F>,
    upload: &mut Upload,
    down: &mut D,
) -> bool {
    let most = cx.service.policies.retry.body_bytes as u64;
    let length = match cx.request.framing {
        framing if !framing.has_body() => return true,
        Framing::Length(length) if length <= most.min(BUFFERED_BYTES) => length,
        _ => return false,
    };
    // Ready in any case: this doesn't wait for bytes.
    poll_fn(|task| {
        let read = upload.poll_buffer(task, down, length);
        let is_read = matches!(read, Poll::Ready(Ok(()))) && upload.received() == length;
        // A body of known length may have trailers over HTTP/2, which can't be sent twice.
        let mut is_whole = || matches!(down.poll_piece(task), Poll::Ready(Ok(BodyPiece::End)));
        Poll::Ready(is_read && upload.can_rewind() && is_whole())
    })
    .await
}

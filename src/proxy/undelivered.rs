//! A response that has arrived completely, while its client reads slowly: what is left of an exchange after everything else of it
//! was freed.
//!
//! The host of a connection with many streams takes it from [`Ended::Undelivered`](super::Ended), keeps it with the record of the
//! request ([`ParkedRecord`](super::observe::ParkedRecord)) and polls it.

use std::task::{Context, Poll};

use super::error::ExchangeError;
use super::exchange::{Arrived, Remainder};
use super::observe::Recording;
use super::silence::Silence;
use super::wire::Recipient;

/// The rest of a response, and how far it has come.
#[derive(Debug)]
pub struct Undelivered {
    arrived: Arrived,
    remainder: Remainder,
}

impl Undelivered {
    pub(super) fn new(arrived: Arrived, remainder: Remainder) -> Self {
        Self { arrived, remainder }
    }

    /// Sends the client what it takes.
    ///
    /// # Errors
    /// Those of [`deliver`](super::exchange::deliver).
    pub(crate) fn poll<D: Recipient>(
        &mut self,
        silence: Silence<'_>,
        task: &mut Context<'_>,
        down: &mut D,
    ) -> Poll<Result<(), ExchangeError>> {
        self.arrived.poll(silence, task, &mut self.remainder, down)
    }

    /// Records how the response has ended; `None` if it was dropped before its end.
    pub(crate) fn record(
        &self,
        recording: &mut Recording<'_>,
        result: Option<Result<(), ExchangeError>>,
    ) {
        recording.record.bytes_sent = self.arrived.bytes();
        let (status, grpc_status) = self.arrived.outcome();
        match result {
            None => {}
            Some(Ok(())) => recording.end_try(status, grpc_status),
            Some(Err(error)) => {
                recording.fail_try(&error, Some(status));
                recording.fail(error, true);
            }
        }
    }
}

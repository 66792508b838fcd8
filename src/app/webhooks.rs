//! What is told to the operator's own services, and how that goes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::time::Timestamp;
use crate::domain::webhook::EndpointId;
use crate::store::{DueEvent, StoreError};

use super::{App, Failure};

/// Longest wait until it is looked again what is due: a clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A receiver of webhooks.
#[derive(Clone, Debug)]
pub struct WebhookEndpoint {
    /// Its name inside.
    pub id: EndpointId,
    /// Its URL as it may be shown: without a query.
    pub url: String,
}

/// How it goes with one receiver; the counts are since the start.
#[derive(Clone, Debug)]
pub struct WebhookStatus {
    /// Its URL, without a query.
    pub url: String,
    /// Events that wait for it.
    pub pending: u64,
    /// When it is called next, if events wait; a time that has passed is as soon as possible.
    pub next_attempt: Option<Timestamp>,
    /// Events that it has taken.
    pub delivered: u64,
    /// Events that nobody tries to send any more, three days after they happened.
    pub given_up: u64,
    /// Events that had to go for newer ones, since too many waited.
    pub dropped: u64,
    /// Why the last attempt failed that did, and when.
    pub last_error: Option<(String, Timestamp)>,
    /// When it last took an event.
    pub last_success: Option<Timestamp>,
}

/// What happened at one receiver since the start.
#[derive(Debug, Default)]
struct Tally {
    delivered: u64,
    given_up: u64,
    last_error: Option<(String, Timestamp)>,
    last_success: Option<Timestamp>,
    /// Whether the last attempt failed: what goes on as it was is no line in the log.
    failing: bool,
}

/// The receivers, and how it goes with each.
#[derive(Debug)]
pub(super) struct Webhooks(Vec<(WebhookEndpoint, Mutex<Tally>)>);

impl Webhooks {
    pub(super) fn new(endpoints: &[WebhookEndpoint]) -> Self {
        let tallied = |endpoint: &WebhookEndpoint| (endpoint.clone(), Mutex::default());
        Self(endpoints.iter().map(tallied).collect())
    }

    /// Returns the tally of an endpoint and its number, from 1.
    fn tally(&self, id: EndpointId) -> Option<(usize, MutexGuard<'_, Tally>)> {
        let mut numbered = (1..).zip(&self.0);
        numbered
            .find(|(_, (endpoint, _))| endpoint.id == id)
            .map(|(number, (_, tally))| (number, lock(tally)))
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a webhook.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    created_at: Timestamp,
    account_id: &'a str,
    data: &'a RawValue,
}

impl App {
    /// Returns how it goes with each receiver, in the order of the configuration.
    #[must_use]
    pub fn webhooks(&self) -> Vec<WebhookStatus> {
        let status = |(endpoint, tally): &(WebhookEndpoint, Mutex<Tally>)| {
            let waiting = self.store().outbox(endpoint.id);
            let tally = lock(tally);
            WebhookStatus {
                url: endpoint.url.clone(),
                pending: waiting.pending,
                next_attempt: waiting.next_due,
                delivered: tally.delivered,
                given_up: tally.given_up,
                dropped: waiting.dropped,
                last_error: tally.last_error.clone(),
                last_success: tally.last_success,
            }
        };
        self.0.webhooks.0.iter().map(status).collect()
    }

    /// Sends events from now on to the receivers of the settings, and forgets what waits for any other.
    ///
    /// # Errors
    ///
    /// Whatever the store says; events go on to where they went then.
    pub async fn begin_webhooks(&self) -> Result<(), Failure> {
        let ids: Vec<EndpointId> = self.0.webhooks.0.iter().map(|(e, _)| e.id).collect();
        let removed = self.store().set_endpoints(&ids).await?;
        if removed > 0 {
            log::warn!(
                "{removed} events waited for webhooks that are no longer set; they are gone"
            );
        }
        Ok(())
    }

    /// Returns the first `limit` events that are due at a receiver.
    ///
    /// # Errors
    ///
    /// Whatever the store says, also while nothing can be written.
    pub async fn due_events(
        &self,
        endpoint: EndpointId,
        limit: usize,
    ) -> Result<Vec<DueEvent>, Failure> {
        let now = self.now();
        Ok(self.store().due_events(endpoint, now, limit).await?)
    }

    /// Returns the JSON of an event as receivers get it.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub fn event_body(&self, event: &DueEvent) -> Result<String, Failure> {
        let account_id = match self.store().account_id(event.account) {
            // The account is gone, and its name with it.
            Err(StoreError::NoAccount) => event.account.anonymous_id(),
            account_id => account_id?,
        };
        let internal = |error: serde_json::Error| Failure::Internal(error.to_string());
        let body = Body {
            id: &event.id,
            kind: &event.kind,
            created_at: event.at,
            account_id: &account_id,
            data: serde_json::from_str(&event.data).map_err(internal)?,
        };
        serde_json::to_string(&body).map_err(internal)
    }

    /// Notes that a receiver has taken an event.
    ///
    /// # Errors
    ///
    /// Whatever the store says; the event is sent again then.
    pub fn event_delivered(&self, endpoint: EndpointId, event: &DueEvent) -> Result<(), Failure> {
        let now = self.now();
        if let Some((number, mut tally)) = self.0.webhooks.tally(endpoint) {
            tally.delivered = tally.delivered.saturating_add(1);
            tally.last_success = Some(now);
            if std::mem::take(&mut tally.failing) {
                log::info!("webhook {number} takes events again");
            }
        }
        Ok(self.store().event_delivered(endpoint, event)?)
    }

    /// Notes that an event was sent in vain, why, and when it is sent again; never, if `next` is `None`.
    ///
    /// # Errors
    ///
    /// Whatever the store says; the event is due at once then.
    pub fn event_failed(
        &self,
        endpoint: EndpointId,
        event: &DueEvent,
        why: String,
        next: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let now = self.now();
        if let Some((number, mut tally)) = self.0.webhooks.tally(endpoint) {
            let (id, kind) = (&event.id, &event.kind);
            if next.is_none() {
                tally.given_up = tally.given_up.saturating_add(1);
                log::error!("webhook {number} never took {kind} {id}, which is given up: {why}");
            } else if !std::mem::replace(&mut tally.failing, true) {
                log::warn!("webhook {number} does not take {kind} {id}: {why}; it is sent again");
            }
            tally.last_error = Some((why, now));
        }
        Ok(self.store().event_failed(endpoint, event, next)?)
    }

    /// Waits until an event may be due at a receiver: one has come in, or a second has passed.
    pub async fn event_for(&self, endpoint: EndpointId) {
        let _ = tokio::time::timeout(LOOK_EVERY, self.store().event_for(endpoint)).await;
    }
}

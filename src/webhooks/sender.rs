//! Sends what is due, at each endpoint by a task of its own: a receiver that is slow or dead delays nobody
//! but itself, and no request at all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{App, DueEvent, Failure};

use super::Schedule;
use super::delivery::{Courier, Message};
use super::endpoint::Endpoint;

/// Most deliveries under way at one endpoint.
const UNDER_WAY_MAX: usize = 4;
/// How long nothing is sent after something could not be noted: it would be sent over and over.
const PAUSE: Duration = Duration::from_secs(1);

/// The tasks that send, until they are stopped.
#[derive(Debug)]
pub struct Senders {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Senders {
    /// Starts a task for each endpoint.
    #[must_use]
    pub fn start(
        app: &App,
        courier: &Courier,
        endpoints: Vec<Endpoint>,
        schedule: &Schedule,
    ) -> Self {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for endpoint in endpoints {
            let sender = Sender {
                app: app.clone(),
                courier: courier.clone(),
                endpoint: Arc::new(endpoint),
                schedule: schedule.clone(),
            };
            tasks.spawn(sender.run(stopping.clone()));
        }
        Self { tasks, stop }
    }

    /// Begins no further delivery, and waits for those under way; those that take longer than `limit` are
    /// cut, and sent again after the next start.
    pub async fn stop(mut self, limit: Duration) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            log::info!("webhooks under way are cut; they are sent again after the next start");
        }
        self.tasks.shutdown().await;
    }
}

struct Sender {
    app: App,
    courier: Courier,
    endpoint: Arc<Endpoint>,
    schedule: Schedule,
}

impl Sender {
    async fn run(self, mut stopping: watch::Receiver<bool>) {
        let mut under_way = FuturesUnordered::new();
        let mut sent: Vec<String> = Vec::new();
        loop {
            let stops = *stopping.borrow_and_update();
            if stops && under_way.is_empty() {
                return;
            }
            let free = UNDER_WAY_MAX.saturating_sub(sent.len());
            let looks = free > 0 && !stops;
            let mut noted = true;
            if looks {
                // Those under way are still due.
                let due = self.app.due_events(self.endpoint.id(), UNDER_WAY_MAX);
                match due.await {
                    Ok(events) => {
                        let is_new = |event: &DueEvent| !sent.contains(&event.id);
                        let new: Vec<_> = events.into_iter().filter(is_new).take(free).collect();
                        for event in new {
                            sent.push(event.id.clone());
                            under_way.push(self.send(event));
                        }
                    }
                    Err(error) => noted = self.is_noted(Err(error)),
                }
            }
            tokio::select! {
                Some((id, outcome)) = under_way.next() => {
                    sent.retain(|other| *other != id);
                    noted &= self.is_noted(outcome);
                }
                () = self.app.event_for(self.endpoint.id()), if looks => {}
                _ = stopping.changed() => {}
            }
            if !noted {
                // Those under way go on afterwards; a stop is not held up by more than this.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends an event and notes the outcome. Returns its id, and whether that was noted.
    async fn send(&self, event: DueEvent) -> (String, Result<(), Failure>) {
        let outcome = self.sent(&event).await;
        (event.id, outcome)
    }

    async fn sent(&self, event: &DueEvent) -> Result<(), Failure> {
        let (app, id) = (&self.app, self.endpoint.id());
        let message = Message {
            id: event.id.clone(),
            kind: event.kind.clone(),
            body: app.event_body(event)?,
        };
        let delivered = self
            .courier
            .deliver(&self.endpoint, &message, app.now())
            .await;
        match delivered {
            Ok(_) => app.event_delivered(id, event),
            Err(error) => {
                let failures = event.failures.saturating_add(1);
                let next = self
                    .schedule
                    .next(event.at, failures, app.now(), rand::random());
                app.event_failed(id, event, error.to_string(), next)
            }
        }
    }

    /// Says whether the store did what it was asked to.
    fn is_noted(&self, outcome: Result<(), Failure>) -> bool {
        match outcome {
            Ok(()) => return true,
            // Nothing can be written just now: everybody knows.
            Err(Failure::StorageUnavailable { .. } | Failure::StorageFull) => {}
            Err(failure) => log::error!("webhook {}: {failure}", self.endpoint.authority()),
        }
        false
    }
}

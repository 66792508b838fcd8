//! What comes in waits for every endpoint, until it is taken or goes for newer ones.

use super::*;
use crate::domain::event::{Cause, EventKind};
use crate::store::Options;
use crate::store::testing::NOW;

const ONE: EndpointId = EndpointId([1; 8]);
const TWO: EndpointId = EndpointId([2; 8]);
const THREE: EndpointId = EndpointId([3; 8]);

const ACCOUNT: AccountKey = AccountKey([7; 16]);

fn event(no: u64, kind: EventKind) -> Event {
    Event {
        no,
        at: NOW.plus_seconds(i64::try_from(no).unwrap()),
        cause: Cause::service(),
        kind,
    }
}

fn changed() -> EventKind {
    EventKind::PlanChanged {
        from: "Free".to_owned(),
        to: "Pro".to_owned(),
    }
}

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(directory.path(), Options::default()).unwrap().0
}

async fn make(endpoints: &[EndpointId]) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.set_endpoints(endpoints).await.unwrap();
    (directory, store)
}

fn enqueue(store: &Store, no: u64) {
    enqueue_as(store, Carrier::Usage, &event(no, changed()));
}

fn enqueue_as(store: &Store, carrier: Carrier, event: &Event) {
    let inner = store.inner().unwrap();
    inner.enqueue(ACCOUNT, carrier, event).unwrap();
}

async fn due(store: &Store, endpoint: EndpointId, now: Timestamp) -> Vec<DueEvent> {
    store.due_events(endpoint, now, 1_000).await.unwrap()
}

fn numbers(events: &[DueEvent]) -> Vec<i64> {
    let number = |event: &DueEvent| (event.at.micros() - NOW.micros()) / 1_000_000;
    events.iter().map(number).collect()
}

fn sound(store: &Store) {
    let report = store.check(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report}");
}

// Shows that an event waits for each endpoint by itself, as it was, across a new start.
#[tokio::test]
async fn an_event_waits_for_each_endpoint_until_it_is_taken() {
    let (directory, store) = make(&[ONE, TWO]).await;
    enqueue(&store, 1);
    enqueue(&store, 2);
    let first = due(&store, ONE, NOW).await;
    assert_eq!(numbers(&first), [1, 2]);
    let (event, id) = (&first[0], &first[0].id);
    assert_eq!((event.kind.as_str(), event.failures), ("plan.changed", 0));
    assert_eq!(event.data, r#"{"from":"Free","to":"Pro"}"#);
    assert_eq!(event.account, ACCOUNT);
    assert!(id.starts_with("evt_") && id.len() == 30, "{id}");
    assert_ne!(id, &first[1].id);
    assert_eq!(&due(&store, TWO, NOW).await[0].id, id);

    store.event_delivered(ONE, event).unwrap();
    // Once more is no harm: a delivery that took long.
    store.event_delivered(ONE, event).unwrap();
    assert_eq!(numbers(&due(&store, ONE, NOW).await), [2]);
    assert_eq!(store.outbox(ONE).pending, 1);
    assert_eq!(store.outbox(TWO).pending, 2);
    sound(&store);

    drop(store);
    let store = open(&directory);
    assert_eq!(numbers(&due(&store, ONE, NOW).await), [2]);
    assert_eq!(numbers(&due(&store, TWO, NOW).await), [1, 2]);
    sound(&store);
}

// Shows that what failed comes back when it is due and not before, with its id and its count, also across
// a new start; what was given up does not.
#[tokio::test]
async fn what_failed_is_due_again_later() {
    let (directory, store) = make(&[ONE]).await;
    enqueue(&store, 1);
    let event = due(&store, ONE, NOW).await.remove(0);
    let later = NOW.plus_seconds(10);
    store.event_failed(ONE, &event, Some(later)).unwrap();
    assert!(due(&store, ONE, NOW.plus_seconds(9)).await.is_empty());
    assert_eq!(store.outbox(ONE).next_due, Some(later));
    drop(store);
    let store = open(&directory);
    assert!(due(&store, ONE, NOW.plus_seconds(9)).await.is_empty());
    let again = due(&store, ONE, later).await.remove(0);
    assert_eq!((again.failures, &again.id), (1, &event.id));
    sound(&store);
    // The first attempt, should it end only now, changes nothing.
    store.event_delivered(ONE, &event).unwrap();
    assert_eq!(store.outbox(ONE).pending, 1);
    store.event_failed(ONE, &again, None).unwrap();
    assert_eq!(store.outbox(ONE), OutboxState::default());
    assert!(store.trees().outbox.is_empty());
}

// Shows that moving an event a second time, as after a crash, neither doubles it nor forgets its failures.
#[tokio::test]
async fn the_same_event_is_there_once() {
    let (_directory, store) = make(&[ONE]).await;
    enqueue(&store, 1);
    let first = due(&store, ONE, NOW).await.remove(0);
    store.event_failed(ONE, &first, Some(NOW)).unwrap();
    enqueue(&store, 1);
    let found = due(&store, ONE, NOW).await;
    assert_eq!((found.len(), found[0].failures), (1, 1));
    // Another carrier's event of the same number is another event.
    enqueue_as(&store, Carrier::Account, &event(1, changed()));
    // And so is what a database that was put back from a backup calls by the same number.
    let later = Event {
        at: NOW.plus_seconds(9),
        ..event(1, changed())
    };
    enqueue_as(&store, Carrier::Usage, &later);
    let found = due(&store, ONE, NOW).await;
    let ids: BTreeSet<&str> = found.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), 3);
    // What no receiver is told is not kept.
    enqueue_as(&store, Carrier::Account, &event(2, EventKind::Suspended));
    assert_eq!(store.outbox(ONE).pending, 3);
}

// Shows that beyond the bound the oldest goes, by the time of the event and not by when it is due.
#[tokio::test]
async fn the_outbox_is_bounded() {
    let (directory, store) = make(&[ONE]).await;
    assert_eq!(PENDING_MAX, 100_000);
    store.bound_outbox(3);
    for no in 1..=3 {
        enqueue(&store, no);
    }
    for event in due(&store, ONE, NOW).await {
        let wait = 10 - i64::from(event.failures) - numbers(std::slice::from_ref(&event))[0];
        let later = NOW.plus_seconds(wait);
        store.event_failed(ONE, &event, Some(later)).unwrap();
    }
    enqueue(&store, 4);
    enqueue(&store, 5);
    let left = due(&store, ONE, NOW.plus_seconds(60)).await;
    assert_eq!(numbers(&left), [4, 5, 3]);
    let state = store.outbox(ONE);
    assert_eq!((state.pending, state.dropped), (3, 2));
    sound(&store);
    drop(store);
    assert_eq!(open(&directory).outbox(ONE).pending, 3);
}

// Shows that without an endpoint nothing is kept, and that one that is taken out takes what waited with it.
#[tokio::test]
async fn events_go_to_the_endpoints_that_there_are() {
    let (directory, store) = make(&[]).await;
    enqueue(&store, 1);
    assert!(store.trees().outbox.is_empty());
    store.set_endpoints(&[ONE, TWO]).await.unwrap();
    enqueue(&store, 2);
    assert_eq!(store.set_endpoints(&[TWO, ONE]).await.unwrap(), 0);
    assert_eq!(store.set_endpoints(&[THREE, TWO]).await.unwrap(), 1);
    enqueue(&store, 3);
    assert_eq!(store.outbox(ONE), OutboxState::default());
    assert_eq!(numbers(&due(&store, TWO, NOW).await), [2, 3]);
    assert_eq!(numbers(&due(&store, THREE, NOW).await), [3]);
    sound(&store);
    // Who opens it next knows them, whether or not it has any itself.
    drop(store);
    let store = open(&directory);
    enqueue(&store, 4);
    assert_eq!(numbers(&due(&store, TWO, NOW).await), [2, 3, 4]);
    sound(&store);
}

// Shows that a task that waits is woken by an event, also by one that came before it waited.
#[tokio::test]
async fn an_event_rings() {
    let (_directory, store) = make(&[ONE]).await;
    enqueue(&store, 1);
    store.event_for(ONE).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.event_for(ONE).await }
    });
    enqueue(&store, 2);
    waiting.await.unwrap();
}

// Shows that nothing is handed out to be sent while nothing can be written down about it.
#[tokio::test]
async fn nothing_is_sent_while_nothing_can_be_noted() {
    let (_directory, store) = make(&[ONE]).await;
    enqueue(&store, 1);
    // The store looks at the disk every 10 ms.
    for (reserve, is_full) in [(u64::MAX, true), (0, false)] {
        store.set_reserve(reserve);
        loop {
            match store.due_events(ONE, NOW, 1).await {
                Err(StoreError::Full) if is_full => break,
                Ok(found) if !is_full => {
                    assert_eq!(found.len(), 1);
                    break;
                }
                _ => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        }
    }
}

// Shows that damage is named and that a repair leaves what can be sent.
#[tokio::test]
async fn damage_is_named_and_repaired() {
    let (directory, store) = make(&[ONE]).await;
    enqueue(&store, 1);
    enqueue(&store, 2);
    let trees = store.trees();
    let (key, value) = trees.outbox.first().unwrap().unwrap();
    let good = trees.outbox.last().unwrap().unwrap().1;
    let longer = [&value[..], &[0]].concat();
    let stranger = outbox_key(TWO, part(&key, 8).unwrap());
    let damages: [(&[u8], &[u8], &str); 5] = [
        (&key, &longer, "bytes after its end"),
        (&key, &[], "empty"),
        (&key, &good, "its time is not that of its key"),
        (
            &stranger,
            &value,
            "it waits for an endpoint that there is not",
        ),
        (&key[..31], &value, "its key is not 32 bytes"),
    ];
    for (at, bytes, what) in damages {
        trees.outbox.insert(at, bytes).unwrap();
        let report = store.check(&|_| ()).unwrap().to_string();
        assert!(
            report.starts_with("outbox ") && report.contains(what),
            "{report}"
        );
        trees.outbox.remove(at).unwrap();
        trees.outbox.insert(&key, value.clone()).unwrap();
    }
    for (at, bytes, _) in damages {
        trees.outbox.insert(at, bytes).unwrap();
    }
    trees.meta.insert(ENDPOINTS, vec![9]).unwrap();
    let report = store.check(&|_| ()).unwrap().to_string();
    assert!(report.contains("meta "), "{report}");
    drop((trees, store));

    assert!(Store::open(directory.path(), Options::default()).is_err());
    let (store, _) = Store::open_damaged(directory.path(), Options::default()).unwrap();
    store.repair(&mut |_| {}, &|_| {}).unwrap();
    sound(&store);
    drop(store);
    assert_eq!(numbers(&due(&open(&directory), ONE, NOW).await), [2]);
}

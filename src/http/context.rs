//! What is known of the request that a task answers, beside the request itself: no extension of it, which
//! would be put on the heap for each.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;

use crate::app::Caller;
use crate::domain::event::RequestId;
use crate::domain::key::KeyId;

tokio::task_local! {
    static CONTEXT: Context;
}

/// A request that is being answered.
struct Context {
    id: RequestId,
    peer: IpAddr,
    headers: Cell<Option<HeaderMap>>,
    path: Cell<Option<&'static str>>,
    caller: RefCell<LoggedCaller>,
}

/// What the answering of a request tells the log.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// The route's template, never the path: a path can hold a key.
    pub path: Option<&'static str>,
    /// Who called.
    pub caller: LoggedCaller,
}

/// Who called.
#[derive(Debug, Default)]
pub(super) enum LoggedCaller {
    /// Nobody that is known.
    #[default]
    Nobody,
    /// A key.
    Key(KeyId),
    /// The admin.
    Admin,
}

impl LoggedCaller {
    /// Returns the key's id, `admin`, or `-`.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Nobody => "-",
            Self::Key(id) => id.as_str(),
            Self::Admin => "admin",
        }
    }
}

/// Runs what answers the request `id`, which came over a connection with `peer`, and had these headers: warp
/// would hand on a copy. Returns what it told the log, too.
pub(super) async fn within<F: Future>(
    id: RequestId,
    peer: IpAddr,
    headers: HeaderMap,
    answering: F,
) -> (F::Output, Logged) {
    let context = Context {
        id,
        peer,
        headers: Cell::new(Some(headers)),
        path: Cell::default(),
        caller: RefCell::default(),
    };
    let answering = async {
        let answer = answering.await;
        let logged = CONTEXT.with(|context| Logged {
            path: context.path.get(),
            caller: context.caller.take(),
        });
        (answer, logged)
    };
    CONTEXT.scope(context, answering).await
}

/// Returns the request's id; none outside of [`within`].
pub(super) fn request_id() -> Option<RequestId> {
    CONTEXT.try_with(|context| context.id).ok()
}

/// Returns who is at the other end of the connection; outside of [`within`] the address that is nobody's.
pub(super) fn peer() -> IpAddr {
    CONTEXT
        .try_with(|context| context.peer.to_canonical())
        .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}

/// Takes the request's headers; none outside of [`within`], nor a second time.
pub(super) fn take_headers() -> Option<HeaderMap> {
    CONTEXT
        .try_with(|context| context.headers.take())
        .ok()
        .flatten()
}

/// Tells the log which route it is.
pub(super) fn log_path(template: &'static str) {
    let _ = CONTEXT.try_with(|context| context.path.set(Some(template)));
}

/// Tells the log who calls, if it shows that.
pub(super) fn log_caller(caller: &Caller) {
    if !log::log_enabled!(log::Level::Info) {
        return;
    }
    let _ = CONTEXT.try_with(|context| {
        context.caller.replace(match caller {
            Caller::Nobody => LoggedCaller::Nobody,
            Caller::Key(principal) => LoggedCaller::Key(principal.key_id.clone()),
            Caller::Admin => LoggedCaller::Admin,
        })
    });
}

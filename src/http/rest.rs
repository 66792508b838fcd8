//! The rest of a body: what a client goes on sending after its request was answered.
//!
//! A request can be answered before its body has come: no such path, no credential, too large. If the
//! connection were closed then, the client would still be sending, and the operating system would tell
//! it that the connection broke in place of the answer. So the rest is read and thrown away, within
//! bounds, while the answer is on its way.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::{Request, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};

/// Most bytes that are thrown away for one request; a client that sends more is cut off.
const REST_BYTES_MAX: usize = 16 << 20;
/// Longest time for it.
const REST_WAIT: Duration = Duration::from_secs(10);

/// A body that can be read on when whoever read it has let go of it; nothing of one that was empty from the
/// beginning, as most are.
#[derive(Debug)]
pub struct SharedBody<B>(Option<Arc<Mutex<B>>>);

impl<B> SharedBody<B> {
    /// No step of a body's panics; if one did, its error is for the next reader to see.
    fn lock(&self) -> Option<MutexGuard<'_, B>> {
        let body = self.0.as_ref()?;
        Some(body.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Body + Unpin> Body for SharedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.lock() {
            Some(mut body) => Pin::new(&mut *body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.lock()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// The rest of a request's body, to be read after the answer.
#[derive(Debug)]
pub struct Rest<B>(Option<SharedBody<B>>);

/// Keeps hold of a request's body beyond its handler.
pub fn keep_rest<B: Body + Unpin>(request: Request<B>) -> (Request<SharedBody<B>>, Rest<B>) {
    // Who waits for a 100 Continue sends nothing before it, and reading would send one.
    let waits = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| {
        let is_empty = body.is_end_stream();
        SharedBody((!is_empty).then(|| Arc::new(Mutex::new(body))))
    });
    let kept = request.body().0.clone().filter(|_| !waits);
    let rest = kept.map(|body| SharedBody(Some(body)));
    (request, Rest(rest))
}

impl<B> Rest<B>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
{
    /// Reads what is left in the background and throws it away.
    pub fn throw_away(self) {
        if let Some(body) = self.0.filter(|body| !body.is_end_stream()) {
            // Its end, in whatever way, is the end of it: the answer was given before.
            tokio::spawn(tokio::time::timeout(REST_WAIT, read(body)));
        }
    }
}

async fn read<B: Body + Unpin>(body: SharedBody<B>) {
    let (mut body, mut bytes) = (pin!(body), 0usize);
    while let Some(Ok(frame)) = body.frame().await {
        let more = frame.data_ref().map_or(0, Buf::remaining);
        bytes = bytes.saturating_add(more);
        if bytes > REST_BYTES_MAX {
            return;
        }
    }
}

//! One delivery: look the host up, refuse what the guard refuses, connect to the address that was looked at,
//! send, read the status.
//!
//! The name is looked up once, and what is connected to is what was looked at: a second look-up could
//! answer otherwise (DNS rebinding). A redirect is an answer like any other that is not 2xx; it is never
//! followed, since it would lead past the guard. No proxy of the environment is used.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::domain::key::Secret;
use crate::domain::time::Timestamp;

use super::endpoint::Endpoint;
use super::{guard, signature};

/// Longest delivery, from the look-up to the status.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one of several addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time, and most bytes, for which a body is read that nobody wants: a connection that ends before
/// it looks like a failure to the receiver.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of an answer's headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

const USER_AGENT: &str = concat!("MemoryOS/", env!("CARGO_PKG_VERSION"));

/// What is sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// `evt_…`: the same in each attempt.
    pub id: String,
    /// What happened, such as `key.created`.
    pub kind: String,
    /// The event as JSON.
    pub body: String,
}

/// Why a message was not delivered: one line for the operator, with nothing of the message, the secret or
/// the URL's query in it.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The host's name stands for no address.
    #[error("the host cannot be found: {0}")]
    Host(String),
    /// The guard refuses an address that the name stands for.
    #[error("the host stands for {0}, a {1} address; --webhook-allow-private allows that")]
    Address(IpAddr, &'static str),
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The receiver's certificate is not one of this host, or TLS failed otherwise.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// The connection ended before a status came.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The answer says that there is something else to be called.
    #[error("it answered {0}; redirects are not followed")]
    Redirect(u16),
    /// The answer is not 2xx.
    #[error("it answered {0}")]
    Status(u16),
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// Sends messages, to any endpoint.
#[derive(Clone)]
pub struct Courier {
    tls: TlsConnector,
    secret: Secret,
    allow_private: bool,
    timeout: Duration,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier")
            .field("allow_private", &self.allow_private)
            .finish_non_exhaustive()
    }
}

impl Courier {
    /// Makes one that signs with `secret`, and trusts the certificate authorities that Mozilla trusts.
    ///
    /// # Errors
    ///
    /// What TLS says if it cannot be set up; it can.
    pub fn new(secret: Secret, allow_private: bool) -> Result<Self, io::Error> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Self::trusting(roots, secret, allow_private)
    }

    fn trusting(
        roots: RootCertStore,
        secret: Secret,
        allow_private: bool,
    ) -> Result<Self, io::Error> {
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            secret,
            allow_private,
            timeout: TIMEOUT,
        })
    }

    /// Sends a message, signed for the time `now`. Returns the status, which is 2xx. Ends within 11 s; may
    /// be dropped at any point.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`]; the receiver may have got the message all the same.
    pub async fn deliver(
        &self,
        endpoint: &Endpoint,
        message: &Message,
        now: Timestamp,
    ) -> Result<u16, DeliveryError> {
        let delivery = async {
            let stream = self.connect(endpoint).await?;
            if !endpoint.is_https() {
                return self.exchange(stream, endpoint, message, now).await;
            }
            let name = ServerName::try_from(endpoint.host().to_owned())
                .map_err(|error| DeliveryError::Tls(io::Error::other(error)))?;
            let stream = self.tls.connect(name, stream).await;
            let stream = stream.map_err(DeliveryError::Tls)?;
            self.exchange(stream, endpoint, message, now).await
        };
        let answer = tokio::time::timeout(self.timeout, delivery).await;
        let (response, _connection) = answer.unwrap_or(Err(DeliveryError::TimedOut))?;
        let status = response.status();
        // The status is what counts, however the body ends.
        let _ = tokio::time::timeout(BODY_TIMEOUT, discard(response.into_body())).await;
        if status.is_success() {
            Ok(status.as_u16())
        } else if status.is_redirection() {
            Err(DeliveryError::Redirect(status.as_u16()))
        } else {
            Err(DeliveryError::Status(status.as_u16()))
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, DeliveryError> {
        let found = tokio::net::lookup_host((endpoint.host(), endpoint.port())).await;
        let found = found.map_err(|error| DeliveryError::Host(error.to_string()))?;
        let addresses = self.allowed(found.collect())?;
        let mut failure = io::Error::other("its name stands for no address");
        for address in addresses {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DeliveryError::Connect(failure))
    }

    /// Returns the addresses if all of them may be called. One that may not is reason enough: whoever
    /// answers for the name is not to be trusted with it.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DeliveryError> {
        let refused = |address: &SocketAddr| {
            let kind = guard::refusal(address.ip())?;
            Some(DeliveryError::Address(address.ip(), kind))
        };
        match addresses.iter().find_map(refused) {
            Some(error) if !self.allow_private => Err(error),
            _ => Ok(addresses),
        }
    }

    async fn exchange(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        endpoint: &Endpoint,
        message: &Message,
        now: Timestamp,
    ) -> Result<(Response<Incoming>, AbortOnDrop), DeliveryError> {
        let no_answer = |error: hyper::Error| DeliveryError::NoAnswer(error.to_string());
        let timestamp = now.micros().div_euclid(1_000_000);
        let request = Request::post(endpoint.path_and_query())
            .header(header::HOST, endpoint.authority())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header("X-MemoryOS-Event", &message.kind)
            .header("X-MemoryOS-Delivery", &message.id)
            .header("X-MemoryOS-Timestamp", timestamp)
            .header(
                "X-MemoryOS-Signature",
                signature::sign(&self.secret, timestamp, message.body.as_bytes()),
            )
            .body(Full::new(Bytes::from(message.body.clone())))
            .map_err(|error| DeliveryError::NoAnswer(error.to_string()))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEADER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(no_answer)?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            // What goes wrong on it is the error of the request.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(no_answer)?;
        Ok((response, connection))
    }
}

/// Reads a body, up to a bound, and forgets it.
async fn discard(mut body: Incoming) {
    let mut read = 0usize;
    while let Some(Ok(frame)) = body.frame().await {
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read > BODY_BYTES_MAX {
            return;
        }
    }
}

/// The task that moves a connection's bytes; it ends with the delivery.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;

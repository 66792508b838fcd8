//! The floor of a Rust HTTP server: bare hyper 1 that answers every request with the same bytes.
//!
//! It parses requests, keeps connections alive and writes headers, as any server on hyper must, and does
//! nothing else: no routing, no look at the request, no allocation for the body. Header names and
//! values are `'static`, so that the two workers share no reference counts.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Answers every request on loopback with the same bytes.
#[derive(Parser)]
struct Options {
    /// Port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// Bytes of the body.
    #[arg(long)]
    body_bytes: usize,
    /// A header of each answer, as `name: value`; `content-length` and `date` are hyper's own.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let headers = headers(options.headers)?;
    let body = Bytes::from_static(vec![b'x'; options.body_bytes].leak());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers)
        .enable_io()
        .build()?
        .block_on(serve(options.port, headers.leak(), body))
}

/// Reads `name: value` lines.
fn headers(lines: Vec<String>) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let parse = |line: String| {
        let (name, value) = String::leak(line).split_once(": ")?;
        let name = HeaderName::from_lowercase(name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        let value = value.to_str().ok()?.to_owned();
        Some((name, HeaderValue::from_static(value.leak())))
    };
    let lines = lines.into_iter().map(|line| {
        let shown = line.clone();
        parse(line).with_context(|| format!("not a header: {shown}"))
    });
    lines.collect()
}

async fn serve(
    port: u16,
    headers: &'static [(HeaderName, HeaderValue)],
    body: Bytes,
) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                *response.headers_mut() = map(headers);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that goes away in the middle is none of our business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn map(headers: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        map.append(name, value.clone());
    }
    map
}

//! The floor of a Rust HTTP server: bare hyper 1 that answers every request with the same bytes.
//!
//! It parses requests, keeps connections alive and writes headers, as any server on hyper must, and does
//! nothing else: no routing, no look at the request, no allocation for the body. Header names and
//! values are `'static`, so that the two workers share no reference counts.
//!
//! With `--append` it is the floor of a durable `POST` as well: each body is appended to a file, and answered when it is
//! on the disk. One thread writes and syncs for all who wait, as a group.

use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The file of `--append` is as long as this from the beginning, and begun anew at its end: so that no flush makes it longer.
const FILE_BYTES: u64 = 256 << 20;

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
    /// Status of each answer.
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// A file that each request's body is appended to, and synced, before the answer.
    #[arg(long)]
    append: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let headers = headers(options.headers)?;
    let body = Bytes::from_static(vec![b'x'; options.body_bytes].leak());
    let status = StatusCode::from_u16(options.status)?;
    let log = options.append.as_deref().map(Log::start).transpose()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers)
        .enable_io()
        .build()?
        .block_on(serve(options.port, status, headers.leak(), body, log))
}

/// Bodies that wait to be written, and who waits for each.
#[derive(Default)]
struct Log {
    waiting: Mutex<Vec<(Bytes, oneshot::Sender<()>)>>,
    called: Condvar,
}

impl Log {
    /// Makes the file and starts the thread that writes it.
    fn start(path: &Path) -> Result<Arc<Self>> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        let log = Arc::new(Self::default());
        let writing = Arc::clone(&log);
        std::thread::spawn(move || {
            let ended = writing.write(&file);
            eprintln!("the file cannot be written: {ended:?}");
            std::process::exit(1);
        });
        Ok(log)
    }

    /// Writes and syncs what waits, again and again, all that is there at once.
    fn write(&self, file: &File) -> Result<Infallible> {
        let (mut at, mut text) = (0, Vec::new());
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = self
                .called
                .wait_while(waiting, |waiting| waiting.is_empty());
            let batch = std::mem::take(&mut *waiting.unwrap_or_else(PoisonError::into_inner));
            text.clear();
            for (body, _) in &batch {
                text.extend_from_slice(body);
            }
            let len = text.len() as u64;
            at = if at + len > FILE_BYTES { 0 } else { at };
            file.write_all_at(&text, at)?;
            file.sync_data()?;
            at += len;
            for (_, done) in batch {
                // One that is gone waits no more.
                let _ = done.send(());
            }
        }
    }

    /// Waits until the body is on the disk.
    async fn append(&self, body: Bytes) {
        let (done, told) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((body, done));
        self.called.notify_one();
        let _ = told.await;
    }
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
    status: StatusCode,
    headers: &'static [(HeaderName, HeaderValue)],
    body: Bytes,
    log: Option<Arc<Log>>,
) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (body, log) = (body.clone(), log.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                *response.status_mut() = status;
                *response.headers_mut() = map(headers);
                let log = log.clone();
                async move {
                    if let Some(log) = log {
                        log.append(request.into_body().collect().await?.to_bytes())
                            .await;
                    }
                    Ok::<_, hyper::Error>(response)
                }
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

//! An HTTP/1.1 client that costs little: one keep-alive connection, requests made beforehand, and no more of
//! the answer read than its status, its length and one header.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Failure, requests};

/// Longest wait for an answer: far more than anything here takes.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body: std::ops::Range<usize>,
    /// For messages, with how many answers there were.
    opened: Instant,
    answers: u64,
}

/// What is told of an answer; its body is [`Connection::body`].
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| Failure(format!("cannot connect to {address}: {error}")))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(1024),
            body: 0..0,
            opened: Instant::now(),
            answers: 0,
        })
    }

    /// Opens a connection that is accepted when this returns, and may then wait for its use. Who opens many at
    /// once fills the listener's queue, and waits a second for a repeated SYN; one without a request is closed
    /// after 10 s, and so is one whose only request was answered in the first millisecond.
    pub async fn open_to_keep(address: SocketAddr) -> Result<Self, Failure> {
        let mut connection = Self::open(address).await?;
        connection.expect(200, &requests::health()).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        connection.expect(200, &requests::health()).await?;
        Ok(connection)
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        match tokio::time::timeout(ANSWER_MAX, self.ask_at_leisure(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure(format!(
                "no answer in {ANSWER_MAX:?} to {}",
                first_line(request)
            ))),
        }
    }

    async fn ask_at_leisure(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        let started = Instant::now();
        self.buffer.clear();
        self.stream.write_all(request).await?;
        let head = loop {
            self.read_more(request).await?;
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head])
            .map_err(|_| Failure("the head of an answer is not text".to_owned()))?;
        let status = text.get(9..12).and_then(|digits| digits.parse().ok());
        let status = status.ok_or_else(|| Failure(format!("no status line: {text}")))?;
        let length: usize = header(text, "content-length")
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| Failure(format!("an answer without content-length: {text}")))?;
        let retry_after = header(text, "retry-after").and_then(|value| value.parse().ok());
        self.body = head + 4..head + 4 + length;
        while self.buffer.len() < self.body.end {
            self.read_more(request).await?;
        }
        self.answers += 1;
        Ok(Answer {
            status,
            retry_after,
            took: started.elapsed(),
        })
    }

    async fn read_more(&mut self, request: &[u8]) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Failure(format!(
                "the server closed the connection, {} answers and {:.1} s old, instead of answering {}",
                self.answers,
                self.opened.elapsed().as_secs_f64(),
                first_line(request)
            ))),
            _ => Ok(()),
        }
    }

    /// Asks, and fails unless the answer has this status.
    pub async fn expect(&mut self, status: u16, request: &[u8]) -> Result<Answer, Failure> {
        let answer = self.ask(request).await?;
        if answer.status == status {
            return Ok(answer);
        }
        Err(Failure(format!(
            "expected {status}, got {} to {}: {}",
            answer.status,
            first_line(request),
            String::from_utf8_lossy(self.body())
        )))
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body.clone()).unwrap_or_default()
    }

    /// The body of the last answer, as JSON.
    pub fn json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(self.body())
            .map_err(|error| Failure(format!("an answer is not JSON: {error}")))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// For messages: they name no key.
fn first_line(request: &[u8]) -> String {
    let end = find(request, b"\r\n").unwrap_or(request.len());
    String::from_utf8_lossy(&request[..end]).into_owned()
}

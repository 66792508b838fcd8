//! An HTTP client that counts bytes, for filling and for samples. The load itself is wrk's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// One connection that is kept alive.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// An answer, as it came over the wire.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines, `name: value`.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Bytes of all of it: status line, headers and body.
    pub bytes: usize,
}

impl Client {
    /// Connects to a port of 127.0.0.1.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request, with a key and a JSON body if there are any, and reads its answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&str>,
    ) -> Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        if let Some(key) = key {
            request += &format!("X-API-KEY: {key}\r\n");
        }
        if let Some(body) = body {
            let length = body.len();
            request +=
                &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
            request += body;
        } else {
            request += "\r\n";
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer().with_context(|| format!("{method} {path}"))
    }

    /// Sends a request and reads the JSON of its answer, which must be a 2xx.
    pub fn json<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&str>,
    ) -> Result<T> {
        let answer = self.send(method, path, key, body)?;
        if !(200..300).contains(&answer.status) {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            bail!("{method} {path}: {} {body}", answer.status);
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut bytes = 0;
        let mut line = || -> Result<String> {
            let mut line = String::new();
            bytes += self.stream.read_line(&mut line)?;
            if !line.ends_with("\r\n") {
                bail!("the connection ended in the middle of an answer");
            }
            Ok(line.trim_end().to_owned())
        };
        let status = line()?;
        let status = status.split(' ').nth(1).context("no status")?.parse()?;
        let mut headers = Vec::new();
        loop {
            let header = line()?;
            if header.is_empty() {
                break;
            }
            headers.push(header);
        }
        let length = headers.iter().find_map(|header| {
            header
                .to_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let mut body = vec![0; length.context("no content-length")?];
        self.stream.read_exact(&mut body)?;
        let bytes = bytes + body.len();
        Ok(Answer {
            status,
            headers,
            body,
            bytes,
        })
    }
}

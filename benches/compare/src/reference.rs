//! The bare hyper server, made to answer as many bytes as MemoryOS does, and to append what it is sent if asked to.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::http::{Answer, Client};
use crate::process::{self, Server};

/// A running reference.
#[derive(Debug)]
pub struct Reference {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The process.
    pub server: Server,
}

impl Reference {
    /// Starts it with the headers of an answer of MemoryOS and a body as long; fails if its answer is not as long. It
    /// appends the bodies of requests to the file, if one is given, and answers when they are on the disk.
    pub fn start(
        binary: &Path,
        directory: &Path,
        like: &Answer,
        append: Option<&Path>,
    ) -> Result<Self> {
        let port = process::free_port()?;
        let mut command = Command::new(binary);
        command.arg("--port").arg(port.to_string());
        command.arg("--body-bytes").arg(like.body.len().to_string());
        command.arg("--status").arg(like.status.to_string());
        for header in &like.headers {
            // These two hyper writes by itself.
            if !header.starts_with("content-length:") && !header.starts_with("date:") {
                command.arg("--header").arg(header);
            }
        }
        if let Some(file) = append {
            command.arg("--append").arg(file);
        }
        let log = directory.join("reference.log");
        let ready = || Client::connect(port).is_ok();
        let server = Server::start("the reference", &mut command, Signal::TERM, &log, ready)?;
        let answer = Client::connect(port)?.send("GET", "/", None, None)?;
        if (answer.bytes, answer.headers.len()) != (like.bytes, like.headers.len()) {
            let (ours, theirs) = (like.bytes, answer.bytes);
            bail!("the reference answers {theirs} bytes, MemoryOS {ours}");
        }
        Ok(Reference { port, server })
    }
}

//! A receiver of webhooks on this machine, which keeps what it gets and answers as it is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Longest wait for a webhook.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver answers.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Status(u16),
    /// 307 to this URL.
    Redirect(String),
    /// Nothing, until it says something else.
    Nothing,
}

/// One webhook as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    /// The first line.
    pub line: String,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    pub text: String,
    pub body: Value,
}

#[derive(Debug)]
struct State {
    say: Vec<Say>,
    hooks: Vec<Hook>,
}

/// Listens until the test ends.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    shared: Arc<(Mutex<State>, Condvar)>,
    pub port: u16,
}

impl Receiver {
    /// Answers the first webhooks as `say` has it, one after the other; the last holds for all that follow.
    pub(crate) fn new(say: impl IntoIterator<Item = Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            say: say.into_iter().collect(),
            hooks: Vec::new(),
        };
        let receiver = Self {
            shared: Arc::new((Mutex::new(state), Condvar::new())),
            port,
        };
        let answering = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answering, stream) = (answering.clone(), stream.unwrap());
                std::thread::spawn(move || answering.serve(stream));
            }
        });
        receiver
    }

    /// The URL of this receiver.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in?token=t-o-k-e-n", self.port)
    }

    fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        // A sender that was killed has sent nothing, or half.
        let Some(hook) = read(&mut stream) else {
            return;
        };
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        state.hooks.push(hook);
        changed.notify_all();
        let say = loop {
            match state.say.first().cloned().unwrap() {
                Say::Nothing => state = changed.wait(state).unwrap(),
                say => {
                    if state.say.len() > 1 {
                        state.say.remove(0);
                    }
                    break say;
                }
            }
        };
        drop(state);
        let answer = match say {
            Say::Status(status) => format!("HTTP/1.1 {status} So\r\ncontent-length: 2\r\n\r\nok"),
            Say::Redirect(to) => {
                format!("HTTP/1.1 307 Go\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            Say::Nothing => return,
        };
        // The sender may be gone.
        let _ = stream.get_mut().write_all(answer.as_bytes());
    }

    /// Answers like this from now on, also those who wait.
    pub(crate) fn say(&self, say: Say) {
        let (state, changed) = &*self.shared;
        state.lock().unwrap().say = vec![say];
        changed.notify_all();
    }

    /// Returns what came in so far.
    pub(crate) fn hooks(&self) -> Vec<Hook> {
        self.shared.0.lock().unwrap().hooks.clone()
    }

    /// Waits until `enough` is true of what came in, and returns it.
    #[track_caller]
    pub(crate) fn wait_until(&self, enough: impl Fn(&[Hook]) -> bool) -> Vec<Hook> {
        let begun = Instant::now();
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap();
        while !enough(&state.hooks) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "only this came: {:#?}", state.hooks);
            state = changed.wait_timeout(state, left).unwrap().0;
        }
        state.hooks.clone()
    }

    /// As [`Self::wait_until`], for a test on an async runtime.
    pub(crate) async fn wait(
        &self,
        enough: impl Fn(&[Hook]) -> bool + Send + 'static,
    ) -> Vec<Hook> {
        let receiver = self.clone();
        tokio::task::spawn_blocking(move || receiver.wait_until(enough))
            .await
            .unwrap()
    }

    /// Waits for so many webhooks of this type.
    pub(crate) async fn wait_for(&self, kind: &'static str, count: usize) -> Vec<Hook> {
        let hooks = self.wait(move |hooks| of(hooks, kind).len() >= count).await;
        of(&hooks, kind)
    }
}

/// The webhooks of a type.
pub(crate) fn of(hooks: &[Hook], kind: &str) -> Vec<Hook> {
    let of = hooks.iter().filter(|hook| hook.body["type"] == kind);
    of.cloned().collect()
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Hook> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let headers: BTreeMap<String, String> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    let text = String::from_utf8(body).ok()?;
    Some(Hook {
        line: lines.first()?.clone(),
        headers,
        body: serde_json::from_str(&text).ok()?,
        text,
    })
}

impl Hook {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The id.
    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap()
    }

    /// Asserts that it is signed with this secret, and that its headers are those of its body.
    #[track_caller]
    pub(crate) fn assert_signed(&self, secret: &str) {
        let timestamp = self.header("x-memoryos-timestamp");
        let mac = hmac_sha256(
            secret.as_bytes(),
            format!("{timestamp}.{}", self.text).as_bytes(),
        );
        let hex = mac.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        assert_eq!(self.header("x-memoryos-signature"), format!("v1={hex}"));
        assert_eq!(self.header("x-memoryos-delivery"), self.id());
        assert_eq!(self.body["type"], self.header("x-memoryos-event"));
        assert_eq!(self.header("content-type"), "application/json");
    }
}

/// HMAC-SHA256 by the words of RFC 2104, for keys of up to a block: not the library that signs.
fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text);
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner.finalize());
    outer.finalize().to_vec()
}

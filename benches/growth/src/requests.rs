//! The requests, as bytes.

/// Bytes of the JSON body of each `POST /memory`, whole: names of fields, quotes and braces included.
pub const BODY_BYTES: usize = 300;
/// The plan of all accounts: nothing here runs out.
pub const PLAN: &str = "[[plan]]\nname = \"Bench\"\ncredits = 1_000_000_000_000\nmemories = 1_000_000_000\nopen = true\n";

const WORDS: [&str; 16] = [
    "coffee", "black", "sugar", "morning", "prefers", "train", "window", "seat", "never",
    "meeting", "friday", "report", "short", "answers", "metric", "units",
];

/// A small generator of numbers that only have to look mixed (xorshift64*).
pub struct Mixer(u64);

impl Mixer {
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

pub fn get(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-KEY: {key}\r\n\r\n").into_bytes()
}

pub fn health() -> Vec<u8> {
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()
}

fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    let credential = if key.is_empty() {
        String::new()
    } else {
        format!("X-API-KEY: {key}\r\n")
    };
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{credential}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A sign-up that nobody else makes.
pub fn sign_up(number: u64) -> Vec<u8> {
    let body = format!(r#"{{"email": "person{number}@example.com", "plan": "Bench"}}"#);
    post("/signup", "", &body)
}

/// A memory of 300 bytes: one of 32 categories, one of 8 types, words that differ.
pub fn add_memory(number: u64, key: &str) -> Vec<u8> {
    post("/memory", key, &memory(number))
}

fn memory(number: u64) -> String {
    let mut mixer = Mixer::new(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66);
    let start = format!(
        r#"{{"topic":"Topic {}","type":"type-{}","category":"category-{}","success":{},"input":"How about number {number}?","output":""#,
        mixer.next() % 100_000,
        mixer.below(8),
        mixer.below(32),
        mixer.below(4) != 0,
    );
    let mut body = start;
    while body.len() < BODY_BYTES - 2 {
        body.push_str(WORDS[mixer.below(WORDS.len())]);
        body.push(' ');
    }
    body.truncate(BODY_BYTES - 2);
    body.push_str("\"}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_is_json_of_300_bytes() {
        for number in [0, 7, 999_999, 4_000_000_000] {
            let body = memory(number);
            assert_eq!(body.len(), BODY_BYTES);
            serde_json::from_str::<serde_json::Value>(&body).unwrap();
        }
    }
}

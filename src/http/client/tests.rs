//! Whose a request is taken for, case by case, and for any bytes.

use super::*;
use http::HeaderValue;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn trusted() -> Vec<IpNet> {
    crate::config::parse_proxies("10.0.0.0/8,fd00::/8,192.0.2.254").unwrap()
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

const X: &str = "x-forwarded-for";
const F: &str = "forwarded";

/// Peer, lines of headers, whose it is.
type Case<'a> = (&'a str, &'a [(&'static str, &'a str)], &'a str);

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn the_first_address_from_the_right_that_is_no_proxy_is_the_clients() {
    // Shows who is believed, how far, and where it ends.
    let cases: &[Case<'_>] = &[
        // No proxy of ours: nothing is believed.
        ("203.0.113.9", &[(X, "198.51.100.1")], "203.0.113.9"),
        ("203.0.113.9", &[(F, "for=198.51.100.1")], "203.0.113.9"),
        ("::ffff:203.0.113.9", &[], "203.0.113.9"),
        // A proxy that says nothing is its own client.
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[(X, "")], "10.0.0.1"),
        // One entry, in all its forms.
        ("10.0.0.1", &[(X, "198.51.100.1")], "198.51.100.1"),
        ("::ffff:10.0.0.1", &[(X, "198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", &[(X, "198.51.100.1:4711")], "198.51.100.1"),
        ("10.0.0.1", &[(X, "2001:db8::1")], "2001:db8::1"),
        ("10.0.0.1", &[(X, "[2001:db8::1]:4711")], "2001:db8::1"),
        ("10.0.0.1", &[(X, "::ffff:198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", &[(F, "for=198.51.100.1")], "198.51.100.1"),
        (
            "10.0.0.1",
            &[(F, "For=\"198.51.100.1:47011\"; proto=https")],
            "198.51.100.1",
        ),
        (
            "10.0.0.1",
            &[(F, "by=_b;FOR=\"[2001:db8::1]:_port\"")],
            "2001:db8::1",
        ),
        ("10.0.0.1", &[(F, "for=\"\\198.51.100.1\"")], "198.51.100.1"),
        // What a client wrote stands on the left and is not read.
        ("10.0.0.1", &[(X, "1.1.1.1, 198.51.100.1")], "198.51.100.1"),
        (
            "10.0.0.1",
            &[(X, "1.1.1.1"), (X, "198.51.100.1")],
            "198.51.100.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=1.1.1.1, for=198.51.100.1")],
            "198.51.100.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=\"1.1.1.1, for=2.2.2.2\", for=198.51.100.1")],
            "198.51.100.1",
        ),
        // Proxies behind proxies are walked through, also those of the other family.
        (
            "10.0.0.1",
            &[(X, "1.1.1.1, 198.51.100.1, fd00::2, 192.0.2.254")],
            "198.51.100.1",
        ),
        ("10.0.0.1", &[(X, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        // No address: the proxy that wrote it, not what stands before.
        ("10.0.0.1", &[(X, "1.1.1.1, unknown")], "10.0.0.1"),
        ("10.0.0.1", &[(X, "1.1.1.1, unknown, 10.0.0.2")], "10.0.0.2"),
        ("10.0.0.1", &[(X, "1.1.1.1, 198.51.100.1:x")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[(X, "1.1.1.1, 198.51.100.1:123456")],
            "10.0.0.1",
        ),
        ("10.0.0.1", &[(X, "1.1.1.1, [2001:db8::1")], "10.0.0.1"),
        ("10.0.0.1", &[(X, "1.1.1.1, [2001:db8::1]x")], "10.0.0.1"),
        ("10.0.0.1", &[(X, "1.1.1.1, [198.51.100.1]")], "10.0.0.1"),
        ("10.0.0.1", &[(X, "1.1.1.1, fe80::1%eth0")], "10.0.0.1"),
        ("10.0.0.1", &[(X, "1.1.1.1, 198.51.100.01")], "10.0.0.1"),
        ("10.0.0.1", &[(F, "for=1.1.1.1, for=unknown")], "10.0.0.1"),
        ("10.0.0.1", &[(F, "for=1.1.1.1, for=_hidden")], "10.0.0.1"),
        ("10.0.0.1", &[(F, "for=1.1.1.1, proto=https")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[(F, "for=1.1.1.1, for=2.2.2.2;for=2.2.2.2")],
            "10.0.0.1",
        ),
        // A quote that a client left open swallows what the proxy wrote: the line is worth nothing.
        (
            "10.0.0.1",
            &[(F, "for=1.1.1.1;x=\", for=198.51.100.1")],
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=1.1.1.1;x=\", for=\"[2001:db8::1]\"")],
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=\"1.1.1.1"), (F, "for=198.51.100.1")],
            "198.51.100.1",
        ),
        // Both headers: agreed, or the connection's.
        (
            "10.0.0.1",
            &[(F, "for=198.51.100.1"), (X, "1.1.1.1, 198.51.100.1")],
            "198.51.100.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=1.1.1.1"), (X, "198.51.100.1")],
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            &[(F, "for=unknown"), (X, "198.51.100.1")],
            "10.0.0.1",
        ),
    ];
    for (peer, lines, expected) in cases {
        let found = address(ip(peer), &headers(lines), &trusted());
        assert_eq!(found, ip(expected), "{peer} {lines:?}");
    }
    // Bytes that are no text.
    let mut odd = HeaderMap::new();
    odd.insert(X, HeaderValue::from_bytes(b"1.1.1.1, \xff").unwrap());
    assert_eq!(address(ip("10.0.0.1"), &odd, &trusted()), ip("10.0.0.1"));
}

#[test]
fn whatever_a_client_writes_what_the_proxy_adds_decides() {
    // Shows, for 200,000 random lines of the characters that matter, that a client who is behind a proxy
    // counts as itself or as the proxy, and never as what it writes.
    let alphabet: Vec<&str> =
        "for= FOR= \" \\ , ; [ ] : . 1.1.1.1 2.2.2.2:80 [2001:db8::7] 10.0.0.9 unknown _x \
                               by= proto=http ::ffff:1.1.1.1 % \t"
            .split(' ')
            .chain([" "])
            .collect();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % u64::try_from(below).unwrap()).unwrap()
    };
    let (peer, client) = (ip("10.0.0.1"), ip("198.51.100.1"));
    let mut as_client = 0;
    for _ in 0..200_000 {
        let length = next(12);
        let written: String = (0..length)
            .map(|_| alphabet[next(alphabet.len())])
            .collect();
        let added = [
            "for=198.51.100.1",
            "for=\"198.51.100.1:80\"",
            "198.51.100.1",
        ][next(3)];
        let name = if added.starts_with("for") { F } else { X };
        let mut lines = HeaderMap::new();
        let line = if next(2) == 0 {
            let value = HeaderValue::from_str(&written).unwrap();
            lines.append(name, value);
            added.to_owned()
        } else {
            format!("{written}, {added}")
        };
        lines.append(name, HeaderValue::from_str(&line).unwrap());
        let found = address(peer, &lines, &trusted());
        assert!(found == client || found == peer, "{lines:?}: {found}");
        as_client += u32::from(found == client);
        // And without trust nothing of it counts.
        assert_eq!(address(client, &lines, &trusted()), client);
        assert_eq!(address(peer, &lines, &[]), peer);
    }
    assert!(as_client > 100_000, "only {as_client} were found");
}

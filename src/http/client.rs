//! From which address a request comes: the connection's, or what a proxy says that the operator trusts.
//!
//! Each proxy writes behind what it got whom it got it from. So the lists are read from their end: as long as
//! an address is a trusted proxy's, the one before it is believed. The first that is not is the client's.
//! What stands before it anybody may have written.
//!
//! - An entry that is no address (`unknown`, `_hidden`, rubbish) ends the walk: it counts as the proxy that
//!   wrote it. A line of `Forwarded` that does not parse is one such entry.
//! - `Forwarded` and `X-Forwarded-For` both there must say the same: a proxy that writes the one may pass on
//!   what a client wrote into the other. If they differ, it counts as the proxy that the connection is from.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Returns the address of the client.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return peer;
    }
    let forwarded = walk(peer, entries(headers, &FORWARDED, forwarded), is_trusted);
    let x_forwarded = walk(
        peer,
        entries(headers, &X_FORWARDED_FOR, |line| Some(list(line))),
        is_trusted,
    );
    match (forwarded, x_forwarded) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => peer,
    }
}

/// Goes from the last entry towards the first. `None` if there are no entries.
fn walk(
    peer: IpAddr,
    entries: Vec<Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    if entries.is_empty() {
        return None;
    }
    let mut hop = peer;
    for entry in entries.into_iter().rev() {
        let Some(address) = entry else {
            return Some(hop);
        };
        hop = address;
        if !is_trusted(address) {
            break;
        }
    }
    Some(hop)
}

/// Returns the entries of all lines of a header, in order; `None` for one that is no address.
fn entries(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<Vec<Option<IpAddr>>>,
) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| {
            let parsed = line.to_str().ok().and_then(parse);
            parsed.unwrap_or_else(|| vec![None])
        })
        .collect()
}

/// Parses a line of `X-Forwarded-For`.
fn list(line: &str) -> Vec<Option<IpAddr>> {
    let entries = line
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries.map(node).collect()
}

/// Parses a line of `Forwarded` (RFC 7239). `None` if its quotes do not match: then nobody can say where an
/// entry ends.
fn forwarded(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut found = Vec::new();
    for element in split(line, ',')? {
        if element.trim().is_empty() {
            continue;
        }
        let (mut named, mut is_named) = (None, false);
        for pair in split(element, ';')? {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            if name.trim().eq_ignore_ascii_case("for") {
                // Given twice it is no address.
                named = if is_named {
                    None
                } else {
                    unquoted(value.trim()).and_then(|v| node(&v))
                };
                is_named = true;
            }
        }
        found.push(named);
    }
    Some(found)
}

/// Splits at a character that is not within quotes. `None` if a quote is not closed.
fn split(text: &str, at: char) -> Option<Vec<&str>> {
    let (mut parts, mut rest_from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == at && !quoted => {
                parts.push(text.get(rest_from..index)?);
                rest_from = index.saturating_add(c.len_utf8());
            }
            _ => {}
        }
    }
    parts.push(text.get(rest_from..)?);
    (!quoted).then_some(parts)
}

/// Takes the quotes away. `None` if they are not around all of it.
fn unquoted(value: &str) -> Option<String> {
    if !value.contains('"') {
        return Some(value.to_owned());
    }
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let (mut text, mut escaped) = (String::with_capacity(inner.len()), false);
    for c in inner.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return None,
            c => {
                text.push(c);
                escaped = false;
            }
        }
    }
    (!escaped).then_some(text)
}

/// Parses an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(address.parse().ok()?)
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        IpAddr::V4(address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port))?)
    };
    Some(address.to_canonical())
}

/// A number, or a name that hides one (`_gazonk`).
fn is_port(port: &str) -> bool {
    let is_hidden = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
        || port.strip_prefix('_').is_some_and(is_hidden)
}

#[cfg(test)]
mod tests;

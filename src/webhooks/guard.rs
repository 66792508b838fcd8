//! Which addresses a webhook may be sent to: those of the public internet, unless the operator allows others.
//!
//! A receiver's name is somebody else's to change. Without this a name that points to 127.0.0.1, to the
//! metadata service of a cloud (169.254.169.254), or into the operator's own network would have the server
//! send requests there. What counts is the address that is connected to, in whatever form it was written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says what kind of address it is if a webhook must not be sent there; `None` if it is public.
///
/// IPv6 addresses that carry an IPv4 address (mapped, NAT64, 6to4) are judged by that one too. Of the rest
/// only global unicast (`2000::/3`) is public: what is not assigned yet is not called.
#[must_use]
pub fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refusal_v4(address),
        IpAddr::V6(address) => refusal_v6(address),
    }
}

// Source: the IANA registries of IPv4 and IPv6 special-purpose addresses (RFC 6890).
fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [100, 64..=127, ..] => Some("shared (carrier-grade NAT)"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("documentation"),
        [198, 18..=19, ..] => Some("benchmarking"),
        [224..=239, ..] => Some("multicast"),
        [192, 0, 0, _] | [192, 88, 99, _] | [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        refusal_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        // IPv4-mapped: the system connects to the IPv4 address. NAT64: a gateway does.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        // 6to4: a relay unwraps it.
        [0x2002, high, low, ..] => embedded(high, low),
        [0xfc00..=0xfdff, ..] => Some("private (unique local)"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("private (site-local)"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("documentation"),
        // Teredo, benchmarking, ORCHID: all of IETF's 2001::/23.
        [0x2001, 0..=0x1ff, ..] => Some("reserved"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_called() {
        // Each range at both of its ends, and what lies beside it.
        let refused = [
            ("unspecified", "0.0.0.0 0.255.255.255 :: "),
            (
                "private",
                "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255",
            ),
            ("shared", "100.64.0.0 100.127.255.255"),
            ("loopback", "127.0.0.1 127.0.0.0 127.255.255.255 ::1"),
            (
                "link-local",
                "169.254.0.0 169.254.169.254 169.254.255.255 fe80:: fe80::1 febf:ffff::1",
            ),
            (
                "documentation",
                "192.0.2.0 192.0.2.255 198.51.100.7 203.0.113.255 2001:db8::1 3fff::1 3fff:fff::1",
            ),
            ("benchmarking", "198.18.0.0 198.19.255.255"),
            (
                "multicast",
                "224.0.0.0 239.255.255.255 ff00:: ff02::1 ffff::1",
            ),
            (
                "reserved",
                "240.0.0.0 255.255.255.255 192.0.0.8 192.88.99.1 2001:: 2001:2::1 2001:1ff:ffff::1",
            ),
            (
                "reserved",
                "::2 ::7f00:1 ::10.0.0.1 100::1 64:ff9b:1::1 64:ff9c::808:808 4000::1 5f00::1 fbff::1",
            ),
            ("private (unique", "fc00:: fd12:3456::1 fdff:ffff::1"),
            ("private (site", "fec0::1 feff::1"),
            // IPv4 in IPv6: mapped, NAT64, 6to4.
            (
                "loopback",
                "::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::127.0.0.1 2002:7f00:1::1",
            ),
            (
                "private",
                "::ffff:10.1.2.3 64:ff9b::192.168.0.1 2002:ac10:1::",
            ),
            (
                "link-local",
                "::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1",
            ),
            ("unspecified", "::ffff:0.0.0.0 64:ff9b:: 2002::1"),
        ];
        for (kind, addresses) in refused {
            for text in addresses.split_whitespace() {
                let found = refusal(text.parse().unwrap());
                assert!(
                    found.is_some_and(|found| found.starts_with(kind)),
                    "{text}: {found:?}"
                );
            }
        }
        let public = "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
             169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 \
             192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 \
             2002:808:808::1 2000::1 2001:200::1 2001:4860:4860::8888 2606:4700::1111 3fff:1000::1 3ffe::1";
        for text in public.split_whitespace() {
            assert_eq!(refusal(text.parse().unwrap()), None, "{text}");
        }
    }
}

//! Where a request comes from, as far as limits tell origins apart.

use std::net::{IpAddr, Ipv4Addr};

/// An IPv4 address, or the /64 network of an IPv6 address: whoever has one address of it has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An IPv4 address, also one that came as an IPv6 address (`::ffff:192.0.2.1`).
    Address(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    Network(u64),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Address(address),
            IpAddr::V6(address) => {
                let network = u64::try_from(address.to_bits() >> 64);
                Self::Network(network.unwrap_or_default()) // 64 bits always fit
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_64_and_mapped_ipv4_is_ipv4() {
        // Shows which addresses are one origin, and which are two.
        let of = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(
            of("2001:db8:0:1::1"),
            of("2001:db8:0:1:ffff:ffff:ffff:ffff")
        );
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        // Not mapped, but the like of it: all of `::/64`.
        assert_eq!(of("::192.0.2.1"), of("::1"));
    }
}

//! Blocks of addresses, public ones, and the address of a sender behind trusted proxies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A block of addresses, `10.0.0.0/8`; a single address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads CIDR notation, or a single address. Bits beyond the prefix must be zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().ok()?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        let network = Self { base, prefix };
        (prefix <= width && masked(base, prefix) == base).then_some(network)
    }

    /// Whether `address` is in it. An IPv4 address written as IPv6 is that IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.base.is_ipv4() && masked(address, self.prefix) == self.base
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// The block that limits count as one sender: an IPv4 address, or the /64 that one IPv6 customer has to itself.
pub fn client_block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v6 @ IpAddr::V6(_) => masked(v6, 64),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The address of the sender, if its connection comes from `peer` and proxies say that they forward for `hops`, the
/// nearest first.
///
/// A hop is believed only if the one that names it is trusted, so forged entries are never reached. A hop that is no
/// address ends the walk at the one that named it.
pub fn client_address<'a>(
    peer: SocketAddr,
    hops: impl IntoIterator<Item = &'a str>,
    trusted: &[Network],
) -> SocketAddr {
    let is_trusted = |address: SocketAddr| trusted.iter().any(|network| network.contains(address.ip()));
    let mut client = peer;
    for hop in hops {
        if !is_trusted(client) {
            break;
        }
        match read_hop(hop) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// An address with a port or without (which is 0), as `X-Forwarded-For` and `Forwarded` have them.
fn read_hop(text: &str) -> Option<SocketAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    alone.or_else(|| text.parse().ok())
}

/// Whether `address` is one that anybody on the internet may have.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Everything but the special blocks of the IANA registry (RFC 6890).
fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL: [([u8; 4], u32); 15] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    let bits = address.to_bits();
    !SPECIAL.iter().any(|(block, length)| (bits ^ u32::from_be_bytes(*block)) >> (32 - length) == 0)
}

/// Global unicast (`2000::/3`) without its special blocks, and what NAT64 makes of public IPv4 addresses.
fn is_public_v6(address: Ipv6Addr) -> bool {
    const GLOBAL: (u128, u32) = (0x2000 << 112, 3);
    const NAT64: (u128, u32) = (0x0064_ff9b << 96, 96);
    const SPECIAL: [(u128, u32); 4] =
        [(0x2001 << 112, 23), (0x2001_0db8 << 96, 32), (0x2002 << 112, 16), (0x3fff << 112, 20)];
    let bits = address.to_bits();
    let within = |(block, length): (u128, u32)| (bits ^ block) >> (128 - length) == 0;
    if within(NAT64) {
        return is_public_v4(Ipv4Addr::from_bits(bits as u32));
    }
    within(GLOBAL) && !SPECIAL.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).expect(text)
    }

    #[test]
    fn networks_contain_their_addresses() {
        let within = |text, address: &str| network(text).contains(address.parse().expect("an address"));
        assert!(within("10.0.0.0/8", "10.255.0.1") && within("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!within("10.0.0.0/8", "11.0.0.1") && !within("10.0.0.0/8", "::1"));
        assert!(within("0.0.0.0/0", "1.2.3.4") && within("::/0", "::1") && !within("::/0", "1.2.3.4"));
        assert!(within("127.0.0.1", "127.0.0.1") && !within("127.0.0.1", "127.0.0.2"));
        assert!(within("2001:db8::/32", "2001:db8:1::1") && !within("2001:db8::/32", "2001:db9::1"));
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "x", "10.0.0.0/", "10.0.0.0/-1", "::1/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = [network("10.0.0.0/8")];
        let client = |peer: &str, hops: &[&str]| {
            client_address(peer.parse().expect("an address"), hops.iter().copied(), &trusted).to_string()
        };
        assert_eq!(client("10.0.0.1:5", &["1.2.3.4"]), "1.2.3.4:0");
        assert_eq!(client("10.0.0.1:5", &["10.0.0.2", "1.2.3.4", "9.9.9.9"]), "1.2.3.4:0", "what it made up");
        assert_eq!(client("8.8.8.8:5", &["1.2.3.4"]), "8.8.8.8:5", "not a proxy of ours");
        assert_eq!(client("10.0.0.1:5", &[]), "10.0.0.1:5");
        assert_eq!(client("10.0.0.1:5", &["unknown", "1.2.3.4"]), "10.0.0.1:5");
        assert_eq!(client("10.0.0.1:5", &["\"[2001:db8::1]:77\""]), "[2001:db8::1]:77");
        assert_eq!(client("10.0.0.1:5", &["[2001:db8::1]"]), "[2001:db8::1]:0");
    }

    #[test]
    fn limits_count_an_ipv6_subscriber_once() {
        let block = |text: &str| client_block(text.parse().expect("an address")).to_string();
        assert_eq!(block("2001:db8::1:2:3:4"), block("2001:db8::9"));
        assert_eq!(block("::ffff:1.2.3.4"), "1.2.3.4");
    }

    #[test]
    fn public_addresses_are_told_from_others() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for address in
            ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255"]
        {
            assert!(public(address), "{address}");
        }
        for address in ["2606:4700::1111", "2a00::1", "2001:200::1", "64:ff9b::101:101"] {
            assert!(public(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!public(address), "{address}");
        }
        for address in [
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }
}

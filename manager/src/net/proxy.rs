//! The PROXY protocol, versions 1 and 2: who really calls when a TCP balancer stands in between.
//!
//! It is believed only from the networks that the configuration names, and there it is required: whoever could leave it out
//! or make it up would choose the address that tokens and limits go by.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header of version 2 starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1 (bytes), its line's end included.
const LINE_MAX: usize = 107;
/// The longest rest of a header of version 2 (bytes): addresses, and notes that are passed over.
const REST_MAX: u16 = 2048;

/// Why the header is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the balancer sent no header of the PROXY protocol")]
    Missing,
    #[error("the balancer's header of the PROXY protocol is malformed")]
    Malformed,
    #[error("the balancer's header of the PROXY protocol: {0}")]
    Read(#[from] io::Error),
}

/// Reads the header and nothing after it. None: the balancer calls for itself, to see whether the manager is there.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        return version_2(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(ProxyError::Missing);
    }
    let mut line = start.to_vec();
    // Byte by byte: what comes after the line is not for us.
    while line.last() != Some(&b'\n') {
        if line.len() == LINE_MAX {
            return Err(ProxyError::Malformed);
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line).ok_or(ProxyError::Malformed)
}

fn version_1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.split(' ').skip(1);
    let address: IpAddr = match words.next()? {
        "UNKNOWN" => return Some(None),
        "TCP4" => words.next()?.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => words.next()?.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let _to = words.next()?;
    let port: u16 = words.next()?.parse().ok()?;
    let _to_port: u16 = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Some(SocketAddr::new(address, port)))
}

async fn version_2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let (version_and_command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = stream.read_u16().await?;
    if length > REST_MAX {
        return Err(ProxyError::Malformed);
    }
    let mut rest = vec![0; length.into()];
    stream.read_exact(&mut rest).await?;
    match (version_and_command, family) {
        // For itself.
        (0x20, _) => Ok(None),
        // For somebody who came by TCP over IPv4 or IPv6.
        (0x21, 0x11) => addresses::<4>(&rest).ok_or(ProxyError::Malformed).map(Some),
        (0x21, 0x21) => addresses::<16>(&rest).ok_or(ProxyError::Malformed).map(Some),
        _ => Err(ProxyError::Malformed),
    }
}

/// The source in: source, destination (`N` bytes each), source's port, destination's port (2 bytes each).
fn addresses<const N: usize>(rest: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let address: [u8; N] = rest.get(..N)?.try_into().ok()?;
    let ports = rest.get(2 * N..2 * N + 4)?;
    Some(SocketAddr::new(address.into(), u16::from_be_bytes([ports[0], ports[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(bytes: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyError> {
        let mut rest = bytes;
        let address = read(&mut rest).await?;
        Ok((address, rest.to_vec()))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes.push(22);
        bytes
    }

    #[tokio::test]
    async fn both_versions_say_who_calls_and_nothing_after_them_is_read() {
        let is = |text: &str| (Some(text.parse().unwrap()), vec![22]);
        assert_eq!(parse(b"PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\r\n\x16").await.unwrap(), is("10.0.0.7:4711"));
        assert_eq!(parse(b"PROXY TCP6 2001:db8::7 ::1 4711 7443\r\n\x16").await.unwrap(), is("[2001:db8::7]:4711"));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n\x16").await.unwrap(), (None, vec![22]));
        let four = [10, 0, 0, 7, 10, 0, 0, 1, 0x12, 0x67, 0x1d, 0x13, 1, 0, 1, b'x'];
        assert_eq!(parse(&v2(0x21, 0x11, &four)).await.unwrap(), is("10.0.0.7:4711"));
        let mut six = [0; 36];
        (six[15], six[32], six[33]) = (1, 0x12, 0x67);
        assert_eq!(parse(&v2(0x21, 0x21, &six)).await.unwrap(), is("[::1]:4711"));
        assert_eq!(parse(&v2(0x20, 0, &[])).await.unwrap(), (None, vec![22]));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {} 10.0.0.1 1 2\r\n", "1".repeat(200));
        for bad in [
            &b""[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaa",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 4711\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443 9\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 99999 7443\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 4711 7443\n",
            b"PROXY SCTP 10.0.0.7 10.0.0.1 4711 7443\r\n",
            long.as_bytes(),
            &v2(0x21, 0x11, &[10, 0, 0]),
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x31, &[0; 216]),
            &v2(0x21, 0x11, &[0; 4000]),
        ] {
            assert!(parse(bad).await.is_err(), "{bad:?}");
        }
    }
}

//! A port that nobody else gets while a test needs it, also while nothing listens there.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt::set_socket_reuseaddr};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// A TCP port of this machine, held by a socket that is bound to it and never listens: the kernel gives it to nobody who wants any
/// port, to listen or to connect from. Who names it can listen there, again and again, if with `SO_REUSEADDR`, as servers do; until
/// somebody does, connections to it are refused.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    /// A free one on 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When none is free.
    pub fn new() -> Port {
        Port::at((Ipv4Addr::LOCALHOST, 0).into()).expect("a port is free")
    }

    /// This address; a free port of it where it has port 0.
    ///
    /// # Errors
    ///
    /// When somebody listens there, or the address isn't this machine's, or not in this network namespace.
    pub fn at(address: SocketAddr) -> std::io::Result<Port> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let held = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        set_socket_reuseaddr(&held, true)?;
        bind(&held, &address)?;
        let address = SocketAddr::try_from(getsockname(&held)?)?;
        Ok(Port { address, _held: held })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }
}

impl Default for Port {
    fn default() -> Port {
        Port::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_port_is_held_while_nobody_listens_and_whoever_names_it_gets_it_time_and_again() {
        let port = Port::new();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address()).is_err());
            let listener = TcpListener::bind(port.address()).unwrap();
            let client = TcpStream::connect(port.address()).unwrap();
            let (server, _) = listener.accept().unwrap();
            drop((server, client, listener));
        }
        let stranger = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP)).unwrap();
        assert!(bind(&stranger, &port.address()).is_err(), "somebody got it who did not say that it may be shared");
        let number = port.number();
        drop(port);
        let port = Port::at((Ipv4Addr::LOCALHOST, number).into()).unwrap();
        assert_eq!(port.number(), number);
    }
}

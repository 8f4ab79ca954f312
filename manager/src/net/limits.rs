//! The bounds of the listeners, each with what it is there against.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use std::{net::IpAddr, time::Duration};
use sutler_base::quantity::{size, span};
use sutler_core::admission::network;

/// The bounds of both gRPC ports: the table `[net]` of `manager.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long a TLS handshake and the first bytes of HTTP/2 may take. Against slow sockets.
    #[serde(deserialize_with = "span")]
    pub handshake: Duration,
    /// How many handshakes run at a time on a port. A socket takes one of these places only when it has sent something.
    pub handshakes: usize,
    /// When all places are taken and somebody waits, a handshake that has made the manager wait this long loses its place, the slowest
    /// first. Against sockets that send one byte and no more; longer than the two ways of a handshake take to anywhere.
    #[serde(deserialize_with = "span")]
    pub handshake_patience: Duration,
    /// How many connections that have sent nothing yet are kept on a port; the oldest are dropped first.
    pub silent_sockets: usize,
    /// How many connections that have sent something wait for a place for their handshake on a port, in the order in which they came,
    /// the addresses in turns; of one more than that the last from where most wait is closed. A fleet that comes back in one moment
    /// waits here.
    pub waiting_sockets: usize,
    /// How long a connection may send nothing at all.
    #[serde(deserialize_with = "span")]
    pub silence: Duration,
    /// How many connections a port has at most; 0: as many as the limit of open files allows, less a reserve.
    pub connections: usize,
    /// How many connections one agent has; when there is one more, the oldest is closed (it is half open, or a copy's).
    pub connections_per_agent: usize,
    /// How many connections one operator has; one more is answered with `RESOURCE_EXHAUSTED`.
    pub connections_per_operator: usize,
    /// How many connections without a certificate from one address are served at a time. Some more wait for their turn, as
    /// long as a call may last.
    pub anonymous_per_address: usize,
    /// How long a connection without a certificate lasts.
    #[serde(deserialize_with = "span")]
    pub anonymous_lifetime: Duration,
    /// How much one call without a certificate may send (bytes): one short message, and what goes around it.
    #[serde(deserialize_with = "size")]
    pub anonymous_bytes: usize,
    /// How long a call without a certificate lasts, from the first byte of the request.
    #[serde(deserialize_with = "span")]
    pub anonymous_call: Duration,
    /// How long a unary call lasts. A shorter `grpc-timeout` is obeyed.
    #[serde(deserialize_with = "span")]
    pub unary_call: Duration,
    /// After this time without anything from the other side, HTTP/2 asks whether it is there.
    #[serde(deserialize_with = "span")]
    pub keep_alive: Duration,
    /// How long that question waits for its answer before the connection is closed.
    #[serde(deserialize_with = "span")]
    pub keep_alive_timeout: Duration,
    /// How many calls one connection has open.
    pub streams: u32,
    /// How large the headers of one call are (bytes).
    #[serde(deserialize_with = "size")]
    pub headers: u32,
    /// How many calls that were reset wait to be noticed before the connection is closed. Against rapid reset.
    pub reset_streams: usize,
    /// How many resets one connection may cause by its own errors before it is closed.
    pub error_resets: usize,
    /// How many frames that carry nothing (PING, SETTINGS, RST_STREAM, empty DATA …) one connection may send in ten seconds before
    /// it is closed; of WINDOW_UPDATE ten times as many. Against floods of them.
    pub control_frames: u32,
    /// The largest HTTP/2 frame that is taken (bytes, 16 KiB to 16 MiB): a message of 256 KiB in one.
    #[serde(deserialize_with = "size")]
    pub frame: u32,
    /// How many bytes one call may send ahead of being read.
    #[serde(deserialize_with = "size")]
    pub stream_window: u32,
    /// How many bytes one connection may send ahead of being read.
    #[serde(deserialize_with = "size")]
    pub connection_window: u32,
    /// How many bytes wait to be sent on one call.
    #[serde(deserialize_with = "size")]
    pub send_buffer: usize,
    /// The networks of balancers that say with the PROXY protocol who calls. It is required from there, and ignored from
    /// everywhere else.
    #[serde(deserialize_with = "networks")]
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long calls may go on when the manager is asked to stop.
    #[serde(deserialize_with = "span")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits {
            handshake: seconds(5),
            handshakes: 512,
            handshake_patience: seconds(1),
            silent_sockets: 1024,
            waiting_sockets: 16_384,
            silence: seconds(10),
            connections: 0,
            connections_per_agent: 8,
            connections_per_operator: 64,
            anonymous_per_address: 32,
            anonymous_lifetime: seconds(30),
            anonymous_bytes: 24 << 10,
            anonymous_call: seconds(10),
            unary_call: seconds(30),
            keep_alive: seconds(30),
            keep_alive_timeout: seconds(15),
            streams: 64,
            headers: 16 << 10,
            reset_streams: 20,
            error_resets: 128,
            control_frames: 10_000,
            frame: 512 << 10,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            send_buffer: 1 << 20,
            proxy_protocol_from: vec![],
            drain: seconds(10),
        }
    }
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| network(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

impl Limits {
    /// Whether a connection from this address begins with a header of the PROXY protocol.
    pub(crate) fn is_balancer(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxy_protocol_from.iter().any(|network| network.contains(&address))
    }

    /// The first rule that these limits break, as a sentence.
    pub fn broken_rule(&self) -> Option<String> {
        // By name and without a rest: a limit that nobody gave a range is no limit.
        let Limits {
            handshake,
            handshakes,
            handshake_patience,
            silent_sockets,
            waiting_sockets,
            silence,
            // None of its own: as many as there are descriptors.
            connections: _,
            connections_per_agent,
            connections_per_operator,
            anonymous_per_address,
            anonymous_lifetime,
            // At least what an enrolment needs, which the configuration looks at as a whole.
            anonymous_bytes: _,
            anonymous_call,
            unary_call,
            keep_alive,
            keep_alive_timeout,
            streams,
            headers,
            reset_streams,
            error_resets,
            control_frames,
            frame,
            stream_window,
            connection_window,
            send_buffer,
            proxy_protocol_from: _,
            // At once, or as long as anybody likes to wait.
            drain: _,
        } = *self;
        let spans = [
            ("handshake", handshake),
            ("handshake_patience", handshake_patience),
            ("silence", silence),
            ("anonymous_lifetime", anonymous_lifetime),
            ("anonymous_call", anonymous_call),
            ("unary_call", unary_call),
            ("keep_alive", keep_alive),
            ("keep_alive_timeout", keep_alive_timeout),
        ];
        let counts = [
            ("handshakes", handshakes),
            ("silent_sockets", silent_sockets),
            ("waiting_sockets", waiting_sockets),
            ("connections_per_agent", connections_per_agent),
            ("connections_per_operator", connections_per_operator),
            ("anonymous_per_address", anonymous_per_address),
            ("streams", streams as usize),
            ("reset_streams", reset_streams),
            ("error_resets", error_resets),
            ("control_frames", control_frames as usize),
        ];
        let zero_span = spans.iter().find(|(_, s)| s.is_zero()).map(|(name, _)| *name);
        let zero = zero_span.or_else(|| counts.iter().find(|(_, n)| *n == 0).map(|(name, _)| *name));
        if let Some(name) = zero {
            return Some(format!("net.{name} is 0, and nobody could connect; give at least 1"));
        }
        let windows = [
            ("frame", frame, 16 << 10, (16 << 20) - 1),
            ("stream_window", stream_window, 64 << 10, i32::MAX as u32),
            ("connection_window", connection_window, 64 << 10, i32::MAX as u32),
            ("headers", headers, 4 << 10, 1 << 20),
        ];
        if let Some((name, value, low, high)) = windows.iter().find(|(_, v, low, high)| v < low || v > high) {
            return Some(format!("net.{name} is {value}; HTTP/2 needs {low} to {high} bytes"));
        }
        (!(16 << 10..=64 << 20).contains(&send_buffer)).then(|| format!("net.send_buffer is {send_buffer}; give 16KiB to 64MiB"))
    }
}

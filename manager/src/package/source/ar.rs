//! Reads the `ar` archive that a `.deb` is: three members, one after another.
//!
//! Source: deb(5). A header has 60 bytes: the name, four numbers that nobody needs here, the length, and two bytes that end it.

use super::{Refused, packed::fill, tree::shown};
use std::io::Read;
use sutler_base::told;

pub(super) const MAGIC: &[u8; 8] = b"!<arch>\n";

/// A member's name and length; its content follows, and a byte of padding if the length is odd. None at the end.
pub(super) fn member(reader: &mut impl Read) -> Result<Option<(String, u64)>, Refused> {
    let mut header = [0; 60];
    let broken = || Refused::whole("it is no Debian package: what should be a member of its archive is none");
    match fill(reader, &mut header).map_err(|e| Refused::whole(told(&e)))? {
        0 => return Ok(None),
        60 if header[58..] == *b"`\n" => {}
        _ => return Err(broken()),
    }
    let name = std::str::from_utf8(&header[..16]).map_err(|_| broken())?.trim_end_matches(' ').trim_end_matches('/');
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let length = std::str::from_utf8(&header[48..58]).ok().and_then(|text| text.trim_end_matches(' ').parse().ok());
    match length {
        Some(length) if plain => Ok(Some((name.to_owned(), length))),
        _ => Err(Refused { entry: Some(shown(&header[..16])), why: "is no member of a Debian package".into() }),
    }
}

//! By what two clients are probably the same machine.

use std::collections::BTreeSet;
use sutler_base::facts::Facts;

/// The most keys of one client: so many of its network interfaces are looked at.
pub const KEYS_MAX: usize = 32;

/// The keys of a machine. Two clients that share one have the same host name, and a network interface with the same hardware
/// address or the same firmware: one of them is probably what the other became when it was set up anew.
pub fn keys(facts: &Facts) -> Vec<String> {
    let host = facts.hostname.trim().to_ascii_lowercase();
    if host.is_empty() {
        return Vec::new();
    }
    let macs = facts.interfaces.iter().filter(|i| tells(&i.mac)).map(|i| format!("{host} mac {}", i.mac.to_ascii_lowercase()));
    let firmware = Some(&facts.firmware_id).filter(|id| tells(id)).map(|id| format!("{host} firmware {}", id.to_ascii_lowercase()));
    let each_once: BTreeSet<String> = firmware.into_iter().chain(macs.take(KEYS_MAX - 1)).collect();
    each_once.into_iter().collect()
}

/// Whether a number says anything: what is missing is often written as nothing but zeros or ones.
fn tells(id: &str) -> bool {
    let mut digits = id.chars().filter(char::is_ascii_alphanumeric);
    digits.next().is_some_and(|first| digits.any(|digit| !digit.eq_ignore_ascii_case(&first)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::facts::Interface;

    #[test]
    fn machines_are_alike_by_their_name_together_with_their_hardware_and_by_neither_alone() {
        let facts = |host: &str, mac: &str, firmware: &str| Facts {
            hostname: host.into(),
            interfaces: vec![Interface { mac: mac.into(), ..Default::default() }],
            firmware_id: firmware.into(),
            ..Default::default()
        };
        let alike = |a: &Facts, b: &Facts| keys(a).iter().any(|key| keys(b).contains(key));
        let one = facts("pc-1", "02:00:00:00:00:01", "aa-01");
        assert!(alike(&one, &facts("PC-1", "02:00:00:00:00:02", "AA-01")));
        assert!(alike(&one, &facts("pc-1", "02:00:00:00:00:01", "")));
        assert!(!alike(&one, &facts("pc-2", "02:00:00:00:00:01", "aa-01")), "another name");
        assert!(!alike(&one, &facts("pc-1", "02:00:00:00:00:02", "aa-02")), "other hardware");
        for nothing in [facts("", "02:00:00:00:00:01", "aa-01"), facts("pc-1", "00:00:00:00:00:00", "ffffffff-FFFF"), facts("pc-1", "", "")]
        {
            assert_eq!(keys(&nothing), [""; 0]);
        }
        let many = (0..100).map(|n| Interface { mac: format!("02:00:00:00:01:{n:02}"), ..Default::default() }).collect();
        assert_eq!(keys(&Facts { interfaces: many, ..one }).len(), KEYS_MAX);
    }
}

//! Versions compare as the package's own system compares them: dpkg and rpm themselves are asked about pairs that nobody chose.

use std::cmp::Ordering::{self, Equal, Greater, Less};
use std::fmt::Write as _;
use std::process::Command;
use sutler_base::version;
use sutler_tests::harness::{noise, run};
use sutler_tests::tools;

/// Pairs of versions that are near each other: the second is often the first with a change.
fn pairs(count: usize, alphabet: &[u8], release: bool) -> Vec<(String, String)> {
    let bytes = noise(count * 64, 7);
    let text = |bytes: &[u8]| {
        let length = 1 + usize::from(bytes[0] % 7);
        let pick = |b: &u8| char::from(alphabet[usize::from(*b) % alphabet.len()]);
        format!("{}{}", bytes[1] % 10, bytes[2..2 + length].iter().map(pick).collect::<String>())
    };
    let version = |bytes: &[u8]| {
        let epoch = if bytes[0] < 40 { format!("{}:", bytes[0] % 3) } else { String::new() };
        let end = if release { format!("-{}", text(&bytes[12..])) } else { String::new() };
        format!("{epoch}{}{end}", text(&bytes[1..]))
    };
    let pair = |bytes: &[u8]| {
        let a = version(bytes);
        let mut b = if bytes[32] < 100 { version(&bytes[32..]) } else { a.clone() };
        if bytes[33] > 60 && b == a {
            let at = a.find(':').map_or(1, |at| at + 2) + usize::from(bytes[34]) % 3;
            b.insert(at.min(b.len()), char::from(alphabet[usize::from(bytes[35]) % alphabet.len()]));
        }
        (a, b)
    };
    bytes.chunks_exact(64).map(pair).collect()
}

fn agree(ordering: version::Ordering, pairs: &[(String, String)], theirs: &[Ordering]) {
    assert_eq!(pairs.len(), theirs.len());
    let wrong: Vec<_> = pairs.iter().zip(theirs).filter(|((a, b), theirs)| ordering.compare(a, b) != **theirs).take(10).collect();
    assert!(wrong.is_empty(), "{ordering} says otherwise: {wrong:?}");
    for outcome in [Less, Equal, Greater] {
        assert!(theirs.iter().filter(|o| **o == outcome).count() > pairs.len() / 20, "hardly any pair is {outcome:?}");
    }
}

#[test]
fn versions_compare_as_dpkg_compares_them() {
    if tools::skip_without("dpkg") || tools::skip_without("sh") {
        return;
    }
    let pairs = pairs(400, b"0123456789..++~~abAZ", true);
    let input: String = pairs.iter().fold(String::new(), |mut text, (a, b)| {
        let _ = writeln!(text, "{a} {b}");
        text
    });
    let mut command = Command::new("sh");
    let script = "while read -r a b; do if dpkg --compare-versions \"$a\" lt \"$b\"; then echo lt; elif dpkg --compare-versions \"$a\" eq \"$b\"; \
                  then echo eq; else echo gt; fi; done";
    command.args(["-c", script]);
    let said = run(command, input.as_bytes()).ok();
    let theirs: Vec<_> = said
        .lines()
        .map(|word| {
            if word == "lt" {
                Less
            } else if word == "eq" {
                Equal
            } else {
                Greater
            }
        })
        .collect();
    agree(version::Ordering::Dpkg, &pairs, &theirs);
}

#[test]
fn versions_compare_as_rpm_compares_them() {
    if tools::skip_without("rpm") {
        return;
    }
    for release in [false, true] {
        let pairs = pairs(1000, b"0123456789..__++~~^^abAZ", release);
        let calls: String = pairs.iter().fold(String::new(), |mut text, (a, b)| {
            let _ = write!(text, "print(rpm.vercmp(\"{a}\",\"{b}\"),\"\\n\") ");
            text
        });
        let mut command = Command::new(tools::tool("rpm").expect("it is there"));
        command.args(["--eval", &format!("%{{lua:{calls}}}")]);
        let said = run(command, b"").ok();
        let theirs: Vec<_> = said.split_whitespace().map(|n| n.parse::<i32>().expect("a number").cmp(&0)).collect();
        agree(version::Ordering::Rpm, &pairs, &theirs);
    }
}

//! Small catalogues, and what is chosen of them.

use super::*;
use crate::model::Terms;
use proptest::prelude::*;
use std::collections::BTreeMap;
use sutler_base::{
    Digest, Timestamp, Uid,
    facts::Facts,
    manifest::{Requirement, Supersedes},
};

/// A version, and what is said of it: `on NAME [RANGE]`, `instead of NAME [RANGE]`, `uninstalls NAME [RANGE]`, `for ARCH`, `wants ARCH`.
fn version(name: &str, said: &[&str]) -> PackageVersion {
    let (package, text) = name.split_once('@').unwrap();
    let mut terms = Terms::default();
    for said in said {
        let rest = |word: &str| {
            let (package, versions) = said.strip_prefix(word)?.split_once(' ').unwrap_or((said.strip_prefix(word)?, "any"));
            Some((package.parse().unwrap(), versions.parse().unwrap()))
        };
        if let Some((package, versions)) = rest("on ") {
            terms.depends_on.push(Dependency { package, versions });
        } else if let Some((package, versions)) = rest("instead of ") {
            terms.supersedes.push(Supersedes { package, versions, uninstall: false });
        } else if let Some((package, versions)) = rest("uninstalls ") {
            terms.supersedes.push(Supersedes { package, versions, uninstall: true });
        } else if let Some(arch) = said.strip_prefix("for ") {
            terms.platform.arch = arch.into();
        } else {
            terms.requirements.push(Requirement::Arch { any_of: vec![said.strip_prefix("wants ").unwrap().into()] });
        }
    }
    let mut seed = [0; 16];
    seed.copy_from_slice(&Digest::of(name.as_bytes()).0[..16]);
    let uid = Uid::new(Timestamp::UNIX_EPOCH, seed);
    PackageVersion {
        package: uid.clone(),
        uid,
        name: package.parse().unwrap(),
        version: text.parse().unwrap(),
        release: 1,
        description: String::new(),
        envelope: vec![],
        manifest: Digest::of(name.as_bytes()),
        manifest_length: 1,
        total_bytes: 10,
        files: 1,
        expires: None,
        terms,
        withdrawn: None,
        created: Timestamp::UNIX_EPOCH,
        creator: String::new(),
    }
}

/// A catalogue of these, the newest of each package first.
fn catalogue(versions: &[PackageVersion]) -> Catalogue {
    let mut by_name: BTreeMap<PackageName, Vec<PackageVersion>> = BTreeMap::new();
    for version in versions {
        by_name.entry(version.name.clone()).or_default().push(version.clone());
    }
    let mut catalogue = Catalogue::default();
    for (name, versions) in by_name {
        catalogue.add(name, versions);
    }
    catalogue
}

/// What a job has that asks for the first `asked` of these: `NAME@VERSION`, and after a colon whom it is there for.
fn job(asked: usize, versions: &[PackageVersion]) -> Result<Vec<String>, String> {
    let entries = resolve(&catalogue(versions), &versions[..asked]).map_err(|e| e.to_string())?;
    let one = |entry: &Entry| {
        let by: Vec<_> = entry.needed.iter().map(|need| need.by.to_string()).collect();
        let name = format!("{}@{}", entry.version.name, entry.version.version);
        if by.is_empty() { name } else { format!("{name}:{}", by.join(",")) }
    };
    Ok(entries.iter().map(one).collect())
}

#[test]
fn what_is_depended_on_comes_first_in_the_newest_version_of_the_range() {
    let versions = [
        version("app@1", &["on tool >=2", "on lib"]),
        version("tool@3", &["on lib <2"]),
        version("lib@2", &[]),
        version("lib@1.5", &[]),
        version("lib@1", &[]),
        version("alone@1", &[]),
    ];
    assert_eq!(job(1, &versions).unwrap(), ["lib@1.5:app,tool", "tool@3:app", "app@1"]);
    // As asked, apart from that; and what was asked for is there for nobody else.
    let both = [versions[5].clone(), versions[0].clone(), versions[4].clone()];
    let entries = resolve(&catalogue(&versions), &both).unwrap();
    let names: Vec<_> = entries.iter().map(|e| (e.version.name.as_str(), e.version.version.as_str(), e.needed.len())).collect();
    assert_eq!(names, [("alone", "1", 0), ("lib", "1", 0), ("tool", "3", 1), ("app", "1", 0)]);
}

#[test]
fn a_choice_that_leads_nowhere_is_taken_back() {
    let versions = [
        version("app@1", &["on a", "on b"]),
        version("a@2", &["on c =2"]),
        version("a@1", &["on c =1"]),
        version("b@1", &["on c <2"]),
        version("c@2", &[]),
        version("c@1", &[]),
    ];
    assert_eq!(job(1, &versions).unwrap(), ["c@1:a,b", "a@1:app", "b@1:app", "app@1"]);
}

#[test]
fn the_newest_version_of_what_supersedes_stands_in_and_an_older_one_does_not() {
    let old = [version("app@1", &["on lib >=1, <2"]), version("lib@1.5", &[])];
    let with = |more: &[PackageVersion]| job(1, &[&old, more].concat()).unwrap();
    assert_eq!(with(&[version("next@7", &["uninstalls lib <3"])]), ["next@7:app", "app@1"]);
    // It takes the place of others, or does so no longer.
    assert_eq!(with(&[version("next@7", &["uninstalls lib >=2"])]), ["lib@1.5:app", "app@1"]);
    assert_eq!(with(&[version("next@8", &[]), version("next@7", &["uninstalls lib"])]), ["lib@1.5:app", "app@1"]);
    // Who is asked for keeps its place.
    let asked = [version("lib@1.5", &[]), version("app@1", &["on lib"]), version("next@7", &["uninstalls lib"])];
    assert_eq!(job(2, &asked).unwrap(), ["lib@1.5", "app@1"]);
    let both = [version("lib@1.5", &[]), version("next@7", &["uninstalls lib"])];
    assert!(job(2, &both).unwrap_err().contains("next@7 takes the place of lib@1.5"));
}

#[test]
fn what_is_chosen_can_run_where_the_one_runs_that_needs_it() {
    let versions = [version("app@1", &["on lib", "for arm"]), version("lib@2", &["for mips"]), version("lib@1", &["for arm"])];
    assert_eq!(job(1, &versions).unwrap(), ["lib@1:app", "app@1"]);
    assert!(job(1, &versions[..2]).unwrap_err().contains("nothing is there that will do"));
}

#[test]
fn an_error_names_the_way_to_it() {
    let chain = [version("app@1", &["on tool"]), version("tool@2", &["on lib >=3"]), version("lib@1", &[])];
    let missing = job(1, &chain).unwrap_err();
    assert!(missing.contains("app@1 → tool@2 depends on lib >=3, and nothing is there that will do: of lib there is 1"), "{missing}");
    let conflict = job(
        1,
        &[
            version("app@1", &["on a", "on b"]),
            version("a@1", &["on c <2"]),
            version("b@1", &["on c >=2"]),
            version("c@2", &[]),
            version("c@1", &[]),
        ],
    );
    let conflict = conflict.unwrap_err();
    assert!(conflict.contains("app@1 → b@1 depends on c >=2, but the job has c@1, for a@1 depends on c <2"), "{conflict}");
    let cycle = job(1, &[version("app@1", &["on a"]), version("a@1", &["on b"]), version("b@1", &["on a"])]).unwrap_err();
    assert!(cycle.contains("a@1 → b@1 → a@1 would be a cycle"), "{cycle}");
}

#[test]
fn a_job_has_no_more_packages_than_it_may_have_and_no_search_is_endless() {
    let names: Vec<String> = (0..=limits::JOB_PACKAGES_MAX).map(|n| format!("p{n}")).collect();
    let chain = |length: usize| -> Vec<PackageVersion> {
        let of = |n: usize| {
            version(
                &format!("{}@1", names[n]),
                &if n + 1 < length { vec![format!("on {}", names[n + 1])] } else { vec![] }.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        };
        (0..length).map(of).collect()
    };
    assert_eq!(job(1, &chain(limits::JOB_PACKAGES_MAX)).unwrap().len(), limits::JOB_PACKAGES_MAX);
    let many = job(1, &chain(limits::JOB_PACKAGES_MAX + 1)).unwrap_err();
    assert!(many.contains("more than 32 packages") && many.contains("p30@1 → p31@1"), "{many}");
    // A hundred versions of each, and of one only the oldest will do for all.
    let hundred = |name: &str, said: &[&str]| (0..100).rev().map(|v| version(&format!("{name}@{v}"), said)).collect::<Vec<_>>();
    let all = [vec![version("app@1", &["on lib", "on tool"])], hundred("lib", &[]), hundred("tool", &["on lib <1"])].concat();
    assert_eq!(job(1, &all).unwrap(), ["lib@0:app,tool", "tool@99:app", "app@1"]);
    // Ten packages in ten versions each, none of which goes with the last one.
    let mut versions = vec![];
    let on: Vec<String> = (0..10).map(|n| format!("on q{n}")).chain(["on last >=1".into(), "on last <1".into()]).collect();
    versions.push(version("app@1", &on.iter().map(String::as_str).collect::<Vec<_>>()));
    for n in 0..10 {
        versions.extend((0..10).map(|v| version(&format!("q{n}@{v}"), &[])));
    }
    versions.extend([version("last@1", &[]), version("last@0", &[])]);
    assert!(job(1, &versions).unwrap_err().contains("depends on last <1, but the job has last@1"));
}

/// Whether these versions can be one job: nothing is missing, and none takes the place of another.
fn go_together(job: &[&PackageVersion]) -> bool {
    let present: Vec<Present> = job.iter().map(|v| v.present()).collect();
    let met = |dependency: &Dependency| present.iter().any(|there| there.meets(dependency));
    job.iter().all(|v| v.terms.depends_on.iter().all(met)) && !present.iter().any(|a| present.iter().any(|b| a.displaces(b).is_some()))
}

proptest! {
    /// Five packages with up to three versions each, which depend on later ones in some range; the fourth takes the place of the last
    /// one, in some range. All choices are few enough to be looked at.
    #[test]
    fn what_is_found_goes_together_in_its_order_and_it_is_found_if_there_is_any(
        counts in proptest::collection::vec(1usize..=3, 5),
        edges in proptest::collection::vec((0usize..5, 0usize..3, 1usize..5, 0usize..4, 0usize..3), 0..14),
        superseded in proptest::option::of(0usize..4),
    ) {
        let range = |kind: usize, bound: usize| ["any".to_owned(), format!(">={bound}"), format!("<{bound}"), format!("={bound}")][kind].clone();
        let mut versions = vec![];
        for (n, count) in counts.iter().enumerate() {
            // What takes a place has one version: only the newest one may, and here each may be taken.
            let count = if n == 3 { 1 } else { *count };
            for v in (0..count).rev() {
                let mut said = BTreeMap::new();
                for (from, of, to, kind, bound) in &edges {
                    if *from == n && *of == v && *to > n && !(n == 3 && superseded.is_some()) {
                        said.insert(*to, format!("on p{to} {}", range(*kind, *bound)));
                    }
                }
                let mut said: Vec<String> = said.into_values().collect();
                said.extend(superseded.filter(|_| n == 3).map(|kind| format!("uninstalls p4 {}", range(kind, 1))));
                versions.push(version(&format!("p{n}@{v}"), &said.iter().map(String::as_str).collect::<Vec<_>>()));
            }
        }
        let asked = versions[0].clone();
        let by_package: Vec<Vec<&PackageVersion>> =
            (1..5).map(|n| versions.iter().filter(|v| v.name.as_str() == format!("p{n}")).collect()).collect();
        let mut possible = false;
        for choice in 0..4usize.pow(4) {
            let chosen = by_package.iter().enumerate().filter_map(|(n, of)| of.get((choice / 4usize.pow(n as u32)) % 4).copied());
            possible |= go_together(&std::iter::once(&asked).chain(chosen).collect::<Vec<_>>());
        }
        match resolve(&catalogue(&versions), std::slice::from_ref(&asked)) {
            Ok(entries) => {
                prop_assert!(go_together(&entries.iter().map(|e| &e.version).collect::<Vec<_>>()), "{entries:?}");
                for (n, entry) in entries.iter().enumerate() {
                    let before: Vec<Present> = entries[..n].iter().map(|e| e.version.present()).collect();
                    let met = |dependency: &Dependency| before.iter().any(|there| there.meets(dependency));
                    prop_assert!(entry.version.terms.depends_on.iter().all(met), "{entries:?}");
                    prop_assert!(entry.version == asked || !entry.needed.is_empty(), "{entries:?}");
                }
            }
            Err(why) => prop_assert!(!possible, "{why}"),
        }
    }
}

#[test]
fn a_version_that_could_depend_on_itself_through_others_is_found_with_the_way() {
    let cycle = |new: usize, versions: &[PackageVersion]| cycle(&catalogue(versions), &versions[new]).map_err(|e| e.to_string());
    let versions = [version("a@2", &["on b"]), version("b@1", &["on c >=1"]), version("c@1", &["on a >=2"]), version("a@1", &[])];
    assert!(cycle(0, &versions).unwrap_err().contains("a@2 → b@1 → c@1 → a@2 would be a cycle"));
    // Only the older one is depended on: they go one after the other.
    let versions = [version("a@2", &["on b"]), version("b@1", &["on a <2"]), version("a@1", &[])];
    assert_eq!(cycle(0, &versions), Ok(()));
    // It closes the ring by taking the place of another.
    let versions = [version("new@1", &["on x", "instead of old"]), version("x@1", &["on old"]), version("old@1", &[])];
    assert!(cycle(0, &versions).unwrap_err().contains("new@1 → x@1 → new@1"));
}

fn reported(arch: &str) -> Option<Facts> {
    let mut facts = Facts { arch: arch.into(), ..Facts::default() };
    facts.os.family = "linux".into();
    Some(facts)
}

fn planned(entries: &[Entry], machine: KnownMachine) -> Vec<String> {
    let line = |line: &Planned| {
        let from = line.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let of = line.ordered.as_ref().map(|of| format!(" for {of}")).unwrap_or_default();
        format!("{:?} {}@{}{from}{of} {}", line.action, line.package, line.version, line.bytes)
    };
    plan(entries, machine).iter().map(line).collect()
}

#[test]
fn a_plan_says_what_is_left_alone_what_comes_and_what_goes() {
    let versions = [
        version("app@2", &["on tool >=2", "on lib >=1", "on font >=2"]),
        version("tool@3", &[]),
        version("lib@2", &[]),
        version("next@7", &["uninstalls font"]),
    ];
    let entries = resolve(&catalogue(&versions), &versions[..1]).unwrap();
    let facts = reported("x86_64");
    let own = [version("app@1", &[]), version("tool@1", &[]), version("lib@1.5", &[]), version("font@1", &[])];
    let machine = KnownMachine { facts: facts.clone(), own: own.iter().map(PackageVersion::present).collect(), ..Default::default() };
    assert_eq!(
        planned(&entries, machine),
        ["Upgrade tool@3 from 1 10", "Keep lib@1.5 0", "Uninstall font@1 for next 0", "Install next@7 10", "Upgrade app@2 from 1 10"]
    );
    // What takes the place of a package does where that one is ordered, too.
    let ordered = resolve(&Catalogue::default(), &[version("font@2", &[])]).unwrap();
    let machine = KnownMachine { facts, own: vec![versions[3].present()], ..Default::default() };
    assert_eq!(planned(&ordered, machine), ["Keep next@7 for font 0"]);
}

#[test]
fn a_plan_says_what_is_refused_and_what_only_the_machine_knows() {
    let versions = [version("app@1", &["on lib"]), version("lib@1", &["wants mips"])];
    let entries = resolve(&catalogue(&versions), &versions[..1]).unwrap();
    let machine = |arch: &str| KnownMachine { facts: reported(arch), ..Default::default() };
    assert_eq!(planned(&entries, machine("x86_64")), ["Reject lib@1 0", "Skip app@1 0"]);
    assert_eq!(planned(&entries, machine("mips")), ["Install lib@1 10", "Install app@1 10"]);
    let unknown = plan(&entries, KnownMachine::default());
    assert!(unknown[0].note.contains("unknown until the machine is asked"), "{unknown:?}");
    assert_eq!(unknown[1].note, "", "what the job brings will be there");
}

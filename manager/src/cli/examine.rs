//! The doctor of an operator's machine: looks at the profile that is used and at the manager that it leads to, changes nothing, and
//! says what is wrong in plain words.

use super::{
    connection::Connection,
    error::{CliError, causes},
    operator, passphrase,
    session::{Globals, service},
};
use crate::profile::{self, Profile, ProfileName};
use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sutler_base::{Timestamp, checkup::Checkup};
use sutler_certs::{PeerCertificate, tls::ServerTrust};
use sutler_proto::v1;
use tonic::{Code, metadata::MetadataMap};

/// How far this machine's clock may be from the manager's (seconds).
const SKEW_MAX: i64 = 60;

/// Looks at everything that the profile is made of, and asks the manager who calls.
pub(super) async fn examine(globals: &Globals, now: Timestamp) -> Checkup {
    let mut checkup = Checkup::default();
    let Some(profile) = loaded(&mut checkup, globals) else {
        for check in ["certificate", "manager", "clock"] {
            checkup.not_seen(check, "the profile", "it can't be used");
        }
        return checkup;
    };
    let (name, address) = (profile.name.clone(), globals.address.clone().unwrap_or_else(|| profile.address.clone()));
    let leaf = profile.certificate_chain.first().ok_or("it holds none".to_owned());
    let certificate = leaf.and_then(|leaf| PeerCertificate::parse(leaf, &profile.trust_domain).map_err(|e| e.to_string()));
    let answered = ask(globals, profile, &address).await;
    // The manager's time counts, where it is known: what this machine's clock makes of a certificate is the clock's fault.
    let theirs = match &answered {
        Ok((_, time)) | Err(Failed { time, .. }) => *time,
    };
    let ended = validity(&mut checkup, &name, certificate, theirs.unwrap_or(now));
    match answered {
        Ok((myself, _)) => {
            let who = myself.name.rsplit('/').next().unwrap_or_default();
            let found = format!("it is the manager, version {}; you are {who}: {}", myself.manager_version, operator::roles(&myself.roles));
            checkup.fine("manager", &address, found);
        }
        Err(Failed { code: Some(Code::Unimplemented | Code::Unauthenticated), .. }) if ended => {
            checkup.fine("manager", &address, "it is the manager; it offers nothing but a new certificate before that is renewed");
        }
        Err(Failed { error, .. }) => {
            let what_to_do = error.hint().unwrap_or_else(|| "ask an administrator: sutler operator list".into());
            checkup.wrong("manager", &address, causes(&error), what_to_do);
        }
    }
    clock(&mut checkup, now, theirs);
    checkup
}

/// The profile that is used, as it lies there: an interrupted renewal is finished by the next command that is no doctor.
fn loaded(checkup: &mut Checkup, globals: &Globals) -> Option<Profile> {
    let place = globals.config_folder().and_then(|config| Ok((globals.profile_name()?, config)));
    let (name, config) = match place {
        Ok(place) => place,
        Err(e) => {
            let shown = globals.config_folder().map_or_else(|_| "your configuration folder".into(), |folder| folder.display().to_string());
            checkup.wrong("profile", &shown, &e, "see which there are with sutler profile list; an administrator's bundle makes another");
            checkup.not_seen("folder", shown, "nobody knows which profile is meant");
            return None;
        }
    };
    let folder = profile::folder_of(&config, &name);
    if !closed(checkup, &folder) {
        checkup.not_seen("profile", folder.display(), "its folder is not as it should be");
        return None;
    }
    match Profile::load(&config, &name) {
        Ok(profile) => {
            checkup.fine("profile", folder.display(), format!("{name}, of the manager of {}", profile.trust_domain));
            Some(profile)
        }
        Err(e) => {
            let what_to_do = "choose another with --profile, or ask for this one anew: sutler profile request, then profile import";
            checkup.wrong("profile", folder.display(), causes(&e), what_to_do);
            None
        }
    }
}

/// Whether the folder and the keys in it are the operator's alone.
fn closed(checkup: &mut Checkup, folder: &Path) -> bool {
    let keys = ["operator.key", "operator.next.pem", profile::REQUEST_KEY, "publisher.key"];
    for path in std::iter::once(folder.to_path_buf()).chain(keys.map(|key| folder.join(key))) {
        // What is missing is said where it is needed.
        let Ok(found) = std::fs::metadata(&path) else { continue };
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let what_to_do = format!("chmod go= {}; if others use this machine, replace the keys", path.display());
            checkup.wrong("folder", path.display(), format!("it is open to other users (mode {mode:04o})"), what_to_do);
            return false;
        }
    }
    checkup.fine("folder", folder.display(), "it and the keys in it are yours alone");
    true
}

/// Whether the certificate is over.
fn validity(checkup: &mut Checkup, name: &ProfileName, certificate: Result<PeerCertificate, String>, now: Timestamp) -> bool {
    let shown = format!("the certificate of the profile {name}");
    match certificate {
        Err(e) => checkup.wrong("certificate", shown, e, "ask an administrator for another: sutler operator issue"),
        Ok(c) if now < c.not_before => {
            checkup.wrong("certificate", shown, format!("it begins at {}, and it is {now}", c.not_before), "set the clock");
        }
        Ok(c) if now > c.not_after => {
            let what_to_do = "sutler profile renew; when that is too late (30 days after, unless set otherwise), an administrator gives \
                              another: sutler operator issue";
            checkup.wrong("certificate", shown, format!("it ended at {}", c.not_after), what_to_do);
            return true;
        }
        Ok(c) => checkup.fine("certificate", shown, format!("it is valid until {} and renews itself with use", c.not_after)),
    }
    false
}

/// Why the manager did not say who calls; and its time, if it said that.
struct Failed {
    error: CliError,
    code: Option<Code>,
    time: Option<Timestamp>,
}

/// What the manager takes the caller for, and its time.
async fn ask(globals: &Globals, profile: Profile, address: &str) -> Result<(v1::GetSelfResponse, Option<Timestamp>), Failed> {
    let failed = |error| Failed { error, code: None, time: None };
    let connection = connection(globals, profile, address).map_err(failed)?;
    let origin = connection.origin();
    let date = Mutex::new(None);
    let note = |metadata: &MetadataMap| *date.lock().unwrap_or_else(PoisonError::into_inner) = moment(metadata);
    let answer = connection.call("ask the manager who you are", |channel| {
        let (origin, note) = (origin.clone(), &note);
        async move {
            let answer = service::operators(channel, origin).get_self(v1::GetSelfRequest {}).await;
            note(answer.as_ref().map_or_else(|status| status.metadata(), |answer| answer.metadata()));
            answer
        }
    });
    let answer = answer.await;
    let time = *date.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(myself) => Ok((myself, time)),
        Err(error) => {
            let code = if let CliError::Call { status, .. } = &error { Some(status.code()) } else { None };
            Err(Failed { error, code, time })
        }
    }
}

fn connection(globals: &Globals, mut profile: Profile, address: &str) -> Result<Connection, CliError> {
    let unusable = |e: &dyn std::error::Error| CliError::Profile { sentence: causes(e), hint: None };
    if profile.key.is_none() {
        let passphrase = passphrase::for_existing_key(&format!("the key of the profile {}", profile.name), globals)?;
        profile.unlock(&globals.config_folder()?, passphrase).map_err(|e| unusable(&e))?;
    }
    let trust = ServerTrust::from_root(&profile.root).map_err(|e| unusable(&e))?;
    // Whether it is there now is what is asked, not whether it comes.
    Connection::new(address, &profile.credential().map_err(|e| unusable(&e))?, &trust, Duration::ZERO, true)
}

/// When an answer was made, by the manager's clock.
fn moment(metadata: &MetadataMap) -> Option<Timestamp> {
    let date = metadata.get("date")?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(date).ok().map(|date| date.timestamp())
}

fn clock(checkup: &mut Checkup, now: Timestamp, theirs: Option<Timestamp>) {
    let shown = "the manager's clock";
    match theirs.map(|theirs| now.as_second() - theirs.as_second()) {
        None => checkup.not_seen("clock", shown, "the manager can't be asked"),
        Some(skew) if skew.abs() > SKEW_MAX => {
            let direction = if skew > 0 { "ahead of" } else { "behind" };
            let found = format!("this machine is {} s {direction} the manager", skew.abs());
            checkup.wrong("clock", shown, found, "set the clock, and keep it set: certificates count by it");
        }
        Some(skew) => checkup.fine("clock", shown, format!("this machine is within {} s of the manager", skew.abs().max(1))),
    }
}

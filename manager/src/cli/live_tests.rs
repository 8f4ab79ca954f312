//! The command line's way to a manager, against a real one in the same process.

use super::{
    error::CliError,
    renew,
    session::{Globals, Session, call, request_id},
};
use crate::{
    config::{Config, Overrides, TelemetryAt},
    folder::Folder,
    init::{self, InitOptions},
    live::workers::Pace,
    serve::Manager,
    world::World,
};
use std::{net::SocketAddr, time::Duration};
use sutler_base::Timestamp;
use sutler_proto::v1;
use tempfile::TempDir;

/// A manager's folder and the first operator's profile.
struct Place {
    folder: TempDir,
}

impl Place {
    async fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        let hosts = vec!["127.0.0.1".parse().unwrap()];
        let data = folder.path().join("data");
        let options = InitOptions::new(data, "acme.example".parse().unwrap(), hosts, "ann".parse().unwrap(), config);
        init::init(&options, &World::system()).await.unwrap();
        Place { folder }
    }

    async fn serve(&self, operators: SocketAddr) -> Manager {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let overrides =
            Overrides { agents: Some(any), operators: Some(operators), telemetry: Some(TelemetryAt::Off), ..Overrides::default() };
        let config = Config::load(Folder::new(self.folder.path().join("data")), &overrides).unwrap();
        Manager::start(&config, World::system(), Pace::default()).await.unwrap()
    }

    fn globals(&self, address: SocketAddr) -> Globals {
        Globals {
            profile: None,
            config_dir: Some(self.folder.path().join("config")),
            address: Some(address.to_string()),
            retry_for: Duration::from_secs(30),
            passphrase_file: None,
            quiet: true,
        }
    }
}

async fn create(session: &Session, name: &str) -> Result<v1::CreateGroupResponse, CliError> {
    let request = v1::CreateGroupRequest { group_id: name.into(), request_id: request_id()?, ..Default::default() };
    call!(session, groups.create_group(request), "create the group {name}")
}

async fn list(session: &Session) -> Result<Vec<v1::Group>, CliError> {
    Ok(call!(session, groups.list_groups(v1::ListGroupsRequest::default()), "list the groups")?.groups)
}

#[tokio::test]
async fn a_call_outlives_a_restart_of_the_manager() {
    let place = Place::new().await;
    let manager = place.serve("127.0.0.1:0".parse().unwrap()).await;
    let address = manager.operators_address();
    let session = Session::new(place.globals(address), Timestamp::now());
    create(&session, "before").await.unwrap();
    manager.stop().await;
    // Nobody listens when the call begins.
    let (answer, manager) = tokio::join!(create(&session, "meanwhile"), place.serve(address));
    answer.unwrap();
    let groups = list(&session).await.unwrap();
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["groups/before", "groups/meanwhile"]);
    manager.stop().await;
}

#[tokio::test]
async fn a_manager_that_is_away_is_an_error_that_says_where_and_what_to_do() {
    let place = Place::new().await;
    let mut globals = place.globals("127.0.0.1:1".parse().unwrap());
    globals.retry_for = Duration::ZERO;
    let report = create(&Session::new(globals, Timestamp::now()), "x").await.unwrap_err().report();
    assert!(report.starts_with("error: cannot reach the manager at 127.0.0.1:1: "), "{report}");
    assert!(report.contains("\nhint: "), "{report}");
}

#[tokio::test]
async fn a_certificate_is_renewed_by_using_it_and_with_a_new_key() {
    let place = Place::new().await;
    let manager = place.serve("127.0.0.1:0".parse().unwrap()).await;
    let globals = place.globals(manager.operators_address());
    let before = globals.load_profile().unwrap();
    let now = Timestamp::now();
    // Young: it stays as it is.
    create(&Session::new(globals.clone(), now), "young").await.unwrap();
    assert_eq!(globals.load_profile().unwrap().certificate_chain, before.certificate_chain);
    let later = now + jiff::SignedDuration::from_hours(5);
    assert!(renew::is_due(&before, later));
    create(&Session::new(globals.clone(), later), "old").await.unwrap();
    let after = globals.load_profile().unwrap();
    assert_ne!(after.certificate_chain, before.certificate_chain);
    let public = |profile: &crate::profile::Profile| profile.key.as_ref().map(|key| key.public_key().spki().to_vec());
    assert_ne!(public(&after), public(&before));
    create(&Session::new(globals, now), "renewed").await.unwrap();
    manager.stop().await;
}

#[tokio::test]
async fn a_profile_of_another_manager_is_told_so_at_once() {
    let (place, other) = (Place::new().await, Place::new().await);
    let manager = place.serve("127.0.0.1:0".parse().unwrap()).await;
    let session = Session::new(other.globals(manager.operators_address()), Timestamp::now());
    let report = create(&session, "x").await.unwrap_err().report();
    assert!(report.contains("this profile belongs to another manager"), "{report}");
    manager.stop().await;
}

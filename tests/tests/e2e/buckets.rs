//! Packages' bytes in a bucket of an S3-compatible store, which several managers share.

use sutler_tests::harness::{Agent, Bucket, JobView, Manager, PATIENCE, PackageFolder, Proxy, Setup, wait_until};
use sutler_tests::postgres::Postgres;

fn setup(bucket: &Bucket) -> Setup {
    Setup { content: Some((bucket.content().into(), bucket.settings())), ..Setup::default() }
}

#[test]
fn bytes_in_a_bucket_reach_agents_through_any_manager() {
    let Some(postgres) = Postgres::shared() else { return };
    let (bucket, line) = (Bucket::start(), Proxy::new());
    let first =
        Manager::start_with(Setup { database: Some(postgres.create_database()), advertise: vec![line.address()], ..setup(&bucket) });
    let second = Manager::joining(&first, setup(&bucket));
    line.leads_to(second.addresses().agents);
    let cli = first.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 4 << 20, 7);
    cli.ok(&format!("package push {}", package.path().display()));
    assert!(Bucket::count(&bucket.objects()) > 20, "4 MiB are many chunks");
    let agent = Agent::enrolled("machine", &first);
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    assert_eq!(JobView::wait_for_end(&cli, &job, &agent.id()).state, "SUCCEEDED");
    assert_eq!(agent.read("opt/large.runs").as_deref(), Some("run\n"));
    assert!(
        second.metric("sutler_chunks_bytes_total").unwrap_or_default() > 4e6
            && first.metric("sutler_chunks_bytes_total").unwrap_or_default() == 0.
    );
    for manager in [&first, &second] {
        let content = manager.folder().join("content");
        assert_eq!(Bucket::count(&content), 0, "nothing lies in {}", content.display());
    }
}

#[test]
fn while_the_bucket_is_away_nothing_is_lost_and_whoever_needs_it_waits() {
    let mut bucket = Bucket::start();
    let manager = Manager::start_with(setup(&bucket));
    let cli = manager.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 1 << 20, 7);
    cli.ok(&format!("package push {}", package.path().display()));
    let agent = Agent::enrolled("machine", &manager);
    bucket.stop();
    let seen = cli.fails(30, &format!("doctor --dir {}", manager.folder().display())).stdout;
    let content = seen.lines().find(|line| line.starts_with("content")).unwrap_or_default();
    assert!(content.contains("WRONG") && content.contains("s3://packages/sutler"), "{seen}");
    // What the manager has in memory is not asked of the store: a manager that has just started has nothing.
    let mut manager = manager;
    manager.stop();
    manager.serve();
    let job = cli.id(&format!("job run --package large --client {}", agent.id()));
    wait_until("the manager to have missed the store", PATIENCE, || manager.log().contains("the store of package bytes fails"));
    assert!(agent.read("opt/large.runs").is_none());
    bucket.start_again();
    assert_eq!(JobView::wait_for_end(&cli, &job, &agent.id()).state, "SUCCEEDED");
    assert_eq!(agent.read("opt/large.runs").as_deref(), Some("run\n"));
}

#[test]
fn a_backup_holds_what_is_in_the_bucket_and_puts_it_into_an_empty_one() {
    let (bucket, empty) = (Bucket::start(), Bucket::start());
    let mut manager = Manager::start_with(setup(&bucket));
    let cli = manager.cli();
    let package = PackageFolder::counting("large", "1.0");
    package.noise("noise", 1 << 20, 7);
    cli.ok(&format!("package push {}", package.path().display()));
    let (copy, back) = (manager.folder().with_extension("backup"), manager.folder().with_extension("restored"));
    let (copy, back) = (copy.display().to_string(), back.display().to_string());
    cli.ok(&format!("backup --dir {} {copy}", manager.folder().display()));
    manager.stop();
    // The store is lost, too; another one takes its place.
    let toml = std::path::Path::new(&copy).join("manager.toml");
    let text = fs_err::read_to_string(&toml).unwrap().replace(&bucket.settings(), &empty.settings());
    fs_err::write(&toml, text).unwrap();
    cli.ok(&format!("restore --dir {back} {copy}"));
    assert_eq!(Bucket::count(&empty.objects()), Bucket::count(&bucket.objects()));
}

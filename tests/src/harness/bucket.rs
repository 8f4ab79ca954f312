//! A real server of S3's with one bucket, which can be away and come back.

use super::cleanup::Place;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Runtime};

const ID: &str = "AKIATEST";
const SECRET: &str = "a secret of tests";
/// How long a server that is stopped may take.
const STOP: Duration = Duration::from_secs(10);

/// The server. Its objects are files below its folder, which goes with it.
#[derive(Debug)]
pub struct Bucket {
    place: Place,
    address: SocketAddr,
    running: Option<Runtime>,
}

impl Bucket {
    /// A server with an empty bucket.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn start() -> Bucket {
        let place = Place::new("bucket");
        fs_err::create_dir(place.path().join("packages")).expect("a folder can be made");
        fs_err::write(place.path().join("key"), format!("access_key_id = \"{ID}\"\nsecret_access_key = \"{SECRET}\"\n"))
            .expect("a file can be written");
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs_err::set_permissions(place.path().join("key"), closed).expect("it is this user's");
        let mut bucket = Bucket { place, address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        bucket.start_again();
        bucket
    }

    /// Starts it where it was.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(self.place.path()).expect("its folder is there"));
        service.set_auth(SimpleAuth::from_single(ID, SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made");
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("its port is free");
        self.address = listener.local_addr().expect("it is bound");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        self.running = Some(runtime);
    }

    /// Ends it with all its connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_timeout(STOP);
        }
    }

    /// What `manager.toml` says as `content`.
    pub fn content(&self) -> &'static str {
        "s3://packages/sutler"
    }

    /// What its table `[s3]` says.
    pub fn settings(&self) -> String {
        let key = self.place.path().join("key");
        format!("endpoint = \"http://{}\"\nkey = \"{}\"\n", self.address, key.display())
    }

    /// Where its objects lie.
    pub fn objects(&self) -> PathBuf {
        self.place.path().join("packages/sutler/objects")
    }

    /// How many files lie in a folder, at any depth.
    pub fn count(folder: &Path) -> usize {
        let Ok(entries) = fs_err::read_dir(folder) else { return 0 };
        entries.flatten().map(|entry| if entry.path().is_dir() { Bucket::count(&entry.path()) } else { 1 }).sum()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
    }
}

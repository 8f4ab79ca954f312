//! nginx, and curl that fetches from it over mutual TLS 1.3 into a file; then OpenSSL's SHA-256 over the file, and `sync` of it: what
//! it takes to have the bytes, to know that they are right, and to keep them.

use super::stop;
use crate::{
    bench::{install, measure, pki},
    harness::{PATIENCE, Port, cleanup::Place, wait_until},
};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

const CONFIG: &str = "
daemon off; pid @FOLDER@/nginx.pid; error_log @FOLDER@/error.log warn; worker_processes 2; user root;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream; keepalive_requests 100000;
  client_body_temp_path @FOLDER@/tmp; proxy_temp_path @FOLDER@/tmp; fastcgi_temp_path @FOLDER@/tmp;
  uwsgi_temp_path @FOLDER@/tmp; scgi_temp_path @FOLDER@/tmp;
  ssl_protocols TLSv1.3; ssl_certificate @FOLDER@/pki/server.pem; ssl_certificate_key @FOLDER@/pki/server.key;
  ssl_client_certificate @FOLDER@/pki/ca.pem; ssl_verify_client on; ssl_verify_depth 2; ssl_buffer_size 16k;
  ssl_session_cache shared:S:10m;
  server { listen 127.0.0.1:@PORT@ ssl; root @FOLDER@/www; }
}
";

/// $1 is the file, $2 its digest, $3 its folder, the rest is the command that fetches it.
const FETCH: &str = r#"file=$1 digest=$2 folder=$3; shift 3
"$@" && test "$(openssl dgst -r -sha256 "$file")" = "$digest *$file" && sync "$file" "$folder""#;

/// A server with one file, and those who fetch it.
pub(in crate::bench) struct Nginx {
    place: Place,
    process: Child,
    port: Port,
    digest: String,
}

impl Nginx {
    /// A server that has these bytes; none where it can't be had.
    pub(in crate::bench) fn start(payload: &[u8], digest: &str) -> Option<Nginx> {
        if !(install::debian("nginx", "nginx-light") && install::debian("curl", "curl") && install::debian("openssl", "openssl")) {
            return None;
        }
        let place = Place::new("nginx");
        let folder = place.path();
        pki::make(&folder.join("pki"));
        for below in ["www", "tmp", "got"] {
            fs_err::create_dir(folder.join(below)).unwrap_or_else(|e| panic!("{e}"));
        }
        fs_err::write(folder.join("www/payload"), payload).unwrap_or_else(|e| panic!("{e}"));
        // It can't say which free port it took.
        let port = Port::new();
        let config = folder.join("nginx.conf");
        let text = CONFIG.replace("@FOLDER@", &folder.to_string_lossy()).replace("@PORT@", &port.number().to_string());
        fs_err::write(&config, text).unwrap_or_else(|e| panic!("{e}"));
        let mut command = Command::new(crate::tools::tool("nginx").expect("it is installed"));
        let process = command.arg("-p").arg(folder).arg("-c").arg(&config).stdin(Stdio::null()).spawn().expect("it can be started");
        let nginx = Nginx { place, process, port, digest: digest.to_owned() };
        wait_until("nginx to listen", PATIENCE, || std::net::TcpStream::connect(nginx.port.address()).is_ok());
        // Whom it serves without a certificate it would serve without the cost of one.
        let mut stranger = Command::new("curl");
        stranger.args(["-sS", "-f", "-o", "/dev/null", "--cacert"]).arg(nginx.file("pki/ca.pem")).arg(nginx.url());
        let refused = !stranger.stderr(Stdio::null()).status().expect("curl can be started").success();
        assert!(refused, "nginx serves clients without a certificate");
        Some(nginx)
    }

    /// What it is called in a table.
    pub(in crate::bench) fn name() -> String {
        let output = Command::new(crate::tools::tool("nginx").expect("it is installed")).arg("-v").output().expect("it can be started");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let version = text.trim().rsplit('/').next().unwrap_or_default().to_owned();
        format!("nginx {version}, curl, OpenSSL, sync")
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    fn url(&self) -> String {
        format!("https://{}/payload", self.port.address())
    }

    /// So many clients fetch it at once: how long until all have it (seconds), and their processor time (seconds).
    pub(in crate::bench) fn fetch(&self, clients: usize) -> (f64, f64) {
        let files: Vec<_> = (0..clients).map(|n| self.file(&format!("got/{n}"))).collect();
        let begin = Instant::now();
        let cpu: f64 = std::thread::scope(|scope| {
            let all: Vec<_> = files.iter().map(|file| scope.spawn(move || measure::run(self.command(file)))).collect();
            all.into_iter().map(|client| client.join().expect("it has fetched")).sum()
        });
        let seconds = begin.elapsed().as_secs_f64();
        files.iter().for_each(|file| fs_err::remove_file(file).unwrap_or_else(|e| panic!("{e}")));
        (seconds, cpu)
    }

    fn command(&self, file: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", FETCH, "sh"]).arg(file).arg(&self.digest).arg(self.file("got"));
        command.args(["curl", "-sS", "-f", "--tlsv1.3", "--cacert"]).arg(self.file("pki/ca.pem"));
        command.arg("--cert").arg(self.file("pki/client.pem")).arg("--key").arg(self.file("pki/client.key"));
        command.arg("-o").arg(file).arg(self.url());
        command
    }

    /// The server's processes.
    pub(in crate::bench) fn pids(&self) -> Vec<u32> {
        measure::tree(self.process.id())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        stop(&measure::tree(self.process.id()));
        let _ = self.process.wait();
    }
}

//! The API without the command line around it, for what no command line of ours would send.

use super::agent::Agent;
use super::manager::Manager;
use std::future::Future;
use std::path::Path;
use sutler::profile::{self, Profile};
use sutler_agent::link::{self, Connection};
use sutler_base::token::TokenString;
use sutler_certs::tls::{self, Clock, ServerTrust};
use sutler_certs::{Credential, PrivateKey, RootPin, pem};
use sutler_proto::v1;
use tonic::{Response, Status};

/// A connection to one of the manager's ports.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Api {
    /// As the first operator, on the operators' port.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn operator(manager: &Manager) -> Api {
        Api::try_operator(manager).unwrap_or_else(|e| panic!("no connection: {e}"))
    }

    /// The same with a manager that may not be there.
    ///
    /// # Panics
    ///
    /// When the profile is of no use.
    pub fn try_operator(manager: &Manager) -> Result<Api, String> {
        Api::try_operator_at(&manager.config(), &manager.addresses().operators.to_string())
    }

    /// As the operator with this configuration folder, at a manager or at what stands before several.
    ///
    /// # Panics
    ///
    /// When the profile is of no use.
    pub fn try_operator_at(config: &Path, address: &str) -> Result<Api, String> {
        let profile = Profile::load(config, &profile::current(config).expect("a profile is chosen")).expect("it can be read");
        let trust = ServerTrust::from_root(&profile.root).expect("it is a root");
        let credential = profile.credential().expect("its key is not encrypted");
        let tls = tls::operator_client(&credential, &trust, Clock::system()).expect("it can be used");
        Api::try_connect(address, tls)
    }

    /// With the key and certificate of a machine that is enrolled, on the agents' port.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn agent(agent: &Agent, manager: &Manager) -> Api {
        let credential = Credential::load(&agent.state().join("credential.pem")).expect("it is enrolled");
        let identity = fs_err::read(agent.state().join("identity.json")).expect("it is enrolled");
        let identity: serde_json::Value = serde_json::from_slice(&identity).expect("it is JSON");
        let root = pem::parse_chain(identity["root_certificate"].as_str().expect("it is a text").as_bytes()).expect("it is PEM");
        let trust = ServerTrust::from_root(&root[0]).expect("it is a root");
        let tls = tls::agent_client(Some(&credential), &trust, Clock::system()).expect("it can be used");
        Api::connect(&manager.addresses().agents.to_string(), tls)
    }

    /// As somebody without a certificate, who has this token, on the agents' port.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn newcomer(token: &TokenString) -> Api {
        let trust_domain = token.trust_domain.parse().expect("it is a trust domain");
        let trust = ServerTrust::Pin { root: RootPin(token.root_pin), trust_domain };
        let tls = tls::agent_client(None, &trust, Clock::system()).expect("it can be used");
        Api::connect(&token.addresses[0], tls)
    }

    fn connect(address: &str, tls: std::sync::Arc<rustls::ClientConfig>) -> Api {
        Api::try_connect(address, tls).unwrap_or_else(|e| panic!("no connection: {e}"))
    }

    fn try_connect(address: &str, tls: std::sync::Arc<rustls::ClientConfig>) -> Result<Api, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made");
        let connection = runtime.block_on(link::connect(address, tls)).map_err(|e| e.to_string())?;
        Ok(Api { runtime, connection })
    }

    /// As the client that this token makes of a machine, on the agents' port: what its agent would be, in the test's hands.
    /// Gives back the client's id as well.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn client(token: &TokenString, machine: &str) -> (Api, String) {
        let key = PrivateKey::generate().expect("the system has randomness");
        let request = v1::EnrollRequest {
            token_id: token.id.to_string(),
            secret: token.secret.to_vec().into(),
            csr: key.csr().expect("a key can ask for a certificate").into(),
            hostname: machine.into(),
            machine_id: machine.into(),
            agent_version: "0".into(),
            trust_pin: token.trust_pin.map(|pin| pin.0.to_vec().into()).unwrap_or_default(),
        };
        let newcomer = Api::newcomer(token);
        let call = |connection: Connection, origin| async move {
            v1::enrollment_service_client::EnrollmentServiceClient::with_origin(connection, origin).enroll(request).await
        };
        let enrolled = newcomer.call(call).expect("the token is good");
        let chain = enrolled.certificates.iter().map(|c| c.to_vec().into()).collect();
        let trust_domain = token.trust_domain.parse().expect("it is a trust domain");
        let trust = ServerTrust::Pin { root: RootPin(token.root_pin), trust_domain };
        let tls = tls::agent_client(Some(&Credential { chain, key }), &trust, Clock::system()).expect("it can be used");
        (Api::connect(&token.addresses[0], tls), enrolled.client_id)
    }

    /// The connection, for requests that are no calls.
    pub fn raw(&self) -> Connection {
        self.connection.clone()
    }

    /// Waits for something that happens on this connection.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The answer to a call.
    pub fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl FnOnce(Connection, http::Uri) -> F,
    ) -> Result<T, Status> {
        self.runtime.block_on(call(self.connection.clone(), self.connection.origin())).map(Response::into_inner)
    }
}

/// Makes a call: `api_call!(api, job_service_client::JobServiceClient, run_job(request))` is a `Result` with the answer.
#[macro_export]
macro_rules! api_call {
    ($api:expr, $module:ident :: $client:ident, $method:ident($request:expr)) => {{
        let request = $request;
        $api.call(
            |connection, origin| async move { sutler_proto::v1::$module::$client::with_origin(connection, origin).$method(request).await },
        )
    }};
}

//! A session that a test holds in an agent's place: with the key of a machine whose agent is stopped, and whatever hello is wanted.

use super::Agent;
use std::sync::Arc;
use sutler_agent::{identity::Identity, link, vault::FolderVault};
use sutler_certs::tls::{self, Clock};
use sutler_proto::{
    PROTOCOL_VERSION,
    v1::{self, agent_service_client::AgentServiceClient, connect_request::Message as Up, connect_response::Message as Down},
};
use tonic::{Status, Streaming};

/// What an agent and its manager say to each other, with the test as the agent.
#[derive(Debug)]
pub struct Session {
    outbox: tokio::sync::mpsc::Sender<v1::ConnectRequest>,
    stream: Streaming<v1::ConnectResponse>,
}

impl Session {
    /// Opens one with the hello of an agent that can do nothing beyond the protocol, after `change` has made it another one. The
    /// error is the manager's, when it does not let it in.
    ///
    /// # Panics
    ///
    /// If the machine is not enrolled, or its manager is not there.
    pub async fn open(agent: &Agent, change: impl FnOnce(&mut v1::Hello)) -> Result<Session, Status> {
        let identity = Identity::load(Arc::new(FolderVault::open(&agent.state()).expect("its folder"))).expect("it is enrolled");
        let (credential, _) = identity.credential();
        let tls = tls::agent_client(Some(&credential), identity.trust(), Clock::system()).expect("a certificate");
        let connection = link::connect(&identity.addresses()[0], tls).await.expect("the manager is there");
        let mut hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            machine_id: agent.machine_id().to_owned(),
            session_counter: identity.next_session().expect("its folder"),
            ..Default::default()
        };
        change(&mut hello);
        let (outbox, messages) = tokio::sync::mpsc::channel(2);
        outbox.send(v1::ConnectRequest { message: Some(Up::Hello(hello)) }).await.expect("there is room");
        let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin());
        let stream = client.connect(tokio_stream::wrappers::ReceiverStream::new(messages)).await?.into_inner();
        Ok(Session { outbox, stream })
    }

    /// Says something.
    ///
    /// # Panics
    ///
    /// If the session is over.
    pub async fn say(&self, message: Up) {
        self.outbox.send(v1::ConnectRequest { message: Some(message) }).await.expect("the session goes on");
    }

    /// What the manager says next; its error, where it ends the session.
    ///
    /// # Panics
    ///
    /// If the session ends without one.
    pub async fn next(&mut self) -> Result<Down, Status> {
        Ok(self.stream.message().await?.and_then(|message| message.message).expect("the stream goes on"))
    }
}

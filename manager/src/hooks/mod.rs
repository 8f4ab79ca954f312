//! Hooks: how an event gets to a program or to an address. Which event is whose turn is decided elsewhere; here one is delivered.

mod post;
mod program;

use crate::{
    cli::output::{json_line, json_of},
    config::{self, hooks::Way},
    rpc::events::wire,
};
use post::Post;
use sutler_core::event::Event;

/// How many bytes of what a receiver says are kept for the log.
const SAID_MAX: usize = 4096;

/// A hook that can be delivered to.
pub struct Receiver {
    /// As it is configured.
    pub hook: config::Hook,
    way: Opened,
}

enum Opened {
    Program(Vec<String>),
    Post(Box<Post>),
}

impl Receiver {
    /// Reads the files that the hook names; an error is a sentence.
    pub fn open(hook: &config::Hook) -> Result<Receiver, String> {
        let way = match &hook.way {
            Way::Program(argv) => Opened::Program(argv.clone()),
            Way::Post { url, secret_file, ca } => Opened::Post(Box::new(Post::open(url, secret_file.as_deref(), ca.as_deref())?)),
        };
        Ok(Receiver { hook: hook.clone(), way })
    }

    /// Delivers an event, within the hook's time limit; gives back what the receiver said. An error is a sentence.
    pub async fn deliver(&self, event: &Event) -> Result<String, String> {
        // As `sutler events -o json` and grpcurl show it, in one line.
        let body = json_line(&json_of(&wire(event)));
        let delivery = async {
            match &self.way {
                Opened::Program(argv) => program::run(argv, body.as_bytes()).await,
                Opened::Post(post) => post.send(event.cursor, body).await,
            }
        };
        // Dropping what was begun ends it: a program is killed with what it started, a connection is closed.
        match tokio::time::timeout(self.hook.time_limit, delivery).await {
            Ok(done) => done,
            Err(_) => Err(format!("it took longer than {:?} (time_limit)", self.hook.time_limit)),
        }
    }
}

/// What a receiver said, as a piece of a line of the log.
fn said(bytes: &[u8]) -> String {
    crate::cli::output::printable(String::from_utf8_lossy(&bytes[..bytes.len().min(SAID_MAX)]).trim())
}

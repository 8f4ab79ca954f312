//! What the manager decides: who is let in, who belongs where, what is run. Pure functions of what was loaded, the time
//! and ids that are passed in; no tokio, no SQL, no gRPC.

pub mod admission;
pub mod approval;
pub mod audit;
pub mod brake;
pub mod condition;
pub mod event;
pub mod execution;
pub mod hook;
pub mod keep;
pub mod likeness;
pub mod model;
pub mod planned;
pub mod policy;
pub mod presence;
pub mod relations;
pub mod rights;
pub mod rollout;
pub mod schedule;
pub mod session;
pub mod share;
pub mod terms;
pub mod transfer;
pub mod user;
pub mod window;

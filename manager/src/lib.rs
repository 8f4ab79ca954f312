//! The manager: the server that knows every client, and the command line of its administrators.

pub mod app;
pub mod authorities;
pub mod backup;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod documents;
pub mod folder;
pub mod hooks;
pub mod init;
pub mod live;
pub mod local;
pub mod migrate;
pub mod net;
pub mod package;
mod password;
pub mod profile;
pub mod reserve;
pub mod rpc;
pub mod serve;
pub mod telemetry;
pub mod world;

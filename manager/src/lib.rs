//! sutler

pub mod config;
pub mod folder;
pub mod net;
pub mod package;
pub mod profile;
pub mod telemetry;
pub mod world;

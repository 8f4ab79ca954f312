//! sutler

pub mod package;

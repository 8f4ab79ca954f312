//! sutler-tests

pub mod postgres;
pub mod tools;

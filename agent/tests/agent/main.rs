//! Real agents against a manager that does what the test says: over real TLS, on a real file system, with real steps.

mod link;
mod local;
mod machine;
mod manager;
mod relations;
mod rules;
mod takeover;
mod trust;
mod work;

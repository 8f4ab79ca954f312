//! Who may call what: every method by every identity, over real TLS, and what lies outside a scope.

pub(crate) mod callers;
mod races;
mod scope;
mod story;
mod table;

//! The whole product from the outside: the real programs as processes, real packages, real signals.

mod api;
mod fleet;
mod membership;
mod packages;
mod recovery;
mod refusals;
mod story;
